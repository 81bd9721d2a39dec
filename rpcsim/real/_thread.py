"""The thread an event loop runs in, when blocking code is above it."""

from __future__ import annotations

import asyncio
import importlib
import threading
from typing import TYPE_CHECKING, Any

from rpcsim.real._waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from rpcsim.real._engine import Engine

__all__ = ["LoopThread", "make_loop"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True


def make_loop(kind: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Give what makes an event loop of a kind.

    Raises:
        ImportError: uvloop is asked for and missing.
        ValueError: There is no such kind.
    """
    if kind == "asyncio":
        return asyncio.new_event_loop
    if kind != "uvloop":
        raise ValueError(f"loop is 'asyncio' or 'uvloop', not {kind!r}")
    try:
        # By name: the extra is not there when types are checked.
        uvloop = importlib.import_module("uvloop")
    except ImportError as error:
        raise ImportError(
            "Runtime(loop='uvloop') needs uvloop: pip install 'rpcsim[fast]'"
        ) from error
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


class LoopThread:
    """Runs an engine's loop until it is ended.

    Args:
        engine: The run.
        make: Makes the loop.
        daemon: Whether the interpreter may exit while it runs.
    """

    def __init__(
        self,
        engine: Engine,
        make: Callable[[], asyncio.AbstractEventLoop],
        *,
        daemon: bool,
    ) -> None:
        self._engine = engine
        self._loop = make()
        self._stopped = False
        self._ending = False
        self._began = threading.Event()
        self._thread = threading.Thread(
            target=self._main, name="rpcsim-loop", daemon=daemon
        )
        self._thread.start()
        self._began.wait()

    def _main(self) -> None:
        loop, engine = self._loop, self._engine
        engine.attach(loop, shared=False)
        loop.call_soon(self._began.set)
        while not self._stopped:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # Raised in a task or callback: the run is over, but the loop is needed
                # once more to end it in order.
                engine.end_with(error)
        engine.detach()
        loop.close()

    def end(
        self, work: Callable[[], Coroutine[Any, Any, list[str]]]
    ) -> tuple[str, ...]:
        """Run the last piece of work on the loop, stop it and join the thread.

        A keyboard interrupt meanwhile cuts every wait short, and is raised at the end.
        """
        engine = self._engine
        waiter = Waiter(engine)
        interrupt: KeyboardInterrupt | None = None
        posted = False
        while True:
            try:
                if not posted:
                    # An interrupt in here has it posted again; `_start` runs once.
                    engine.post(self._start, work, waiter)
                    posted = True
                waiter.block()
                break
            except KeyboardInterrupt as error:
                interrupt = error
                engine.post(engine.hasten)
                # It may come between the lock and the return of `block`: a second wait
                # for the lock would never end.
                if waiter.settled:
                    break
        engine.post(self._stop)
        self._thread.join()
        engine.pool.join()
        if interrupt is not None:
            raise interrupt
        return tuple(waiter.outcome())

    def _start(
        self, work: Callable[[], Coroutine[Any, Any, list[str]]], waiter: Waiter
    ) -> None:
        if self._ending:
            return
        self._ending = True
        task = self._engine.backstage_task(work(), "shutdown")

        def ended(done: asyncio.Task[list[str]]) -> None:
            error = done.exception()
            if error is not None:
                waiter.settle(ok=False, value=error)
            else:
                waiter.settle(ok=True, value=done.result())

        task.add_done_callback(ended)

    def _stop(self) -> None:
        self._stopped = True
        self._loop.stop()
