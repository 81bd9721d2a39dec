"""Ambient time, chance and identity during a run.

Replacements stand on the standard library's modules from the start of a run to its
end. They answer with simulated values only in the thread, and at moments, when that
simulation runs a step; everybody else (the test, the runner's timing, other threads)
gets the original. This is the one file of the room that touches `time`, `os`, `uuid`
and the module functions of `random`.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import os
import platform
import random
import socket
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from rpcsim.ports import NANOS, current_or_none

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rpcsim.sim._sim import Sim

__all__ = [
    "Ambient",
    "known_trees",
    "originals",
    "outside",
    "quiet_descriptor",
    "readable_descriptor",
    "real_time",
    "running",
    "stepping",
    "thread_id",
    "utc",
    "whole_path",
]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True


class _Slot(threading.local):
    """The simulation whose steps this thread runs now; only replacements read it."""

    sim: Sim | None = None


_slot: Final = _Slot()
# The originals, taken once: a run begun inside another thread's run must not take the
# replacements for originals.
_real: Final[dict[str, Any]] = {
    "time": time.time,
    "time_ns": time.time_ns,
    "monotonic": time.monotonic,
    "monotonic_ns": time.monotonic_ns,
    "perf_counter": time.perf_counter,
    "perf_counter_ns": time.perf_counter_ns,
    "process_time": time.process_time,
    "process_time_ns": time.process_time_ns,
    "thread_time": time.thread_time,
    "thread_time_ns": time.thread_time_ns,
    "localtime": time.localtime,
    "gmtime": time.gmtime,
    "strftime": time.strftime,
    "ctime": time.ctime,
    "sleep": time.sleep,
    "urandom": os.urandom,
    "getpid": os.getpid,
    "uuid1": uuid.uuid1,
    "gethostname": socket.gethostname,
    "node": platform.node,
    "start_new_thread": _thread.start_new_thread,
}
thread_id: Final = threading.get_ident
utc: Final = time.gmtime


def real_time() -> float:
    """Give the machine's own monotonic seconds, whatever is replaced."""
    return _real["monotonic"]()  # type: ignore[no-any-return]


def whole_path(path: str | bytes) -> str:
    """Give a path from the root on."""
    return os.path.abspath(os.fsdecode(path))


def known_trees() -> tuple[str, ...]:
    """Give the directories of the interpreter, its packages and the project."""
    places = (sys.prefix, sys.base_prefix, os.__file__, *sys.path, os.getcwd())
    trees = dict.fromkeys(whole_path(place) for place in places if place)
    library = whole_path(os.path.dirname(os.__file__))
    return tuple(f"{tree}{os.sep}" for tree in (library, *trees))


@functools.cache
def quiet_descriptor() -> int:
    """Give the process's one descriptor that never has anything to read.

    Nothing is read from it or the other below: stand-ins for sockets hand them to code
    that polls. They are made once and stay open.
    """
    return os.pipe()[0]


@functools.cache
def readable_descriptor() -> int:
    """Give the process's one descriptor that always has something to read."""
    reading, writing = os.pipe()
    os.write(writing, b"\0")
    return reading


class stepping:  # noqa: N801 - reads as a state: `with stepping(sim):`
    """Mark that this thread runs steps of a simulation."""

    __slots__ = ("_before", "_sim")

    def __init__(self, sim: Sim) -> None:
        self._sim = sim

    def __enter__(self) -> None:
        self._before = _slot.sim
        _slot.sim = self._sim

    def __exit__(self, *exc: object) -> None:
        _slot.sim = self._before


@contextlib.contextmanager
def outside() -> Iterator[None]:
    """Give a block of simulated code the real time and chance."""
    before, _slot.sim = _slot.sim, None
    try:
        yield
    finally:
        _slot.sim = before


def running() -> Sim | None:
    """Give the simulation whose steps this thread runs, if any."""
    return _slot.sim


# -- the replacements ------------------------------------------------------------------


def _wall_ns(sim: Sim) -> int:
    ports = current_or_none()
    return (ports.clock if ports is not None else sim.clock).wall_ns()


def _now_ns(sim: Sim) -> int:
    ports = current_or_none()
    return (ports.clock if ports is not None else sim.clock).now_ns()


def _steps_us(sim: Sim) -> int:
    return sim.loop.steps * 1_000


def _clock(
    name: str, read: Callable[[Sim], int], *, seconds: bool
) -> Callable[[], Any]:
    original = _real[name]

    def ask() -> Any:
        sim = _slot.sim
        if sim is None:
            return original()
        return read(sim) / NANOS if seconds else read(sim)

    return ask


