"""What anyio's asyncio backend does past the loop, set right while a simulation runs.

`anyio.to_thread` does not ask the loop for an executor: it starts threads of its own.
During a run, and only where the running loop is a simulated one, its worker is replaced
by one that hands each item to a fiber, as `run_in_executor` does. Cancel scopes are kept
in sets, whose order follows memory addresses: while a run is active the backend sees
the ordered class under the name `set`, as the standard library's task module does.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import TYPE_CHECKING, Any, Final

from rpcsim.sim._compat import OrderedSet

if TYPE_CHECKING:
    from rpcsim.sim._loop import SimLoop

__all__ = ["anyio_backend"]

_BACKEND: Final = "anyio._backends._asyncio"


class _Items:
    """The queue of one worker: what is put in begins to run."""

    __slots__ = ("_loop", "_worker")

    def __init__(self, loop: SimLoop, worker: _Worker) -> None:
        self._loop = loop
        self._worker = worker

    def put_nowait(self, item: Any) -> None:
        """Run an item: (context, function, arguments, future, cancel scope)."""
        if item is None:
            return
        context, fn, args, future, _ = item
        running = self._loop.run_in_executor(None, context.run, fn, *args)
        running.add_done_callback(lambda done: self._worker.ended(done, future))


class _Worker:
    """Has what the backend asks of a worker thread; none is started."""

    MAX_IDLE_TIME: Final = 10

    def __init__(self, root_task: Any, workers: set[Any], idle: Any) -> None:
        loop: Any = asyncio.get_running_loop()
        self.root_task = root_task
        self.queue = _Items(loop, self)
        self.idle_since = 0.0
        self._loop = loop
        self._idle = idle

    def start(self) -> None:
        """Do nothing: items start by themselves."""

    def stop(self, task: Any = None) -> None:
        """Do nothing: nothing is kept running."""

    def ended(self, done: asyncio.Future[Any], future: asyncio.Future[Any]) -> None:
        """Hand an item's outcome on, and be there for the next."""
        self.idle_since = self._loop.time()
        self._idle.append(self)
        error = None if done.cancelled() else done.exception()
        if future.done():
            return
        if done.cancelled():
            future.cancel()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())


class _Backend:
    """Counts the runs that need the replacements."""

    __slots__ = ("_module", "_original", "_users")

    def __init__(self) -> None:
        self._users = 0
        self._module: Any = None
        self._original: Any = None

    def install(self) -> None:
        """Put them in place for one more run, if anyio is loaded."""
        self._users += 1
        if self._module is not None or "anyio" not in sys.modules:
            return
        module: Any = importlib.import_module(_BACKEND)
        original = module.WorkerThread

        def make(root_task: Any, workers: set[Any], idle: Any) -> Any:
            simulated = hasattr(asyncio.get_running_loop(), "sim")
            kind = _Worker if simulated else original
            return kind(root_task, workers, idle)

        make.MAX_IDLE_TIME = original.MAX_IDLE_TIME  # type: ignore[attr-defined]  # read off the name
        self._module, self._original = module, original
        module.WorkerThread = make
        module.set = OrderedSet

    def remove(self) -> None:
        """Take them off when the last run of the process ends."""
        self._users -= 1
        if not self._users and self._module is not None:
            self._module.WorkerThread = self._original
            del self._module.set
            self._module = self._original = None


# Process-wide by nature: one module, two names of which are replaced during runs.
anyio_backend: Final = _Backend()
