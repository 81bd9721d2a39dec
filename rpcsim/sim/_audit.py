"""The audit hook: what goes around the loop, seen by the interpreter itself.

One hook for the process, installed on first use, since none can be taken off again. It
is inert in threads, and at moments, in which no simulation with auditing runs a step.
Imports, line caches, coverage and the test runner's capture do as they always do.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from rpcsim.sim._ambient import known_trees, running, whole_path
from rpcsim.sim._fences import caller_place

if TYPE_CHECKING:
    from types import FrameType

    from rpcsim.sim._sim import Sim

__all__ = ["Audit", "Auditor", "Finding"]

Audit: TypeAlias = Literal["off", "record", "raise"]
_SOCKETS: Final = "use asyncio's connections and servers, which the loop simulates"
_PROCESSES: Final = "run the program's work as a host or in `call_blocking`"
_THREADS: Final = (
    "run the code with `bridge.spawn(fn)` or `asyncio.to_thread`, or do real work under "
    "`sim.external()`"
)
_FILES: Final = "use the `Disk` port, or `sim.allow('open:/that/place/*')`"
_SLEEP: Final = "call it as `time.sleep`, through the module, or use the `Clock` port"
# Event of the interpreter (sys.audit) -> what to do instead.
_WATCHED: Final[dict[str, str]] = {
    "socket.connect": _SOCKETS,
    "socket.bind": _SOCKETS,
    "socket.sendto": _SOCKETS,
    "socket.getaddrinfo": _SOCKETS,
    "socket.gethostbyname": _SOCKETS,
    "open": _FILES,
    "subprocess.Popen": _PROCESSES,
    "os.system": _PROCESSES,
    "os.exec": _PROCESSES,
    "os.posix_spawn": _PROCESSES,
    "os.fork": _PROCESSES,
    "os.forkpty": _PROCESSES,
    "_thread.start_new_thread": _THREADS,
    "_thread.start_joinable_thread": _THREADS,
    "time.sleep": _SLEEP,
}
# Modules that read and write files on the interpreter's or the runner's behalf.
_EXCEPTED: Final = ("importlib.", "linecache", "tokenize", "coverage", "_pytest.")
_NEAR: Final = 4  # frames looked at for those
_WRITING: Final = 3  # O_WRONLY | O_RDWR


@dataclass(frozen=True, slots=True)
class Finding:
    """One call that went around the simulation.

    Attributes:
        event: The interpreter's name for it, such as `open` or `os.fork`.
        detail: What it was about: a path, an address, a program; may be `""`.
        place: file:line of the caller.
        host: Host on whose behalf the code ran.
        t_ns: Simulated time, in nanoseconds.
    """

    event: str
    detail: str
    place: str
    host: str
    t_ns: int


class Auditor:
    """What one simulation does about the calls the hook sees.

    Attributes:
        mode: `off`, `record` or `raise`.
        findings: What was seen and not allowed, in order.
    """

    def __init__(self, sim: Sim, mode: Audit) -> None:
        self.mode: Final = mode
        self.findings: list[Finding] = []
        self._sim: Final = sim
        self._allowed: list[tuple[str, str]] = []
        self._trees: tuple[str, ...] = ()
        if mode != "off":
            self._trees = known_trees()
            _install()

    def allow(self, *patterns: str) -> None:
        """Let calls pass: `event`, or `event:` and what it is about with `*`."""
        for text in patterns:
            event, _, about = text.partition(":")
            if event not in _WATCHED:
                near = get_close_matches(event, _WATCHED, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"nothing called {event!r} is watched{hint} "
                    f"(known: {', '.join(_WATCHED)})"
                )
            self._allowed.append((event, about or "*"))

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """Judge one call, called by the hook or in its stead."""
        if self.mode != "off" and event in _WATCHED:
            self._saw(event, args)

    def _saw(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and self._harmless(args):
            return
        if _on_behalf_of_others(sys._getframe(3)):
            return
        sim, loop = self._sim, self._sim.loop
        detail = _detail(event, args)
        host = loop.strand.life.host
        for allowed, about in self._allowed:
            if allowed == event and fnmatchcase(detail, about):
                told = (("call", event), ("allowed", f"{allowed}:{about}"))
                sim.record_on(host, "escape", told)
                return
        sim.record_on(host, "escape", (("call", event),))
        found = Finding(event, detail, caller_place(), host, loop.now_ns)
        self.findings.append(found)
        if self.mode == "raise":
            raise loop.escape(f"{event} {detail}".rstrip(), _WATCHED[event])

    def _harmless(self, args: tuple[Any, ...]) -> bool:
        """Whether a file is only read, inside the interpreter's or project's trees."""
        path, mode, flags = args
        if not isinstance(path, (str, bytes)):
            return True  # a descriptor that is open already
        place = whole_path(path)
        if place.startswith("/dev/"):
            return True
        if isinstance(flags, int) and flags & _WRITING:
            return False
        if isinstance(mode, str) and not set(mode).isdisjoint("wax+"):
            return False
        return place.startswith(self._trees)


def _detail(event: str, args: tuple[Any, ...]) -> str:
    if event == "open":
        return whole_path(args[0])
    if event in ("socket.connect", "socket.bind", "socket.sendto"):
        address = args[1]
        return ":".join(map(str, address)) if isinstance(address, tuple) else ""
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen"):
        return str(args[0])
    if event in ("os.system", "os.exec", "os.posix_spawn"):
        path = args[0]
        return path.decode() if isinstance(path, bytes) else str(path)
    return ""


def _on_behalf_of_others(frame: FrameType | None) -> bool:
    for _ in range(_NEAR):
        if frame is None:
            return False
        if str(frame.f_globals.get("__name__", "")).startswith(_EXCEPTED):
            return True
        frame = frame.f_back
    return False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event in _WATCHED:
        sim = running()
        if sim is not None:
            sim.auditor.hook(event, args)


@functools.cache
def _install() -> None:
    """Add the hook, once in a process."""
    sys.addaudithook(_hook)
