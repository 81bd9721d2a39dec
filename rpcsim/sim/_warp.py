"""Clocks that run apart from the world's, and timers that fire late.

A host's reading is a straight line over the world's time, kept as whole numbers: sums
never round, so a drift of 100 ppm over a million seconds is exact. What a program sees
of it through its loop (`time`, `call_at`, `call_later`) is installed on the loop when
the first host drifts, so that runs without drift pay nothing.
"""

from __future__ import annotations

import math
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from rpcsim.ports import NANOS
from rpcsim.sim._strand import in_background
from rpcsim.sim._task import SimTimerHandle

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from contextvars import Context

    from rpcsim.sim._loop import SimLoop

__all__ = ["Line", "LoopTime", "ShiftedTimer", "ppb_of"]


def ppb_of(ppm: float) -> int:
    """Read a drift: parts per million as whole parts per thousand million."""
    if isinstance(ppm, bool) or not isinstance(ppm, (int, float)):
        raise TypeError(f"a drift is a number of parts per million, not {ppm!r}")
    if not math.isfinite(ppm) or ppm <= -1_000_000:
        raise ValueError(
            f"a drift is a finite number above -1000000 ppm, not {ppm!r}: a clock may "
            "be slow, but it goes"
        )
    return round(ppm * 1_000)


class Line:
    """A reading that moves at a rate of its own over the world's time.

    Args:
        reading_ns: What it reads when the world's time is `at_ns`.
        at_ns: That instant.
    """

    __slots__ = ("_at_ns", "_rate", "_scaled")

    def __init__(self, reading_ns: int, at_ns: int) -> None:
        # In parts of a nanosecond, so that changes of the rate lose nothing either.
        self._scaled = reading_ns * NANOS
        self._at_ns = at_ns
        self._rate = NANOS

    def read(self, now_ns: int) -> int:
        """Give the reading at an instant of the world's time."""
        return (self._scaled + (now_ns - self._at_ns) * self._rate) // NANOS

    def reached(self, reading_ns: int) -> int:
        """Give the first instant at which it reads so much, or more."""
        return self._at_ns - (self._scaled - reading_ns * NANOS) // self._rate

    def tilt(self, now_ns: int, ppb: int) -> None:
        """Go on from here at another rate."""
        self._scaled += (now_ns - self._at_ns) * self._rate
        self._at_ns = now_ns
        self._rate = NANOS + ppb

    def move(self, by_ns: int) -> None:
        """Jump."""
        self._scaled += by_ns * NANOS


class ShiftedTimer(SimTimerHandle):
    """A timer whose program asked for another time than the world fires it at."""

    __slots__ = ("asked",)

    asked: float

    def when(self) -> float:
        """Give the deadline as the program asked for it, on its host's clock."""
        return self.asked


class LoopTime:
    """The time functions of a loop on which a host drifts, or timers fire late.

    Args:
        loop: The loop.
        epsilon_ns: How long after its deadline every timer fires.
    """

    def __init__(self, loop: SimLoop, epsilon_ns: int = 0) -> None:
        self._loop = loop
        self.epsilon_ns: Final = epsilon_ns
        # As the class has them, not as an earlier installation left them.
        bound = type(loop)
        self._time: Callable[[], float] = bound.time.__get__(loop)
        self._call_at: Callable[..., Any] = bound.call_at.__get__(loop)
        self._call_later: Callable[..., Any] = bound.call_later.__get__(loop)

    def install(self) -> None:
        """Put them in the place of the loop's own."""
        self._loop.shadow(
            time=self.time, call_at=self.call_at, call_later=self.call_later
        )

    def _line(self, context: Context | None = None) -> Line | None:
        line: Line | None = self._loop.life_of(context).ports.clock.mono
        return line

    def time(self) -> float:
        """Give the running host's monotonic seconds."""
        line = self._line()
        return self._time() if line is None else line.read(self._loop.now_ns) / NANOS

    def call_later(
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back after so many seconds of the host's clock."""
        loop, line = self._loop, self._line(context)
        plain = line is None and not self.epsilon_ns
        if plain or not math.isfinite(delay) or loop.is_closed():
            timer: asyncio.TimerHandle = self._call_later(
                delay, callback, *args, context=context
            )
            return timer
        now_ns = loop.now_ns if line is None else line.read(loop.now_ns)
        deadline = now_ns + round(max(delay, 0) * NANOS)
        return self._timer(deadline / NANOS, deadline, line, callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back when the host's clock reads so much."""
        loop, line = self._loop, self._line(context)
        plain = line is None and not self.epsilon_ns
        if plain or not math.isfinite(when) or loop.is_closed():
            timer: asyncio.TimerHandle = self._call_at(
                when, callback, *args, context=context
            )
            return timer
        deadline = round(when * NANOS)
        if deadline / NANOS < when:
            deadline += 1  # `time()` must not be less than `when` at the call
        return self._timer(when, deadline, line, callback, args, context)

    def _timer(
        self,
        asked: float,
        deadline: int,
        line: Line | None,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> ShiftedTimer:
        loop = self._loop
        when_ns = deadline if line is None else line.reached(deadline)
        when_ns = max(when_ns, loop.now_ns) + self.epsilon_ns
        if context is None:
            context = copy_context()
        timer = ShiftedTimer(
            when_ns / NANOS,
            when_ns,
            callback,
            args,
            loop,
            context,
            loop.strand,
            loop.cause,
        )
        timer.asked = asked
        if loop.knows_background:
            timer.background = in_background(context)
        loop.push_timer(timer)
        return timer
