"""The network of the real machine as one host sees it: names, connects, listens."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from rpcsim.ports import NANOS, duration_text, endpoint, ssl_context, to_ns
from rpcsim.real._transport import Wire

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from rpcsim.ports import TLS, Address, Duration, Transport
    from rpcsim.real._directory import Dial
    from rpcsim.real._engine import Engine
    from rpcsim.real._home import Home

__all__ = ["RealListener", "RealNetwork", "dialling_socket"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

P = TypeVar("P", bound=asyncio.Protocol)


class RealNetwork:
    """`rpcsim.ports.Network` over sockets."""

    __slots__ = ("_engine", "_home")

    def __init__(self, engine: Engine, home: Home) -> None:
        self._engine = engine
        self._home = home

    def __repr__(self) -> str:
        return f"<sockets of host {self._home.host}>"

    # -- names -------------------------------------------------------------------------

    async def resolve(self, name: str) -> list[str]:
        """Give the numeric addresses of a name, in order.

        Host names of the run come first, `localhost` is the host itself, and all else
        is the system's to answer.

        Raises:
            socket.gaierror: There is no such name.
        """
        known = self._engine.directory.lookup(name, self._home.host)
        if known is not None:
            return [known]
        if _is_numeric(name):
            return [name]
        # A thread of the pool and not the loop's executor: a resolver that hangs is
        # left behind when the caller gives up, and does not hold up the end.
        bridge = self._home.ports.bridge
        look_up = partial(_look_up, name, self._engine.directory.by_name)
        return await bridge.spawn(look_up, name=f"resolve {name}")

    # -- connecting ----------------------------------------------------------------------

    async def connect(
        self,
        protocol_factory: Callable[[], P],
        address: Address,
        *,
        tls: ssl.SSLContext | TLS | None = None,
        timeout: Duration | None = None,
    ) -> tuple[Transport, P]:
        """Open a connection from this host's own address.

        Raises:
            OSError: Refused, unreachable, or no such name (`gaierror`).
            TimeoutError: Nobody answered within `timeout`, or the runtime's own limit.
            HostDown: This host has ended.
        """
        self._engine.check_loop(f"connect to {endpoint(address)}")
        self._home.check_alive(f"connect to {endpoint(address)}")
        context = ssl_context(tls, server=False)
        work = self._connect(protocol_factory, address, context)
        limit = to_ns(self._engine.limits.connect if timeout is None else timeout)
        try:
            async with asyncio.timeout(max(0, limit) / NANOS) as scope:
                return await work
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise TimeoutError(
                errno.ETIMEDOUT,
                f"Connect call from {self._home.host} to {endpoint(address)} got no "
                f"answer within {duration_text(limit)}",
            ) from error

    async def _connect(
        self,
        factory: Callable[[], P],
        address: Address,
        tls: ssl.SSLContext | None,
    ) -> tuple[Transport, P]:
        place = self._engine.directory.target(address, self._home.host)
        if place is not None:
            return await self._connect_host(factory, address, place, tls)
        failures: list[OSError] = []
        for numeric in await self.resolve(address[0]):
            dial = self._engine.directory.dial(self._home.host, address[0], address[1])
            try:
                return await self._open(
                    factory, dial, tls, address[0], host=numeric, port=address[1]
                )
            except OSError as error:
                failures.append(error)
        assert failures, "the resolver gives at least one address or raises"
        raise failures[0]

    async def _connect_host(
        self,
        factory: Callable[[], P],
        asked: Address,
        place: Address,
        tls: ssl.SSLContext | None,
    ) -> tuple[Transport, P]:
        engine, host = self._engine, self._home.host
        directory = engine.directory
        target = directory.host_at(place[0])
        dial = directory.dial(host, target, place[1], place)
        try:
            await engine.net.reach(host, target, place, dial.label)
        except OSError as error:
            timed = isinstance(error, TimeoutError)
            self._refused(dial, "timeout" if timed else "fault")
            raise
        if place not in directory.listeners and target != engine.test.host:
            # Not even tried: host addresses are the same in every run, and whoever
            # listens there now is another one's. Host `test` is the machine itself.
            raise self._nobody(dial, target, place[1])
        source = "" if self._home.address in directory.virtual else self._home.address
        sock, local = dialling_socket(source)
        if place in directory.listeners:  # one of ours, which will ask who comes
            directory.dials[local] = dial
        try:
            await engine.loop.sock_connect(sock, directory.routes.get(place, place))
            if engine.net.faults and place in directory.listeners:
                await engine.net.arrival(dial.label)
        except BaseException as error:
            directory.dials.pop(local, None)
            sock.close()
            if isinstance(error, ConnectionRefusedError):
                raise self._nobody(dial, target, place[1]) from error
            raise
        return await self._open(factory, dial, tls, asked[0], sock=sock)

    async def _open(
        self,
        factory: Callable[[], P],
        dial: Dial,
        tls: ssl.SSLContext | None,
        name: str,
        **where: Any,
    ) -> tuple[Transport, P]:
        if tls is not None:
            where |= {
                "ssl": tls,
                "server_hostname": name,
                "ssl_handshake_timeout": self._engine.limits.handshake_seconds,
            }
        make = partial(Wire, self._engine, self._home, factory, dial=dial)
        inner, wire = await self._engine.loop.create_connection(make, **where)
        transport = wire.transport
        if transport is None:  # the host ended while the connection was made
            inner.abort()
            self._home.check_alive(f"connect to {dial.label}")
            raise ConnectionAbortedError(errno.ECONNABORTED, f"{dial.label} was ended")
        return transport, cast("P", wire.protocol)

    def _nobody(self, dial: Dial, target: str, port: int) -> ConnectionRefusedError:
        self._refused(dial, "no listener")
        return ConnectionRefusedError(
            errno.ECONNREFUSED,
            f"Connect call to {dial.label} failed: nobody listens on port {port} of "
            f"host {target!r}",
        )

    def _refused(self, dial: Dial, why: str) -> None:
        data = (("connection", dial.label), ("why", why))
        self._home.ports.trace.emit("conn.refused", data)

    # -- listening -----------------------------------------------------------------------

    async def listen(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | TLS | None = None,
        backlog: int = 100,
    ) -> RealListener:
        """Accept connections at an address of this host; port 0 picks a free one.

        Raises:
            OSError: `EADDRINUSE`, or `EADDRNOTAVAIL` for another host's address.
            HostDown: This host has ended.
        """
        engine, home = self._engine, self._home
        engine.check_loop(f"listen at {endpoint(address)}")
        home.check_alive(f"listen at {endpoint(address)}")
        directory = engine.directory
        place = (directory.bindable(address[0], home.host), address[1])
        directory.check_free(place, home.host)
        engine.net.fail_if_told("listen", home.host, address[1])
        sockets = self._bind(place)
        port: int = place[1] or sockets[0].getsockname()[1]
        bound = [
            (place[0], port) if home.address else sock.getsockname()[:2]
            for sock in sockets
        ]
        listener = RealListener(engine, home, bound)
        options: dict[str, Any] = {"backlog": backlog}
        context = ssl_context(tls, server=True)
        if context is not None:
            seconds = engine.limits.handshake_seconds
            options |= {"ssl": context, "ssl_handshake_timeout": seconds}
        make = partial(Wire, engine, home, protocol_factory, listener=listener)
        try:
            for sock in sockets:
                server = await engine.loop.create_server(make, sock=sock, **options)
                listener.servers.append(server)
            if home.address:
                await self._publish(listener, sockets[0].getsockname()[:2])
        except BaseException:
            listener.close()
            for sock in sockets:
                sock.close()
            raise
        home.listeners[listener] = None
        if home.dead:  # it crashed while the proxy was made
            listener.close()
            home.check_alive(f"listen at {endpoint(address)}")
        return listener

    async def _publish(self, listener: RealListener, real: Address) -> None:
        engine = self._engine
        place = listener.addresses[0]
        if engine.net.faults:
            proxy = await engine.net.open_proxy(self._home.host, place, real)
            listener.servers.append(proxy)
            engine.directory.routes[place] = proxy.sockets[0].getsockname()[:2]
        elif real != place:
            engine.directory.routes[place] = real
        # Last: whoever finds it listening goes through its proxy, never around it.
        engine.directory.listeners[place] = listener
        engine.net.changed()

    def _bind(self, place: Address) -> list[socket.socket]:
        home, directory = self._home, self._engine.directory
        if not home.address:
            return _bind_all(place)
        if place[0] in directory.virtual:
            return [_listening_socket((directory.by_name["test"], 0))]
        try:
            return [_listening_socket(place)]
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if home is self._engine.test:
                raise OSError(
                    errno.EADDRINUSE,
                    f"address {endpoint(place)} is in use by another program",
                ) from error
        # Another run on this machine has the same host at the same port. Hosts are
        # reached through the address book alone, so any port does.
        self._engine.ledger.note(
            "port", f"{endpoint(place)} was taken by another program; moved"
        )
        return [_listening_socket((place[0], 0))]


class RealListener:
    """A place where connections are accepted."""

    __slots__ = ("_engine", "_home", "accepted", "addresses", "closed", "servers")

    def __init__(
        self, engine: Engine, home: Home, addresses: Sequence[Address]
    ) -> None:
        self._engine = engine
        self._home = home
        self.addresses: Final = addresses
        self.servers: list[asyncio.Server] = []
        self.accepted = 0  # connections that are open
        self.closed = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<{self.label} of host {self._home.host}: {state}>"

    @property
    def label(self) -> str:
        """What reports call it."""
        return f"listener {', '.join(map(endpoint, self.addresses))}"

    @property
    def port(self) -> int:
        """The port it was asked to listen at, which labels have."""
        return self.addresses[0][1]

    def close(self) -> None:
        """Stop accepting; open connections stay."""
        if self.closed:
            return
        self.closed = True
        directory = self._engine.directory
        for place in self.addresses:
            if directory.listeners.get(place) is self:
                del directory.listeners[place]
                directory.routes.pop(place, None)
        for server in self.servers:
            server.close()
        self._home.listeners.pop(self, None)

    async def wait_closed(self) -> None:
        """Wait until it accepts no more."""
        # Not the server's own `wait_closed`: since 3.12 that waits for the accepted
        # connections too. uvloop needs a turn to close its socket.
        await asyncio.sleep(0)


def dialling_socket(source: str) -> tuple[socket.socket, Address]:
    """Make a socket bound to a host's own address; gives its source address.

    Bound before it connects, so that the accepting side can be told who it is.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        sock.bind((source or "127.0.0.1", 0))
        local: Address = sock.getsockname()
    except BaseException:
        sock.close()
        raise
    return sock, local


# As `Network.listen`; the loop sets the one asked for when it begins to serve.
BACKLOG: Final = 100


def _listening_socket(
    place: Any, family: socket.AddressFamily = socket.AF_INET
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        if os.name == "posix":  # elsewhere the option lets two listeners share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        # Here and not by the loop: with the option two programs may both bind the place,
        # and only the second to listen is told that it is taken.
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_all(place: Address) -> list[socket.socket]:
    """Bind every address of the machine a name stands for, all at one port."""
    sockets: list[socket.socket] = []
    port = place[1]
    try:
        for family, _, _, _, address in socket.getaddrinfo(
            place[0] or None,
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        ):
            sock = _listening_socket((address[0], port, *address[2:]), family)
            sockets.append(sock)
            port = port or sock.getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _is_numeric(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _look_up(name: str, hosts: dict[str, str]) -> list[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        known = f" (hosts of this run: {', '.join(hosts)})" if hosts else ""
        raise socket.gaierror(
            error.errno, f"Name or service not known: {name!r}{known}"
        ) from error
    except UnicodeError as error:
        raise socket.gaierror(
            socket.EAI_NONAME, f"not a host name: {name!r}"
        ) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
