"""A clock for tests of the engine, moved by hand."""

from __future__ import annotations

import contextlib
import heapq
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from rpcsim.ports import NANOS, to_ns

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from rpcsim.ports import Duration


class ManualTimer:
    def __init__(self, when_ns: int, fn: Callable[[Any], object], arg: Any) -> None:
        self.when_ns = when_ns
        self.fn = fn
        self.arg = arg
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualClock:
    """The port `Clock`; `advance` runs what is due on the way."""

    def __init__(self) -> None:
        self._now = 0
        self._count = 0
        self._timers: list[tuple[int, int, ManualTimer]] = []

    @property
    def pending(self) -> int:
        """Timers that are set and not cancelled."""
        return sum(not timer.cancelled for _, _, timer in self._timers)

    def advance(self, seconds: Duration) -> None:
        until = self._now + to_ns(seconds)
        while self._timers and self._timers[0][0] <= until:
            when, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, when)
            if not timer.cancelled:
                timer.fn(timer.arg)
        self._now = until

    def now_ns(self) -> int:
        return self._now

    def time(self) -> float:
        return self._now / NANOS

    def wall_ns(self) -> int:
        return self._now

    def now(self, tz: tzinfo | None = UTC) -> datetime:
        return datetime.fromtimestamp(0, tz) + timedelta(seconds=self.time())

    async def sleep(self, duration: Duration) -> None:
        raise AssertionError("the engine never sleeps")

    def call_at_ns(
        self, when_ns: int, fn: Callable[[Any], object], arg: Any = None
    ) -> ManualTimer:
        timer = ManualTimer(when_ns, fn, arg)
        self._count += 1
        heapq.heappush(self._timers, (when_ns, self._count, timer))
        return timer

    def call_later(
        self, delay: Duration, fn: Callable[[Any], object], arg: Any = None
    ) -> ManualTimer:
        return self.call_at_ns(self._now + to_ns(delay), fn, arg)

    def background(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()
