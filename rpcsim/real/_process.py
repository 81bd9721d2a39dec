"""The runtime of a program that runs in no world: started on first use."""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import threading
from typing import TYPE_CHECKING, Final

from rpcsim.real._ending import shut_down
from rpcsim.real._engine import Engine
from rpcsim.real._thread import LoopThread, make_loop

if TYPE_CHECKING:
    from rpcsim.ports import Ports

__all__ = ["process_ports"]

GRACE_SECONDS: Final = 5.0
MAX_THREADS: Final = 256


class _Process:
    """Holds the one runtime of this process, if it was started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._thread: LoopThread | None = None

    def ports(self) -> Ports:
        """Give its ports; starts it on first use."""
        with self._lock:
            if self._engine is None:
                self._start()
            assert self._engine is not None
            return self._engine.test.ports

    def _start(self) -> None:
        engine = Engine(
            seed=secrets.randbits(64),
            level="off",
            faults=False,
            max_threads=MAX_THREADS,
            keep_errors=False,
            address="",
            host=socket.gethostname() or "localhost",
        )
        # A daemon: the interpreter joins all other threads before it calls what was
        # registered with `atexit`, so a non-daemon loop would be waited for, for ever,
        # by the very code that should have stopped it. The handler stops it in order
        # while daemons still run.
        self._thread = LoopThread(engine, make_loop("asyncio"), daemon=True)
        self._engine = engine
        atexit.register(self._end)

    def _end(self) -> None:
        with self._lock:
            engine, thread = self._engine, self._thread
            self._engine = self._thread = None
        if engine is not None and thread is not None:
            thread.end(lambda: shut_down(engine, [], GRACE_SECONDS, own_loop=True))

    def forget(self) -> None:
        """In a forked child the thread is gone: the next use starts another."""
        self.__init__()  # type: ignore[misc]  # as new, the lock too
        atexit.unregister(self._end)


# The one piece of state of this module: DESIGN 3 asks for a runtime of the process.
_process: Final = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.forget)


def process_ports() -> Ports:
    """Give the ports of the runtime of this process, started on first use.

    Clients used outside every world go through it. It uses the machine's own names
    and addresses, records no trace, logs failures instead of keeping them, and is
    ended when the interpreter exits.
    """
    return _process.ports()
