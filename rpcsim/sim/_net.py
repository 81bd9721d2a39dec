"""The simulated network: names, addresses, listeners, connections, partitions."""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextvars import copy_context
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from rpcsim.errors import SimulationError
from rpcsim.ports import endpoint
from rpcsim.sim._handshake import Handshake
from rpcsim.sim._links import Link, Partition, Shape, as_latency
from rpcsim.sim._sockets import SimServer, StandInSocket
from rpcsim.sim._strand import Strand
from rpcsim.sim._tcp import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import Context

    from rpcsim.ports import Address, Duration
    from rpcsim.sim._host import SimHost
    from rpcsim.sim._links import Latency
    from rpcsim.sim._loop import SimLoop
    from rpcsim.sim._sim import Sim
    from rpcsim.sim._strand import Life

__all__ = ["Listening", "NetFault", "SimNet"]

FIRST_EPHEMERAL_PORT: Final = 49_152
ANY: Final = ("", "0.0.0.0", "::")


class Listening:
    """A port of one host on which connections are accepted."""

    __slots__ = ("addresses", "context", "factory", "life", "number", "on_accept")

    def __init__(
        self,
        life: Life,
        number: int,
        addresses: list[Address],
        factory: Callable[[], Any],
        on_accept: Callable[[Endpoint], None],
    ) -> None:
        self.life = life
        self.number = number
        self.addresses = addresses
        self.factory = factory
        self.on_accept = on_accept
        self.context: Context = copy_context()

    def __repr__(self) -> str:
        places = ", ".join(map(endpoint, self.addresses))
        return f"<listening on {places} of {self.life.host}>"


class NetFault:
    """A fault of the network in force; leaving its block, or `undo`, lifts it."""

    __slots__ = ("_text", "_undo", "active")

    def __init__(self, text: str, undo: Callable[[], None]) -> None:
        self._text = text
        self._undo = undo
        self.active = True

    def __repr__(self) -> str:
        return f"<{self._text}{'' if self.active else ', undone'}>"

    def undo(self) -> None:
        """Lift it; doing so twice does nothing."""
        if self.active:
            self.active = False
            self._undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()


class SimNet:
    """The network between the hosts of one simulation."""

    def __init__(self, sim: Sim, loop: SimLoop) -> None:
        self._sim = sim
        self.loop: Final = loop
        self._links: dict[tuple[str, str], Link] = {}
        self._shapes: list[Shape] = []
        self._partitions: dict[int, Partition] = {}
        self._by_address: dict[str, SimHost] = {}
        self._listening: dict[tuple[str, int], Listening] = {}
        self._next_port: dict[str, int] = {}
        self._connections: dict[str, int] = {}
        self._strand = Strand("faults", loop.world_life, background=True)

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

    def host_for(self, name: str | None, asking: str) -> SimHost:
        """Find the host a name or address means, as seen from another host.

        Raises:
            socket.gaierror: There is no such name.
        """
        sim = self._sim
        if name in sim.by_name:
            return sim.by_name[name]
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
            stream = self._sim.entropy.stream(f"net/{src}>{dst}")
            link = self._links[src, dst] = Link(src, dst, stream)
            link.shape(self._shapes)
            link.cut = self._is_cut(src, dst)
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
    ) -> None:
        """Shape the links from `a` to `b`, and back if `both`.

        Args:
            a: A host, several, or `"*"` for all.
            b: The same.
            both: Whether the way back is shaped too.
            latency: A duration or a distribution (`Uniform("1ms", "5ms")`).
        """
        left, right = self.check_names(a), self.check_names(b)
        shaped = None if latency is None else as_latency(latency)
        self._shapes.append(Shape(left, right, shaped))
        if both:
            self._shapes.append(Shape(right, left, shaped))
        for link in self._links.values():
            link.shape(self._shapes)

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

    def _recut(self, what: str, told: str) -> None:
        for link in self._links.values():
            link.cut = self._is_cut(link.src, link.dst)
        data = (("kind", "partition"), ("do", what), ("between", told))
        self._sim.record("fault", data)

    # -- listening -----------------------------------------------------------------------

    def listen(
        self,
        life: Life,
        factory: Callable[[], Any],
        hosts: Sequence[str | None],
        port: int,
        on_accept: Callable[[Endpoint], None],
    ) -> Listening:
        """Bind addresses of a host; `EADDRINUSE`, `EADDRNOTAVAIL` as the system does."""
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
        for place in bound:
            if place in self._listening:
                raise OSError(
                    errno.EADDRINUSE,
                    f"address {endpoint(place)} of host {life.host!r} is in use",
                )
        listening = Listening(life, self.loop.next_seq(), bound, factory, on_accept)
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
        loop = self.loop
        life = loop.life_of()
        target = self.host_for(host, life.host)
        address = str(host) if host in self._by_address else target.addresses[0]
        out = self.link_between(life.host, target.name)
        back = self.link_between(target.name, life.host)
        pair = f"{life.host}>{target.name}:{port}"
        number = self._connections[pair] = self._connections.get(pair, 0) + 1
        label = f"{pair}#{number}"
        own = self._sim.by_name[life.host]
        local = (own.addresses[0], local_port or self.free_port(life.host))
        near = Endpoint(self, life, label, local, (address, port))
        try:
            await Handshake(self, near, target, out, back).run()
        except BaseException:
            near.lost = near.closing = True
            life.endpoints.pop(near.number, None)
            raise
        near.coalesces = coalesces
        near.begin(factory())
        return near

    def listening_at(self, place: Address) -> Listening | None:
        """Give what accepts connections at an address."""
        return self._listening.get(place)

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

    def socket_of(self, local: Address, remote: Address | None) -> StandInSocket:
        """Give the stand-in for the socket of an endpoint or listener."""
        return StandInSocket(local, remote)

    async def create_server(
        self,
        factory: Callable[[], Any],
        hosts: Sequence[str | None],
        port: int,
        *,
        start_serving: bool = True,
        coalesces: bool = False,
    ) -> SimServer:
        """Give asyncio's server object over a listening port."""
        server = SimServer(self, factory, hosts, port, coalesces=coalesces)
        if start_serving:
            await server.start_serving()
        return server


def _is_loopback(name: str | None) -> bool:
    try:
        return ipaddress.ip_address(str(name)).is_loopback
    except ValueError:
        return False
