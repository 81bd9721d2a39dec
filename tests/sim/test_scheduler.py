"""Order and time: what the scheduler promises, also against a reference model."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcsim.errors import (
    LivelockError,
    RealTimeLimitError,
    SimulationError,
    StalledError,
    StepLimitError,
    TimeLimitError,
)
from rpcsim.sim import Sim

real_monotonic = time.monotonic


@pytest.mark.parametrize("policy", ["fifo", "random"])
@pytest.mark.parametrize("seed", range(5))
def test_timers_of_one_instant_run_in_creation_order(policy: str, seed: int) -> None:
    """Eight timers for one instant made by one strand keep their order (check 1)."""
    fired: list[int] = []
    with Sim(policy=policy, seed=seed) as sim:

        async def main() -> None:
            loop = asyncio.get_running_loop()
            for n in range(8):
                loop.call_at(3.0, fired.append, n)
            await asyncio.sleep(4)

        sim.run(main)
    assert fired == list(range(8))


def test_chained_timers_do_not_drift() -> None:
    """`call_later(0.1)` chained 10 000 times ends at exactly 1 000 s (check 2)."""
    with Sim() as sim:
        loop = sim.loop
        done = loop.create_future()

        def again(left: int) -> None:
            if left:
                loop.call_later(0.1, again, left - 1)
            else:
                done.set_result((loop.now_ns, loop.time()))

        again(10_000)
        assert sim.bridge.wait(done) == (1_000_000_000_000, 1_000.0)


@given(
    st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=100, unique=True)
)
@settings(deadline=None, max_examples=10, derandomize=True)
def test_a_callback_sees_exactly_its_deadline(deadlines: list[float]) -> None:
    """`time() == when`, also for deadlines that are no whole nanoseconds (check 3)."""
    seen: list[tuple[float, float]] = []
    with Sim(trace="off") as sim:
        loop = sim.loop
        for when in [*deadlines, 0.1 + 0.2]:
            loop.call_at(when, lambda when=when: seen.append((when, loop.time())))
        sim.pump(None)
    nanos = Counter(round(when * 1e9) for when, _ in seen)
    for when, moment in seen:
        # Two deadlines within one nanosecond fall due together, at the later one.
        assert moment == when or (nanos[round(when * 1e9)] > 1 and moment > when)
    assert len(seen) == len(deadlines) + 1
    assert [moment for _, moment in seen] == sorted(moment for _, moment in seen)


@given(st.data())
@settings(deadline=None, max_examples=60, derandomize=True)
def test_the_order_is_that_of_a_reference_model(data: st.DataObject) -> None:
    """No entry of a later instant runs while an earlier one is runnable (check 4)."""
    # A plan: for each entry, what it schedules when it runs, as (delay, child).
    size = data.draw(st.integers(1, 25))
    plan: dict[int, list[tuple[int, int]]] = {n: [] for n in range(size)}
    roots: list[tuple[int, int]] = []
    for n in range(size):
        delay = data.draw(st.integers(0, 3))
        parent = data.draw(st.integers(-1, n - 1))
        (roots if parent < 0 else plan[parent]).append((delay, n))

    def model() -> list[tuple[int, int]]:
        """Fifty lines would do; ten are enough: a ready queue and a sorted list."""
        ready: list[int] = []
        later: list[tuple[int, int, int]] = []
        now, count, ran = 0, itertools.count(), []

        def schedule(delay: int, n: int) -> None:
            if delay:
                later.append((now + delay, next(count), n))
            else:
                ready.append(n)

        for delay, n in roots:
            schedule(delay, n)
        while ready or later:
            if not ready:
                now = min(later)[0]
                due = sorted(entry for entry in later if entry[0] == now)
                later = [entry for entry in later if entry[0] > now]
                ready = [n for _, _, n in due]
            n = ready.pop(0)
            ran.append((now, n))
            for delay, child in plan[n]:
                schedule(delay, child)
        return ran

    ran: list[tuple[int, int]] = []
    policy = data.draw(st.sampled_from(["fifo", "random"]))
    with Sim(trace="off", policy=policy, seed=size) as sim:
        loop = sim.loop

        def run(n: int) -> None:
            ran.append((loop.now_ns // 10**9, n))
            for delay, child in plan[n]:
                schedule(delay, child)

        def schedule(delay: int, n: int) -> None:
            if delay:
                loop.call_later(delay, run, n)
            else:
                loop.call_soon(run, n)

        for delay, n in roots:
            schedule(delay, n)
        sim.pump(None)
    # All of it is one strand, the world's, so that the policy has no say.
    assert ran == model()


def test_ten_years_pass_at_once() -> None:
    """A sleep of ten years returns in under 10 ms of real time (check 5)."""
    with Sim() as sim:
        begin = real_monotonic()
        sim.run(lambda: sim.bridge.wait(asyncio.sleep(10 * 365 * 86_400)))
        assert sim.clock.elapsed == 10 * 365 * 86_400
        # Half a second, not 10 ms: a loaded machine must not fail the test.
        assert real_monotonic() - begin < 0.5


def test_a_past_or_negative_deadline_is_due_now() -> None:
    """Neither moves the clock back; infinity never fires; NaN is refused (3.2)."""
    with Sim() as sim:

        async def main() -> list[float]:
            loop = asyncio.get_running_loop()
            await asyncio.sleep(5)
            seen: list[float] = []
            loop.call_at(1.0, lambda: seen.append(loop.time()))
            loop.call_later(-3, lambda: seen.append(loop.time()))
            never = loop.call_at(float("inf"), seen.append, -1)
            loop.call_later(float("inf"), seen.append, -1)
            with pytest.raises(ValueError, match="NaN"):
                loop.call_at(float("nan"), seen.append, -1)
            with pytest.raises(ValueError, match="NaN"):
                loop.call_later(float("nan"), seen.append, -1)
            await asyncio.sleep(1)
            assert never.when() == float("inf")
            return seen

        assert sim.run(main) == [5.0, 5.0]
        assert sim.next_event() is None


def test_many_cancelled_timers_leave_a_small_heap() -> None:
    """Tombstones are swept when they are the majority (3.1)."""
    with Sim() as sim:
        handles = [sim.loop.call_later(n, print) for n in range(1, 3001)]
        for handle in handles[:2900]:
            handle.cancel()
            handle.cancel()  # twice is once
        assert len(sim.loop._heap) < 1_100
        assert len(sim.loop.pending_timers()) == 100
        for handle in handles:
            handle.cancel()


def test_advance_runs_everything_at_its_own_time() -> None:
    """`advance(5)` with calls at 2, 1 and at 1.5 made by the one at 1 (check 10)."""
    with Sim() as sim:
        loop, seen = sim.loop, []

        def note() -> None:
            seen.append(loop.time())

        def first() -> None:
            note()
            loop.call_at(1.5, note)

        loop.call_at(2, note)
        loop.call_at(1, first)
        sim.clock.advance(5)
        assert seen == [1, 1.5, 2]
        assert sim.clock.elapsed == 5
        sim.clock.advance_to("6s")
        assert sim.clock.elapsed == 6
        with pytest.raises(ValueError, match="time does not go back"):
            sim.clock.advance(-1)
        with pytest.raises(ValueError, match=r"it is 6 s, asked for 5"):
            sim.clock.advance_to(5)


def test_advance_inside_a_run_is_a_sleep() -> None:
    """In a fiber, `advance` waits like any blocking call (3.7)."""
    with Sim() as sim:
        seen: list[float] = []
        sim.loop.call_at(1, lambda: seen.append(sim.loop.time()))
        sim.run(lambda: sim.clock.advance(3))
        assert (seen, sim.clock.elapsed) == ([1.0], 3.0)


def test_steps_one_by_one() -> None:
    """`step(n)` runs n turns and moves time only for a turn that it runs."""
    with Sim() as sim:
        seen: list[int] = []
        sim.loop.call_soon(seen.append, 1)
        sim.loop.call_soon(seen.append, 2)
        sim.loop.call_later(5, seen.append, 3)
        assert sim.step() == 1
        assert (seen, sim.clock.elapsed, sim.next_event()) == ([1], 0, 0)
        assert sim.step() == 1
        assert (seen, sim.clock.elapsed, sim.next_event()) == ([1, 2], 0, 5)
        assert sim.step(10) == 1
        assert (seen, sim.clock.elapsed, sim.next_event()) == ([1, 2, 3], 5, None)


def test_run_until_a_predicate_holds() -> None:
    """`run_until` says whether it came true before nothing was left."""
    with Sim() as sim:
        seen: list[int] = []
        for n in range(5):
            sim.loop.call_later(n, seen.append, n)
        assert sim.clock.run_until(lambda: len(seen) == 3)
        assert sim.clock.elapsed == 2
        assert not sim.clock.run_until(lambda: len(seen) == 9)
        assert seen == [0, 1, 2, 3, 4]


def test_background_work_neither_hinders_idleness_nor_stops() -> None:
    """A periodic job: no deadlock, `run_until_idle` returns, main may stall (check 8)."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(60)

    with pytest.raises(StalledError, match="only background work ran"), Sim() as sim:
        with sim.background():
            sim.loop.call_later(30, lambda: None)
            sim.host("poller", background=True)
            job = sim.loop.create_task(tick())
        sim.run(asyncio.sleep(5))
        sim.clock.run_until_idle()
        assert sim.clock.elapsed < 100
        # Moving time by hand is not waiting: no stall, however long.
        sim.clock.advance("48h")
        assert not job.done()
        begin = sim.clock.elapsed
        with pytest.raises(StalledError, match=r"waits for event `never`"):
            sim.run(_wait_for_ever)
        assert sim.clock.elapsed - begin == pytest.approx(24 * 3600, abs=120)
        sim._delivered.clear()  # as if the program had swallowed it


