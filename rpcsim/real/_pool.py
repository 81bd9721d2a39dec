"""The threads blocking code runs in, and one piece of such work.

Threads are made on demand and reused. There is no queue before them: a call that
finds none free and no room for another fails at once, because a waiting one could be
what all the others wait for.
"""

from __future__ import annotations

import asyncio
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from rpcsim.errors import FiberKilled, PoolExhausted

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from rpcsim.real._bridge import SerialWorker
    from rpcsim.real._engine import Engine
    from rpcsim.real._home import Home
    from rpcsim.real._waiting import Waiting

__all__ = ["Job", "Pool"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

SHOWN: Final = 6  # links of the chain of waits shown at each end


class Job:
    """Blocking work in a pool thread: what `Bridge.current()` gives inside it.

    Its state changes on the loop's thread only; the thread itself just runs `fn` and
    asks for waits.
    """

    __slots__ = (
        "_engine",
        "_error",
        "_ok",
        "_pending",
        "_value",
        "_wakeups",
        "asked",
        "awaiter",
        "context",
        "ended",
        "fn",
        "home",
        "name",
        "on_end",
        "thread",
        "waiting",
        "worker",
    )

    def __init__(
        self,
        engine: Engine,
        fn: Callable[[], Any],
        *,
        name: str,
        home: Home,
        context: Context,
        worker: SerialWorker | None = None,
    ) -> None:
        self._engine = engine
        self.fn: Callable[[], Any] | None = fn
        self.name: Final = name
        self.home: Final = home
        self.context = context
        self.worker: Final = worker
        self.waiting: Waiting | None = None
        self.awaiter: asyncio.Task[Any] | None = None
        self.on_end: Callable[[], None] | None = None
        self.thread = ""  # name of the thread it was given to
        self.asked = False  # somebody awaits, or awaited, the outcome
        self.ended = False
        self._ok = False
        self._value: Any = None
        self._pending: BaseException | None = None
        self._wakeups: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        if self.ended:
            state = "ended"
        else:
            state = f"waits for {self.waiting.what}" if self.waiting else "running"
        return f"<thread work {self.name} of host {self.host}, {state}>"

    @property
    def host(self) -> str:
        """The host it runs for."""
        return self.home.host

    # -- on the loop's thread ----------------------------------------------------------

    def finish(self, ok: bool, value: Any) -> None:
        """Take the outcome and wake whoever awaits it."""
        if self.ended:
            return
        self.ended = True
        self._ok, self._value = ok, value
        self.fn = None
        self.home.jobs.pop(self, None)
        for future in self._wakeups:
            if not future.done():
                future.set_result(None)
        self._wakeups.clear()
        if self.on_end is not None:
            self.on_end()
        if not ok and not self.asked and self.is_failure(value):
            self._engine.pool.failed[self] = None

    @staticmethod
    def is_failure(error: BaseException) -> bool:
        """Whether an outcome is worth a report when nobody takes it."""
        return not isinstance(error, FiberKilled | asyncio.CancelledError)

    def failure(self) -> BaseException | None:
        """Give the exception nobody has asked for, if any."""
        return self._value if self.ended and not self._ok and not self.asked else None

    def ending(self) -> asyncio.Future[None]:
        """Give a future that is done when the thread is."""
        future: asyncio.Future[None] = self._engine.loop.create_future()
        if self.ended:
            future.set_result(None)
        else:
            self._wakeups.append(future)
        return future

    async def outcome(self, *, interrupting: bool) -> Any:
        """Wait for the end and give or raise what came of it.

        Args:
            interrupting: Whether a cancelled waiter is passed on into the thread, and
                then waited for: the caller and the work are one.
        """
        self.asked = True
        self._engine.pool.failed.pop(self, None)
        while not self.ended:
            try:
                await self.ending()
            except asyncio.CancelledError as error:
                if not (interrupting and self.interrupt(error)):
                    raise
        if self._ok:
            return self._value
        failure = self._value
        try:
            raise failure
        finally:
            del failure  # its traceback holds this frame

    def interrupt(self, error: BaseException) -> bool:
        """Have `error` raised at the thread's current or next wait; not if it ended."""
        if self.ended:
            return False
        if self.waiting is None or not self.waiting.interrupt(error):
            self._pending = error
        return True

    def take_pending(self) -> BaseException | None:
        """Give the error a wait that begins now must raise instead."""
        error, self._pending = self._pending, None
        return error


class Pool:
    """The threads of one runtime."""

    def __init__(self, engine: Engine, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"max_threads must be at least 1, not {limit}")
        self.limit: Final = limit
        self._engine = engine
        self._lock = threading.Lock()
        self._idle: list[_Thread] = []
        self._threads: dict[_Thread, None] = {}
        self._made = 0
        self._busy: dict[Job, None] = {}
        self._local = threading.local()
        self._closed = False
        # Tasks made for waits of threads; following them finds a worker waiting on
        # itself.
        self.waits: dict[asyncio.Future[Any], Job] = {}
        self.failed: dict[Job, None] = {}

    def __repr__(self) -> str:
        return f"<pool: {len(self._busy)} of {self.limit} threads busy>"

    def running(self) -> Job | None:
        """Give the work this thread does; `None` outside the pool."""
        job: Job | None = getattr(self._local, "job", None)
        return job

    def start(self, job: Job) -> None:
        """Run a job in a thread at once.

        Raises:
            PoolExhausted: All threads are busy and there may be no more of them.
        """
        with self._lock:
            if self._closed:
                raise self._engine.over_error(job.name)
            if self._idle:
                thread = self._idle.pop()
            elif len(self._threads) < self.limit:
                self._made += 1
                thread = _Thread(self, f"rpcsim-pool-{self._made}")
                self._threads[thread] = None
            else:
                raise PoolExhausted(self._exhausted(job))
            self._busy[job] = None
        self._engine.post(self._own, job)
        thread.give(job)

    @staticmethod
    def _own(job: Job) -> None:
        if not job.ended:
            job.home.jobs[job] = None

    def _exhausted(self, job: Job) -> str:
        chain = []
        for busy in self._busy:
            waiting = busy.waiting
            what = f"waits for {waiting.what}" if waiting is not None else "runs"
            chain.append(f"{busy.name} on host {busy.host} {what}")
        if len(chain) > 2 * SHOWN:
            hidden = len(chain) - 2 * SHOWN
            chain[SHOWN:-SHOWN] = [f"... {hidden} more ..."]
        return (
            f"no thread is left for {job.name} on host {job.host}: all {self.limit} run "
            f"blocking calls; oldest first: {'; '.join(chain)}. Make inner calls "
            "asynchronous, or raise max_threads"
        )

    # -- on pool threads -----------------------------------------------------------------

    def run(self, thread: _Thread, job: Job) -> None:
        """Do one piece of work in the thread, then be free for the next."""
        self._local.job = job
        fn = job.fn
        ok, value = False, None
        try:
            assert fn is not None
            value = job.context.run(fn)
            ok = True
        except BaseException as error:  # noqa: BLE001 - crosses to who awaits it
            value = error
        self._local.job = None
        # Free before the outcome is told: who is told may ask for a thread at once.
        with self._lock:
            self._busy.pop(job, None)
            thread.free()
            if not self._closed:
                self._idle.append(thread)
        self._engine.post(job.finish, ok, value)

    # -- the end -------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more work and let idle threads end."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
            self._idle.clear()
        for thread in threads:
            thread.give(None)

    def join(self) -> None:
        """Wait for the threads to end, save those stuck in code that never waits."""
        for thread in self._threads:
            thread.join()


class _Thread:
    """One thread of the pool."""

    __slots__ = ("_job", "_pool", "_queue", "_thread")

    def __init__(self, pool: Pool, name: str) -> None:
        self._pool = pool
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._job: Job | None = None
        # Daemons: code that never waits cannot be ended, and must not keep the
        # interpreter from exiting. Those that can be joined are joined.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def give(self, job: Job | None) -> None:
        """Hand it the next job, or the end."""
        if job is not None:
            self._job = job
            job.thread = self._thread.name
        self._queue.put(job)

    def free(self) -> None:
        """The job is done; the thread goes back to its queue."""
        self._job = None

    def join(self) -> None:
        """Wait for its end, unless it is busy: then nobody knows how long."""
        if self._job is None:
            self._thread.join()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            self._pool.run(self, job)
            del job
