"""The simulated network: names, addresses, listeners, connections, partitions."""

from __future__ import annotations

import errno
import ipaddress
import socket
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Literal

from rpcsim.errors import RuleError, SimulationError
from rpcsim.ports import MessageRules, RpcMatch, endpoint
from rpcsim.sim._control import NetControl, NetFault
from rpcsim.sim._dns import Dns
from rpcsim.sim._handshake import Handshake
from rpcsim.sim._ledger import CountedEndpoint
from rpcsim.sim._links import PROFILES, Link, Partition, Shape
from rpcsim.sim._listening import Listening
from rpcsim.sim._play import Play
from rpcsim.sim._sockets import SimServer, StandInSocket
from rpcsim.sim._strand import Strand
from rpcsim.sim._tcp import Endpoint
from rpcsim.sim._tls import TlsFaults
from rpcsim.sim._udp import Udp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rpcsim.ports import Address, Duration, MessageInfo
    from rpcsim.sim._datagram import Datagrams
    from rpcsim.sim._distributions import Latency
    from rpcsim.sim._host import SimHost
    from rpcsim.sim._links import Slicer
    from rpcsim.sim._loop import SimLoop
    from rpcsim.sim._patterns import Action
    from rpcsim.sim._sim import Sim
    from rpcsim.sim._strand import Life

