"""Calling a function at an interval, on the Clock port.

The laws of this file:

- Moments are `start + n * interval`, computed from the start and never from the end of
  a call, so nothing drifts.
- The next call is placed when the last one has ended: calls never overlap. Moments that
  passed meanwhile are skipped, not made up, and the phase is kept.
- All of it is background work of the clock: it is expected to go on for ever.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, final

from rpcsim.ports import NANOS, duration_text, to_ns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rpcsim.ports import Clock, Duration, Timer

__all__ = ["OnError", "Periodic"]

# What becomes of an exception of a call: it is logged, it ends the schedule, or it is
# handed to a function.
OnError: TypeAlias = "Literal['log', 'stop'] | Callable[[Exception], object]"

log = logging.getLogger("rpcsim.core.periodic")


@final
class Periodic:
    """Calls a plain function or a coroutine function at an interval.

    It lives on the event loop: `start`, `trigger` and `stop` are called there. A plain
    function runs in the loop's step and must not block; give a coroutine function that
    awaits `bridge.call_blocking` for one that does.

    Args:
        func: Called without arguments; what it returns is awaited if it can be.
        interval: Time between two moments; 0 is again at once, yielding each time.
        clock: Whose time.
        immediate: Whether the first call is at the start (a plain function is then
            called before `start()` returns), or one interval later.
        on_error: `"log"`: an exception is logged and the schedule goes on. `"stop"`:
            it ends the schedule, and `wait()` raises it. A function: it is called with
            the exception, and the schedule goes on.

    Attributes:
        calls: Calls begun.
        failures: Calls that raised.
        skipped: Moments that passed without a call of their own.
        last_error: What the last failed call raised, if any.

    Raises:
        ValueError: The interval is negative, or `on_error` is not known.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        interval: Duration,
        *,
        clock: Clock,
        immediate: bool = True,
        on_error: OnError = "log",
    ) -> None:
        interval_ns = to_ns(interval)
        if interval_ns < 0:
            raise ValueError(f"an interval cannot be negative: {interval!r}")
        if not callable(on_error) and on_error not in ("log", "stop"):
            raise ValueError(
                f"unknown on_error {on_error!r} (known: 'log', 'stop', or a function)"
            )
        self.calls = 0
        self.failures = 0
        self.skipped = 0
        self.last_error: Exception | None = None
        self._func = func
        self._counting = False
        self._interval_ns = interval_ns
        self._clock = clock
        self._immediate = immediate
        self._on_error = on_error
        self._running = False
        self._start_ns = 0
        self._reached = 0  # number of the last moment that was called or skipped
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None
        self._in_call = False
        # Done when stopped and no call is in progress; made by `start`.
        self._over: asyncio.Future[None] | None = None
        self._ended_by: Exception | None = None

    @classmethod
    def with_count(
        cls,
        func: Callable[[int], Any],
        interval: Duration,
        *,
        clock: Clock,
        immediate: bool = True,
        on_error: OnError = "log",
    ) -> Self:
        """Make one that passes how many moments passed since the last call.

        That is 1, and more after skipped moments.
        """
        made = cls(func, interval, clock=clock, immediate=immediate, on_error=on_error)
        made._counting = True
        return made

    def __repr__(self) -> str:
        state = "in a call" if self._in_call else "idle" if self._running else "stopped"
        every = duration_text(self._interval_ns)
        return f"<Periodic {self._name} every {every}: {state}, {self.calls} calls>"

    @property
    def _name(self) -> str:
        return getattr(self._func, "__qualname__", type(self._func).__name__)

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped; a last call may be in progress."""
        return self._running

    @property
    def next_at(self) -> float | None:
        """When the next call is due, in seconds of the clock's monotonic time.

        `None` while a call is in progress, and when it does not run.
        """
        return None if self._timer is None else self._timer.when_ns / NANOS

    # -- control -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin the schedule now.

        Raises:
            RuntimeError: It runs, or its last call is still in progress.
        """
        if self._running or self._in_call:
            raise RuntimeError(f"{self!r} was started already; stop it first")
        self._over = asyncio.get_running_loop().create_future()
        self._ended_by = None
        self._running = True
        self._start_ns = self._clock.now_ns()
        self._reached = 0
        if self._immediate:
            self._reached = -1
            self._call()
        else:
            self._place()

    def stop(self, *, cancel: bool = False) -> Awaitable[None]:
        """Make no more calls; stopping twice does nothing.

        Args:
            cancel: Whether to cancel a call in progress.

        Returns:
            An awaitable that is done when no call is in progress. It need not be
            awaited; inside the call itself it is done at once.
        """
        self._running = False
        self._disarm()
        task = self._task
        if cancel and task is not None:
            task.cancel()
        self._settle()
        if self._over is None or (task is not None and task is asyncio.current_task()):
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        return asyncio.shield(self._over)

    async def wait(self) -> None:
        """Wait until it is stopped and no call is in progress.

        Raises:
            Exception: What ended the schedule under `on_error="stop"`.
        """
        if self._over is not None:
            await asyncio.shield(self._over)
        if self._ended_by is not None:
            raise self._ended_by

    def reset(self) -> None:
        """Begin the phase anew: the next call is one interval from now.

        Raises:
            RuntimeError: It does not run.
        """
        self._check_running("reset")
        self._start_ns = self._clock.now_ns()
        self._reached = 0
        if not self._in_call:
            self._disarm()
            self._place()

    def trigger(self) -> bool:
        """Make one call now, beside the schedule, unless one is in progress.

        Returns:
            Whether the call was made.

        Raises:
            RuntimeError: It does not run.
        """
        self._check_running("trigger")
        if self._in_call:
            return False
        self._call()
        return True

    def _check_running(self, verb: str) -> None:
        if not self._running:
            raise RuntimeError(f"cannot {verb} {self!r}; start it first")

    # -- the schedule ------------------------------------------------------------------

    def _moment(self) -> int:
        """Give the number of the last moment that has come."""
        if not self._interval_ns:
            return self._reached + 1
        return (self._clock.now_ns() - self._start_ns) // self._interval_ns

    def _place(self) -> None:
        """Arm the timer for the next moment, which is never now unless that is asked."""
        if not self._interval_ns:
            when_ns = self._clock.now_ns()
        else:
            when_ns = self._start_ns + (self._moment() + 1) * self._interval_ns
        with self._clock.background():
            self._timer = self._clock.call_at_ns(when_ns, Periodic._due, self)

    def _due(self) -> None:
        self._timer = None
        # A triggered call may be in progress: the moment is skipped, and the next one
        # placed when that call ends.
        if self._running and not self._in_call:
            self._call()

    def _call(self) -> None:
        moment = self._moment()
        passed = moment - self._reached
        self._reached = moment
        self.skipped += max(passed - 1, 0)
        self.calls += 1
        self._in_call = True
        with self._clock.background():
            try:
                made = self._func(passed) if self._counting else self._func()
            except Exception as error:  # noqa: BLE001 - told as `on_error` says
                self._ended(error)
                return
            except BaseException:
                self._broken()
                raise
            if not inspect.isawaitable(made):
                self._ended(None)
                return
            loop = asyncio.get_running_loop()
            task = self._task = loop.create_task(
                _awaited(made), name=f"periodic {self._name}"
            )
            task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled():
            # By `stop(cancel=True)`, or because its host ends: no more calls either way.
            self._broken()
            return
        error = task.exception()
        if error is None or isinstance(error, Exception):
            self._ended(error)
        else:
            self._broken()

    def _ended(self, error: Exception | None) -> None:
        """A call ended: place the next, then tell of its failure."""
        self._in_call = False
        if error is not None and self._on_error == "stop":
            self._ended_by = error
            self._running = False
            self._disarm()
        if self._running and self._timer is None:
            self._place()
        if error is not None:
            self.failures += 1
            self.last_error = error
        self._settle()
        if error is None or self._on_error == "stop":
            return
        if callable(self._on_error):
            self._on_error(error)
        else:
            log.error("Periodic call of %s failed", self._name, exc_info=error)

    def _broken(self) -> None:
        """A call did not end by itself: the schedule is over."""
        self._in_call = False
        self._running = False
        self._disarm()
        self._settle()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _settle(self) -> None:
        over = self._over
        if not (self._running or self._in_call or over is None or over.done()):
            over.set_result(None)


async def _awaited(awaitable: Awaitable[Any]) -> None:
    await awaitable
