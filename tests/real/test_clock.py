from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone

from rpcsim.ports import current
from rpcsim.real import Runtime


def test_timers_never_ring_early() -> None:
    """A thousand deadlines, each seen at or after its moment, in their order."""
    rung: list[tuple[int, int]] = []
    done = threading.Event()

    async def arm() -> None:
        clock = current().clock

        def ring(when_ns: int) -> None:
            rung.append((when_ns, clock.now_ns()))
            if len(rung) == 1000:
                done.set()

        start = clock.now_ns()
        for n in range(1000):
            clock.call_at_ns(start + n * 7_001, ring, start + n * 7_001)

    with Runtime() as runtime:
        runtime.run(arm)
        assert done.wait(10)
    assert all(seen >= when for when, seen in rung)
    assert [when for when, _ in rung] == sorted(when for when, _ in rung)


def test_a_cancelled_timer_is_gone() -> None:
    """Cancelled from another thread, twice: it neither rings nor is left behind."""
    with Runtime() as runtime:
        timer = runtime.clock.call_later("1h", print)
        assert timer.when_ns > runtime.clock.now_ns()
        timer.cancel()
        timer.cancel()
    assert runtime.leftovers == ()


def test_sleep_and_the_two_clocks() -> None:
    """Monotonic time passes at least as asked; the wall clock is aware and UTC."""
    with Runtime() as runtime:
        clock = runtime.clock
        before = clock.now_ns()
        runtime.bridge.wait(clock.sleep("2ms"))
        runtime.bridge.wait(clock.sleep(-1))
        assert clock.now_ns() - before >= 2_000_000
        assert abs(clock.time() - clock.now_ns() / 1e9) < 1
        assert clock.now().tzinfo is UTC
        assert clock.now(timezone(timedelta(hours=2))).utcoffset() == timedelta(hours=2)
        told = datetime.fromtimestamp(clock.wall_ns() / 1e9, UTC)
        assert abs(told - clock.now()) < timedelta(seconds=5)
