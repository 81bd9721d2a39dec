"""Where the records of a real run come from, and the points nobody has armed."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rpcsim.trace import Data, Trace

__all__ = ["RealSink", "UnarmedPoints"]


class RealSink:
    """Writes one host's records to the run's trace, from any thread."""

    __slots__ = ("_host", "_lock", "_start_ns", "_trace")

    def __init__(
        self, trace: Trace, host: str, start_ns: int, lock: threading.Lock
    ) -> None:
        self._trace = trace
        self._host = host
        self._start_ns = start_ns
        self._lock = lock

    def __repr__(self) -> str:
        return f"<trace sink of host {self._host}>"

    def emit(self, kind: str, data: Data = (), cause: int | None = None) -> int:
        """Record that something happened; `cause` is unknown unless told."""
        trace = self._trace
        if trace.level == "off":
            return -1
        strand = _strand()
        known = -1 if cause is None else cause
        with self._lock:  # appending may trim the trace, and threads emit too
            at = time.monotonic_ns() - self._start_ns
            return trace.append(at, kind, self._host, strand, known, data)


def _strand() -> str:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs here: a thread emits
        return threading.current_thread().name
    return task.get_name() if task is not None else "loop"


class UnarmedPoints:
    """Named moments; passing one costs a lookup and does nothing until it is armed."""

    __slots__ = ("_armed",)

    def __init__(self) -> None:
        # Plans arm points here; until one does, no name is found.
        self._armed: dict[str, object] = {}

    def point(self, name: str, **labels: str) -> None:
        """Pass the moment `name`."""
        self._armed.get(name)

    def buggify(self, name: str) -> bool:
        """Whether a rare branch is to be taken: nothing turns one on here."""
        return name in self._armed