async def _wait_for_ever() -> None:
    never = asyncio.Event()
    await never.wait()


def test_what_background_work_starts_is_background_too() -> None:
    """Tasks and timers made by a background task, and only those, inherit it."""

    async def job() -> None:
        await asyncio.create_task(asyncio.sleep(50))

    with Sim() as sim:

        async def main() -> None:
            with sim.background():
                task = asyncio.create_task(job())
                await asyncio.sleep(1)  # others' tasks made meanwhile are not
            assert task.get_name() == "test/job-3"

        other = sim.loop.create_task(asyncio.sleep(2))
        sim.run(main)
        assert not sim.loop.idle()
        sim.clock.run_until_idle()
        assert other.done()
        assert sim.clock.elapsed == 2
    assert sim.leftovers == ()


def spin(loop: Any) -> None:
    loop.call_soon(spin, loop)


def test_a_callback_that_reschedules_itself_is_a_livelock() -> None:
    """`LivelockError` names the callback; swallowing it still fails (check 9)."""
    with pytest.raises(LivelockError), Sim(steps_per_instant=5_000) as sim:
        spin(sim.loop)
        with pytest.raises(LivelockError, match=r"test_scheduler\.py") as raised:
            sim.run(asyncio.sleep(1))
        assert "spin" in str(raised.value)
        assert "turns ran at 0 s without time moving" in str(raised.value)
        sim._delivered.clear()


