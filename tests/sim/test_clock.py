"""Clocks: those of hosts, which can be set wrong, and the world's, moved by hand."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from rpcsim.errors import DeadlockError
from rpcsim.ports import current
from rpcsim.sim import ClockModel, Sim
from tests.sim.programs import conversation

WALL = 946_684_800 * 10**9


def test_skew_and_step_of_one_host_are_not_anothers() -> None:
    """They move its wall clock only; monotonic time is untouched (check 40)."""
    with Sim() as sim:
        a, b = sim.host("a"), sim.host("b")
        a.clock.skew("10s")
        sim.clock.advance(1)
        assert a.run(time.time_ns) == WALL + 11 * 10**9
        assert b.run(time.time_ns) == WALL + 10**9
        assert sim.run(time.time_ns) == WALL + 10**9
        a.clock.step("-1h")
        assert a.run(time.time_ns) == WALL + (11 - 3600) * 10**9
        a.clock.skew(0)  # the step stays
        assert a.run(time.time_ns) == WALL + (1 - 3600) * 10**9
        assert a.run(time.monotonic_ns) == b.run(time.monotonic_ns) == 10**9
        a.clock.follow()
        assert a.run(time.time_ns) == WALL + 10**9
        assert a.clock.follows
        assert a.run(lambda: current().clock) is a.clock
    told = [(r.host, *r.data) for r in sim.trace if r.kind == "host.clock"]
    assert told == [
        ("a", ("do", "skew"), ("ns", 10**10)),
        ("a", ("do", "step"), ("ns", -3600 * 10**9)),
        ("a", ("do", "skew"), ("ns", 0)),
        ("a", ("do", "follow")),
    ]


def test_a_drift_is_exact() -> None:
    """100 ppm over a million seconds are 100 seconds, to the nanosecond (check 40)."""
    with Sim() as sim:
        host = sim.host("a")
        host.clock.drift(100)
        for _ in range(1000):
            sim.clock.advance(1000)
        assert host.clock.wall_ns() == WALL + 1_000_100 * 10**9
        assert host.run(time.monotonic_ns) == 10**15
        # Rates that change at odd moments lose nothing either.
        clock = sim.host("b").clock
        for n in range(1, 8):
            clock.drift(n / 7)
            sim.clock.advance("333ns")
        ppb = sum(round(n / 7 * 1000) for n in range(1, 8))
        exact = 7 * 333 * 10**9 + ppb * 333
        assert clock.wall_ns() == WALL + 10**15 + exact // 10**9


def test_a_monotonic_drift_moves_the_hosts_timers() -> None:
    """`loop.time()` and timers of the host run fast; nobody else's do (4.2)."""
    seen: list[Any] = []

    async def wait(name: str) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for delay in (1, 0.1 + 0.2):
            await asyncio.sleep(delay)
        async with asyncio.timeout(2):
            await asyncio.sleep(1)
        when = loop.time() + 0.7
        handle = loop.call_at(when, lambda: seen.append((name, loop.time() >= when)))
        assert handle.when() == when
        await asyncio.sleep(1)
        seen.append((name, round(loop.time() - began, 6), sim.loop.now_ns))

    with Sim() as sim:
        fast, right = sim.host("fast"), sim.host("right")
        fast.clock.drift(1_000_000, monotonic=True)
        fast.run(wait("fast"))
        right.run(wait("right"))
        assert fast.run(time.monotonic_ns) == 2 * sim.loop.now_ns
        assert fast.clock.time() == 2 * sim.clock.elapsed
        sim.run(lambda: fast.clock.call_later("1s", seen.append, "late"))
    assert seen[:4] == [
        ("fast", True),
        ("fast", 3.3, 1_650_000_000),
        ("right", True),
        ("right", 3.3, 4_950_000_000),
    ]


