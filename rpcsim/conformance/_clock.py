"""What any `Clock` must do."""

from __future__ import annotations

import asyncio
from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Final

from rpcsim.conformance._checking import Check, expect, run_all

if TYPE_CHECKING:
    from rpcsim.conformance._checking import Make

__all__ = ["CLOCK", "check_clock"]


def check_clock(make: Make) -> None:
    """Check the clock of a machine: monotonic and wall time, sleeping, timers.

    Args:
        make: Gives a fresh machine.
    """
    run_all(CLOCK, make)


def monotonic_time_never_goes_back(make: Make) -> None:
    """`time()` and `now_ns()` are one clock, which never goes back."""
    with make() as machine:

        async def story() -> None:
            clock = machine.clock
            last = -1.0
            for _ in range(50):
                before, ns, after = clock.time(), clock.now_ns(), clock.time()
                expect(before >= last, f"time() went back from {last} to {before}")
                expect(
                    before - 1e-6 <= ns / 1e9 <= after + 1e-6,
                    f"now_ns() is {ns}, time() is {before} to {after}: two clocks",
                )
                last = after
                await clock.sleep("100us")

        machine.run(story)


def time_is_the_loops(make: Make) -> None:
    """`time()` is the clock of the running event loop."""
    with make() as machine:

        async def story() -> None:
            loop, clock = asyncio.get_running_loop(), machine.clock
            before, theirs, after = clock.time(), loop.time(), clock.time()
            expect(
                before - 0.01 <= theirs <= after + 0.01,
                f"the loop's time is {theirs}, the clock's {before} to {after}",
            )

        machine.run(story)


def the_wall_clock_is_aware(make: Make) -> None:
    """`now()` is UTC unless told otherwise, and agrees with `wall_ns()`."""
    with make() as machine:
        clock = machine.clock
        before = clock.wall_ns()
        now = clock.now()
        after = clock.wall_ns()
        expect(now.tzinfo is not None, f"now() gave a naive {now!r}")
        expect(now.utcoffset() == timedelta(0), f"now() is not in UTC: {now!r}")
        stamp = now.timestamp()
        expect(
            before / 1e9 - 0.001 <= stamp <= after / 1e9 + 0.001,
            f"now() is {stamp}, wall_ns() is {before} to {after}",
        )
        there = clock.now(timezone(timedelta(hours=2)))
        expect(
            there.utcoffset() == timedelta(hours=2), f"the zone is ignored: {there!r}"
        )


def a_sleep_lasts_as_long_as_asked(make: Make) -> None:
    """Never shorter, in every form of a duration."""
    with make() as machine:

        async def story() -> None:
            clock = machine.clock
            for duration in (0.002, "2ms", "2000us", timedelta(milliseconds=2)):
                start = clock.now_ns()
                await clock.sleep(duration)
                took = clock.now_ns() - start
                # The loops of the real machine may wake within their own tick.
                expect(took >= 1_900_000, f"sleep({duration!r}) took {took} ns")

        machine.run(story)


def a_sleep_of_nothing_gives_a_turn(make: Make) -> None:
    """Zero and negative durations let others run."""
    with make() as machine:

        async def story() -> None:
            ran: list[int] = []
            asyncio.get_running_loop().call_soon(ran.append, 1)
            await machine.clock.sleep(0)
            expect(ran == [1], "sleep(0) gave nobody a turn")
            asyncio.get_running_loop().call_soon(ran.append, 2)
            await machine.clock.sleep(-1)
            expect(ran == [1, 2], "sleep(-1) gave nobody a turn")

        machine.run(story)


def timers_ring_in_order_and_never_early(make: Make) -> None:
    """By deadline; equal deadlines in the order they were made; with their argument."""
    with make() as machine:

        async def story() -> None:
            clock = machine.clock
            rung: list[tuple[str, int]] = []
            base = clock.now_ns() + 2_000_000
            done = asyncio.Event()

            def ring(name: str) -> None:
                rung.append((name, clock.now_ns()))
                if name == "last":
                    done.set()

            dues = {"b": 1, "c": 2, "a": 0, "b2": 1, "last": 3}
            for name, later in dues.items():
                timer = clock.call_at_ns(base + later * 1_000_000, ring, name)
                expect(
                    timer.when_ns == base + later * 1_000_000,
                    f"when_ns is {timer.when_ns}, not what was asked",
                )
            await done.wait()
            names = [name for name, _ in rung]
            expect(
                names == ["a", "b", "b2", "c", "last"],
                f"timers due at {dues} rang in the order {names}",
            )
            for name, at in rung:
                due = base + dues[name] * 1_000_000
                expect(at >= due, f"timer {name} due at {due} rang at {at}, early")

        machine.run(story)


def a_past_deadline_is_due_now(make: Make) -> None:
    """It rings in one of the next turns, not at once and not never."""
    with make() as machine:

        async def story() -> None:
            clock = machine.clock
            rung = asyncio.Event()
            clock.call_at_ns(clock.now_ns() - 10**9, lambda _: rung.set())
            expect(not rung.is_set(), "a past timer rang inside call_at_ns")
            async with asyncio.timeout(5):
                await rung.wait()

        machine.run(story)


def a_cancelled_timer_never_rings(make: Make) -> None:
    """Cancelling twice, or after it rang, does nothing."""
    with make() as machine:

        async def story() -> None:
            clock = machine.clock
            rung: list[str] = []
            dropped = clock.call_later("1ms", rung.append, "dropped")
            kept = clock.call_later("2ms", rung.append, "kept")
            dropped.cancel()
            dropped.cancel()
            await clock.sleep("10ms")
            expect(rung == ["kept"], f"rang: {rung}")
            kept.cancel()

        machine.run(story)
    expect(not machine.leftovers, f"timers were left behind: {machine.leftovers}")


def the_world_knows_how_long_it_runs(make: Make) -> None:
    """`elapsed` begins near zero and grows with the world's time."""
    with make() as machine:
        first = machine.clock.elapsed
        expect(0 <= first < 60, f"a fresh machine has run for {first} s")
        machine.bridge.wait(machine.clock.sleep("5ms"))
        grown = machine.clock.elapsed - first
        expect(grown >= 0.0049, f"5 ms later, elapsed grew by {grown} s")


CLOCK: Final[tuple[Check, ...]] = (
    monotonic_time_never_goes_back,
    time_is_the_loops,
    the_wall_clock_is_aware,
    a_sleep_lasts_as_long_as_asked,
    a_sleep_of_nothing_gives_a_turn,
    timers_ring_in_order_and_never_early,
    a_past_deadline_is_due_now,
    a_cancelled_timer_never_rings,
    the_world_knows_how_long_it_runs,
)
