from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.core import Periodic
from rpcsim.errors import StalledError
from rpcsim.ports import current
from rpcsim.real import Runtime
from rpcsim.sim import Sim
from tests.fakes.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class LeapingClock(ManualClock):
    """Jumps over what is due, as a machine that slept does."""

    def leap(self, seconds: float) -> None:
        self._now += round(seconds * 1e9)
        self.advance(0)


def times_of(
    interval: Any, until: float, *, takes: float | None = None, **options: Any
) -> tuple[list[float], Periodic]:
    """Run one for a while in simulated time; give when it was called."""
    seen: list[float] = []

    async def slow() -> None:
        seen.append(current().clock.time())
        await asyncio.sleep(takes or 0)

    def quick() -> None:
        seen.append(current().clock.time())

    async def main() -> Periodic:
        func: Callable[[], Any] = quick if takes is None else slow
        periodic = Periodic(func, interval, clock=current().clock, **options)
        periodic.start()
        await asyncio.sleep(until)
        await periodic.stop(cancel=True)
        return periodic

    with Sim() as sim:
        return seen, sim.run(main)


def run_sim(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with Sim() as sim:
        return sim.run(main)


def test_calls_happen_at_exact_moments() -> None:
    """At the start and at every interval, without drift over ten thousand of them."""
    seen, periodic = times_of(0.1, 1_000.05)
    assert seen == [n / 10 for n in range(10_001)]
    assert (periodic.calls, periodic.skipped, periodic.failures) == (10_001, 0, 0)


def test_the_first_call_may_be_an_interval_away() -> None:
    """`immediate=False` begins one interval after the start."""
    assert times_of("10s", 35, immediate=False)[0] == [10, 20, 30]


def test_a_coroutine_function_is_awaited() -> None:
    """What is called may wait; a call that ends in time changes nothing."""
    assert times_of(10, 35, takes=3)[0] == [0, 10, 20, 30]


@pytest.mark.parametrize(
    ("takes", "seen", "skipped"),
    [(25, [0, 30, 60], 4), (10, [0, 20, 40, 60], 3), (30, [0, 40], 3)],
)
def test_a_slow_call_does_not_overlap_itself(
    takes: float, seen: list[float], skipped: int
) -> None:
    """Moments that pass in a call are skipped, and the phase is kept."""
    times, periodic = times_of(10, 65, takes=takes)
    assert times == seen
    assert periodic.skipped == skipped


def test_moments_slept_through_are_skipped() -> None:
    """Started at 0, jump to 35: calls at 0, 35, 40, 50; the count tells of them."""

    async def main() -> tuple[list[Any], int]:
        clock, seen = LeapingClock(), []
        periodic = Periodic.with_count(
            lambda passed: seen.append((clock.time(), passed)), 10, clock=clock
        )
        periodic.start()
        clock.leap(35)
        clock.advance(20)
        periodic.stop()
        return seen, periodic.skipped

    assert run_sim(main) == ([(0, 1), (35, 3), (40, 1), (50, 1)], 2)


def test_an_interval_of_nothing_yields_each_time() -> None:
    """With interval 0 it is called again at once, and others get their turns."""

    async def main() -> tuple[list[str], float]:
        told: list[str] = []

        def call() -> None:
            told.append("call")
            asyncio.get_running_loop().call_soon(told.append, "other")
            if periodic.calls == 3:
                periodic.stop()

        periodic = Periodic(call, 0, clock=current().clock)
        periodic.start()
        await periodic.wait()
        await asyncio.sleep(1)
        return told, current().clock.time()

    assert run_sim(main) == (["call", "other"] * 3, 1)


def test_a_failure_is_logged_and_the_schedule_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By default: one error with its traceback for each failure, counted."""

    async def main() -> Periodic:
        def fail() -> None:
            raise ValueError(f"at {current().clock.time():g}")

        periodic = Periodic(fail, 10, clock=current().clock)
        periodic.start()
        await asyncio.sleep(25)
        await periodic.stop()
        return periodic

    with caplog.at_level(logging.ERROR):
        periodic = run_sim(main)
    assert (periodic.calls, periodic.failures) == (3, 3)
    assert str(periodic.last_error) == "at 20"
    records = [r for r in caplog.records if r.name == "rpcsim.core.periodic"]
    assert len(records) == 3
    assert all(record.exc_info for record in records)


def test_a_failure_may_be_handed_to_a_function() -> None:
    """Plain or awaited, each exception arrives; one raised there changes nothing."""
    handed: list[str] = []

    def take(error: Exception) -> None:
        handed.append(str(error))
        if len(handed) == 1:
            raise LookupError("the function failed")

    async def main() -> None:
        async def fail() -> None:
            await asyncio.sleep(1)
            raise ValueError(f"at {current().clock.time():g}")

        periodic = Periodic(fail, 10, clock=current().clock, on_error=take)
        periodic.start()
        await asyncio.sleep(25)
        await periodic.stop()

    with Sim() as sim:
        sim.run(main)
        assert [str(error) for error in sim.take_failures()] == ["the function failed"]
    assert handed == ["at 1", "at 11", "at 21"]


@pytest.mark.parametrize("waits", [False, True])
def test_a_failure_may_end_the_schedule(waits: bool) -> None:
    """With `on_error="stop"` there are no more calls, and `wait()` raises."""

    async def main() -> tuple[int, str, bool]:
        async def fail() -> None:
            if waits:
                await asyncio.sleep(1)
            raise ValueError("no more")

        periodic = Periodic(fail, 10, clock=current().clock, on_error="stop")
        periodic.start()
        with pytest.raises(ValueError, match="no more") as raised:
            await periodic.wait()
        await asyncio.sleep(100)
        return periodic.calls, str(raised.value), periodic.running

    assert run_sim(main) == (1, "no more", False)


def test_stop_waits_for_the_call_in_progress() -> None:
    """The call ends by itself, or is cancelled; stopping again does nothing."""

    async def main(cancel: bool) -> list[Any]:
        clock = current().clock
        told: list[Any] = []

        async def work() -> None:
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                told.append("cancelled")
                raise
            told.append("ended")

        periodic = Periodic(work, 10, clock=clock)
        periodic.start()
        await asyncio.sleep(12)
        assert periodic.next_at is None
        await periodic.stop(cancel=cancel)
        told.append(clock.time())
        await periodic.stop()
        await periodic.wait()
        await asyncio.sleep(100)
        return [*told, periodic.running, periodic.calls]

    assert run_sim(lambda: main(False)) == ["ended", "ended", 15, False, 2]
    assert run_sim(lambda: main(True)) == ["ended", "cancelled", 12, False, 2]


def test_a_call_may_stop_its_own_schedule() -> None:
    """Awaiting the stop inside the call does not wait for the call."""

    async def main() -> tuple[int, float]:
        async def once() -> None:
            await periodic.stop()

        periodic = Periodic(once, 10, clock=current().clock)
        periodic.start()
        await periodic.wait()
        return periodic.calls, current().clock.time()

    assert run_sim(main) == (1, 0)


def test_reset_begins_the_phase_anew() -> None:
    """Idle or in a call, the next moment is one interval from the reset."""

    async def main(takes: float) -> list[float]:
        clock, seen = current().clock, []

        async def work() -> None:
            seen.append(clock.time())
            await asyncio.sleep(takes)

        periodic = Periodic(work, 10, clock=clock)
        periodic.start()
        await asyncio.sleep(13)
        periodic.reset()
        await asyncio.sleep(25)
        await periodic.stop()
        return seen

    assert run_sim(lambda: main(1)) == [0, 10, 23, 33]
    assert run_sim(lambda: main(4)) == [0, 10, 23, 33]


def test_a_triggered_call_keeps_the_phase_and_does_not_overlap() -> None:
    """It is beside the schedule; a moment that falls into it is skipped."""

    async def main() -> tuple[list[float], list[bool]]:
        clock, seen = current().clock, []

        async def work() -> None:
            seen.append(clock.time())
            await asyncio.sleep(4)

        periodic = Periodic(work, 10, clock=clock, immediate=False)
        periodic.start()
        triggered = [periodic.trigger(), periodic.trigger()]
        await asyncio.sleep(18)  # in it: the call at 10
        triggered.append(periodic.trigger())
        assert periodic.next_at == 20
        await asyncio.sleep(20)
        await periodic.stop()
        return seen, triggered

    assert run_sim(main) == ([0, 10, 18, 30], [True, False, True])


def test_what_contradicts_its_state_is_refused() -> None:
    """Starting twice, driving what does not run, an interval below nothing."""

    async def main() -> None:
        clock = current().clock
        periodic = Periodic(lambda: None, 10, clock=clock)
        await periodic.stop()  # not started: nothing to do
        await periodic.wait()
        for drive in (periodic.reset, periodic.trigger):
            with pytest.raises(RuntimeError, match="start it first"):
                drive()
        periodic.start()
        with pytest.raises(RuntimeError, match="stop it first"):
            periodic.start()
        await periodic.stop()
        periodic.start()
        assert "lambda" in repr(periodic)
        assert "idle, 2 calls" in repr(periodic)
        await periodic.stop()
        with pytest.raises(ValueError, match="cannot be negative"):
            Periodic(print, -1, clock=clock)
        with pytest.raises(ValueError, match="unknown on_error"):
            Periodic(print, 1, clock=clock, on_error="ignore")  # type: ignore[arg-type]  # refused

    run_sim(main)


def test_it_is_background_work() -> None:
    """Idle is idle, nobody is deadlocked, and nothing is left behind (check 8)."""
    calls: list[float] = []

    async def call() -> None:
        await asyncio.sleep(1)
        calls.append(current().clock.time())

    async def begin() -> Periodic:
        periodic = Periodic(call, 10, clock=current().clock)
        periodic.start()
        return periodic

    with Sim() as sim:
        periodic = sim.run(begin)
        sim.clock.run_until_idle()
        assert sim.clock.elapsed < 10
        sim.clock.advance(35)
        assert calls == [1, 11, 21, 31]
        assert periodic.running
    assert sim.leftovers == ()


def test_waiting_for_ever_beside_it_is_a_stall() -> None:
    """Calls that go on do not hide that main can never end (check 8)."""

    async def main() -> None:
        async def call() -> None:
            await asyncio.sleep(1)

        Periodic(call, 60, clock=current().clock).start()
        await asyncio.Event().wait()

    with Sim(stall_limit="1h") as sim:
        with pytest.raises(StalledError, match="only background work"):
            sim.run(main)
        assert 3_600 <= sim.clock.elapsed <= 3_700


def test_it_ends_with_its_host() -> None:
    """A crash or an orderly stop ends the schedule; a restart begins a new one."""
    calls: list[tuple[str, float]] = []

    async def serve(host: Any) -> None:
        name = f"{host.name}{host.incarnation}"

        async def call() -> None:
            calls.append((name, current().clock.time()))
            await asyncio.sleep(3)

        Periodic(call, 10, clock=current().clock).start()
        await asyncio.Event().wait()

    with Sim() as sim:
        left, right = (sim.host(name, serve) for name in ("left", "right"))

        async def story() -> None:
            await asyncio.sleep(11)  # both are in a call
            left.crash()
            await right.stop()
            await asyncio.sleep(20)
            left.restart()
            await asyncio.sleep(15)

        sim.run(story)
    assert calls == [
        ("left1", 0),
        ("right1", 0),
        ("left1", 10),
        ("right1", 10),
        ("left2", 31),
        ("left2", 41),
    ]


def test_an_idle_one_ends_with_its_host() -> None:
    """Its timer does not outlive an orderly stop."""
    calls: list[float] = []

    async def serve() -> None:
        clock = current().clock
        Periodic(lambda: calls.append(clock.time()), 10, clock=clock).start()

    with Sim() as sim:
        host = sim.host("server", serve)

        async def story() -> None:
            await asyncio.sleep(15)
            await host.stop()
            await asyncio.sleep(100)

        sim.run(story)
    assert calls == [0, 10]


def test_two_runs_are_one() -> None:
    """Beside other work, under a drawn schedule: equal digests for equal seeds."""

    def digest(seed: int) -> str | None:
        async def main() -> None:
            clock, trace = current().clock, current().trace

            async def tell(name: str) -> None:
                trace.emit("point", (("name", name),))
                await asyncio.sleep(0.001)

            several = [
                Periodic(lambda n=n: tell(f"p{n}"), "10ms", clock=clock)
                for n in range(4)
            ]
            for periodic in several:
                periodic.start()
            await asyncio.sleep(1)
            for periodic in several:
                await periodic.stop()

        with Sim(seed=seed, policy="random") as sim:
            sim.run(main)
        return sim.trace.digest

    assert digest(1) == digest(1) != digest(2)


def test_on_real_sockets_and_clocks() -> None:
    """The same on the real machine: calls come, and none is left behind."""

    async def main() -> int:
        enough = asyncio.Event()
        clock = current().clock

        def call() -> None:
            if periodic.calls == 5:
                enough.set()

        periodic = Periodic(call, "1ms", clock=clock)
        periodic.start()
        await asyncio.wait_for(enough.wait(), 10)
        await periodic.stop()
        stays = Periodic(call, "1h", clock=clock, immediate=False)
        stays.start()
        return periodic.calls

    with Runtime() as runtime:
        assert runtime.run(main) == 5
    assert list(runtime.leftovers) == []
