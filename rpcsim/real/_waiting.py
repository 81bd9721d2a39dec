"""A thread that waits for something the loop does, and the two ways they meet."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rpcsim.errors import FiberKilled, HostDown, SimulationError
from rpcsim.ports import NANOS, duration_text

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from contextvars import Context

    from rpcsim.real._engine import Engine

__all__ = ["Waiter", "Waiting", "describe", "discard"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

T = TypeVar("T")

EAGER: Final = sys.version_info >= (3, 12)  # tasks can make their first step at once


class Waiter:
    """One outcome, made on the loop's thread, awaited on another.

    A bare lock and no condition: half the cost, and nothing else is needed when there
    is one setter and one reader.
    """

    __slots__ = ("_engine", "_lock", "_ok", "_value", "settled")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._lock.acquire()
        self._ok = False
        self._value: Any = None
        self.settled = False
        # Known from before the loop hears of it, so that an ending loop wakes it.
        engine.waiting[self] = None

    def forget(self) -> None:
        """Nobody will settle it: it was never handed to the loop."""
        self._engine.waiting.pop(self, None)

    def settle(self, *, ok: bool, value: Any) -> None:
        """Set the outcome and wake the thread; only the first one counts."""
        if self.settled:
            return
        self.settled = True
        self._ok, self._value = ok, value
        self._engine.waiting.pop(self, None)
        self._lock.release()

    def block(self, seconds: float = -1) -> bool:
        """Wait until settled; at most `seconds`, unless negative."""
        return self._lock.acquire(timeout=seconds)

    def result(self) -> Any:
        """Wait, and give or raise the outcome."""
        self.block()
        return self.outcome()

    def outcome(self) -> Any:
        """Give or raise what was settled."""
        if self._ok:
            return self._value
        error = self._value
        try:
            raise error
        finally:
            # A traceback holds this frame, the frame would hold the error: a cycle.
            del error
            self._value = None


class Waiting:
    """One `wait` of one thread: the awaitable, and the outcome on its way back."""

    __slots__ = ("_awaitable", "_context", "_engine", "_error", "_job", "_task", "what")

    def __init__(
        self, engine: Engine, awaitable: Awaitable[Any], context: Context
    ) -> None:
        self._engine = engine
        self._awaitable = awaitable
        self._context = context
        self._job = engine.pool.running()
        self._task: asyncio.Future[Any] | None = None
        self._error: BaseException | None = None
        self.what: Final = describe(awaitable)

    def block_for(self, limit_ns: int | None) -> Any:
        """Hand it to the loop and block the thread."""
        engine = self._engine
        if engine.refusing and self._job is None:
            discard(self._awaitable)
            raise engine.over_error(self.what)
        waiter = Waiter(engine)
        if not engine.post(self._start, waiter, context=self._context):
            waiter.forget()
            discard(self._awaitable)
            raise engine.over_error(self.what)
        try:
            if limit_ns is None:
                waiter.block()
            elif not waiter.block(max(0, limit_ns) / NANOS):
                engine.post(self._give_up)
                raise TimeoutError(
                    f"{self.what} did not end within {duration_text(limit_ns)}"
                )
        except KeyboardInterrupt:
            engine.post(self._give_up)
            raise
        return waiter.outcome()

    # -- on the loop's thread ------------------------------------------------------------

    def _start(self, waiter: Waiter) -> None:
        try:
            error = self._refusal()
            if error is None:
                self._task = self._begin()
        except Exception as raised:  # noqa: BLE001 - raised in the waiting thread
            error = raised
        except (SystemExit, KeyboardInterrupt) as raised:
            # Of an eager first step: it ends the loop, and must not leave us waiting.
            waiter.settle(ok=False, value=raised)
            raise
        if error is not None or self._task is None:
            discard(self._awaitable)
            waiter.settle(ok=False, value=error)
            return
        if self._job is not None:
            self._job.waiting = self
            self._engine.pool.waits[self._task] = self._job
        elif self._task.done():  # an eager one, at its first step
            self._ended(waiter, self._task)
            return
        else:
            self._engine.calls[self._task] = None
        self._task.add_done_callback(partial(self._ended, waiter))

    def _refusal(self) -> BaseException | None:
        job = self._job
        if job is None:
            return None
        if job.home.dead:
            return HostDown(
                f"host {job.host!r} is down: its thread {job.name} cannot wait for "
                f"{self.what}"
            )
        return job.take_pending()

    def _begin(self) -> asyncio.Future[Any]:
        awaitable, loop = self._awaitable, self._engine.loop
        if asyncio.isfuture(awaitable):
            if awaitable.get_loop() is not loop:
                raise SimulationError(
                    f"{self.what} belongs to another event loop than this runtime's; "
                    "await it there"
                )
            return awaitable
        if not inspect.iscoroutine(awaitable):
            awaitable = _awaited(awaitable)
        if EAGER and self._job is None:
            # Saves the loop one turn, a fifth of what a wait costs. Not for threads of
            # the pool: what they wait for must be known before its first step.
            return self._engine.eager_task(awaitable)
        return loop.create_task(awaitable)

    def _ended(self, waiter: Waiter, task: asyncio.Future[Any]) -> None:
        if self._job is not None:
            self._job.waiting = None
            self._engine.pool.waits.pop(task, None)
        else:
            self._engine.calls.pop(task, None)
        error = self._error
        if task.cancelled():
            if error is None and self._job is None:
                error = self._engine.fatal
                if error is None and self._engine.refusing:
                    error = self._engine.over_error(self.what)
                if error is None:
                    error = self._crashed()
            if error is None:
                error = asyncio.CancelledError(f"{self.what} was cancelled")
            waiter.settle(ok=False, value=error)
            return
        if isinstance(error, FiberKilled) and self._job is not None:
            self._job.interrupt(
                error
            )  # the coroutine swallowed it; the next wait won't
        failure = task.exception()
        if failure is not None:
            waiter.settle(ok=False, value=failure)
        else:
            waiter.settle(ok=True, value=task.result())

    def _crashed(self) -> HostDown | None:
        """The host this ran on went down: that is what its caller must hear."""
        home = self._context.run(self._engine.home_here)
        if home is None or not home.dead:
            return None
        return HostDown(f"host {home.host!r} went down while {self.what} ran there")

    def _give_up(self) -> None:
        # A future or task given was there before us and stays; what we made goes.
        if self._task is not None and self._task is not self._awaitable:
            self._task.cancel()

    def interrupt(self, error: BaseException) -> bool:
        """End the wait with `error`; `False` if it is ending otherwise already."""
        if self._task is None or not self._task.cancel():
            return False
        self._error = error
        return True


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


def describe(thing: object) -> str:
    """Name a callable or awaitable as error texts do, without an address."""
    while isinstance(thing, partial):
        thing = thing.func
    name = getattr(thing, "__qualname__", None) or getattr(thing, "name", None)
    return name if isinstance(name, str) else type(thing).__qualname__


def discard(awaitable: object) -> None:
    """Drop an awaitable that will not be awaited, without a warning."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()
