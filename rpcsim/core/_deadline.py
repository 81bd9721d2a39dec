"""A time limit for a block of asynchronous code, on the Clock port."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, final

if TYPE_CHECKING:
    from types import TracebackType

    from rpcsim.ports import Clock, Timer

__all__ = ["Deadline"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True


@final
class Deadline:
    """Cancels the block when its moment comes, and turns that into `TimeoutError`.

    As `asyncio.timeout_at`, but in nanoseconds of a host's own clock: a host whose
    clock drifts must see its own limits pass.

    Args:
        clock: Whose time.
        when_ns: The moment on its monotonic clock; `None` for no limit.
    """

    __slots__ = ("_cancelling", "_clock", "_task", "_timer", "_when_ns", "expired")

    def __init__(self, clock: Clock, when_ns: int | None) -> None:
        self._clock = clock
        self._when_ns = when_ns
        self._timer: Timer | None = None
        self._task: asyncio.Task[object] | None = None
        # Whether the moment came while the block ran.
        self.expired = False

    def __repr__(self) -> str:
        state = "expired" if self.expired else "running" if self._timer else "idle"
        return f"<Deadline {self._when_ns} {state}>"

    def move(self, when_ns: int | None) -> None:
        """Set another moment, inside the block; `None` lifts the limit."""
        self._when_ns = when_ns
        if when_ns is None or self._task is None or self.expired:
            self._disarm()
        elif self._timer is None or self._timer.when_ns > when_ns:
            self._disarm()
            self._timer = self._clock.call_at_ns(when_ns, _expire, self)
        # Else the timer comes too early, and is set anew then: most blocks end before.

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # a coroutine that is awaited runs in a task
        self._task = task
        self._cancelling = task.cancelling()
        self.move(self._when_ns)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._disarm()
        task, self._task = self._task, None
        if not self.expired or task is None:
            return
        # Somebody else may have cancelled us too; that goes on as it is.
        mine = task.uncancel() <= self._cancelling
        if mine and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error

    def _expire(self) -> None:
        self._timer = None
        if self._when_ns is not None and self._clock.now_ns() < self._when_ns:
            self.move(self._when_ns)
        elif self._task is not None:
            self.expired = True
            self._task.cancel()


def _expire(deadline: Deadline) -> None:
    deadline._expire()