def test_timers_that_wait_move_when_the_rate_changes() -> None:
    """A deadline is one on the host's clock, also when that changes its rate (4.2)."""
    seen: list[float] = []

    async def nap() -> None:
        await asyncio.sleep(10)
        seen.append(sim.clock.elapsed)

    with Sim() as sim:
        host = sim.host("a", nap)
        sim.clock.advance(4)
        host.clock.drift(-500_000, monotonic=True)
        sim.clock.advance(4)
        host.clock.follow()
        # 4 s, then 4 at half the rate: 6 of 10 are over, and what it reads stays.
        assert host.clock.time() == 6
        sim.clock.run_until_idle()
        assert host.clock.time() == 10
    assert seen == [12]


def test_monotonic_time_never_goes_back() -> None:
    """Whatever is done to the clock (check 40)."""
    with Sim(seed=3) as sim:
        clock = sim.host("a").clock
        chance = sim.entropy.stream("test")
        before = 0
        for _ in range(300):
            what = chance.below(5)
            if what == 0:
                clock.step(chance.below(100) - 50)
            elif what == 1:
                clock.skew(chance.below(100) - 50)
            elif what == 2:
                clock.drift(chance.below(10**6) - 5 * 10**5, monotonic=True)
            elif what == 3:
                clock.drift(chance.below(1000))
            else:
                clock.follow()
            assert clock.now_ns() >= before
            sim.clock.advance("1ms")
            before = clock.now_ns()


def test_a_clock_may_be_wrong_from_the_start() -> None:
    """`host(clock=...)` sets it at the declaration; restarts do not mend it."""
    with Sim() as sim:
        model = ClockModel(skew="5s", drift=50, monotonic=True)
        host = sim.host("a", clock=model)
        sim.clock.advance(1_000_000)
        host.crash()
        host.restart()
        assert host.clock.wall_ns() == WALL + 1_000_055 * 10**9
        assert host.run(time.monotonic_ns) == 1_000_050 * 10**9


@pytest.mark.parametrize("ppm", [-1_000_000, float("nan"), float("inf")])
def test_a_clock_that_stands_is_refused(ppm: float) -> None:
    """A drift that stops or turns a clock is none; nor is text, or no drift at all."""
    with Sim() as sim:
        host = sim.host("a")
        with pytest.raises(ValueError, match="ppm"):
            host.clock.drift(ppm)
        with pytest.raises(TypeError, match="parts per million"):
            host.clock.drift("fast")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="give a drift"):
        ClockModel(monotonic=True)


def test_debug_mode_and_drift_go_together() -> None:
    """Debug on or off: the same run, also with clocks that drift (check 13)."""

    def run(*, debug: bool) -> tuple[str | None, str | None]:
        with Sim(debug=debug, trace="steps") as sim:
            host = sim.host("a", lambda: asyncio.sleep(1))
            host.clock.drift(1000, monotonic=True)
            host.run(asyncio.sleep(1))
            sim.loop.set_debug(not debug)
            host.run(asyncio.sleep(1))
        return sim.trace.digest, sim.trace.schedule_digest

    assert run(debug=True) == run(debug=False)


def test_right_clocks_leave_no_trace() -> None:
    """A host that is declared with a right clock costs nothing: the same digests."""
    one = conversation(seed=4).trace
    two = conversation(seed=4).trace
    assert one.digest == two.digest
    assert not [r for r in one if r.kind == "host.clock"]


# -- timers that are late --------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0, "1us"])
def test_time_at_a_timer(epsilon: Any) -> None:
    """`time()` is the deadline exactly; with an epsilon, more than it (check 3)."""
    seen: list[tuple[float, float]] = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        chance = sim.entropy.stream("test")
        deadlines = [chance.random() * 100 for _ in range(1000)]

        def note(when: float) -> None:
            seen.append((loop.time(), when))

        for when in (0.1 + 0.2, 0.3, 1e-9, *deadlines):
            made = loop.call_at(when, note, when)
            assert made.when() == when
        late: list[asyncio.TimerHandle] = []
        late.append(loop.call_later(1, lambda: note(late[0].when())))
        await asyncio.sleep(101)

    with Sim(timer_epsilon=epsilon, seed=1) as sim:
        sim.run(story)
    assert len(seen) == 1004
    if epsilon:
        assert all(when < now < when + 0.000_002 for now, when in seen)
    else:
        # Deadlines closer than a nanosecond fall together: `time()` is the later one.
        assert all(when <= now < when + 1e-9 for now, when in seen)
        assert sum(now == when for now, when in seen) > 1000


