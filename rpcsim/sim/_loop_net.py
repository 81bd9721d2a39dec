"""asyncio's calls that open connections and servers, over the simulated network."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from rpcsim.sim._fences import NO_TLS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import Context

    from rpcsim.errors import EscapeError
    from rpcsim.sim._net import SimNet
    from rpcsim.sim._sockets import SimServer
    from rpcsim.sim._strand import Life

__all__ = ["LoopNet"]

_NO_SOCKETS: Final = "give host and port instead of a socket of the real machine"


class LoopNet:
    """The part of the loop's interface that knows the network."""

    net: SimNet
    escape: Callable[[str, str], EscapeError]

    if TYPE_CHECKING:

        def life_of(self, context: Context | None = None) -> Life:
            """Give the incarnation on whose behalf code in a context runs."""

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - asyncio's name
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Give the addresses of a host of the simulation; asks nobody else."""
        name = host.decode() if isinstance(host, bytes) else host
        number = int(port or 0)
        found = self.net.addresses_of(name, self.life_of().host)
        kind = type or socket.SOCK_STREAM
        wire = socket.IPPROTO_UDP if kind == socket.SOCK_DGRAM else socket.IPPROTO_TCP
        infos: list[Any] = []
        for address in found:
            if ":" in address:
                place: Any = (address, number, 0, 0)
                infos.append((socket.AF_INET6, kind, proto or wire, "", place))
            else:
                infos.append(
                    (socket.AF_INET, kind, proto or wire, "", (address, number))
                )
        wanted = [info for info in infos if family in (0, info[0])]
        if not wanted:
            raise socket.gaierror(
                socket.EAI_NONAME, f"host {name!r} has no address of that family"
            )
        return wanted

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """Give host name and port of an address of the simulation."""
        address, port = sockaddr[0], sockaddr[1]
        return self.net.host_for(address, self.life_of().host).name, str(port)

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: Any = None,
        local_addr: tuple[str, int] | None = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        """Open a TCP connection on the simulated network."""
        if ssl:
            raise self.escape("create_connection(ssl=...)", NO_TLS)
        if options.get("sock") is not None:
            raise self.escape("create_connection(sock=...)", _NO_SOCKETS)
        if host is None or port is None:
            raise ValueError("create_connection needs a host and a port")
        local_port = local_addr[1] if local_addr else None
        end = await self.net.open(protocol_factory, host, int(port), local_port)
        return end.transport, end.protocol

    async def create_server(
        self,
        protocol_factory: Callable[[], Any],
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        ssl: Any = None,
        start_serving: bool = True,
        **options: Any,
    ) -> SimServer:
        """Accept TCP connections on the simulated network."""
        if ssl:
            raise self.escape("create_server(ssl=...)", NO_TLS)
        if options.get("sock") is not None:
            raise self.escape("create_server(sock=...)", _NO_SOCKETS)
        hosts = [host] if host is None or isinstance(host, str) else list(host)
        return await self.net.create_server(
            protocol_factory, hosts, int(port or 0), start_serving=start_serving
        )
