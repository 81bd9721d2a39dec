"""asyncio's calls that open connections and servers, over the simulated network."""

from __future__ import annotations

import asyncio
import errno
import socket
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from rpcsim.ports import NANOS
from rpcsim.sim import _tls
from rpcsim.sim._adopted import Adopted
from rpcsim.sim._dns import is_numeric
from rpcsim.sim._udp import create_endpoint
from rpcsim.sim._unix import UnixServer, dial_path, path_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import Context

    from rpcsim.errors import EscapeError
    from rpcsim.sim._net import SimNet
    from rpcsim.sim._sockets import SimServer
    from rpcsim.sim._strand import Life
    from rpcsim.sim._tcp import Endpoint

__all__ = ["LoopNet"]

SYN_TIMEOUT_NS: Final = 127 * NANOS  # Linux `tcp_syn_retries` = 6
# What programs name instead of a number (RFC 6335).
_SERVICES: Final = {"ssh": 22, "smtp": 25, "domain": 53, "http": 80, "https": 443}
_NO_SOCKETS: Final = "give host and port instead of a socket of the real machine"


class LoopNet:
    """The part of the loop's interface that knows the network."""

    net: SimNet
    escape: Callable[[str, str], EscapeError]
    # Made by the first `net.tls.fail`: without faults a handshake pays one look.
    tls_faults: _tls.TlsFaults | None = None

    if TYPE_CHECKING:

        def life_of(self, context: Context | None = None) -> Life:
            """Give the incarnation on whose behalf code in a context runs."""

    @cached_property
    def adopted(self) -> Adopted:
        """The connections of sockets that callers made."""
        return Adopted(self)  # type: ignore[arg-type]  # the loop is this mix

    # -- names -------------------------------------------------------------------------

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
        number = _port(port)
        found = await self.net.dns.lookup(name, self.life_of().host)
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
        known = self.net.known_host(address, self.life_of().host)
        numeric = known is None or flags & socket.NI_NUMERICHOST
        if numeric and flags & socket.NI_NAMEREQD:
            raise socket.gaierror(socket.EAI_NONAME, f"nobody is at {address}")
        return address if numeric or known is None else known.name, str(port)

    # -- connections -------------------------------------------------------------------

    async def dial(
        self, host: str | None, port: int, local_port: int | None = None
    ) -> Endpoint:
        """Open a connection that has no protocol yet.

        Of several addresses the first that answers is taken, as asyncio does.
        """
        if not self.net.dns.used:
            return await self._dial(host, port, local_port)
        failures: list[OSError] = []
        for address in await self.net.dns.lookup(host, self.life_of().host):
            try:
                return await self._dial(address, port, local_port)
            except OSError as error:
                failures.append(error)
        first = failures[0]
        if all(str(error) == str(first) for error in failures):
            raise first
        told = ", ".join(map(str, failures))
        raise OSError(first.errno, f"Multiple exceptions: {told}")

    async def _dial(
        self, host: str | None, port: int, local_port: int | None
    ) -> Endpoint:
        net = self.net
        if net.known_host(host, self.life_of().host) is None and is_numeric(host):
            await asyncio.sleep(SYN_TIMEOUT_NS / NANOS)
            raise TimeoutError(
                errno.ETIMEDOUT,
                f"Connect call to {host}:{port} timed out: no host has that address",
            )
        return await net.dial(host, port, local_port)

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: Any = None,
        sock: Any = None,
        local_addr: tuple[str, int] | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        """Open a TCP connection on the simulated network, with TLS if asked.

        Args:
            protocol_factory: Makes the protocol.
            host: Name or address of the target.
            port: Its port.
            ssl: An `SSLContext`, or `True` for the default one.
            sock: A socket connected by `sock_connect`, instead of host and port.
            local_addr: Own (address, port).
            server_hostname: The name the certificate must have; the host's if `None`.
            ssl_handshake_timeout: Seconds, 60 if `None`.
            ssl_shutdown_timeout: Seconds, 30 if `None`.
            **options: `family`, `proto`, `flags`, `happy_eyeballs_delay`,
                `interleave`, `all_errors`: accepted, without effect.
        """
        server_hostname = _checked_name(ssl, server_hostname, host, sock)
        if sock is not None:
            if host is not None or port is not None:
                raise ValueError(
                    "host/port and sock can not be specified at the same time"
                )
            end = self.adopted.take(sock, "loop.create_connection(sock=...)")
        elif host is None or port is None:
            raise ValueError("create_connection needs a host and a port")
        else:
            local_port = local_addr[1] if local_addr else None
            end = await self.dial(host, int(port), local_port)
        protocol = protocol_factory()
        if not ssl:
            end.begin(protocol)
            return end.transport, protocol
        transport = await _tls.over_tls(
            self,  # type: ignore[arg-type]  # the loop is this mix
            end.transport,
            protocol,
            ssl,
            end.begin,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        return transport, protocol

    async def create_server(
        self,
        protocol_factory: Callable[[], Any],
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        ssl: Any = None,
        sock: Any = None,
        start_serving: bool = True,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        **options: Any,
    ) -> SimServer:
        """Accept TCP connections on the simulated network, with TLS if asked."""
        if sock is not None:
            raise self.escape("create_server(sock=...)", _NO_SOCKETS)
        if ssl:
            protocol_factory = _tls.server_factory(
                self,  # type: ignore[arg-type]  # the loop is this mix
                protocol_factory,
                ssl,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
            )
        elif ssl_handshake_timeout is not None or ssl_shutdown_timeout is not None:
            raise ValueError("time limits of TLS are only meaningful with ssl")
        hosts = [host] if host is None or isinstance(host, str) else list(host)
        return await self.net.create_server(
            protocol_factory,
            hosts,
            int(port or 0),
            start_serving=start_serving,
            backlog=backlog,
        )

    async def create_unix_connection(
        self,
        protocol_factory: Callable[[], Any],
        path: Any = None,
        *,
        ssl: Any = None,
        sock: Any = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Connect to a path of the running host, with TLS if asked."""
        if sock is not None:
            raise self.escape("create_unix_connection(sock=...)", _NO_SOCKETS)
        if path is None:
            raise ValueError("no path was specified")
        name = _checked_name(ssl, server_hostname, None, None)
        end = await dial_path(self.net, path_text(path))
        protocol = protocol_factory()
        if not ssl:
            end.begin(protocol)
            return end.transport, protocol
        transport = await _tls.over_tls(
            self,  # type: ignore[arg-type]  # the loop is this mix
            end.transport,
            protocol,
            ssl,
            end.begin,
            server_hostname=name,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        return transport, protocol

    async def create_unix_server(
        self,
        protocol_factory: Callable[[], Any],
        path: Any = None,
        *,
        sock: Any = None,
        backlog: int = 100,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = True,
    ) -> UnixServer:
        """Accept connections at a path of the running host, with TLS if asked."""
        if sock is not None:
            raise self.escape("create_unix_server(sock=...)", _NO_SOCKETS)
        if path is None:
            raise ValueError("path was not specified, and no sock specified")
        if ssl:
            protocol_factory = _tls.server_factory(
                self,  # type: ignore[arg-type]  # the loop is this mix
                protocol_factory,
                ssl,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
            )
        server = UnixServer(self.net, protocol_factory, path_text(path), backlog)
        if start_serving:
            await server.start_serving()
        return server

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """Put TLS on a connection in use; give the transport to write to from now."""
        return await _tls.start_tls(
            self,  # type: ignore[arg-type]  # the loop is this mix
            transport,
            protocol,
            sslcontext,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], Any],
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: Any = None,
    ) -> tuple[Any, Any]:
        """Open a UDP socket on the simulated network."""
        if sock is not None:
            raise self.escape("create_datagram_endpoint(sock=...)", _NO_SOCKETS)
        return await create_endpoint(
            self.net,
            protocol_factory,
            local_addr,
            remote_addr,
            broadcast=bool(allow_broadcast),
            reuse=bool(reuse_port),
        )

    # -- sockets the caller made -------------------------------------------------------

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Connect a caller's socket to a place of the simulated network."""
        await self.adopted.connect(sock, address[0], int(address[1]))

    async def sock_recv(self, sock: Any, n: int) -> bytes:
        """Receive from an adopted socket; no bytes mean the end."""
        return await self.adopted.receive(sock, n, "loop.sock_recv")

    async def sock_recv_into(self, sock: Any, buf: Any) -> int:
        """Receive from an adopted socket into a buffer; give how many bytes."""
        view = memoryview(buf)
        data = await self.adopted.receive(sock, len(view), "loop.sock_recv_into")
        view[: len(data)] = data
        return len(data)

    async def sock_sendall(self, sock: Any, data: Any) -> None:
        """Send all of the data over an adopted socket."""
        await self.adopted.send(sock, data, "loop.sock_sendall")

    # -- files -------------------------------------------------------------------------

    async def sendfile(
        self,
        transport: Any,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """Send a file's content by copying it; give the number of bytes sent."""
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        if not fallback:
            raise asyncio.SendfileNotAvailableError(
                "a simulated transport sends files by copying only"
            )
        return await _copy_file(self, transport, file, offset, count)


class _Drain(asyncio.Protocol):
    """Stands in for a connection's protocol while a file is sent over it."""

    def __init__(self, loop: Any, inner: Any) -> None:
        self.inner = inner
        self.lost = False
        self._loop = loop
        self._gate: asyncio.Future[None] | None = None

    def pause_writing(self) -> None:
        self._gate = self._loop.create_future()

    def resume_writing(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None and not gate.done():
            gate.set_result(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self.resume_writing()
        self.inner.connection_lost(exc)

    async def drained(self) -> None:
        """Wait until the transport takes more."""
        if self._gate is not None:
            await asyncio.shield(self._gate)
        if self.lost:
            raise ConnectionError("Connection closed by peer")


async def _copy_file(
    loop: Any, transport: Any, file: Any, offset: int, count: int | None
) -> int:
    if hasattr(file, "seek"):
        file.seek(offset)
    inner, sent = transport.get_protocol(), 0
    was_reading = transport.is_reading()
    drain = _Drain(loop, inner)
    transport.pause_reading()  # as asyncio does: nobody is there to take data
    transport.set_protocol(drain)
    try:
        while count is None or sent < count:
            size = 65_536 if count is None else min(count - sent, 65_536)
            data = file.read(size)
            if not data:
                break
            await drain.drained()
            transport.write(data)
            sent += len(data)
        await drain.drained()
        return sent
    finally:
        if hasattr(file, "seek"):
            file.seek(offset + sent)
        if not drain.lost:
            transport.set_protocol(inner)
            if was_reading:
                transport.resume_reading()


def _port(port: Any) -> int:
    if isinstance(port, bytes):
        port = port.decode()
    if isinstance(port, str) and not port.isdecimal() and port:
        number = _SERVICES.get(port)
        if number is None:
            raise socket.gaierror(
                socket.EAI_SERVICE, f"{port!r} is no known service; give its number"
            )
        return number
    return int(port or 0)


def _checked_name(
    ssl: Any, name: str | None, host: str | None, sock: Any
) -> str | None:
    """Give the name the certificate must have, as asyncio reads its arguments."""
    if name is not None and not ssl:
        raise ValueError("server_hostname is only meaningful with ssl")
    if name is None and ssl:
        if not host:
            given = "without a host" if sock is None else "with sock"
            raise ValueError(f"set server_hostname when using ssl {given}")
        return host
    return name