__all__ = ["Listening", "NetFault", "SimNet"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

FIRST_EPHEMERAL_PORT: Final = 49_152
ANY: Final = ("", "0.0.0.0", "::")


class SimNet(NetControl):
    """The network between the hosts of one simulation."""

    def __init__(self, sim: Sim, loop: SimLoop) -> None:
        self._sim = sim
        self.loop: Final = loop
        self._links: dict[tuple[str, str], Link] = {}
        self._shapes: list[Shape] = []
        self._partitions: dict[int, Partition] = {}
        self._by_address: dict[str, SimHost] = {}
        self._six: dict[str, SimHost] = {}
        self._aliases: dict[str, str] = {}
        self._numbered = 0
        self._listening: dict[tuple[str, int], Listening] = {}
        self._next_port: dict[str, int] = {}
        self._connections: dict[str, int] = {}
        # Paths of Unix sockets that were bound on each host; they stay, as files do.
        self.paths: Final[dict[str, dict[str, None]]] = {}
        self.udp: Final = Udp(self)
        self.dns: Final = Dns(self)
        self._strand = Strand("faults", loop.world_life, background=True)
        # Made by the first `rpc`: messages without rules cost one look.
        self.messages: MessageRules | None = None
        self._begin_control(sim)

    def __repr__(self) -> str:
        cuts = ", ".join(map(str, self._partitions.values())) or "whole"
        return f"<network of {len(self._sim.hosts)} hosts: {cuts}>"

    # -- names -------------------------------------------------------------------------

    def add_host(self, host: SimHost) -> None:
        """Make a host's addresses known."""
        for address in host.addresses:
            other = self._by_address.get(address)
            if other is not None:
                raise SimulationError(
                    f"host {host.name!r} cannot have the address {address}: "
                    f"{other.name!r} has it"
                )
            self._by_address[address] = host
        if host.name in self._aliases:
            raise SimulationError(
                f"a host cannot be called {host.name!r}: that is an alias of "
                f"{self._aliases[host.name]!r}"
            )
        self._numbered += 1
        six = f"fd00::{self._numbered:x}"
        if six not in self._by_address:
            # Reached by it, but known by its IPv4 addresses first: a name that stood
            # for both would make every failing connect take twice as long.
            self._by_address[six] = self._six[six] = host

    def alias(self, name: str, host: str) -> None:
        """Have another name resolve to a host, everywhere.

        Raises:
            SimulationError: The name is taken, or there is no such host.
        """
        self.check_names(host)
        taken = self._aliases.get(name, name if name in self._sim.by_name else host)
        if taken != host or name == host:
            raise SimulationError(f"the name {name!r} is taken: it means {taken!r}")
        self._aliases[name] = host

    def host_for(self, name: str | None, asking: str) -> SimHost:
        """Find the host a name or address means, as seen from another host.

        Raises:
            socket.gaierror: There is no such name.
        """
        sim = self._sim
        if name in sim.by_name and name != "localhost":
            return sim.by_name[name]
        if name in self._aliases:
            return sim.by_name[self._aliases[str(name)]]
        if name in self._by_address:
            return self._by_address[name]
        if name in (None, *ANY, "localhost") or _is_loopback(name):
            return sim.by_name[asking]
        near = get_close_matches(str(name), sim.by_name, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise socket.gaierror(
            socket.EAI_NONAME,
            f"Name or service not known: no host of this simulation is called {name!r}"
            f"{hint} (known: {', '.join(sim.by_name)})",
        )

    def addresses_of(self, name: str | None, asking: str) -> list[str]:
        """Give the numeric addresses a name stands for."""
        if name in (None, "localhost"):
            return ["127.0.0.1"]
        if name in ANY or _is_loopback(name) or name in self._by_address:
            return [str(name)]
        return list(self.host_for(name, asking).addresses)

    def own_host(self, life: Life) -> SimHost:
        """Give the host a life is an incarnation of."""
        return self._sim.by_name[life.host]

    def all_hosts(self) -> list[SimHost]:
        """Give the hosts, in order of declaration, host `test` first."""
        return list(self._sim.by_name.values())

    def known_host(self, name: str | None, asking: str) -> SimHost | None:
        """Find the host a name or address means; `None` if there is no such host."""
        try:
            return self.host_for(name, asking)
        except socket.gaierror:
            return None

    def check_names(self, side: str | Sequence[str]) -> tuple[str, ...]:
        """Read one side of a link or partition: host names, or `*`."""
        names = (side,) if isinstance(side, str) else tuple(side)
        if not names:
            raise ValueError("a side of a link needs at least one host")
        known = self._sim.by_name
        for name in names:
            if name != "*" and name not in known:
                near = get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise SimulationError(
                    f"no host is called {name!r}{hint} (declared: {', '.join(known)})"
                )
        return names

    # -- links and partitions ------------------------------------------------------------

    def link_between(self, src: str, dst: str) -> Link:
        """Give the link of one direction, made on first use."""
        link = self._links.get((src, dst))
        if link is None:
            link = self._links[src, dst] = Link(src, dst, self._sim.entropy.stream)
            link.shape(self._shapes)
            link.cut = self._is_cut(src, dst)
            link.watched = self.traffic.watches
        return link

    def _is_cut(self, src: str, dst: str) -> bool:
        return any(cut.cuts(src, dst) for cut in self._partitions.values())

    def link(
        self,
        a: str | Sequence[str],
        b: str | Sequence[str],
        *,
        both: bool = True,
        latency: Latency | Duration | None = None,
        bandwidth: float | None = None,
        queue: float | None = None,
        loss: float | None = None,
        mtu: int | None = None,
        slicer: Slicer | None = None,
        send_buffer: int | None = None,
        receive_buffer: int | None = None,
        unreachable: Literal["silent", "icmp"] | None = None,
        backlog_full: Literal["drop", "refuse"] | None = None,
        syn_timeout: Duration | None = None,
        retransmit_timeout: Duration | None = None,
        datagrams: Datagrams | None = None,
    ) -> None:
        """Shape the links from `a` to `b`, and back if `both`; `None` changes nothing.

        The most specific setting wins, and the later one among equals.

        Args:
            a: A host, several, or `"*"` for all.
            b: The same.
            both: Whether the way back is shaped too.
            latency: A duration or a distribution (`Uniform("1ms", "5ms")`).
            bandwidth: Bits per second of payload; `math.inf` lifts a limit.
            queue: Bytes that may wait to leave; beyond them datagrams are dropped and
                streams wait.
            loss: Probability, 0 to 1, that a packet is lost; streams send it again.
            mtu: Most bytes of a packet, headers included.
            slicer: How a stream is cut: `"write"` (one delivery per write), `"mss"`
                (full segments), `"random"` or `"byte"`.
            send_buffer: Bytes the sender's system takes before writing pauses.
            receive_buffer: Bytes the receiver's system takes for a reader that paused.
            unreachable: Whether a connect to a host that is down or cut off gets no
                answer (`"silent"`), or `EHOSTUNREACH` after one round trip (`"icmp"`).
            backlog_full: Whether a connect beyond the listener's backlog is dropped,
                and so tried again, or refused.
            syn_timeout: How long a connect without answer is tried; 127 s.
            retransmit_timeout: How long lost data is sent again; 924 s.
            datagrams: What happens to datagrams beside that: `Datagrams(...)`.
        """
        settings = Shape.read(
            {
                "latency": latency,
                "bandwidth": bandwidth,
                "queue": queue,
                "loss": loss,
                "mtu": mtu,
                "slicer": slicer,
                "send_buffer": send_buffer,
                "receive_buffer": receive_buffer,
                "unreachable": unreachable,
                "backlog_full": backlog_full,
                "syn_timeout": syn_timeout,
                "retransmit_timeout": retransmit_timeout,
                "datagrams": datagrams,
            }
        )
        left, right = self.check_names(a), self.check_names(b)
        self._shapes.append(Shape(left, right, settings))
        if both:
            self._shapes.append(Shape(right, left, settings))
        for link in self._links.values():
            link.shape(self._shapes)

    def profile(
        self,
        name: Literal["lan", "wan", "mobile", "hostile"],
        a: str | Sequence[str] = "*",
        b: str | Sequence[str] = "*",
    ) -> None:
        """Shape links as a kind of network, in both directions.

        Args:
            name: `"lan"`, `"wan"`, `"mobile"`, or `"hostile"` (5 % loss, drawn cuts, a
                heavy tail of delays).
            a: A host, several, or `"*"` for all.
            b: The same.
        """
        if name not in PROFILES:
            near = get_close_matches(str(name), PROFILES, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"there is no profile {name!r}{hint} (known: {', '.join(PROFILES)})"
            )
        self.link(a, b, **PROFILES[name])

    def partition(
        self,
        a: str | Sequence[str],
        b: str | Sequence[str],
        *,
        direction: Literal["both", "a->b", "b->a"] = "both",
    ) -> NetFault:
        """Drop all packets between two sides until the returned fault is undone."""
        if direction not in ("both", "a->b", "b->a"):
            raise ValueError(
                f"direction is 'both', 'a->b' or 'b->a', not {direction!r}"
            )
        left, right = self.check_names(a), self.check_names(b)
        if direction == "b->a":
            left, right = right, left
        cut = Partition(left, right, both=direction == "both")
        number = self.loop.next_seq()
        self._partitions[number] = cut
        self._recut("begin", str(cut))

        def undo() -> None:
            if self._partitions.pop(number, None) is not None:
                self._recut("end", str(cut))

        return NetFault(f"partition {cut}", undo)

    def repair(self, a: str | Sequence[str], b: str | Sequence[str]) -> None:
        """Let packets between two sides pass again, in both directions."""
        left, right = self.check_names(a), self.check_names(b)
        for cut in self._partitions.values():
            cut.repair(left, right)
        self._recut("repair", f"{'+'.join(left)} <-> {'+'.join(right)}")

    def repair_all(self) -> None:
        """Undo every partition."""
        if self._partitions:
            self._partitions.clear()
            self._recut("repair", "*")

    def cut(self, partition: Partition) -> int:
        """Put a partition in force without a record; gives its number."""
        number = self.loop.next_seq()
        self._partitions[number] = partition
        self._cut_links()
        return number

    def lift(self, number: int) -> None:
        """End a partition made by `cut`; one that is gone is no error."""
        if self._partitions.pop(number, None) is not None:
            self._cut_links()

    def play(self, pattern: Sequence[tuple[int, Action]]) -> Play:
        """Carry a pattern out, from now on.

        Args:
            pattern: (nanoseconds from now, action) pairs, as `rpcsim.sim.patterns`
                makes them.

        Raises:
            PlanError: An action makes no sense.
        """
        return Play(self, self._sim, pattern)

    def _cut_links(self) -> None:
        for link in self._links.values():
            link.cut = self._is_cut(link.src, link.dst)

    def _recut(self, what: str, told: str) -> None:
        self._cut_links()
        data = (("kind", "partition"), ("do", what), ("between", told))
        self._sim.record("fault", data)

    def rpc(self, **match: Any) -> RpcMatch:
        """Choose messages by what they mean, for a rule: `net.rpc(...).drop()`.

        Args:
            **match: `kind`, `method`, `call_no`, `attempt`, `src`, `dst`, `system`,
                `call_id` and `labels`, as `rpcsim.ports.RpcMatch` takes them.
        """
        if self.messages is None:
            self.messages = MessageRules(
                now_ns=lambda: self.loop.now_ns,
                clock_ns=lambda: self.loop.now_ns,
                streams=self._sim.entropy.stream,
            )
        return RpcMatch(self.messages, lambda verdict, add: add(), **match)

    def send_message(self, end: Endpoint, frame: bytes, info: MessageInfo) -> bool:
        """Let the RPC rules decide about a message; says whether it goes out."""
        assert self.messages is not None
        loop, write = self.loop, end.transport.write
        try:
            return self.messages.send(
                info,
                end.protocol,
                write=lambda: write(frame),
                later=lambda ns, fn: loop.at(loop.now_ns + ns, end.strand, fn, ()),
                tell=self._sim.record,
            )
        except RuleError as error:
            self._sim.keep(error)
            raise

    @property
    def tls(self) -> TlsFaults:
        """The faults of TLS handshakes and streams: `net.tls.fail("stall", "server")`."""
        if self.loop.tls_faults is None:
            self.loop.tls_faults = TlsFaults(self.loop)
        return self.loop.tls_faults

    # -- listening -----------------------------------------------------------------------

    def listen(
        self,
        life: Life,
        factory: Callable[[], Any],
        hosts: Sequence[str | None],
        port: int,
        on_accept: Callable[[Endpoint], None],
        backlog: int = 100,
    ) -> Listening:
        """Bind addresses of a host; `EADDRINUSE`, `EADDRNOTAVAIL` as the system does."""
        if self._failing:
            self.fail_if_told("listen", life.host, port)
        own = self._sim.by_name[life.host]
        bound: list[Address] = []
        for name in hosts:
            if name in (None, *ANY):
                bound += [(address, port) for address in own.addresses]
                continue
            if self.host_for(name, life.host) is not own:
                raise OSError(
                    errno.EADDRNOTAVAIL,
                    f"host {life.host!r} cannot listen at {name!r}: the address is "
                    "another host's",
                )
            bound += [(address, port) for address in self._own(name, own)]
        if not port:
            port = self.free_port(life.host)
            bound = [(address, port) for address, _ in bound]
        bound = list(dict.fromkeys(bound))
        return self.listen_at(life, factory, bound, on_accept, backlog)

    def listen_at(
        self,
        life: Life,
        factory: Callable[[], Any],
        bound: list[Address],
        on_accept: Callable[[Endpoint], None],
        backlog: int,
    ) -> Listening:
        """Bind places that were checked."""
        for place in bound:
            if place in self._listening:
                raise OSError(
                    errno.EADDRINUSE,
                    f"address {endpoint(place)} of host {life.host!r} is in use",
                )
        listening = Listening(
            life, self.loop.next_seq(), bound, factory, on_accept, max(backlog, 1)
        )
        for place in bound:
            self._listening[place] = listening
        life.listeners[listening.number] = listening
        return listening

    def _own(self, name: str | None, own: SimHost) -> list[str]:
        if name in own.addresses:
            return [str(name)]
        return list(own.addresses)

    def unlisten(self, listening: Listening) -> None:
        """Accept no more."""
        for place in listening.addresses:
            if self._listening.get(place) is listening:
                del self._listening[place]
        listening.life.listeners.pop(listening.number, None)

    def free_port(self, host: str) -> int:
        """Take the next ephemeral port of a host: counted, not drawn."""
        port = self._next_port.get(host, FIRST_EPHEMERAL_PORT)
        self._next_port[host] = port + 1
        return port

    def listeners(self) -> list[Listening]:
        """Give what is listening, in order of binding."""
        return list(dict.fromkeys(self._listening.values()))

    # -- connecting ----------------------------------------------------------------------

    async def open(
        self,
        factory: Callable[[], Any],
        host: str | None,
        port: int,
        local_port: int | None = None,
        *,
        coalesces: bool = False,
    ) -> Endpoint:
        """Open a connection from the running host; the protocol has its transport.

        Args:
            factory: Makes the protocol.
            host: Name or address of the target.
            port: Its port.
            local_port: Own port; `None` takes the next.
            coalesces: Whether what one turn writes leaves as one piece.
        """
        near = await self.dial(host, port, local_port)
        near.coalesces = coalesces
        near.begin(factory())
        return near

    async def dial(
        self, host: str | None, port: int, local_port: int | None = None
    ) -> Endpoint:
        """Open a connection that has no protocol yet: what arrives waits for one."""
        loop = self.loop
        life = loop.life_of()
        target = self.host_for(host, life.host)
        address = str(host) if host in self._by_address else target.addresses[0]
        if self._failing:
            self.fail_if_told("connect", target.name, port)
        out = self.link_between(life.host, target.name)
        back = self.link_between(target.name, life.host)
        label = self.label_for(life.host, f"{target.name}:{port}")
        own = self._sim.by_name[life.host]
        mine = own.addresses[0]
        if host in self._six:
            mine = next((six for six, one in self._six.items() if one is own), mine)
        local = (mine, local_port or self.free_port(life.host))
        made = CountedEndpoint if loop.get_debug() else Endpoint
        near = made(self, life, label, local, (address, port))
        try:
            await Handshake(self, near, target, out, back).run()
        except BaseException:
            near.lost = near.closing = True
            life.endpoints.pop(near.number, None)
            raise
        return near

    def label_for(self, src: str, target: str) -> str:
        """Give the label of the next connection from a host to a place."""
        pair = f"{src}>{target}"
        number = self._connections[pair] = self._connections.get(pair, 0) + 1
        return f"{pair}#{number}"

    def listening_at(self, place: Address) -> Listening | None:
        """Give what accepts connections at an address."""
        found = self._listening.get(place)
        if found is None and place[0] in self._six:
            found = self._listening.get((self._six[place[0]].addresses[0], place[1]))
        return found

    def answers_for(self, dead: Endpoint) -> bool:
        """Whether the machine of a dead endpoint is there to answer with a reset."""
        return self._sim.by_name[dead.life.host].up

    def crash(self, life: Life, *, power: bool) -> None:
        """Cut a dead host off: silent without power, else its system closes."""
        for listening in list(life.listeners.values()):
            self.unlisten(listening)
        ends: list[Endpoint] = list(life.endpoints.values())
        life.parked.append(ends)
        life.endpoints.clear()
        for end in ends:
            # What still runs of the crashing step can send nothing more, and the
            # destructors of the dead program's streams find nothing to close.
            end.lost = end.closing = True
            if not power and hasattr(end, "out"):
                end.out.outlive(self._strand)

    def socket_of(self, end: Endpoint) -> StandInSocket:
        """Give the stand-in for the socket of an endpoint."""
        return StandInSocket(end.local, end.remote, end)

    async def create_server(
        self,
        factory: Callable[[], Any],
        hosts: Sequence[str | None],
        port: int,
        *,
        start_serving: bool = True,
        coalesces: bool = False,
        backlog: int = 100,
    ) -> SimServer:
        """Give asyncio's server object over a listening port."""
        server = SimServer(
            self, factory, hosts, port, coalesces=coalesces, backlog=backlog
        )
        if start_serving:
            await server.start_serving()
        return server


def _is_loopback(name: str | None) -> bool:
    try:
        return ipaddress.ip_address(str(name)).is_loopback
    except ValueError:
        return False
