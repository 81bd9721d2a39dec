"""The ports of one incarnation of a simulated host."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rpcsim.ports import NANOS, Address, Duration, Ports, to_ns
from rpcsim.sim._fences import NO_TLS

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from rpcsim.ports import Transport
    from rpcsim.sim._loop import SimLoop
    from rpcsim.sim._sockets import SimServer
    from rpcsim.sim._strand import Life
    from rpcsim.trace import Data

__all__ = ["HostClock", "HostNetwork", "HostSink", "NoPoints", "SimPorts"]

P = TypeVar("P", bound=asyncio.Protocol)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimPorts(Ports):
    """Ports that also tell the simulation whose they are.

    Attributes:
        life: The incarnation.
        loop: The loop it runs on.
    """

    life: Life
    loop: SimLoop


class SimTimer:
    """A timer made through the `Clock` port."""

    __slots__ = ("_handle", "when_ns")

    def __init__(self, handle: asyncio.TimerHandle, when_ns: int) -> None:
        self._handle = handle
        self.when_ns: Final = when_ns

    def cancel(self) -> None:
        """Forget it."""
        self._handle.cancel()


class HostClock:
    """Simulated time as one host sees it."""

    __slots__ = ("_loop", "wall_start_ns")

    def __init__(self, loop: SimLoop, wall_start_ns: int) -> None:
        self._loop = loop
        self.wall_start_ns: Final = wall_start_ns

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.time():.9g} s>"

    def now_ns(self) -> int:
        """Simulated nanoseconds since the start of the run."""
        return self._loop.now_ns

    def time(self) -> float:
        """Simulated seconds since the start of the run."""
        return self._loop.time()

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC by the wall clock."""
        return self.wall_start_ns + self._loop.now_ns

    def now(self, tz: tzinfo | None = UTC) -> datetime:
        """The wall clock, cut to microseconds."""
        moment = EPOCH + timedelta(microseconds=self.wall_ns() // 1_000)
        return moment.astimezone(tz or UTC)

    async def sleep(self, duration: Duration) -> None:
        """Wait in simulated time."""
        await asyncio.sleep(to_ns(duration) / NANOS)

    def call_at_ns(
        self, when_ns: int, fn: Callable[[Any], object], arg: Any = None
    ) -> SimTimer:
        """Call `fn(arg)` at an instant."""
        loop = self._loop
        when_ns = max(when_ns, loop.now_ns)
        return SimTimer(loop.call_at(when_ns / NANOS, fn, arg), when_ns)

    def call_later(
        self, delay: Duration, fn: Callable[[Any], object], arg: Any = None
    ) -> SimTimer:
        """Call `fn(arg)` after a delay."""
        return self.call_at_ns(self._loop.now_ns + to_ns(delay), fn, arg)


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

    def _check(self, call: str, tls: ssl.SSLContext | None) -> None:
        if self._life.dead:
            raise self._loop.sim.host_down(self._life.host)
        if tls is not None:
            raise self._loop.escape(f"Network.{call}(tls=...)", NO_TLS)

    async def connect(
        self,
        protocol_factory: Callable[[], P],
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        timeout: Duration | None = None,
    ) -> tuple[Transport, P]:
        """Open a connection."""
        self._check("connect", tls)
        host, port = address
        opening = self._loop.net.open(protocol_factory, host, port, coalesces=True)
        if timeout is None:
            end = await opening
        else:
            async with asyncio.timeout(to_ns(timeout) / NANOS):
                end = await opening
        return end.transport, end.protocol

    async def listen(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        backlog: int = 100,
    ) -> SimListener:
        """Accept connections at an address of this host."""
        self._check("listen", tls)
        host, port = address
        net = self._loop.net
        server = await net.create_server(protocol_factory, [host], port, coalesces=True)
        return SimListener(server)

    async def resolve(self, name: str) -> list[str]:
        """Give the addresses of a host of the simulation."""
        return self._loop.net.addresses_of(name, self._life.host)


class HostSink:
    """The trace as one host writes it."""

    __slots__ = ("_host", "_loop")

    def __init__(self, loop: SimLoop, host: str) -> None:
        self._loop = loop
        self._host = host

    def emit(self, kind: str, data: Data = (), cause: int | None = None) -> int:
        """Record something; what follows in this step has it as its cause."""
        loop = self._loop
        if cause is None:
            cause = loop.cause
        number = loop.trace.append(
            loop.now_ns, kind, self._host, loop.strand.label, cause, data
        )
        if number >= 0:
            loop.cause = number
        return number


class NoPoints:
    """Points that no plan has armed."""

    __slots__ = ()

    def point(self, name: str, **labels: str) -> None:
        """Pass by."""
