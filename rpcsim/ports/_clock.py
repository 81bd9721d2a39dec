"""What the core may ask of a clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import datetime, tzinfo

    from rpcsim.ports._durations import Duration

__all__ = ["Clock", "Timer", "WorldClock"]


class Timer(Protocol):
    """A call that is due later."""

    @property
    def when_ns(self) -> int:
        """When it is due, in nanoseconds of the clock's monotonic time."""

    def cancel(self) -> None:
        """Forget it; cancelling twice or too late does nothing."""


class Clock(Protocol):
    """Time as one host sees it.

    Monotonic time (`now_ns`, `time`) never goes back; wall time may, when somebody
    sets the host's clock.
    """

    def now_ns(self) -> int:
        """Monotonic nanoseconds; 0 is the start of the run in simulation."""

    def time(self) -> float:
        """Monotonic seconds, the same clock as the event loop's `time()`."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00 UTC by this host's wall clock."""

    def now(self, tz: tzinfo | None = ...) -> datetime:
        """The wall clock as an aware `datetime` (UTC unless told otherwise)."""

    async def sleep(self, duration: Duration) -> None:
        """Wait; a duration of 0 or less still gives others a turn."""

    def call_at_ns(
        self, when_ns: int, fn: Callable[[Any], object], arg: Any = None
    ) -> Timer:
        """Call `fn(arg)` at a moment of monotonic time; a past one is due now."""

    def call_later(
        self, delay: Duration, fn: Callable[[Any], object], arg: Any = None
    ) -> Timer:
        """Call `fn(arg)` after a delay."""

    def background(self) -> AbstractContextManager[None]:
        """Make tasks and timers created in a block background work.

        They are expected to stay: in simulation they do not keep "run until idle"
        going, and are not told of as left behind. What they create is background too.
        """


class WorldClock(Clock, Protocol):
    """The clock of a whole run, which also knows when the run began."""

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, in the run's own time."""
