"""The system's clocks as a host sees them, and timers that belong to a host."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rpcsim.ports import NANOS, to_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Context
    from datetime import tzinfo

    from rpcsim.ports import Duration
    from rpcsim.real._engine import Engine
    from rpcsim.real._home import Home

__all__ = ["RealClock", "RealTimer"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

# Whether timers made in a context are expected to stay, as `Clock.background` says.
_BACKGROUND: Final[ContextVar[bool]] = ContextVar("rpcsim.background", default=False)


class RealTimer:
    """A call that is due later; made and cancelled from any thread."""

    __slots__ = (
        "_arg",
        "_context",
        "_engine",
        "_fn",
        "_handle",
        "_home",
        "background",
        "when_ns",
    )

    def __init__(
        self,
        engine: Engine,
        home: Home,
        when_ns: int,
        fn: Callable[[Any], object],
        arg: Any,
    ) -> None:
        self.when_ns = when_ns
        self.background: Final = _BACKGROUND.get()
        self._engine = engine
        self._home = home
        self._fn: Callable[[Any], object] | None = fn
        self._arg = arg
        self._context: Context = engine.context_here(home)
        self._handle: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<{self.label}>"

    @property
    def label(self) -> str:
        """What reports call it."""
        told = getattr(self._fn, "__qualname__", None) or type(self._fn).__qualname__
        return f"timer for {told}" if self._fn is not None else "timer, done"

    def arm(self) -> None:
        """Begin to wait; on the loop's thread."""
        if self._fn is None:
            return
        if self._home.dead:
            self._fn = None
            return
        self._home.timers[self] = None
        self._handle = self._engine.loop.call_at(
            self.when_ns / NANOS, self._fire, context=self._context
        )

    def cancel(self) -> None:
        """Forget it; cancelling twice or too late does nothing."""
        self._fn = self._arg = None
        if self._handle is not None:
            self._engine.post(self._disarm)

    def _disarm(self) -> None:
        self._home.timers.pop(self, None)
        if self._handle is not None:
            self._handle.cancel()

    def _fire(self) -> None:
        if self._fn is None:
            return
        # Loops round: asyncio fires up to one clock tick early, uvloop counts in
        # milliseconds. A deadline must never be seen before its time.
        if time.monotonic_ns() < self.when_ns:
            self.arm()
            return
        # For the same reason the loop may wake a later timer first: whoever was due
        # before this one rings before it.
        timers = self._home.timers
        due = [timer for timer in timers if timer.when_ns <= self.when_ns]
        for timer in sorted(due, key=_when):
            if timer is self:
                self._ring()
            else:
                timer._context.run(timer._ring)

    def _ring(self) -> None:
        if self._fn is None or self._home.timers.pop(self, self) is self:
            return  # cancelled, or its host is gone
        if self._handle is not None:
            self._handle.cancel()
        fn, arg = self._fn, self._arg
        self._fn = self._arg = None
        try:
            fn(arg)
        except Exception as error:  # noqa: BLE001 - kept, and raised at the end
            self._engine.keep(error, f"timer callback {fn!r}")


def _when(timer: RealTimer) -> int:
    return timer.when_ns


class RealClock:
    """The system's monotonic and wall clock."""

    __slots__ = ("_engine", "_home")

    def __init__(self, engine: Engine, home: Home) -> None:
        self._engine = engine
        self._home = home

    def __repr__(self) -> str:
        return f"<system clock of host {self._home.host}>"

    @property
    def elapsed(self) -> float:
        """Seconds since the run was made."""
        return (time.monotonic_ns() - self._engine.start_ns) / 1e9

    def now_ns(self) -> int:
        """Monotonic nanoseconds, counted from a moment of the system's choice."""
        return time.monotonic_ns()

    def time(self) -> float:
        """Monotonic seconds, the same clock as the event loop's `time()`."""
        return time.monotonic()

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00 UTC."""
        return time.time_ns()

    def now(self, tz: tzinfo | None = UTC) -> datetime:
        """The wall clock as an aware `datetime` (UTC unless told otherwise)."""
        return datetime.now(UTC if tz is None else tz)

    async def sleep(self, duration: Duration) -> None:
        """Wait; a duration of 0 or less still gives others a turn."""
        await asyncio.sleep(max(0, to_ns(duration)) / NANOS)

    def call_at_ns(
        self, when_ns: int, fn: Callable[[Any], object], arg: Any = None
    ) -> RealTimer:
        """Call `fn(arg)` on the loop at a moment of monotonic time."""
        timer = RealTimer(self._engine, self._home, when_ns, fn, arg)
        self._engine.post(timer.arm)
        return timer

    def call_later(
        self, delay: Duration, fn: Callable[[Any], object], arg: Any = None
    ) -> RealTimer:
        """Call `fn(arg)` on the loop after a delay."""
        return self.call_at_ns(time.monotonic_ns() + to_ns(delay), fn, arg)

    @contextlib.contextmanager
    def background(self) -> Iterator[None]:
        """Make timers created in a block background ones, not left behind at the end."""
        token = _BACKGROUND.set(True)
        try:
            yield
        finally:
            _BACKGROUND.reset(token)
