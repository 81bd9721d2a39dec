"""UDP on the simulated network: sockets, and datagrams on their way.

The laws: a datagram arrives whole, as often as the link says, in the order of arrival
times; nothing tells the sender, save that a connected socket hears when its peer's port
is closed. Numbers are Linux's: 65 507 bytes at most, a receive buffer of 208 KiB.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from rpcsim.ports import Copies, Corrupt, Deliver, Drop, Hold, Reset, Truncate, to_ns
from rpcsim.sim._datagram import Datagrams, flipped, hits
from rpcsim.sim._inflight import Told
from rpcsim.sim._sockets import StandInSocket
from rpcsim.sim._strand import Strand

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.ports import Address
    from rpcsim.sim._host import SimHost
    from rpcsim.sim._links import Link
    from rpcsim.sim._net import SimNet
    from rpcsim.sim._strand import Life

__all__ = ["Udp", "UdpSocket"]

LARGEST: Final = 65_507  # 65 535 less the headers of IPv4 and UDP
RECEIVE_BUFFER: Final = 208 * 1024  # Linux `net.core.rmem_default`
UDP_HEADER: Final = 8
IP_HEADER: Final = 20
BROADCAST: Final = ("255.255.255.255", "10.255.255.255")
PLAIN: Final = Datagrams()


class _Datagram:
    """One copy of a datagram on its way to one host."""

    __slots__ = ("data", "host", "link", "place", "sent_ns", "source", "udp")

    def __init__(
        self,
        udp: Udp,
        source: UdpSocket,
        host: SimHost,
        place: Address,
        data: bytes,
        link: Link,
    ) -> None:
        self.udp = udp
        self.source = source
        self.host = host
        self.place = place
        self.data = data
        self.link = link
        self.sent_ns = udp.net.loop.now_ns

    def land(self) -> None:
        """Arrive at the host's system, which finds the socket."""
        self.udp.landed(self)

    def tell_packet(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Told:
        """Tell what it is, to whom lists packets in flight."""
        size, label = len(self.data), self.source.label
        return Told("datagram", self.link, label, size, self.sent_ns)


class UdpSocket:
    """A bound datagram socket: its transport's state, and what arrives."""

    __slots__ = (
        "addresses",
        "broadcast",
        "closing",
        "context",
        "label",
        "life",
        "local",
        "lost",
        "number",
        "protocol",
        "reading_paused",
        "remote",
        "reuse",
        "strand",
        "transport",
        "udp",
        "waiting",
        "wire",
    )

    def __init__(
        self,
        udp: Udp,
        life: Life,
        addresses: tuple[str, ...],
        local: Address,
        remote: Address | None,
        *,
        broadcast: bool,
        reuse: bool,
    ) -> None:
        loop = udp.net.loop
        self.udp = udp
        self.life = life
        self.addresses = addresses  # those it receives at
        self.local = local
        self.remote = remote
        self.broadcast = broadcast
        self.reuse = reuse
        self.label = f"udp {life.host}:{local[1]}"
        self.number = loop.next_seq()
        self.strand = (
            life.strand
            if loop.per_host
            else Strand(f"{life.host}/{self.label}", life, background=life.background)
        )
        # Datagrams on their way are nobody's any more: a crash of the sender takes none.
        self.wire = Strand(f"wire/{self.label}", loop.world_life)
        self.context = copy_context()
        self.protocol: Any = None
        self.transport = SimDatagramTransport(self)
        self.waiting = 0  # bytes in the receive buffer
        self.reading_paused = True  # datagram transports have no flow control
        self.closing = False
        self.lost = False
        life.endpoints[self.number] = self

    def __repr__(self) -> str:
        state = "lost" if self.lost else "closing" if self.closing else "open"
        return f"<{self.label}: {state}>"

    def call(self, callback: Callable[..., Any], *args: Any) -> None:
        """Call the protocol in the socket's context; its failure is told, as asyncio."""
        try:
            self.context.run(callback, *args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as asyncio's transports do
            self.udp.net.loop.call_exception_handler(
                {
                    "message": f"{callback.__qualname__}() failed on {self.label}",
                    "exception": error,
                    "transport": self.transport,
                    "protocol": self.protocol,
                }
            )
            self.fail(error if isinstance(error, Exception) else None)

    def deliver(self, data: bytes, source: Address) -> None:
        """Hand one datagram to the protocol."""
        self.waiting -= len(data)
        if not self.closing:
            self.call(self.protocol.datagram_received, data, source)

    def refuse(self) -> None:
        """Tell that the peer's port is closed."""
        if not self.closing:
            error = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            self.call(self.protocol.error_received, error)

    def close(self) -> None:
        """Take no more; the protocol is told in a later turn."""
        self.fail(None)

    def fail(self, error: Exception | None) -> None:
        """Close, for a reason."""
        if not self.closing:
            self.closing = True
            self.udp.unbind(self)
            self.udp.net.loop.push(self.strand, self._lose, (error,))

    def _lose(self, error: Exception | None) -> None:
        if self.lost:
            return
        self.lost = True
        self.life.endpoints.pop(self.number, None)
        if self.protocol is not None:
            self.call(self.protocol.connection_lost, error)

    def trace(self, kind: str, *data: tuple[str, Any]) -> None:
        """Record something about this socket."""
        loop = self.udp.net.loop
        pairs = (("socket", self.label), *data)
        loop.cause = loop.trace.append(
            loop.now_ns, kind, self.life.host, loop.strand.label, loop.cause, pairs
        )


class SimDatagramTransport(asyncio.DatagramTransport):
    """asyncio's datagram transport over a socket."""

    __slots__ = ("_socket",)

    def __init__(self, of: UdpSocket) -> None:
        self._socket = of

    def __repr__(self) -> str:
        return f"<SimDatagramTransport {self._socket.label}>"

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send one datagram; what the system refuses goes to `error_received`."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
        own = self._socket
        if own.remote is not None:
            if addr is not None and tuple(addr[:2]) != own.remote:
                raise ValueError(f"Invalid address: must be None or {own.remote}")
            addr = own.remote
        elif addr is None:
            raise ValueError("a socket without a remote address needs one to send to")
        if own.closing or own.life.dead:
            return
        try:
            own.udp.send(own, bytes(data), (str(addr[0]), int(addr[1])))
        except OSError as error:
            own.call(own.protocol.error_received, error)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def abort(self) -> None:
        """Close it; nothing is buffered that could be lost."""
        self._socket.close()

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self._socket.closing

    def get_write_buffer_size(self) -> int:
        """Give 0: the system takes every datagram at once."""
        return 0

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        """Accept and ignore them: nothing is buffered."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Give `peername`, `sockname` or `socket`."""
        own = self._socket
        if name == "sockname":
            return own.local
        if name == "peername":
            return default if own.remote is None else own.remote
        if name == "socket":
            return StandInSocket(own.local, own.remote, kind=socket.SOCK_DGRAM)
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand what arrives to another protocol from now on."""
        self._socket.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Give the protocol."""
        protocol: asyncio.BaseProtocol = self._socket.protocol
        return protocol


class Udp:
    """The datagram sockets of one network, and the way between them."""

    __slots__ = ("_bad", "_bound", "net")

    def __init__(self, net: SimNet) -> None:
        self.net = net
        self._bound: dict[tuple[str, int], list[UdpSocket]] = {}  # by host and port
        self._bad: dict[tuple[str, str], bool] = {}  # links in the bad state of a burst

    def __repr__(self) -> str:
        return f"<UDP: {sum(map(len, self._bound.values()))} sockets>"

    # -- sockets -----------------------------------------------------------------------

    def bind(
        self,
        local: Any,
        remote: Address | None,
        *,
        broadcast: bool,
        reuse: bool,
    ) -> UdpSocket:
        """Bind a socket of the running host; `EADDRINUSE` as the system does."""
        net = self.net
        life = net.loop.life_of()
        own = net.own_host(life)
        name, port = (None, 0) if local is None else (local[0], int(local[1]))
        addresses = (*own.addresses, "127.0.0.1")
        shown = "0.0.0.0"
        if name not in (None, "", "0.0.0.0", "::"):
            if net.host_for(name, life.host) is not own:
                raise OSError(
                    errno.EADDRNOTAVAIL,
                    f"host {life.host!r} cannot bind {name!r}: the address is another "
                    "host's",
                )
            addresses = tuple(net.addresses_of(name, life.host))
            shown = addresses[0]
        elif remote is not None:
            shown = _source_for(remote[0], own)
        if not port:
            port = net.free_port(life.host)
        others = [s for s in self._bound.get((life.host, port), ()) if not s.life.dead]
        for other in others:
            clash = set(other.addresses) & set(addresses)
            if clash and not (reuse and other.reuse):
                raise OSError(
                    errno.EADDRINUSE,
                    f"address {shown}:{port} of host {life.host!r} is in use by "
                    f"{other.label}; give reuse_port=True to both to share it",
                )
        bound = UdpSocket(
            self,
            life,
            addresses,
            (shown, port),
            remote,
            broadcast=broadcast,
            reuse=reuse,
        )
        self._bound[life.host, port] = [*others, bound]
        return bound

    def unbind(self, bound: UdpSocket) -> None:
        """Free a socket's port."""
        place = (bound.life.host, bound.local[1])
        left = [s for s in self._bound.get(place, ()) if s is not bound]
        if left:
            self._bound[place] = left
        else:
            self._bound.pop(place, None)

    # -- sending -----------------------------------------------------------------------

    def send(self, source: UdpSocket, data: bytes, place: Address) -> None:
        """Send one datagram.

        Raises:
            PermissionError: A broadcast from a socket without the flag.
            OSError: `EMSGSIZE`, it is too long.
        """
        net = self.net
        if len(data) > LARGEST:
            raise OSError(errno.EMSGSIZE, f"Message too long: {len(data)} bytes")
        everyone = place[0] in BROADCAST
        if everyone and not source.broadcast:
            raise PermissionError(
                errno.EACCES,
                f"Permission denied: {source.label} is not allowed to broadcast; give "
                "allow_broadcast=True",
            )
        source.trace(
            "datagram.send",
            ("to", f"{place[0]}:{place[1]}"),
            ("bytes", len(data)),
            ("crc", crc32(data)),
        )
        if everyone:
            for host in net.all_hosts():
                if (host.name, place[1]) in self._bound:
                    self._put(source, host, place, data)
            return
        target = net.known_host(place[0], source.life.host)
        if target is None:
            self._lost(source, "no route")
            return
        self._put(source, target, place, data)

    def _put(
        self, source: UdpSocket, host: SimHost, place: Address, data: bytes
    ) -> None:
        net = self.net
        loop = net.loop
        link = net.link_between(source.life.host, host.name)
        how: Datagrams = link.datagrams or PLAIN
        fragments = _fragments(len(data), link.mtu)
        if fragments > 1 and how.dont_fragment:
            raise OSError(
                errno.EMSGSIZE,
                f"Message too long: {len(data)} bytes need {fragments} packets of "
                f"{link.mtu} bytes",
            )
        link.count(len(data))
        if link.cut:
            self._drop(source, link, "partition")
            return
        delays: tuple[int, ...] = (0,)
        held = 0
        bits = 0
        if link.watched:
            match net.traffic.judge(link, "datagram", source.label, len(data)):
                case Drop() | Reset():
                    self._drop(source, link, "rule")
                    return
                case Deliver(after_ns=after):
                    delays = (after,)
                case Copies(after_ns=afters):
                    delays = tuple(afters)
                    link.duplicated += len(afters) - 1
                case Corrupt(bits=many):
                    bits = many
                case Truncate(size=size):
                    data = data[:size]
                case Hold():
                    held = net.traffic.holder
        if link.queue and link.takes(len(data), loop.now_ns) < len(data):
            self._drop(source, link, "queue full")
            return
        left = link.leaves(len(data), loop.now_ns)
        if how is not PLAIN or bits:
            stream = link.losses(f"net/{link.src}>{link.dst}/datagrams")
            if any(self._loses(link, how, stream) for _ in range(fragments)):
                self._drop(source, link, "loss")
                return
            if hits(stream, how.duplicate):
                delays = (*delays, delays[0])
                link.duplicated += 1
            if hits(stream, how.corrupt):
                bits += 1
            if bits:
                link.corrupted += 1
                if how.checksum:
                    self._drop(source, link, "checksum")
                    return
                data = flipped(data, bits, stream)
            late = to_ns(how.reorder_by)
            delays = tuple(d + late * hits(stream, how.reorder) for d in delays)
        if any(link.loses() for _ in range(fragments if link.loss else 0)):
            self._drop(source, link, "loss")
            return
        for delay in delays:
            packet = _Datagram(self, source, host, place, data, link)
            due = left + link.delay() + delay
            if held:
                net.traffic.park(
                    packet.tell_packet(packet.land, ()),
                    due,
                    held,
                    (source.wire, packet.land, ()),
                )
            else:
                loop.at(due, source.wire, packet.land, ())

    def _loses(self, link: Link, how: Datagrams, stream: Any) -> bool:
        burst = how.burst
        if burst is None:
            return hits(stream, how.loss)
        pair = (link.src, link.dst)
        bad = self._bad.get(pair, False)
        if hits(stream, burst.recovers if bad else burst.worsens):
            bad = self._bad[pair] = not bad
        return hits(stream, burst.bad if bad else burst.good)

    def _drop(self, source: UdpSocket, link: Link, why: str) -> None:
        link.dropped += 1
        self._lost(source, why)

    def _lost(self, source: UdpSocket, why: str) -> None:
        source.trace("datagram.lost", ("why", why))

    # -- arriving ----------------------------------------------------------------------

    def landed(self, packet: _Datagram) -> None:
        """Find who gets a datagram that reached its host."""
        source, host, place = packet.source, packet.host, packet.place
        link = packet.link
        if link.cut or not host.up:
            self._drop(source, link, "partition" if link.cut else "host down")
            return
        everyone = place[0] in BROADCAST
        shown = _shown_source(source, place[0], host)
        found = [
            bound
            for bound in self._bound.get((host.name, place[1]), ())
            if not bound.lost
            and not bound.life.dead
            and (everyone or place[0] in bound.addresses or _is_name(place[0]))
            and (bound.remote is None or bound.remote == shown)
        ]
        if not found:
            self._lost(source, "no socket")
            self._unreachable(source, host)
            return
        if not everyone and len(found) > 1:
            # A shared port: the system picks by the sender, always the same one.
            found = [found[crc32(f"{shown}".encode()) % len(found)]]
        for bound in found:
            size = len(packet.data)
            if bound.waiting + size > RECEIVE_BUFFER:
                self._drop(source, link, "receive buffer full")
                continue
            bound.waiting += size
            self.net.loop.push(bound.strand, bound.deliver, (packet.data, shown))

    def _unreachable(self, source: UdpSocket, host: SimHost) -> None:
        if source.remote is None or source.closing or source.life.dead:
            return
        net = self.net
        back = net.link_between(host.name, source.life.host)
        if not back.cut:
            due = net.loop.now_ns + back.delay()
            net.loop.at(due, source.strand, source.refuse, ())


def _fragments(size: int, mtu: int) -> int:
    if size + UDP_HEADER + IP_HEADER <= mtu:
        return 1
    # All but the last carry a multiple of 8 bytes (RFC 791, 3.2).
    room = max((mtu - IP_HEADER) // 8 * 8, 8)
    return -(-(size + UDP_HEADER) // room)


def _is_name(address: str) -> bool:
    return not address.replace(".", "").isdigit() and ":" not in address


def _source_for(target: str, own: SimHost) -> str:
    return "127.0.0.1" if target.startswith("127.") else own.addresses[0]


def _shown_source(source: UdpSocket, target: str, host: SimHost) -> Address:
    """Give the address a datagram says it is from."""
    address, port = source.local
    if address == "0.0.0.0":
        loopback = host.name == source.life.host and target.startswith("127.")
        own = source.udp.net.own_host(source.life)
        address = "127.0.0.1" if loopback else own.addresses[0]
    return address, port


async def create_endpoint(
    net: SimNet,
    factory: Callable[[], Any],
    local: Any,
    remote: Any,
    *,
    broadcast: bool,
    reuse: bool,
) -> tuple[Any, Any]:
    """Bind, and hand the transport to a protocol in a turn of its own."""
    loop = net.loop
    place: Address | None = None
    if remote is not None:
        asking = loop.life_of().host
        addresses = net.addresses_of(remote[0], asking)
        place = (addresses[0], int(remote[1]))
    bound = net.udp.bind(local, place, broadcast=broadcast, reuse=reuse)
    bound.protocol = factory()
    made = loop.create_future()

    def begin() -> None:
        bound.call(bound.protocol.connection_made, bound.transport)
        if not made.done():
            made.set_result(None)

    loop.push(bound.strand, begin, ())
    await made
    return bound.transport, bound.protocol
