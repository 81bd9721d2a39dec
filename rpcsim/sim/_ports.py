"""The ports of one incarnation of a simulated host."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from rpcsim.ports import NANOS, Address, Duration, Ports, ssl_context, to_ns
from rpcsim.sim._tls import over_tls, server_factory

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from rpcsim.ports import TLS, Transport
    from rpcsim.sim._loop import SimLoop
    from rpcsim.sim._sockets import SimServer
    from rpcsim.sim._strand import Life
    from rpcsim.trace import Data

__all__ = ["HostNetwork", "HostSink", "SimPorts"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

P = TypeVar("P", bound=asyncio.Protocol)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimPorts(Ports):
    """Ports that also tell the simulation whose they are.

    Attributes:
        life: The incarnation.
        loop: The loop it runs on.
    """

    life: Life
    loop: SimLoop


class SimListener:
    """A listening port, as the `Network` port gives it."""

    __slots__ = ("_server",)

    def __init__(self, server: SimServer) -> None:
        self._server = server

    def __repr__(self) -> str:
        return f"<listener {self._server.addresses}>"

    @property
    def addresses(self) -> Sequence[Address]:
        """Bound addresses, in bind order."""
        return tuple(self._server.addresses)

    def close(self) -> None:
        """Accept no more."""
        self._server.close()

    async def wait_closed(self) -> None:
        """Return: it accepts no more as soon as it is closed."""


class HostNetwork:
    """The simulated network as one host sees it."""

    __slots__ = ("_life", "_loop")

    def __init__(self, loop: SimLoop, life: Life) -> None:
        self._loop = loop
        self._life = life

    def __repr__(self) -> str:
        return f"<network of {self._life.host}>"

    def _check(self) -> None:
        if self._life.dead:
            raise self._loop.sim.host_down(self._life.host)

    async def connect(
        self,
        protocol_factory: Callable[[], P],
        address: Address,
        *,
        tls: ssl.SSLContext | TLS | None = None,
        timeout: Duration | None = None,
    ) -> tuple[Transport, P]:
        """Open a connection."""
        self._check()
        context = ssl_context(tls, server=False)
        opening = self._open(protocol_factory, address, context)
        if timeout is None:
            return await opening
        async with asyncio.timeout(to_ns(timeout) / NANOS):
            return await opening

    async def _open(
        self,
        protocol_factory: Callable[[], P],
        address: Address,
        tls: ssl.SSLContext | None,
    ) -> tuple[Transport, P]:
        host, port = address
        loop = self._loop
        end = await loop.dial(host, port)
        end.coalesces = True
        protocol = protocol_factory()
        if tls is None:
            end.begin(protocol)
            return end.transport, protocol
        wire = end.transport
        made: Transport = await over_tls(
            loop, wire, protocol, tls, end.begin, server_hostname=host
        )
        return made, protocol

    async def listen(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | TLS | None = None,
        backlog: int = 100,
    ) -> SimListener:
        """Accept connections at an address of this host."""
        self._check()
        host, port = address
        net = self._loop.net
        context = ssl_context(tls, server=True)
        if context is not None:
            protocol_factory = server_factory(self._loop, protocol_factory, context)
        server = await net.create_server(
            protocol_factory, [host], port, coalesces=True, backlog=backlog
        )
        return SimListener(server)

    async def resolve(self, name: str) -> list[str]:
        """Give the addresses of a host of the simulation."""
        return await self._loop.net.dns.lookup(name, self._life.host)


class HostSink:
    """The trace as one host writes it."""

    __slots__ = ("_host", "_life", "_loop")

    def __init__(self, loop: SimLoop, life: Life) -> None:
        self._loop = loop
        self._host = life.host
        self._life = life

    def emit(self, kind: str, data: Data = (), cause: int | None = None) -> int:
        """Record something; what follows in this step has it as its cause."""
        loop = self._loop
        if self._life.dead:
            return -1  # the rest of the step that crashed: nobody sees it
        if cause is None:
            cause = loop.cause
        number = loop.trace.append(
            loop.now_ns, kind, self._host, loop.strand.label, cause, data
        )
        if number >= 0:
            loop.cause = number
        return number
