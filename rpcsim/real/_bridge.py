"""The bridge on real threads: coroutines for blocking code, threads for coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from rpcsim.errors import (
    BlockingInCoroutine,
    DeadlockError,
    FiberKilled,
    SimulationError,
)
from rpcsim.ports import to_ns
from rpcsim.real._pool import Job
from rpcsim.real._waiting import Waiting, describe, discard

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from rpcsim.ports import Duration
    from rpcsim.real._engine import Engine
    from rpcsim.real._home import Home

__all__ = ["RealBridge", "SerialWorker", "SpawnedThread"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

T = TypeVar("T")


class RealBridge:
    """`rpcsim.ports.Bridge` as one host uses it."""

    __slots__ = ("_engine", "_home")

    def __init__(self, engine: Engine, home: Home) -> None:
        self._engine = engine
        self._home = home

    def __repr__(self) -> str:
        return f"<thread bridge of host {self._home.host}>"

    def wait(self, awaitable: Awaitable[T], timeout: Duration | None = None) -> T:
        """Block until done; return or raise its outcome.

        Raises:
            BlockingInCoroutine: Called where an event loop is running.
            TimeoutError: `timeout` passed; a coroutine given is then cancelled.
            Disconnected: The runtime has ended, or ends meanwhile.
        """
        if _loop_runs_here():
            what = describe(awaitable)
            discard(awaitable)
            raise BlockingInCoroutine(
                f"{what} would block the event loop: it was called in a coroutine or "
                f"callback of host {self._engine.home_of_caller(self._home).host!r}; "
                "await its asynchronous form, or run the caller through `await "
                "ports.current().bridge.call_blocking(function, ...)`"
            )
        try:
            limit = None if timeout is None else to_ns(timeout)
            context = self._engine.context_here(self._home)
            waiting = Waiting(self._engine, awaitable, context)
        except BaseException:
            discard(awaitable)
            raise
        return cast("T", waiting.block_for(limit))

    async def call_blocking(
        self, fn: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> T:
        """Run synchronous `fn` in a pool thread, in a copy of this context.

        Cancelling the caller raises `CancelledError` at the thread's current or next
        `wait`; the caller goes on when the thread has ended.

        Raises:
            PoolExhausted: All threads are busy.
        """
        self._engine.check_loop("call_blocking")
        job = self._job(partial(fn, *args, **kwargs), describe(fn))
        job.home.check_alive(f"run {job.name}")
        job.awaiter = asyncio.current_task()
        self._engine.pool.start(job)
        return cast("T", await job.outcome(interrupting=True))

    def spawn(
        self, fn: Callable[..., T], /, *args: Any, name: str | None = None
    ) -> SpawnedThread[T]:
        """Start `fn` in a thread of its own; what it raises is kept if nobody awaits it."""
        job = self._job(partial(fn, *args), name or describe(fn))
        job.home.check_alive(f"run {job.name}")
        self._engine.pool.start(job)
        return SpawnedThread(self._engine, job)

    def worker(self, name: str) -> SerialWorker:
        """Make a serial worker."""
        return SerialWorker(self._engine, self._home, name)

    def current(self) -> Job | Strand:
        """Tell what is running."""
        engine = self._engine
        job = engine.pool.running()
        if job is not None:
            return job
        host = engine.home_of_caller(self._home).host
        if _loop_runs_here():
            task = asyncio.current_task()
            return Strand(task.get_name() if task is not None else "callback", host)
        return Strand(threading.current_thread().name, host)

    def may_block(self) -> bool:
        """Whether `wait` would be allowed here (no event loop is running)."""
        return not _loop_runs_here()

    def _job(self, fn: Callable[[], Any], name: str) -> Job:
        engine = self._engine
        home = engine.home_of_caller(self._home)
        context = engine.context_here(self._home)
        return Job(engine, fn, name=name, home=home, context=context)


@dataclass(frozen=True, slots=True)
class Strand:
    """Something running that is no pool thread: a task, or a thread of the user's.

    Attributes:
        name: Name of the task or thread.
        host: The host it runs for.
        worker: Always `None`: workers run in pool threads.
    """

    name: str
    host: str
    worker: None = None


class SpawnedThread(Generic[T]):
    """Blocking code started on its own; awaiting it gives its outcome."""

    __slots__ = ("_engine", "_job")

    def __init__(self, engine: Engine, job: Job) -> None:
        self._engine = engine
        self._job = job

    def __repr__(self) -> str:
        return repr(self._job)

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for its outcome; a cancelled waiter leaves the thread alone."""
        return self._job.outcome(interrupting=False).__await__()

    @property
    def name(self) -> str:
        """Its name, as reports show it."""
        return self._job.name

    def done(self) -> bool:
        """Whether it has ended."""
        return self._job.ended

    def kill(self, *, hard: bool = False) -> None:
        """Raise `FiberKilled` at its next blocking point.

        Args:
            hard: Asks never to run it again. A thread cannot be parked: its `finally`
                blocks run all the same, which the run's report says.
        """
        if hard:
            self._engine.ledger.fault("kill", f"kill(hard=True) of {self.name!r}")
        self._engine.post(self._job.interrupt, FiberKilled(f"{self.name} was killed"))


