"""What third-party code sees of a simulated socket or server."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from rpcsim.sim._ambient import quiet_descriptor, readable_descriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rpcsim.ports import Address
    from rpcsim.sim._net import Listening, SimNet
    from rpcsim.sim._tcp import Endpoint

__all__ = ["SimServer", "StandInSocket"]


class StandInSocket:
    """Answers questions about one end of a connection, or a bound place.

    Its descriptors are shared ones that only tell whether something is to be read, so
    that clients which poll an idle connection before using it again decide rightly.

    Attributes:
        options: What was set, by (level, option).
    """

    __slots__ = ("_end", "_local", "_remote", "family", "options", "proto", "type")

    def __init__(
        self,
        local: Any,
        remote: Any,
        end: Endpoint | None = None,
        *,
        kind: int = socket.SOCK_STREAM,
    ) -> None:
        self._local = local
        self._remote = remote
        self._end = end
        self.options: Final[dict[tuple[int, int], Any]] = {}
        self.type: Final = socket.SocketKind(kind)
        if isinstance(local, str):
            self.family = socket.AF_UNIX
            self.proto = 0
        else:
            self.family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
            stream = kind == socket.SOCK_STREAM
            self.proto = socket.IPPROTO_TCP if stream else socket.IPPROTO_UDP

    def __repr__(self) -> str:
        return f"<simulated socket {self._local} -> {self._remote}>"

    def getsockname(self) -> Any:
        """Give the own address."""
        return self._local

    def getpeername(self) -> Any:
        """Give the peer's address; `OSError` for a listener."""
        if self._remote is None:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return self._remote

    def setsockopt(self, level: int, option: int, value: Any, *rest: Any) -> None:
        """Remember an option; `SO_LINGER` and keep-alive have their effect."""
        self.options[level, option] = value
        if self._end is not None:
            self._end.option_set(level, option, value)

    def getsockopt(self, level: int, option: int, *rest: Any) -> Any:
        """Give an option set before, else 0."""
        return self.options.get((level, option), 0)

    def setblocking(self, flag: bool) -> None:
        """Accept and ignore it: the loop's calls never block."""

    def settimeout(self, value: float | None) -> None:
        """Accept and ignore it: the loop's calls take their own limits."""

    def gettimeout(self) -> float:
        """Give 0, as a socket that does not block."""
        return 0.0

    def fileno(self) -> int:
        """Give a descriptor to poll: readable when data or an end waits, else idle."""
        end = self._end
        if end is None:
            return quiet_descriptor()
        over = end.ended or end.closing or end.lost
        return readable_descriptor() if over or end.unread else quiet_descriptor()

    def close(self) -> None:
        """Close the connection it stands for."""
        if self._end is not None:
            self._end.close()


class SimServer(asyncio.AbstractServer):
    """asyncio's server object over one listening port of the simulated network."""

    def __init__(
        self,
        net: SimNet,
        factory: Callable[[], Any],
        hosts: Sequence[str | None],
        port: int,
        *,
        coalesces: bool = False,
        backlog: int = 100,
    ) -> None:
        self._net = net
        self._backlog = backlog
        self._coalesces = coalesces
        self._factory = factory
        self._hosts = hosts
        self._port = port
        self._life = net.loop.life_of()
        self._listening: Listening | None = None
        self._open: dict[int, Endpoint] = {}
        self._closed: asyncio.Future[None] | None = None
        self._forever: asyncio.Future[None] | None = None
        self.addresses: list[Address] = []

    def __repr__(self) -> str:
        state = "serving" if self.is_serving() else "closed"
        return f"<SimServer on {self.addresses} of {self._life.host}: {state}>"

    @property
    def sockets(self) -> tuple[Any, ...]:
        """Stand-ins for the listening sockets; empty when closed."""
        if self._listening is None:
            return ()
        return tuple(StandInSocket(place, None) for place in self.addresses)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Give the loop."""
        return self._net.loop

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return self._listening is not None

    async def start_serving(self) -> None:
        """Accept connections; doing so twice does nothing."""
        if self._listening is None and self._closed is None:
            self._listening = self._net.listen(
                self._life,
                self._factory,
                self._hosts,
                self._port,
                self._accept,
                self._backlog,
            )
            self.addresses = list(self._listening.addresses)

    def _accept(self, end: Endpoint) -> None:
        self._open[end.number] = end
        end.on_lost = self._lost
        end.coalesces = self._coalesces
        loop = self._net.loop
        try:
            protocol = end.context.run(self._factory)
        except Exception as error:  # noqa: BLE001 - as asyncio: told, and reset
            loop.call_exception_handler(
                {"message": f"accepting {end.label} failed", "exception": error}
            )
            end.fail(None, reset=True)
            return
        end.begin(protocol)

    def _lost(self, end: Endpoint) -> None:
        self._open.pop(end.number, None)
        self._wake()

    def _wake(self) -> None:
        closed = self._closed
        if closed is not None and not closed.done() and not self._open:
            closed.set_result(None)

    async def serve_forever(self) -> None:
        """Accept connections until cancelled or closed."""
        await self.start_serving()
        self._forever = self._net.loop.create_future()
        try:
            await self._forever
        finally:
            self._forever = None
            self.close()
            await self.wait_closed()

    def close(self) -> None:
        """Accept no more; open connections stay."""
        if self._listening is not None:
            self._net.unlisten(self._listening)
            self._listening = None
        if self._closed is None:
            self._closed = self._net.loop.create_future()
            self._wake()
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()

    def close_clients(self) -> None:
        """Close the open connections."""
        for end in list(self._open.values()):
            end.close()

    def abort_clients(self) -> None:
        """Reset the open connections."""
        for end in list(self._open.values()):
            end.fail(None, reset=True)

    async def wait_closed(self) -> None:
        """Wait until it is closed and the connections it accepted are gone."""
        if self._closed is not None:
            await self._closed
