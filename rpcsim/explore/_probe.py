"""What a run did that no seed decides: real clocks, real chance, files, threads.

Set in an interpreter of its own, for one run that is known to differ: the profiler
sees calls of built-in functions whoever holds them and by what name, the audit hook
what opens files, sockets and threads. Both cost several times the run.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rpcsim.ports import current_or_none
from rpcsim.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType, FrameType

__all__ = ["Probe", "Sighting"]

_TIME: Final = (
    *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter"),
    *("perf_counter_ns", "process_time", "process_time_ns", "thread_time"),
    *("thread_time_ns", "clock_gettime", "clock_gettime_ns"),
)
_CALENDAR: Final = frozenset({"now", "utcnow", "today"})
# Python's own names of what leaves the process (sys.audit).
_AUDITED: Final = frozenset(
    {
        *("open", "os.system", "os.fork", "os.forkpty", "os.posix_spawn"),
        *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto"),
        *("subprocess.Popen", "_thread.start_new_thread", "time.sleep"),
    }
)
_PROJECT: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_STREAMS: Final = os.path.join(_PROJECT, "sim", "_streams.py")
_DRAWS: Final = frozenset({"random", "getrandbits", "below"})
# More are not told.
MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Sighting:
    """Something seen during a run.

    Attributes:
        what: `call` (of something real), `record`, `finaliser` (a record made in a
            destructor), or `draw`.
        name: The function called, kind and host of the record, or the stream.
        place: The innermost place outside this package, `file:line in function`.
        at: How many records there were before it.
    """

    what: str
    name: str
    place: str
    at: int


class Probe:
    """Watches one run in this interpreter.

    Args:
        wanted: (kind, host) of records whose makers are noted.
    """

    def __init__(self, wanted: Iterable[tuple[str, str]]) -> None:
        self._wanted = {(kind, host) for kind, host in wanted}
        self._seen: list[Sighting] = []
        # Taken now, before a run replaces them.
        self._watched: dict[Any, str] = {
            getattr(time, name): f"time.{name}" for name in _TIME if hasattr(time, name)
        }
        for name in ("urandom", "getrandom"):
            if hasattr(os, name):
                self._watched[getattr(os, name)] = f"os.{name}"
        self._append: Final = Trace.append
        self._on = False

    def start(self) -> None:
        """Begin; the audit hook cannot be taken off again, so it is for one process."""
        self._on = True
        sys.addaudithook(self._audited)
        # Not by the profiler: it is deaf while it runs, and that is when the collector
        # may run a finaliser.
        Trace.append = self._appending()  # type: ignore[method-assign]  # for this run
        sys.setprofile(self._profiled)

    def stop(self) -> tuple[Sighting, ...]:
        """End, and give what was seen, in order."""
        sys.setprofile(None)
        Trace.append = self._append  # type: ignore[method-assign]  # as it was
        self._on = False
        return tuple(self._seen)

    def _profiled(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            code = frame.f_code
            if _is_draw(code) and not (frame.f_back and _is_draw(frame.f_back.f_code)):
                # The inner half of a draw is not another one.
                stream = frame.f_locals["self"].label
                self._note("draw", stream, frame)
        elif event == "c_call":
            name = self._name(arg)
            if name and not _is_ours(frame):
                self._note("call", name, frame)

    def _name(self, function: Any) -> str:
        try:
            name = self._watched.get(function)
        except TypeError:  # not hashable
            return ""
        if name is not None:
            return name
        if function.__name__ in _CALENDAR:
            owner = function.__self__
            if isinstance(owner, type) and issubclass(owner, datetime.date):
                return f"{owner.__name__}.{function.__name__}"
        return ""

    def _audited(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on or event not in _AUDITED:
            return
        frame: FrameType | None = sys._getframe(1)
        if frame is None or _is_import(frame):
            return
        what = f"{event} {args[0]!r}" if event == "open" else event
        self._note("call", what, frame)

    def _appending(self) -> Any:
        append, recorded = self._append, self._recorded

        def watched(
            trace: Trace, t_ns: int, kind: str, host: str, *rest: Any, **named: Any
        ) -> int:
            recorded(kind, host, sys._getframe(1))
            return append(trace, t_ns, kind, host, *rest, **named)

        return watched

    def _recorded(self, kind: str, host: str, frame: FrameType) -> None:
        finaliser = _in_finaliser(frame)
        if finaliser is not None:
            self._note("finaliser", f"{kind} {host}", finaliser)
        elif (kind, host) in self._wanted:
            self._note("record", f"{kind} {host}", frame)

    def _note(self, what: str, name: str, frame: FrameType) -> None:
        records = _records_now()
        if records is not None and len(self._seen) < MOST:
            self._seen.append(Sighting(what, name, _place(frame), records))


def _records_now() -> int | None:
    """Give the number of records of the run whose step this is; `None` outside."""
    loop = getattr(current_or_none(), "loop", None)
    if loop is None or not loop.pumping:
        return None
    return len(loop.trace)


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_PROJECT)


def _is_draw(code: CodeType) -> bool:
    return code.co_name in _DRAWS and code.co_filename == _STREAMS


def _is_import(frame: FrameType | None) -> bool:
    """Whether it happens on behalf of an import, or of telling a traceback."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib") or name.endswith("linecache.py"):
            return True
        frame = frame.f_back
    return False


def _in_finaliser(frame: FrameType | None) -> FrameType | None:
    while frame is not None:
        if frame.f_code.co_name == "__del__" and not _is_ours(frame):
            return frame
        frame = frame.f_back
    return None


def _place(frame: FrameType | None) -> str:
    """Tell the innermost frame that is neither ours nor the standard library's."""
    fallback = ""
    while frame is not None:
        code = frame.f_code
        told = f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
        if not _is_ours(frame) and not code.co_filename.startswith("<frozen"):
            fallback = fallback or told
            if os.path.dirname(os.__file__) not in code.co_filename or (
                "site-packages" in code.co_filename
            ):
                return told
        frame = frame.f_back
    return fallback or "nowhere outside the package"