def test_an_early_timer_is_refused() -> None:
    """An epsilon is a lateness."""
    with pytest.raises(ValueError, match="late, not early"):
        Sim(timer_epsilon="-1ns")


# -- time moved by hand ----------------------------------------------------------------


@pytest.mark.parametrize("autojump", [True, False])
def test_advance_runs_everything_at_its_own_time(autojump: bool) -> None:
    """Calls at 2, 1, and at 1.5 made by the one at 1 (check 10)."""
    seen: list[float] = []

    def note() -> None:
        seen.append(sim.loop.time())

    def note_and_more() -> None:
        note()
        sim.loop.call_at(1.5, note)

    with Sim(autojump=autojump) as sim:
        sim.loop.call_at(2, note)
        sim.loop.call_at(1, note_and_more)
        sim.loop.call_at(9, note)
        sim.advance(5)
        assert seen == [1, 1.5, 2]
        assert sim.clock.elapsed == 5
        sim.advance_to(8)
        assert (sim.clock.elapsed, sim.next_event()) == (8, 9)
        with pytest.raises(ValueError, match="does not go back"):
            sim.advance_to(1)
        with pytest.raises(ValueError, match="does not go back"):
            sim.advance(-1)
        sim.run_until_idle()
        assert (seen[3:], sim.next_event()) == ([9], None)


def test_by_hand_a_waiting_program_gives_control_back() -> None:
    """It is no deadlock: the test moves time, then asks the future (3.7)."""
    seen: list[float] = []

    async def story() -> str:
        for delay in (1, 2):
            await asyncio.sleep(delay)
            seen.append(sim.clock.elapsed)
        return "done"

    with Sim(autojump=False) as sim:
        host = sim.host("a")
        future = sim.run(story)
        assert (future.done(), sim.clock.elapsed, seen) == (False, 0, [])
        sim.advance(2)
        assert seen == [1]
        assert not sim.run_until(lambda: sim.clock.elapsed > 3)
        assert (future.result(), seen) == ("done", [1, 3])
        assert host.run(lambda: 7) == 7
        assert sim.step(5) == 0
        waiting = host.run(story)
        assert sim.step(2) > 0
        sim.run_until_idle()
        assert waiting.result() == "done"
        with pytest.raises(DeadlockError, match="moved by hand"):
            sim.bridge.wait(asyncio.sleep(1))
        sim.run_until_idle()
        sim._kept.clear()  # the deadlock was the point


@pytest.mark.parametrize("autojump", [True, False])
def test_time_moved_from_inside(autojump: bool) -> None:
    """Each way of moving time by hand has an awaited form (3.7)."""
    seen: list[float] = []

    async def ticks() -> None:
        for _ in range(6):
            await asyncio.sleep(1)
            seen.append(sim.clock.elapsed)

    async def story() -> float:
        clock = sim.clock
        ticking = asyncio.ensure_future(ticks())
        await clock.advance_async(2.5)
        assert (seen, clock.elapsed) == ([1, 2], 2.5)
        await clock.advance_to_async(3.5)
        assert seen == [1, 2, 3]
        assert await clock.run_until_async(lambda: len(seen) == 5)
        assert clock.elapsed == 5
        await clock.run_until_idle_async()
        assert (seen, clock.elapsed, ticking.done()) == ([1, 2, 3, 4, 5, 6], 6, True)
        assert not await clock.run_until_async(lambda: False)
        assert await clock.give_way_async(3) == 0
        return clock.elapsed

    def blocking() -> float:
        sim.advance(1)
        sim.run_until_idle()
        assert not sim.run_until(lambda: False)
        assert sim.step() == 0
        return sim.clock.elapsed

    with Sim(autojump=autojump) as sim:
        assert sim.run(story) == 6
        assert sim.run(blocking) == 7