def test_limits_end_a_run() -> None:
    """`max_steps`, `max_time` and `max_real`, each by its own error (check 9)."""

    async def walk() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(StepLimitError, match="500 turns"), Sim(max_steps=500) as sim:
        sim.run(walk)
    assert sim.loop.steps == 500
    with pytest.raises(TimeLimitError, match="limit of 1m"), Sim(max_time=60) as sim:
        sim.run(walk)
    assert sim.clock.elapsed <= 60
    with pytest.raises(RealTimeLimitError, match="max_real"), Sim(max_real=0.01) as sim:
        sim.run(walk)


@pytest.mark.parametrize("limit", [{"max_steps": 50}, {"max_time": 5}])
def test_a_limit_that_the_program_swallows_fails_the_run(limit: Any) -> None:
    """What the run found is raised again at its end (3.6)."""

    def program(sim: Sim) -> None:
        try:
            sim.run(asyncio.sleep(1000))
            for _ in range(1000):
                sim.run(asyncio.sleep(0.001))
        except SimulationError:
            pass

    sim = Sim(**limit)
    with sim:
        program(sim)
    # Raised out of `run` to the caller: seen. Inside a run it would not count:
    sim = Sim(**limit)
    with pytest.raises(SimulationError), sim:
        sim.keep(StepLimitError("kept by a step"))


@pytest.mark.parametrize("policy", ["random"])
def test_random_reorders_tasks_but_never_one_strand(policy: str) -> None:
    """Steps of one task, and callbacks of one, keep their order; tasks swap (check 20)."""
    swapped = 0
    for seed in range(200):
        seen: list[tuple[str, int]] = []

        async def walk(name: str, seen: list[tuple[str, int]] = seen) -> None:
            for n in range(4):
                seen.append((name, n))
                await asyncio.sleep(0)

        def soon(seen: list[tuple[str, int]] = seen) -> None:
            loop = asyncio.get_running_loop()
            for n in range(4):
                loop.call_soon(seen.append, ("soon", n))

        with Sim(seed=seed, policy=policy, trace="off") as sim:

            async def main(walk: Any = walk, soon: Any = soon) -> None:
                asyncio.get_running_loop().call_soon(soon)
                await asyncio.gather(walk("a"), walk("b"))

            sim.run(main)
        for name in ("a", "b", "soon"):
            assert [n for who, n in seen if who == name] == [0, 1, 2, 3]
        swapped += seen.index(("b", 0)) < seen.index(("a", 0))
        if seed == 19:
            assert swapped
    assert 40 < swapped < 160


def test_scope_host_reorders_hosts_only() -> None:
    """Within a host every schedule is its first-in-first-out order (check 21)."""

    def run(**options: Any) -> dict[str, list[int]]:
        seen: dict[str, list[int]] = {"left": [], "right": []}
        order: list[str] = []

        def walker(host: Any) -> Any:
            async def walk(n: int) -> None:
                for k in range(3):
                    seen[host.name].append(n * 10 + k)
                    order.append(host.name)
                    await asyncio.sleep(0)

            async def all_of_them() -> None:
                await asyncio.gather(*(walk(n) for n in range(4)))

            return all_of_them()

        with Sim(**options) as sim:
            sim.host("left", walker)
            sim.host("right", walker)
            sim.run(asyncio.sleep(1))
        orders.add("".join(name[0] for name in order))
        return seen

    orders: set[str] = set()
    fifo = run()
    for seed in range(30):
        assert run(seed=seed, policy="random", scope="host") == fifo
    assert len(orders) > 20


def test_a_program_may_not_be_pumped_twice() -> None:
    """Running the simulation from inside its own step is refused by name."""
    with Sim() as sim:

        async def main() -> None:
            with pytest.raises(SimulationError, match="already running"):
                sim.step()

        sim.run(main)