def _calendar(name: str, real_name: str) -> Callable[..., Any]:
    original, simulated = _real[name], _real[real_name]

    def ask(seconds: float | None = None) -> Any:
        sim = _slot.sim
        if sim is None:
            return original(seconds)
        return simulated(_wall_ns(sim) / NANOS if seconds is None else seconds)

    return ask


def _ctime(seconds: float | None = None) -> str:
    sim = _slot.sim
    if sim is None:
        return _real["ctime"](seconds)  # type: ignore[no-any-return]
    return time.asctime(
        _real["gmtime"](_wall_ns(sim) / NANOS if seconds is None else seconds)
    )


def _strftime(layout: str, *moment: Any) -> str:
    sim = _slot.sim
    if sim is not None and not moment:
        moment = (_real["gmtime"](_wall_ns(sim) / NANOS),)
    return _real["strftime"](layout, *moment)  # type: ignore[no-any-return]


def _sleep(seconds: float) -> None:
    ports = current_or_none()
    loop = getattr(ports, "loop", None)
    if loop is None or ports is None or loop.sim.thread != thread_id():
        _real["sleep"](seconds)
        return
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    waiting: Any = ports.clock.sleep(seconds)
    waiting.__qualname__ = "time.sleep"  # what an error about it says
    ports.bridge.wait(waiting)


def _urandom(size: int, /) -> bytes:
    sim = _slot.sim
    if sim is None:
        return _real["urandom"](size)  # type: ignore[no-any-return]
    if size < 0:
        raise ValueError("negative argument not allowed")
    bits = sim.entropy.stream("ambient-bytes").getrandbits(8 * size) if size else 0
    return bits.to_bytes(size, "little")


def _host_number(sim: Sim) -> int:
    life = sim.loop.life_of()
    number = list(sim.by_name).index(life.host) + 1
    return 1_000 * number + life.incarnation


def _getpid() -> int:
    sim = _slot.sim
    return _real["getpid"]() if sim is None else _host_number(sim)


def _host_name(name: str) -> Callable[[], str]:
    original = _real[name]

    def ask() -> str:
        sim = _slot.sim
        return original() if sim is None else sim.loop.life_of().host

    return ask


def _start_thread(*args: Any) -> int:
    sim = _slot.sim
    if sim is not None:
        sim.auditor.hook("_thread.start_new_thread", args)
    return _real["start_new_thread"](*args)  # type: ignore[no-any-return]


# 100-ns intervals between the UUID epoch (1582-10-15) and 1970-01-01 (RFC 4122, 4.1.4).
_UUID_EPOCH: Final = 0x01B21DD213814000


def _uuid1(node: int | None = None, clock_seq: int | None = None) -> uuid.UUID:
    sim = _slot.sim
    if sim is None:
        return _real["uuid1"](node, clock_seq)  # type: ignore[no-any-return]
    # Two in one instant differ: the count stands in for time passing between them.
    stamp = _wall_ns(sim) // 100 + _UUID_EPOCH + sim.entropy.sequence("uuid1")
    if clock_seq is None:
        clock_seq = 0
    fields = (
        stamp & 0xFFFFFFFF,
        (stamp >> 32) & 0xFFFF,
        (stamp >> 48) & 0x0FFF,
        (clock_seq >> 8) & 0x3F,
        clock_seq & 0xFF,
        _host_number(sim) if node is None else node,
    )
    return uuid.UUID(fields=fields, version=1)


