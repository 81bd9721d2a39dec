"""The bundle of ports one host's software runs on, and which one is current."""

from __future__ import annotations

import contextlib
import importlib
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, MutableMapping

    from rpcsim.ports._bridge import Bridge
    from rpcsim.ports._clock import Clock
    from rpcsim.ports._disk import Disk
    from rpcsim.ports._entropy import Entropy
    from rpcsim.ports._network import Network
    from rpcsim.ports._tracing import Points, TraceSink

__all__ = ["Ports", "Resources", "current", "current_or_none", "enter", "leave", "use"]

T = TypeVar("T")

# Where a real runtime comes from when code runs outside every world. A dotted name and
# not an import: `ports` lies below `real`, and most programs in a world never need it.
PROCESS_RUNTIME: Final = ("rpcsim.real", "process_ports")


class Resources:
    """Things shared by all clients of one host, such as its broker connection.

    They end with the host: `aclose` closes them, newest first.
    """

    __slots__ = ("_closers", "_things")

    def __init__(self) -> None:
        self._things: dict[Hashable, Any] = {}
        self._closers: list[tuple[Hashable, Callable[[], Awaitable[None]]]] = []

    def __repr__(self) -> str:
        return f"<Resources {list(self._things)}>"

    def __bool__(self) -> bool:
        return bool(self._things or self._closers)

    def obtain(self, key: Hashable, make: Callable[[], T]) -> T:
        """Give the thing of that key, made on first use."""
        if key not in self._things:
            self._things[key] = make()
        return cast("T", self._things[key])

    def forget(self, key: Hashable) -> None:
        """Drop a thing that is broken; the next `obtain` makes a new one."""
        self._things.pop(key, None)
        self._closers = [entry for entry in self._closers if entry[0] != key]

    def on_close(self, key: Hashable, close: Callable[[], Awaitable[None]]) -> None:
        """Have `close` awaited when the host ends."""
        self._closers.append((key, close))

    async def aclose(self) -> None:
        """Close everything, newest first."""
        while self._closers:
            key, close = self._closers.pop()
            self._things.pop(key, None)
            await close()
        self._things.clear()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ports:
    """Everything the core leans on, for one host in one incarnation.

    Attributes:
        host: Name of the host.
        services: What a world tells its clients: service name to URL, such as
            `{"broker": "rpcsim://broker:5670"}`. Shared by all hosts of a world.
        resources: What this host's clients share.
    """

    host: str
    clock: Clock
    network: Network
    entropy: Entropy
    disk: Disk
    bridge: Bridge
    points: Points
    trace: TraceSink
    services: MutableMapping[str, str]
    resources: Resources = field(default_factory=Resources, repr=False)


# The ports of the running context; machines read and set it by `use`.
CURRENT: Final[ContextVar[Ports]] = ContextVar("rpcsim.ports")
# Ports of the worlds entered and not left, newest last: a thread that user code
# starts has an empty context, and finds its world here.
_entered: list[Ports] = []


def current() -> Ports:
    """Give the ports of the running context.

    Inside a host's code those of that host; in a `with` block or test of a world those
    of its host `test`; anywhere else those of a process-wide real runtime, which is
    started on first use.
    """
    ports = current_or_none()
    if ports is not None:
        return ports
    module, attribute = PROCESS_RUNTIME
    return cast("Ports", getattr(importlib.import_module(module), attribute)())


def current_or_none() -> Ports | None:
    """Give the ports of the running context, or `None` outside every world."""
    ports = CURRENT.get(None)
    if ports is None and _entered:
        return _entered[-1]
    return ports


class use:  # noqa: N801 - reads as a verb: `with use(ports):`
    """Make `ports` the current ones for a block."""

    __slots__ = ("_ports", "_token")

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    def __enter__(self) -> Ports:
        self._token: Token[Ports] = CURRENT.set(self._ports)
        return self._ports

    def __exit__(self, *exc: object) -> None:
        CURRENT.reset(self._token)


def enter(ports: Ports) -> Token[Ports]:
    """Begin a world: current here, and for threads with an empty context."""
    _entered.append(ports)
    return CURRENT.set(ports)


def leave(ports: Ports, token: Token[Ports]) -> None:
    """End a world begun with `enter`, whatever began after it."""
    _entered.remove(ports)
    if CURRENT.get(None) is not ports:
        return  # a world that began later is current, and stays so
    # A world entered in another context (an async fixture's set-up) cannot be reset
    # here, and need not be: that context is gone.
    with contextlib.suppress(ValueError):
        CURRENT.reset(token)