class SerialWorker:
    """A named serial worker: its items run one at a time, first in first out.

    Compare it with `bridge.current().worker` to know whether code runs in it.
    """

    __slots__ = ("_active", "_engine", "_home", "_idle", "_queue", "_stopped", "name")

    def __init__(self, engine: Engine, home: Home, name: str) -> None:
        self.name: Final = name
        self._engine = engine
        self._home = engine.home_of_caller(home)
        self._queue: deque[Job] = deque()
        self._active: Job | None = None
        self._stopped = False
        self._idle: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else f"{len(self._queue)} queued"
        return f"<worker {self.name} of host {self._home.host}, {state}>"

    def submit(self, fn: Callable[..., T], *args: Any) -> Submission[T]:
        """Queue blocking work; the awaitable gives its outcome.

        Raises:
            SimulationError: The worker was stopped.
        """
        if self._stopped:
            raise SimulationError(
                f"worker {self.name!r} of host {self._home.host!r} was stopped: it takes "
                f"no {describe(fn)}"
            )
        engine = self._engine
        job = Job(
            engine,
            partial(fn, *args),
            name=f"{self.name}/{describe(fn)}",
            home=self._home,
            context=engine.context_here(self._home),
            worker=self,
        )
        job.on_end = self._next
        if not engine.post(self._enqueue, job):
            raise engine.over_error(job.name)
        return Submission(self, job)

    async def stop(self) -> None:
        """Take no more work; done when what was queued has run."""
        self._stopped = True
        self.check_not_own("stop")
        while self._active is not None:
            future = self._engine.loop.create_future()
            self._idle.append(future)
            await future

    def check_not_own(self, what: str) -> None:
        """Refuse an await that only the waiting item itself could end."""
        engine = self._engine
        task: asyncio.Future[Any] | None = asyncio.current_task()
        while task is not None:
            job = engine.pool.waits.get(task)
            if job is None:
                return
            if job.worker is self:
                raise DeadlockError(
                    f"worker {self.name!r} of host {self._home.host!r} would wait for "
                    f"itself: {job.name} waits for {what}, which runs after it; call "
                    "it directly instead of submitting it"
                )
            task = job.awaiter

    # -- on the loop's thread ------------------------------------------------------------

    def _enqueue(self, job: Job) -> None:
        self._queue.append(job)
        if self._active is None:
            self._next()

    def _next(self) -> None:
        self._active = None
        while self._queue and self._active is None:
            job = self._queue.popleft()
            try:
                job.home.check_alive(f"run {job.name}")
                self._active = job
                self._engine.pool.start(job)
            except Exception as error:  # noqa: BLE001 - the item's outcome
                self._active = None
                job.on_end = None
                job.finish(False, error)
        if self._active is None:
            for future in self._idle:
                if not future.done():
                    future.set_result(None)
            self._idle.clear()


class Submission(Generic[T]):
    """An item of a worker; awaiting it gives its outcome."""

    __slots__ = ("_job", "_worker")

    def __init__(self, worker: SerialWorker, job: Job) -> None:
        self._worker = worker
        self._job = job

    def __repr__(self) -> str:
        return repr(self._job)

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for its outcome; a cancelled waiter leaves the item alone.

        Raises:
            DeadlockError: The waiter is an item of the same worker.
        """
        if not self._job.ended:
            self._worker.check_not_own(self._job.name)
        return self._job.outcome(interrupting=False).__await__()


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
