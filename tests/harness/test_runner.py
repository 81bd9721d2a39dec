"""Plans without scenario files: phases, faults, limits, the verdict."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.harness import (
    CheckPlan,
    ClientPlan,
    FaultPlan,
    HostPlan,
    Plan,
    PlanLimits,
    RunResult,
    StepContext,
    StepPlan,
    run_plan,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from rpcsim.ports import Machine, Mode

SECOND = 10**9
MODES: list[Mode] = ["sim", "real"]


def step(action: Callable[[StepContext], Awaitable[Any]], **options: Any) -> StepPlan:
    return StepPlan(id=options.pop("id", "a"), told="acts", action=action, **options)


def plan(*steps: StepPlan, **options: Any) -> Plan:
    hosts = options.pop("hosts", ())
    return Plan(
        name="p",
        hosts=(*hosts, HostPlan(name="desk")),
        clients=(ClientPlan(name="ann", host="desk", steps=steps),),
        **options,
    )


async def nothing(_context: StepContext) -> None: ...


@pytest.mark.parametrize("mode", MODES)
def test_a_client_runs_on_its_host_and_its_values_are_kept(mode: Mode) -> None:
    """In the context of that host, blocking code included."""

    async def where(context: StepContext) -> str:
        return await context.blocking(lambda: context.ports.host)

    result = run_plan(plan(step(where)), mode=mode)
    assert result.ok, result.summary()
    assert result.outcomes["a"].value == "desk"
    assert result.outcomes["a"].kind == "ok"


@pytest.mark.parametrize("mode", MODES)
def test_faults_begin_end_and_are_lifted(mode: Mode) -> None:
    """By the clock while clients run; what is left is lifted after them."""
    seen: list[str] = []

    def fault(name: str) -> Any:
        async def begin(_machine: Machine) -> Any:
            seen.append(f"{name} on")

            async def lift() -> None:
                seen.append(f"{name} off")

            return lift

        return begin

    async def sleep(context: StepContext) -> None:
        await context.sleep(0.3)

    faults = (
        FaultPlan(id="x", told="x", begin=fault("x"), at_ns=0, lasts_ns=SECOND // 20),
        FaultPlan(id="y", told="y", begin=fault("y"), at_ns=SECOND // 10),
        FaultPlan(id="z", told="z", begin=fault("z"), at_ns=60 * SECOND),
    )
    result = run_plan(plan(step(sleep), faults=faults), mode=mode)
    assert result.ok, result.summary()
    assert seen == ["x on", "x off", "y on", "y off"]


def test_a_host_that_does_not_start_is_told_by_name() -> None:
    """With what its software raised; the run ends and is judged."""

    def broken() -> Any:
        raise OSError("no disk")

    result = run_plan(plan(step(nothing), hosts=(HostPlan(name="h", factory=broken),)))
    assert result.verdict == "invalid"
    assert any("host 'h' did not start: OSError: no disk" in p for p in result.problems)


def test_dead_hosts_are_restarted_for_the_settle_phase() -> None:
    """Even when nobody planned it: what is judged is whether the system recovers."""
    lives: list[int] = []

    class Software:
        async def start(self) -> None:
            lives.append(1)

        async def stop(self) -> None: ...

    async def crash(machine: Machine) -> None:
        next(h for h in machine.hosts if h.name == "h").crash()

    result = run_plan(
        plan(
            step(nothing, at_ns=SECOND),
            hosts=(HostPlan(name="h", factory=Software),),
            faults=(FaultPlan(id="f", told="f", begin=crash),),
        )
    )
    assert result.ok, result.summary()
    assert len(lives) == 2


def test_a_client_on_a_host_that_crashes_has_an_unknown_outcome() -> None:
    """Its open step is `maybe`, the run goes on to its end."""

    async def crash(machine: Machine) -> None:
        next(h for h in machine.hosts if h.name == "desk").crash()

    async def long(context: StepContext) -> None:
        await context.sleep(100)

    fault = FaultPlan(id="f", told="f", begin=crash, at_ns=SECOND)
    result = run_plan(plan(step(long), faults=(fault,)))
    outcome = result.outcomes["a"]
    assert outcome.kind == "maybe"
    assert "crashed while step a ran" in str(outcome.error)
    assert outcome.ended_ns == SECOND


def test_settling_waits_for_work_that_goes_on() -> None:
    """What clients left behind them ends before the verdict."""
    done: list[str] = []

    async def start_more(_context: StepContext) -> None:
        async def more() -> None:
            await asyncio.sleep(5)
            done.append("more")

        kept.append(asyncio.create_task(more()))

    kept: list[asyncio.Task[None]] = []
    result = run_plan(plan(step(start_more)))
    assert result.ok, result.summary()
    assert done == ["more"]
    assert result.sim_seconds == pytest.approx(5)


def test_settling_ends_at_its_limit() -> None:
    """Work that never ends cannot keep the run for ever."""

    async def start_more(_context: StepContext) -> None:
        async def endless() -> None:
            for _ in itertools.count():
                await asyncio.sleep(1)

        kept.append(asyncio.create_task(endless(), name="endless"))

    kept: list[asyncio.Task[None]] = []
    result = run_plan(plan(step(start_more), limits=PlanLimits(settle_ns=3 * SECOND)))
    assert result.ok, result.summary()
    assert result.sim_seconds == pytest.approx(3)


def test_checks_judge_and_the_summary_tells() -> None:
    """One line for each thing that does not hold; raising is `AssertionError`."""

    def check(result: RunResult) -> Iterator[str]:
        yield f"{len(result.outcomes)} is too few"

    result = run_plan(plan(step(nothing), checks=(CheckPlan(check=check),)))
    assert result.problems == ("1 is too few",)
    assert result.summary().startswith("p: invalid (sim, seed 0, 0.000 s; 1 ok)")
    with pytest.raises(AssertionError, match="1 is too few"):
        result.raise_if_failed()


def test_a_step_limit_leaves_it_undecided() -> None:
    """The limit's name is told."""

    async def spin(_context: StepContext) -> None:
        for _ in itertools.count():
            await asyncio.sleep(0.001)

    result = run_plan(plan(step(spin), limits=PlanLimits(steps=2000)))
    assert result.verdict in ("unknown", "invalid")
    assert any("StepLimitError" in line for line in result.limits)


def test_retries_and_repeats() -> None:
    """A step is tried again for the errors it names, and no others."""
    tries: list[int] = []

    async def flaky(_context: StepContext) -> int:
        tries.append(1)
        if len(tries) < 3:
            raise KeyError("not yet")
        return len(tries)

    again = step(flaky, retries=5, retry_on=("LookupError",), retry_delay_ns=SECOND)
    result = run_plan(plan(again))
    assert result.outcomes["a"].value == 3
    assert result.outcomes["a"].took_ns == 2 * SECOND
    tries.clear()
    other = step(flaky, retries=5, retry_on=("OSError",))
    assert run_plan(plan(other)).outcomes["a"].kind == "raised"
