"""What a test may do to the network beside links and partitions, and see of it.

`SimNet` is this and `_net.py`: here are holds, packet rules, single packets, resets and
silent deaths of connections, failures told in advance, and the counts.
"""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from rpcsim.errors import SimulationError
from rpcsim.ports import NANOS
from rpcsim.sim._flow import RST
from rpcsim.sim._inflight import Packet, Traffic, Transit
from rpcsim.sim._links import Link, LinkCounters, names_pair
from rpcsim.sim._rules import PacketMatch, check_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rpcsim.ports import Duration, MessageRules, Rule, Verdict
    from rpcsim.sim._handshake import Handshake
    from rpcsim.sim._loop import SimLoop
    from rpcsim.sim._sim import Sim
    from rpcsim.sim._tcp import Endpoint

__all__ = ["Attempt", "Connection", "NetControl", "NetFault"]

# Attempts to connect that are remembered; a run that makes more forgets the oldest.
REMEMBERED: Final = 10_000


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


@dataclass(frozen=True, slots=True)
class Attempt:
    """A connect that was made.

    Attributes:
        connection: Label of the connection it was to open.
        src: Host that asked.
        dst: Host it asked.
        port: Port it asked for.
        at: When it began, in seconds of simulated time.
        outcome: `open`, or the name of the error; `""` while it is under way.
    """

    connection: str
    src: str
    dst: str
    port: int
    at: float
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that is open at one end at least.

    Attributes:
        label: Its label: `client>server:port#n`.
        ends: Hosts where it is open, the one that asked for it first.
        waiting: Bytes written and not sent, at all its ends.
        in_flight: Bytes sent and not arrived, in both directions.
    """

    label: str
    ends: tuple[str, ...]
    waiting: int
    in_flight: int


@dataclass(slots=True)
class _Failing:
    """A failure told in advance."""

    what: Literal["listen", "connect"]
    host: str
    port: int | None
    left: int
    number: int


class NetControl:
    """The part of the network that tests look at and meddle with."""

    if TYPE_CHECKING:
        _sim: Sim
        _links: dict[tuple[str, str], Link]
        messages: MessageRules | None

        @property
        def loop(self) -> SimLoop:
            """The loop."""

        def check_names(self, side: str | Sequence[str]) -> tuple[str, ...]:
            """Read one side of a link or partition."""

        def link_between(self, src: str, dst: str) -> Link:
            """Give the link of one direction."""

    def _begin_control(self, sim: Sim) -> None:
        net: Any = self  # `SimNet` is this and more
        self.traffic = Traffic(net, sim)
        self.connecting: dict[int, Handshake] = {}
        self._attempts: deque[list[Any]] = deque(maxlen=REMEMBERED)
        self._failing: list[_Failing] = []

    # -- rules ---------------------------------------------------------------------------

    def rule(
        self,
        verdict: Verdict | Callable[[Packet], Verdict],
        *,
        kind: str | Sequence[str] | None = None,
        src: str | Sequence[str] = "*",
        dst: str | Sequence[str] = "*",
        connection: str = "*",
        where: Callable[[Packet], bool] | None = None,
        count: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        during: tuple[Duration, Duration] | None = None,
        name: str = "",
    ) -> Rule[Packet]:
        """Have packets dropped, delayed, copied, reset or held.

        Rules are asked in the order they were added; the first that does not answer
        `Pass` decides. A rule goes at the end of its `with` block, by `remove`, or when
        its count is spent.

        Args:
            verdict: What becomes of the packets (`Drop()`, `Deliver("5ms")`, ...), or
                a function of the packet that says so; what it raises ends the run.
            kind: `syn`, `synack`, `ack`, `data`, `fin`, `rst`, `datagram`, or several.
            src: Hosts that send them.
            dst: Hosts they go to.
            connection: Glob of the connection's label.
            where: Further condition.
            count: How often it decides at most; `None` for no limit.
            after: How many matching packets it lets pass first.
            probability: Share of the matching packets it decides about, 0 to 1.
            during: From and until when, since the start of the run.
            name: For the trace, the report and the stream of its draws.

        Raises:
            RuleError: It contradicts itself, the layer, or a rule that is there.
        """
        match = PacketMatch(
            kind, self.check_names(src), self.check_names(dst), connection, where
        )
        traffic = self.traffic
        whole = count is None and not after and probability == 1 and during is None
        check_rule(match, verdict, traffic.deciding)
        rule = traffic.book.add(
            match,
            verdict,
            name=name,
            count=count,
            after=after,
            probability=probability,
            during=during,
        )
        if whole and not callable(verdict):
            traffic.deciding.append((match, rule))
        self.rewatch()
        return rule

    def unreached(self) -> list[str]:
        """Name the rules that never matched anything: of packets, then of messages."""
        messages = [] if self.messages is None else self.messages.book.unreached()
        return [*self.traffic.book.unreached(), *messages]

    def rewatch(self) -> None:
        """Tell the links whether rules or holds may be about their packets."""
        watched = self.traffic.watches
        for link in self._links.values():
            link.watched = watched

    # -- holding and single packets ------------------------------------------------------

    def hold(
        self,
        a: str | Sequence[str] | Callable[[Packet], bool],
        b: str | Sequence[str] | None = None,
    ) -> NetFault:
        """Keep packets in flight, those on their way too, until the handle is undone.

        Args:
            a: One side, or a condition on the packet.
            b: The other side; packets of both directions are held.
        """
        if callable(a):
            if b is not None:
                raise ValueError("a hold takes two sides, or one condition")
            matches, told = a, "hold"
        else:
            if b is None:
                raise ValueError("a hold needs two sides, or a condition on the packet")
            left, right = self.check_names(a), self.check_names(b)
            told = f"hold {'+'.join(left)} <-> {'+'.join(right)}"

            def matches(packet: Packet) -> bool:
                src, dst = packet.src, packet.dst
                return names_pair(src, dst, left, right) or names_pair(
                    dst, src, left, right
                )

        number = self.traffic.hold(matches)
        self._note("begin", told)

        def undo() -> None:
            self.traffic.unhold(number)
            self._note("end", told)

        return NetFault(told, undo)

    def inflight(self) -> list[Packet]:
        """Give the packets under way, held ones too, in order of sending."""
        return self.traffic.packets()

    def release(self, which: int | Callable[[Packet], bool] | None = None) -> int:
        """Let held packets go on, within the order of their connections.

        Args:
            which: Number of one, a condition, or `None` for all.

        Returns:
            How many were held.
        """
        traffic = self.traffic

        def chosen(transit: Transit) -> bool:
            if callable(which):
                return which(traffic.packet_of(transit))
            return which is None or transit.n == which

        released = traffic.release(chosen)
        self.rewatch()
        return released

    def release_one(self) -> bool:
        """Let the packet go on that is held longest; false if there is none."""
        held = [transit.n for transit in self.traffic.parked.values() if transit.holder]
        return bool(held) and self.release(min(held)) == 1

    def drop_one(self, n: int | None = None) -> bool:
        """Lose one packet in flight: held ones first, then the oldest; false if none.

        A stream sends what was lost again after 200 ms.
        """
        if n is None:
            packets = self.inflight()
            held = [p.n for p in packets if p.held] or [p.n for p in packets]
            if not held:
                return False
            n = held[0]
        self._note("drop", f"packet {n}")
        return self.traffic.drop(n)

    def refuse_one(self, connection: str = "*") -> bool:
        """Refuse the oldest connect under way; false if there is none.

        Args:
            connection: Glob of the label of the connection it is to open.
        """
        for handshake in list(self.connecting.values()):
            if fnmatchcase(handshake.near.label, connection):
                self.traffic.forget(handshake)
                self.loop.push(handshake.near.strand, handshake.turned_down, ())
                return True
        return False

    async def wait_idle(self) -> None:
        """Wait until nothing is under way but what is held; streams that stall are."""
        await self.traffic.wait_idle()

    # -- connections ---------------------------------------------------------------------

    def ends(self, connection: str = "*") -> Iterator[Endpoint]:
        """Yield the open ends of established connections, by host, oldest first."""
        for host in self._sim.by_name.values():
            for end in list(host.life.endpoints.values()):
                known = hasattr(end, "out") and fnmatchcase(end.label, connection)
                if known and not end.lost:
                    yield end

    def _chosen(self, connection: Any) -> list[Endpoint]:
        """Find the ends of a connection, given as label, glob or transport."""
        if not isinstance(connection, str):
            connection = connection.get_extra_info("connection")
        ends = list(self.ends(connection))
        if not ends:
            known = ", ".join(one.label for one in self.connections()) or "none"
            raise SimulationError(
                f"no connection {connection!r} is open at "
                f"{self.loop.now_ns / NANOS:.9g} s (open: {known})"
            )
        return ends

    def reset(self, connection: Any) -> NetFault:
        """Reset connections: both ends lose them now, with `ConnectionResetError`.

        Args:
            connection: A label, a glob of labels, or a transport.
        """
        ends = self._chosen(connection)
        self._note("reset", ends[0].label)
        self.reset_ends(*ends)
        return NetFault(f"reset {ends[0].label}", lambda: None)

    def reset_ends(self, *ends: Endpoint) -> None:
        """Have ends see a reset in this instant."""
        for end in ends:
            self.loop.push(end.strand, end.arrive, (RST, self.loop.now_ns))

    def close_half(self, connection: Any, side: str) -> NetFault:
        """End one direction of connections, as if the sender's system had shut it.

        The other end sees end-of-file; the program at `side` gets `BrokenPipeError`
        when it writes again.

        Args:
            connection: A label, a glob of labels, or a transport.
            side: Host whose sending direction ends.
        """
        ends = [end for end in self._chosen(connection) if end.life.host == side]
        if not ends:
            raise SimulationError(f"no end of {connection!r} is on host {side!r}")
        for end in ends:
            self._note("half-close", f"{end.label} at {side}")
            end.shut_out()
        return NetFault(f"half-close {ends[0].label} at {side}", lambda: None)

    def kill_silently(self, connection: Any) -> NetFault:
        """Let connections die without a word: neither end hears anything any more.

        A writer learns of it by the retransmission limit (924 s), a reader never. The
        handle's end brings them back to life, if nobody has given up.

        Args:
            connection: A label, a glob of labels, or a transport.
        """
        ends = self._chosen(connection)
        before = [(end.out, end.out.link, end.out.back) for end in ends]
        self._note("silence", ends[0].label)
        for flow, link, back in before:
            flow.link, flow.back = self._dead(link), self._dead(back)

        def undo() -> None:
            for flow, link, back in before:
                flow.link, flow.back = link, back
            self._note("end silence", ends[0].label)

        return NetFault(f"silence of {ends[0].label}", undo)

    def _dead(self, link: Link) -> Link:
        """Make a link of the same hosts that nothing passes."""
        dead = Link(link.src, link.dst, self._sim.entropy.stream)
        dead.cut = True
        return dead

    def fail_next(
        self,
        *,
        listen: str | None = None,
        connect: str | None = None,
        port: int | None = None,
        count: int = 1,
        error: int | None = None,
    ) -> NetFault:
        """Have the next listens on a host, or connects to it, fail.

        Args:
            listen: Host whose next listen fails, by default with `EADDRINUSE`.
            connect: Host to which the next connect fails, by default `ECONNREFUSED`.
            port: Only this port; `None` is any.
            count: How many fail.
            error: Number of the `OSError` instead.
        """
        if (listen is None) == (connect is None):
            raise ValueError("fail_next needs listen= or connect=, and not both")
        if count < 1:
            raise ValueError(f"count= is how many fail, from 1, not {count!r}")
        (host,) = self.check_names(listen or connect or "")
        usual = errno.ECONNREFUSED if listen is None else errno.EADDRINUSE
        what: Literal["listen", "connect"] = "connect" if listen is None else "listen"
        failing = _Failing(what, host, port, count, error or usual)
        self._failing.append(failing)

        def undo() -> None:
            self._failing = [one for one in self._failing if one is not failing]

        return NetFault(f"next {count} {what} of {host} fail", undo)

    def fail_if_told(self, what: str, host: str, port: int) -> None:
        """Raise a failure that was told in advance."""
        for failing in self._failing:
            if (
                failing.what == what
                and failing.host in (host, "*")
                and failing.port in (None, port)
            ):
                failing.left -= 1
                if not failing.left:
                    self._failing.remove(failing)
                self._note(f"fail {what}", f"{host}:{port}")
                raise OSError(
                    failing.number,
                    f"{what} at host {host!r}, port {port}, failed by a fault at "
                    f"{self.loop.now_ns / NANOS:.9g} s",
                )

    # -- looking -------------------------------------------------------------------------

    def note_attempt(self, label: str, src: str, dst: str, port: int) -> list[Any]:
        """Remember a connect; the last item is to be its outcome."""
        attempt = [label, src, dst, port, self.loop.now_ns / NANOS, ""]
        self._attempts.append(attempt)
        return attempt

    def attempts(self) -> list[Attempt]:
        """Give the connects made, oldest first; the newest 10 000."""
        return [Attempt(*attempt) for attempt in self._attempts]

    def connections(self) -> list[Connection]:
        """Give the open connections, by the host that asked, oldest first."""
        found: dict[str, list[Endpoint]] = {}
        for end in sorted(self.ends(), key=lambda end: end.number):
            found.setdefault(end.label, []).append(end)
        return [
            Connection(
                label,
                tuple(end.life.host for end in ends),
                sum(end.buffered_bytes() for end in ends),
                sum(end.out.in_flight for end in ends),
            )
            for label, ends in found.items()
        ]

    def counters(self, src: str, dst: str) -> LinkCounters:
        """Give what one direction between two hosts has carried."""
        self.check_names([src, dst])
        link = self.link_between(src, dst)
        return LinkCounters(
            link.sent,
            link.sent - link.dropped - self.traffic.carried(link),
            link.dropped,
            link.duplicated,
            link.corrupted,
            link.bytes,
        )

    def _note(self, do: str, about: str) -> None:
        self._sim.record("fault", (("kind", "packets"), ("do", do), ("about", about)))