_REPLACED: Final[tuple[tuple[str, Any, str, Any], ...]] = (
    ("time", time, "time", _clock("time", _wall_ns, seconds=True)),
    ("time", time, "time_ns", _clock("time_ns", _wall_ns, seconds=False)),
    ("time", time, "monotonic", _clock("monotonic", _now_ns, seconds=True)),
    ("time", time, "monotonic_ns", _clock("monotonic_ns", _now_ns, seconds=False)),
    ("time", time, "perf_counter", _clock("perf_counter", _now_ns, seconds=True)),
    (
        "time",
        time,
        "perf_counter_ns",
        _clock("perf_counter_ns", _now_ns, seconds=False),
    ),
    ("time", time, "process_time", _clock("process_time", _steps_us, seconds=True)),
    (
        "time",
        time,
        "process_time_ns",
        _clock("process_time_ns", _steps_us, seconds=False),
    ),
    ("time", time, "thread_time", _clock("thread_time", _steps_us, seconds=True)),
    (
        "time",
        time,
        "thread_time_ns",
        _clock("thread_time_ns", _steps_us, seconds=False),
    ),
    ("time", time, "localtime", _calendar("localtime", "gmtime")),
    ("time", time, "gmtime", _calendar("gmtime", "gmtime")),
    ("time", time, "strftime", _strftime),
    ("time", time, "ctime", _ctime),
    ("time", time, "sleep", _sleep),
    ("random", os, "urandom", _urandom),
    ("random", random, "_urandom", _urandom),
    ("identity", os, "getpid", _getpid),
    ("identity", uuid, "uuid1", _uuid1),
    ("identity", socket, "gethostname", _host_name("gethostname")),
    ("identity", platform, "node", _host_name("node")),
)
PARTS: Final = frozenset({"time", "random", "identity"})
# Python 3.11 does not tell audit hooks of threads: simulations that audit do it here.
_UNTOLD: Final = (
    (
        ("threads", _thread, "start_new_thread", _start_thread),
        ("threads", threading, "_start_new_thread", _start_thread),
    )
    if sys.version_info < (3, 12)
    else ()
)


_ALL: Final = (*_REPLACED, *_UNTOLD)


class _Installed:
    """Which replacements stand, counted: runs in several threads may overlap."""

    __slots__ = ("_lock", "_saved", "_users")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[str, int] = {}
        self._saved: dict[str, list[tuple[Any, str, Any]]] = {}

    def add(self, part: str) -> None:
        """Put a part's replacements in place for one more run."""
        with self._lock:
            users = self._users.get(part, 0)
            self._users[part] = users + 1
            if users:
                return
            saved = self._saved[part] = []
            for of, module, name, replacement in _ALL:
                if of == part:
                    saved.append((module, name, getattr(module, name)))
                    setattr(module, name, replacement)

    def standing(self) -> list[tuple[Any, str, Any, Any]]:
        """Give what is replaced now: module, name, original and replacement."""
        return [
            (module, name, original, replacement)
            for of, module, name, replacement in _ALL
            for module_, name_, original in self._saved.get(of, ())
            if module_ is module and name_ == name
        ]

    def remove(self, part: str) -> None:
        """Take them off when the last run that wanted them ends."""
        with self._lock:
            self._users[part] -= 1
            if self._users[part]:
                return
            for module, name, original in self._saved.pop(part):
                setattr(module, name, original)


# Process-wide by nature: it counts changes made to modules of the process.
_installed: Final = _Installed()


@contextlib.contextmanager
def originals(keep: frozenset[str] = frozenset()) -> Iterator[None]:
    """Put the originals back for a block in which somebody else replaces names.

    Args:
        keep: Names that are left, at its end, as the block made them.
    """
    standing = _installed.standing()
    for module, name, original, replacement in standing:
        if getattr(module, name) is replacement:
            setattr(module, name, original)
    try:
        yield
    finally:
        for module, name, original, replacement in standing:
            if getattr(module, name) is original and name not in keep:
                setattr(module, name, replacement)


class Ambient:
    """What one simulation replaces, from `begin` to `end`.

    Args:
        what: `True` for all of `time`, `random`, `identity`; a set of some; `False`.
        threads: Whether starting a thread is told to the simulation's audit.
    """

    __slots__ = ("_parts", "_state")

    def __init__(
        self, what: bool | frozenset[str] | set[str], *, threads: bool = False
    ) -> None:
        parts = PARTS if what is True else frozenset(what or ())
        unknown = sorted(parts - PARTS)
        if unknown:
            raise ValueError(
                f"unknown ambient part {unknown[0]!r}; known: {', '.join(sorted(PARTS))}"
            )
        self._parts = [*sorted(parts), *(["threads"] if threads else [])]
        self._state: Any = None

    def replaces(self, part: str) -> bool:
        """Whether a part answers with simulated values."""
        return part in self._parts

    def begin(self, seed: Callable[[], int]) -> None:
        """Put the replacements in place and seed the `random` module."""
        for part in self._parts:
            _installed.add(part)
        if "random" in self._parts:
            # Names bound early (`from random import random`) share this state.
            self._state = random.getstate()
            random.seed(seed())

    def end(self) -> None:
        """Put everything back."""
        if self._state is not None:
            random.setstate(self._state)
            self._state = None
        for part in self._parts:
            _installed.remove(part)
