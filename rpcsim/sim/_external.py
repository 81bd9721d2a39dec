"""Real work outside the simulation, while its clock stands still.

What real threads do takes no simulated time and follows no seed, so a run that used it
is marked in its trace and is not promised to replay. This is the one file of the room
that starts a thread.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final

from rpcsim.errors import ExternalWorkWarning
from rpcsim.sim._ambient import outside, thread_id
from rpcsim.sim._strand import Strand
from rpcsim.sim._task import SimHandle

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from rpcsim.sim._sim import Sim

__all__ = ["External", "ExternalWork"]


class ExternalWork:
    """What is being done outside one simulation, and what it hands back.

    Attributes:
        open: How many blocks and calls are under way; only then may other threads
            hand calls to the loop.
        used: Whether any was begun in this run.
    """

    def __init__(self, sim: Sim) -> None:
        self._sim: Final = sim
        self.open = 0
        self.used = False
        # Set by other threads when there is something to look at. This and the rest is
        # made by the first use: every run has this object, few need it.
        self.news: threading.Event
        self._calls: deque[SimHandle]
        self._strand: Strand

    def begin(self, form: str) -> None:
        """Let other threads hand calls in; the run is marked."""
        sim = self._sim
        if not self.used:
            self.used = True
            self.news = threading.Event()
            self._calls = deque()
            self._strand = Strand("external", sim.loop.world_life)
            warnings.warn(
                "this run does real work outside the simulation (external()): it is "
                "not promised to replay",
                ExternalWorkWarning,
                stacklevel=4,
            )
        self.open += 1
        sim.record("external", (("form", form),))

    def end(self) -> None:
        """Let nobody hand in any more; what was, becomes runnable."""
        self.open -= 1
        self.take()

    def post(
        self,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> SimHandle | None:
        """Take a call from another thread; `None` if it is the simulation's own."""
        if thread_id() == self._sim.thread:
            return None
        context = copy_context() if context is None else context
        handle = SimHandle(callback, args, self._sim.loop, context)
        self._calls.append(handle)
        self.news.set()
        return handle

    def take(self) -> None:
        """Make runnable what other threads handed in; the policy orders it."""
        while self._calls:
            self._sim.loop.push(self._strand, self._calls.popleft().run, ())


class External:
    """Real work: a block (`with`), or a call in a thread of its own (`await`)."""

    def __init__(
        self, work: ExternalWork, fn: Callable[..., Any] | None, args: tuple[Any, ...]
    ) -> None:
        self._work = work
        self._fn = fn
        self._args = args
        self._real: AbstractContextManager[None] | None = None

    def __enter__(self) -> None:
        if self._fn is not None:
            raise TypeError("external(fn) is awaited; `with external():` takes no fn")
        self._work.begin("block")
        self._real = outside()
        self._real.__enter__()

    def __exit__(self, *exc: object) -> None:
        assert self._real is not None
        self._real.__exit__(None, None, None)
        self._work.end()

    def __await__(self) -> Generator[Any, None, Any]:
        if self._fn is None:
            raise TypeError("await external(fn): give the function to be run")
        return self._in_thread(self._fn).__await__()

    async def _in_thread(self, fn: Callable[..., Any]) -> Any:
        work, outcome = self._work, _Outcome()
        work.begin("thread")
        context = copy_context()

        def body() -> None:
            try:
                outcome.value = context.run(fn, *self._args)
            except BaseException as error:  # noqa: BLE001 - raised to whoever awaits
                outcome.error = error
            outcome.over = True
            work.news.set()

        with outside():
            threading.Thread(target=body, name="rpcsim-external", daemon=True).start()
        cancelled: asyncio.CancelledError | None = None
        loop = work._sim.loop
        try:
            while not outcome.over:
                # This task is always ready to run, so time cannot move; while nobody
                # else is, it waits for the thread without spinning.
                if loop.next_event_ns() != loop.now_ns:
                    with outside():
                        work.news.wait()
                work.news.clear()
                work.take()
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError as error:
                    cancelled = error  # a thread cannot be stopped: see it through
        finally:
            work.end()
        if cancelled is not None:
            raise cancelled
        if outcome.error is not None:
            raise outcome.error
        return outcome.value


class _Outcome:
    """What a thread came to."""

    __slots__ = ("error", "over", "value")

    def __init__(self) -> None:
        self.over = False
        self.value: Any = None
        self.error: BaseException | None = None
