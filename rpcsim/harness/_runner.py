"""Drives one plan on either machine, and judges what came of it.

A run has two phases. In the first, clients do their steps and faults come and go,
until all clients have ended or the limit is reached. Then every fault is lifted and
dead hosts are restarted; in the second, the system settles until it is idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
from typing import TYPE_CHECKING, Any, Final

from rpcsim.errors import RpcSimError, SimLimitError, UnhandledErrors
from rpcsim.harness._modes import simulate, world
from rpcsim.harness._result import RunResult
from rpcsim.harness._steps import Story, tell_error
from rpcsim.ports import NANOS, duration_text
from rpcsim.sim import policy_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rpcsim.harness._plan import ClientPlan, FaultPlan, HostPlan, Plan
    from rpcsim.harness._world import World
    from rpcsim.ports import Host, Machine, Mode
    from rpcsim.trace import Level

__all__ = ["run_plan"]

# Real machine: it counts as idle when nothing was recorded for this long.
QUIET_SECONDS: Final = 0.1
# How long hosts may take to come up, beyond what faults cost them.
START_SECONDS: Final = 10.0


def run_plan(plan: Plan, *, mode: Mode = "sim", trace: Level = "protocol") -> RunResult:
    """Run a plan and judge it.

    Args:
        plan: What to do.
        mode: `sim` or `real`.
        trace: How much is recorded; `"steps"` is what the determinism check compares.

    Returns:
        The result; failures of the run are among its problems, not raised.
    """
    if mode == "sim":
        plan = _measured(plan)
    return _Run(plan, mode, trace).result()


def _measured(plan: Plan) -> Plan:
    """Settle the policy; a horizon that is not told is what a first fifo run took."""
    policy = policy_of(plan.policy, plan.seed)
    if getattr(policy, "horizon", None) == "auto":
        first = dataclasses.replace(plan, policy="fifo", record=True)
        tape = _Run(first, "sim", "protocol").result().tape
        made = None if tape is None else tape.tracks.get("schedule")
        horizon = max(1, len(made or ()))
        policy = dataclasses.replace(policy, horizon=horizon)  # type: ignore[call-arg]  # it has one
    return dataclasses.replace(plan, policy=policy)


def _open_world(plan: Plan, mode: Mode, trace: Level) -> World:
    if mode == "real":
        return world(mode="real", faults=True, seed=plan.seed)
    limits = plan.limits
    return simulate(
        seed=plan.seed,
        policy=plan.policy,
        record=plan.record,
        trace=trace,
        max_steps=limits.steps,
        max_time=f"{limits.run_ns + limits.settle_ns + 3600 * NANOS}ns",
        max_real=limits.real_seconds,
        steps_per_instant=limits.steps_per_instant,
    )


class _Run:
    """One run of a plan."""

    def __init__(self, plan: Plan, mode: Mode, trace: Level) -> None:
        self._plan = plan
        self._world = _open_world(plan, mode, trace)
        self._machine: Machine = self._world.machine
        self._story = Story(self._machine, plan.clients)
        self._problems: list[str] = []
        self._limits: list[str] = []
        self._lifts: list[Callable[[], Awaitable[None]]] = []
        self._seconds = 0.0

    def result(self) -> RunResult:
        """Run it, end the world, judge."""
        try:
            with self._world:
                self._drive()
        except UnhandledErrors as errors:
            if "no-unhandled-error" not in self._plan.off:
                self._problems += [
                    f"no-unhandled-error: {type(error).__name__}: {tell_error(error)}"
                    for error in errors.exceptions
                ]
        except SimLimitError as error:
            self._limits.append(f"{type(error).__name__}: {tell_error(error)}")
        except (RpcSimError, OSError) as error:
            self._problems.append(f"{type(error).__name__}: {error}")
        return self._judge()

    def _drive(self) -> None:
        machine, plan = self._machine, self._plan
        machine.services.update(plan.services)
        for host in plan.hosts:
            clients = [c for c in plan.clients if c.host == host.name]
            made = machine.host(
                host.name, self._software(host, clients), background=host.background
            )
            # One after the other, so that nobody looks for what is not there yet.
            machine.run(self._wait_host(made, START_SECONDS))
        for link in plan.links:
            machine.net.link(link.a, link.b, both=link.both, latency=link.latency)
        machine.run(self._main)
        self._settle()
        self._seconds = self._story.now_ns() / NANOS
        machine.ports.trace.emit("phase", (("name", "end"),))

    def _software(
        self, host: HostPlan, clients: list[ClientPlan]
    ) -> Callable[..., Any] | None:
        if not clients:
            return host.factory
        return lambda machine_host: _WithClients(
            self._story, host.factory, clients, machine_host
        )

    # -- the fault phase -----------------------------------------------------------------

    async def _main(self) -> None:
        story, limit = self._story, self._plan.limits.run_ns
        story.begin()
        drivers = [
            asyncio.create_task(self._drive_fault(fault), name=f"fault {fault.id}")
            for fault in self._plan.faults
        ]
        try:
            async with asyncio.timeout(limit / NANOS):
                await story.wait_ended()
        except TimeoutError:
            left = ", ".join(story.give_up()) or "none was running"
            self._limits.append(
                f"clients had not ended after {duration_text(limit)} (open steps: "
                f"{left}); raise limits.sim_time if that is not enough"
            )
        for driver in drivers:
            driver.cancel()
        for outcome in await asyncio.gather(*drivers, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        await self._lift_all()

    async def _wait_hosts(self, seconds: float) -> None:
        for host in self._machine.hosts:
            if host.state == "running":
                await self._wait_host(host, seconds)

    async def _wait_host(self, host: Host, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await host.wait_started()
        except TimeoutError:
            self._problems.append(
                f"host {host.name!r} had not started after {seconds:g} s; does its "
                "software wait for something that is not there?"
            )
        except Exception as error:  # noqa: BLE001 - whatever the host's software raises
            self._problems.append(
                f"host {host.name!r} did not start: {type(error).__name__}: {error}"
            )

    async def _drive_fault(self, fault: FaultPlan) -> None:
        clock = self._machine.clock
        if fault.when is not None:
            await self._story.when(fault.when).wait()
            await clock.sleep(f"{fault.delay_ns}ns")
        else:
            await self._sleep_until(fault.at_ns)
        down = {h.name for h in self._machine.hosts if h.state == "crashed"}
        self._tell("on", fault)
        lift = await fault.begin(self._machine)
        for host in self._machine.hosts:
            if host.state == "crashed" and host.name not in down:
                self._story.host_down(host.name)
        if lift is None:
            return
        once = self._once(lift, fault)
        self._lifts.append(once)
        if fault.lasts_ns is not None:
            await clock.sleep(f"{fault.lasts_ns}ns")
            await once()
        elif fault.until_ns is not None:
            await self._sleep_until(fault.until_ns)
            await once()

    def _once(
        self, lift: Callable[[], Awaitable[None]], fault: FaultPlan
    ) -> Callable[[], Awaitable[None]]:
        done: list[bool] = []

        async def once() -> None:
            if not done:
                done.append(True)
                self._tell("off", fault)
                await lift()

        return once

    def _tell(self, state: str, fault: FaultPlan) -> None:
        self._machine.ports.trace.emit(
            "fault", (("id", fault.id), ("state", state), ("told", fault.told))
        )

    async def _sleep_until(self, when_ns: int) -> None:
        left = when_ns - self._story.now_ns()
        if left > 0:
            await self._machine.clock.sleep(f"{left}ns")

    # -- the settle phase ----------------------------------------------------------------

    async def _lift_all(self) -> None:
        self._machine.ports.trace.emit("phase", (("name", "settle"),))
        for lift in self._lifts:
            await lift()
        self._machine.net.repair_all()
        for host in self._machine.hosts:
            if host.state in ("crashed", "stopped"):
                host.restart()
        await self._wait_hosts(self._plan.limits.settle_ns / NANOS)

    def _settle(self) -> None:
        settle_ns = self._plan.limits.settle_ns
        limit = self._story.now_ns() + settle_ns
        machine: Any = self._machine
        if machine.mode == "sim":
            # Only the simulated loop knows whether anything is left to do.
            machine.pump(
                lambda: machine.loop.idle() and not self._story.busy(),
                deadline_ns=machine.clock.now_ns() + settle_ns,
            )
        else:
            machine.run(self._quiet(limit))
        for ident in self._story.close_open():
            self._limits.append(f"step {ident} had no outcome when the run ended")

    async def _quiet(self, limit: int) -> None:
        trace = self._machine.trace
        seen = -1
        while seen != len(trace) or self._story.busy():
            if self._story.now_ns() >= limit:
                return
            seen = len(trace)
            await self._machine.clock.sleep(QUIET_SECONDS)

    # -- the verdict ---------------------------------------------------------------------

    def _judge(self) -> RunResult:
        machine, plan = self._machine, self._plan
        self._story.close_open()
        if "nothing-left-behind" not in plan.off:
            self._problems += [f"nothing-left-behind: {x}" for x in machine.leftovers]
        if plan.exact:
            self._problems += [
                f"not exact here: {x.fault}: {x.reason}" for x in machine.inexact
            ]
        result = self._result()
        for check in plan.checks:
            self._problems += check.check(result)
        return self._result()

    def _result(self) -> RunResult:
        machine = self._machine
        return RunResult(
            name=self._plan.name,
            mode=machine.mode,
            seed=self._plan.seed,
            problems=tuple(self._problems),
            limits=tuple(self._limits),
            outcomes=dict(self._story.outcomes),
            trace=machine.trace,
            origin_ns=self._story.trace_origin_ns,
            sim_seconds=self._seconds,
            inexact=tuple(machine.inexact),
            leftovers=tuple(machine.leftovers),
            tape=getattr(machine, "tape", None),
            draws=_draws(machine),
        )


def _draws(machine: Any) -> dict[str, int]:
    """Give the draws of each stream; a real machine does not count them."""
    count = getattr(machine.entropy, "draws", None)
    return {} if count is None else count()


class _WithClients:
    """The software of a host on which clients run: its own, and their programs.

    Clients run in the first incarnation only: a program that a crash ended does not
    come back with its machine.
    """

    def __init__(
        self,
        story: Story,
        factory: Callable[..., Any] | None,
        clients: list[ClientPlan],
        host: Host,
    ) -> None:
        self._story = story
        self._factory = factory
        self._clients = clients
        self._host = host
        self._software: Any = None
        self._tasks: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        """Start the host's own software, then the clients."""
        if self._factory is not None:
            takes = bool(inspect.signature(self._factory).parameters)
            self._software = self._factory(self._host) if takes else self._factory()
        if hasattr(self._software, "start"):
            await self._software.start()
        elif self._software is not None:
            self._tasks.append(asyncio.ensure_future(self._software))
        if self._host.incarnation == 1:
            self._tasks += [
                asyncio.create_task(
                    self._story.run_client(client), name=f"client {client.name}"
                )
                for client in self._clients
            ]

    async def stop(self) -> None:
        """End the clients, then stop the software."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if hasattr(self._software, "stop"):
            await self._software.stop()
