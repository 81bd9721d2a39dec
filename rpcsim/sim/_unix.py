"""Unix-domain sockets: paths of one host, without latency and out of reach of faults.

Paths are names in the simulation; the machine's file system is not touched.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from rpcsim.sim._handshake import Handshake
from rpcsim.sim._links import Link
from rpcsim.sim._sockets import SimServer
from rpcsim.sim._tcp import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.ports import Address
    from rpcsim.sim._net import SimNet

__all__ = ["UnixServer", "dial_path", "path_text"]


def path_text(path: Any) -> str:
    """Read a path as a user gives it.

    Raises:
        ValueError: It is empty, or an address in the abstract namespace.
    """
    text = path.__fspath__() if hasattr(path, "__fspath__") else path
    if isinstance(text, bytes):
        text = text.decode()
    if not isinstance(text, str):
        raise TypeError(f"a path is text, bytes or a path object, not {path!r}")
    if not text or text.startswith("\0"):
        raise ValueError(f"a Unix socket needs a path, not {path!r}")
    return text


def _place(host: str, path: str) -> Address:
    return f"unix:{host}:{path}", 0


class UnixServer(SimServer):
    """asyncio's server object over a path of one host."""

    def __init__(
        self, net: SimNet, factory: Callable[[], Any], path: str, backlog: int
    ) -> None:
        super().__init__(net, factory, (), 0, backlog=backlog)
        self._path = path

    def __repr__(self) -> str:
        state = "serving" if self.is_serving() else "closed"
        return f"<UnixServer at {self._path} of {self._life.host}: {state}>"

    async def start_serving(self) -> None:
        """Accept connections; doing so twice does nothing."""
        if self._listening is None and self._closed is None:
            self._listening = self._net.listen_at(
                self._life,
                self._factory,
                [_place(self._life.host, self._path)],
                self._accept,
                self._backlog,
            )
            self._net.paths.setdefault(self._life.host, {})[self._path] = None
            names: list[Any] = [self._path]
            self.addresses = names

    def _accept(self, end: Endpoint) -> None:
        _name(end, self._path, "")
        super()._accept(end)


def _name(end: Endpoint, local: str, remote: str) -> None:
    # The system's names for such sockets are plain text.
    names: Any = end
    names.local, names.remote = local, remote


async def dial_path(net: SimNet, path: str) -> Endpoint:
    """Connect to a path of the running host.

    Raises:
        OSError: `ENOENT`, nobody ever bound it; `ECONNREFUSED`, nobody listens now.
    """
    life = net.loop.life_of()
    host = net.own_host(life)
    place = _place(host.name, path)
    if net.listening_at(place) is None and path not in net.paths.get(host.name, {}):
        raise FileNotFoundError(
            errno.ENOENT, f"No such file on host {host.name!r}: nobody bound it", path
        )
    streams = net.loop.sim.entropy.stream
    out, back = Link(host.name, host.name, streams), Link(host.name, host.name, streams)
    near = Endpoint(net, life, net.label_for(life.host, f"unix:{path}"), ("", 0), place)
    try:
        await Handshake(net, near, host, out, back).run()
    except BaseException:
        near.lost = near.closing = True
        life.endpoints.pop(near.number, None)
        raise
    _name(near, "", path)
    return near
