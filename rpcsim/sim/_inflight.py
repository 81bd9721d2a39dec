"""Packets on their way: judged by rules, held, looked at, released and dropped.

Nothing here is asked for on plain links. A packet in flight is an entry of the loop's
heap, like any other; whoever put it there can tell of it (`tell_packet`). A packet that
is held is taken out of the heap, and with it what follows it in the same direction of
its connection, which may not overtake it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from rpcsim.errors import RuleError
from rpcsim.ports import (
    NANOS,
    Copies,
    Corrupt,
    Deliver,
    Drop,
    Hold,
    Reset,
    Rule,
    RuleBook,
    Truncate,
    Verdict,
)
from rpcsim.sim._flow import FIRST_RETRY_NS, Flow

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from rpcsim.sim._links import Link
    from rpcsim.sim._net import SimNet
    from rpcsim.sim._rules import PacketMatch
    from rpcsim.sim._sim import Sim
    from rpcsim.sim._strand import StrandLike

__all__ = ["Packet", "Told", "Traffic", "Transit"]

HELD: Final = Hold()


@dataclass(frozen=True, slots=True)
class Told:
    """What the maker of a packet in flight tells of it.

    Attributes:
        kind: As of `Packet`.
        link: The link it is on.
        connection: As of `Packet`.
        size: As of `Packet`.
        sent_ns: When it was sent.
        flow: The direction of a connection it belongs to, if its order counts.
    """

    kind: str
    link: Link
    connection: str
    size: int
    sent_ns: int
    flow: Flow | None = None


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet, as rules and tests see it.

    Attributes:
        n: Its number; packets sent later have greater ones.
        kind: `syn`, `synack`, `ack`, `data`, `fin`, `rst` or `datagram`.
        src: Host that sent it.
        dst: Host it goes to.
        connection: Label of its connection, or of its socket.
        size: Bytes of payload.
        call: Id of the call whose message it carries; `""` if none is known.
        sent_at: When it was sent, in seconds of simulated time.
        due_at: When it arrives, or would if it were not held.
        held: Whether it, or one it must not overtake, is held.
    """

    n: int
    kind: str
    src: str
    dst: str
    connection: str
    size: int
    call: str
    sent_at: float
    due_at: float
    held: bool


class Transit:
    """A packet taken out of the flow of time."""

    __slots__ = (
        "args",
        "cause",
        "due_ns",
        "flow",
        "fn",
        "holder",
        "n",
        "strand",
        "told",
    )

    def __init__(
        self,
        n: int,
        told: Told,
        due_ns: int,
        holder: int,
        cause: int,
        entry: tuple[StrandLike, Callable[..., Any], tuple[Any, ...]],
    ) -> None:
        self.n = n
        self.told = told
        self.flow = told.flow
        self.due_ns = due_ns
        self.holder = holder  # number of what holds it; 0: it waits for one before it
        self.cause = cause
        self.strand, self.fn, self.args = entry


class _PacketBook(RuleBook[Packet]):
    """The packet rules; a rule that goes releases what it held."""

    __slots__ = ("_asking", "_traffic")

    def __init__(self, traffic: Traffic, sim: Sim) -> None:
        super().__init__(
            "packet",
            (Drop, Deliver, Copies, Corrupt, Truncate, Reset, Hold),
            now_ns=lambda: sim.loop.now_ns,
            streams=sim.entropy.stream,
        )
        self._traffic = traffic
        self._asking = False

    def ask(self, thing: Packet) -> tuple[Rule[Packet], Verdict] | None:
        self._asking = True
        try:
            return super().ask(thing)
        finally:
            self._asking = False

    def remove(self, rule: Rule[Packet]) -> None:
        super().remove(rule)
        if not self._asking:  # else its count is spent: what it holds stays held
            self._traffic.rule_removed(rule)


class Traffic:
    """What is on its way on one network, and what decides about it."""

    def __init__(self, net: SimNet, sim: Sim) -> None:
        self._net = net
        self._sim = sim
        self._loop = sim.loop
        self._holds: dict[int, Callable[[Packet], bool]] = {}
        self._by_rule: dict[str, int] = {}
        self.parked: Final[dict[int, Transit]] = {}
        self.book: Final = _PacketBook(self, sim)
        # Rules in force that decide about all they match, to refuse others behind them.
        self.deciding: Final[list[tuple[PacketMatch, Rule[Packet]]]] = []
        # What holds the packet that `judge` said is to be held.
        self.holder = 0

    def __repr__(self) -> str:
        return f"<traffic: {len(self.parked)} packets held, {self.book!r}>"

    @property
    def watches(self) -> bool:
        """Whether any packet may have to be judged or wait behind another."""
        return bool(self.book or self._holds or self.parked)

    # -- deciding ------------------------------------------------------------------------

    def judge(
        self, link: Link, kind: str, connection: str, size: int
    ) -> Verdict | None:
        """Have rules and holds decide about a packet that is being sent.

        What a rule decides is recorded. Its own failure ends the run, and the packet
        passes.
        """
        loop = self._loop
        now = loop.now_ns / NANOS
        call = self._call_of(loop.cause)
        n = loop.next_seq()
        packet = Packet(
            n, kind, link.src, link.dst, connection, size, call, now, now, held=False
        )
        try:
            decided = self.book.ask(packet)
            if decided is not None:
                return self._decided(packet, *decided)
        except RuleError as error:
            self._fail(error)
            return None
        for number, matches in self._holds.items():
            if matches(packet):
                self.holder = number
                return HELD
        return None

    def _decided(self, packet: Packet, rule: Rule[Packet], verdict: Verdict) -> Verdict:
        if packet.kind != "datagram" and isinstance(verdict, (Corrupt, Truncate)):
            raise RuleError(
                f"rule {rule.name!r} cannot {verdict} a {packet.kind} packet of "
                f"{packet.connection} at {packet.sent_at:.9g} s: TCP delivers what was "
                "written or nothing; use Drop() or Reset(), or match kind='datagram'"
            )
        told = (("rule", rule.name), ("do", str(verdict)), ("kind", packet.kind))
        between = ("between", f"{packet.src} -> {packet.dst}")
        self._sim.record("rule", (*told, between, ("connection", packet.connection)))
        if isinstance(verdict, Hold):
            number = self._by_rule.get(rule.name)
            if number is None:
                number = self._by_rule[rule.name] = self._loop.next_seq()
            self.holder = number
        if not rule.active:
            self._net.rewatch()  # its count is spent
        return verdict

    def _fail(self, error: RuleError) -> None:
        self._sim.keep(error)

        def end_the_run() -> None:
            raise error

        self._loop.push(self._sim.fault_strand, end_the_run, ())

    def rule_removed(self, rule: Rule[Packet]) -> None:
        """Release what a rule held, as it is gone."""
        number = self._by_rule.pop(rule.name, 0)
        if number:
            self.release(lambda transit: transit.holder == number)
        self._net.rewatch()

    def _call_of(self, cause: int) -> str:
        """Find the call whose message led to a packet: at most three records back."""
        trace = self._loop.trace
        for _ in range(3):
            if cause < 0 or trace.level == "off":
                break
            try:
                record = trace[cause]
            except IndexError:
                break
            if record.kind.startswith("call."):
                return str(record.get("id", ""))
            cause = record.cause
        return ""

    # -- lone packets --------------------------------------------------------------------

    def carry(
        self,
        link: Link,
        kind: str,
        connection: str,
        *,
        strand: StrandLike,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        after_ns: int = 0,
    ) -> Literal["sent", "lost", "reset"]:
        """Put a packet without payload on a link, in no order with others.

        Args:
            link: The link.
            kind: As of `Packet`.
            connection: Label of its connection.
            strand: Where it arrives.
            fn: What takes it there; its owner has `tell_packet`.
            args: What `fn` is given.
            after_ns: It does not arrive before this instant.

        Returns:
            What became of it; one that is held counts as sent.
        """
        loop = self._loop
        now = loop.now_ns
        link.count(0)
        if link.cut:
            link.dropped += 1
            return "lost"
        delays: tuple[int, ...] = (0,)
        held = 0
        if link.watched:
            match self.judge(link, kind, connection, 0):
                case Drop():
                    link.dropped += 1
                    return "lost"
                case Reset():
                    return "reset"
                case Deliver(after_ns=after):
                    delays = (after,)
                case Copies(after_ns=afters):
                    delays = afters
                    link.duplicated += len(afters) - 1
                case Hold():
                    held = self.holder
        if link.loses():
            link.dropped += 1
            return "lost"
        left = link.leaves(0, now)
        for delay in delays:
            due = max(left + link.delay() + delay, after_ns)
            if held:
                told = Told(kind, link, connection, 0, now)
                self._park(told, due, held, loop.cause, (strand, fn, args))
            else:
                loop.at(due, strand, fn, args)
        return "sent"

    # -- holding -------------------------------------------------------------------------

    def park_item(self, flow: Flow, item: bytes | str, due_ns: int, held: int) -> None:
        """Hold a packet of a stream, or let it wait for one that is held."""
        size = 0 if item.__class__ is str else len(item)
        now, dst = self._loop.now_ns, flow.dst
        kind = "data" if size else str(item)
        told = Told(kind, flow.link, flow.src.label, size, now, flow)
        entry = (dst.strand, dst.arrive, (item, now))
        self._park(told, due_ns, held, self._loop.cause, entry)

    def park(
        self,
        told: Told,
        due_ns: int,
        held: int,
        entry: tuple[StrandLike, Callable[..., Any], tuple[Any, ...]],
    ) -> None:
        """Hold a packet that is in no order with others, as `judge` said."""
        self._park(told, due_ns, held, self._loop.cause, entry)

    def _park(
        self,
        told: Told,
        due_ns: int,
        held: int,
        cause: int,
        entry: tuple[StrandLike, Callable[..., Any], tuple[Any, ...]],
    ) -> None:
        transit = Transit(self._loop.next_seq(), told, due_ns, held, cause, entry)
        self.parked[transit.n] = transit
        flow = transit.flow
        if flow is not None:
            if flow.parked is None:
                flow.parked = deque()
            flow.parked.append(transit)
        self._net.rewatch()  # whatever comes now must look whether it has to wait

    def hold(self, matches: Callable[[Packet], bool]) -> int:
        """Hold packets that match, those in flight too; gives the hold's number."""
        number = self._loop.next_seq()
        self._holds[number] = matches
        self._net.rewatch()
        taken: dict[int, int] = {}
        flows: list[Flow] = []
        for n, packet, told in self._flying():
            if matches(packet):
                taken[n] = number
                if told.flow is not None:
                    flows.append(told.flow)
            elif any(told.flow is flow for flow in flows):
                taken[n] = 0  # it may not overtake the one before it
        self._take(taken)
        return number

    def unhold(self, number: int) -> None:
        """End a hold and release what it held."""
        self._holds.pop(number, None)
        self.release(lambda transit: transit.holder == number)
        self._net.rewatch()

    def release(self, chosen: Callable[[Transit], bool]) -> int:
        """Let held packets go on; gives how many were held."""
        released = 0
        for transit in list(self.parked.values()):
            if transit.holder and chosen(transit):
                transit.holder = 0
                released += 1
                self._go_on(transit)
        return released

    def _go_on(self, transit: Transit) -> None:
        """Put a packet back on its way, and those that waited only for it."""
        loop, flow = self._loop, transit.flow
        if flow is None or flow.parked is None:
            if self.parked.pop(transit.n, None) is not None:
                self._fly(transit, transit.due_ns)
            return
        parked = flow.parked
        while parked and not parked[0].holder:
            first = parked.popleft()
            del self.parked[first.n]
            flow.last_due = max(first.due_ns, loop.now_ns, flow.last_due)
            self._fly(first, flow.last_due)

    def _fly(self, transit: Transit, due_ns: int) -> None:
        loop = self._loop
        loop.cause, cause = transit.cause, loop.cause
        loop.at(due_ns, transit.strand, transit.fn, transit.args)
        loop.cause = cause

    def holds(self, owner: object) -> bool:
        """Whether a packet of somebody's is held."""
        return any(_owner(transit) is owner for transit in self.parked.values())

    def forget(self, owner: object) -> None:
        """Lose what is held of somebody's."""
        for transit in list(self.parked.values()):
            if _owner(transit) is owner:
                del self.parked[transit.n]

    def drop(self, n: int) -> bool:
        """Lose a packet; a stream sends it again, what follows waits for that."""
        transit = self.parked.get(n)
        if transit is None:
            following: dict[int, int] = {}
            flow: Flow | None = None
            for number, _, told in self._flying():
                if number == n:
                    following[n], flow = 0, told.flow
                    told.link.dropped += 1
                elif flow is not None and told.flow is flow:
                    following[number] = 0
            if not following:
                return False
            self._take(following)
            transit = self.parked[n]
        else:
            transit.told.link.dropped += 1
        if transit.flow is None:
            del self.parked[n]
            return True
        link = transit.flow.link
        transit.holder = 0
        transit.due_ns = self._loop.now_ns + FIRST_RETRY_NS + link.delay()
        self._go_on(transit)
        self._net.rewatch()
        return True

    # -- looking -------------------------------------------------------------------------

    def _flying(self) -> Iterator[tuple[int, Packet, Told]]:
        """Give what is in the heap, in order of sending."""
        for due_ns, n, _, fn, args, cause in self._loop.internal_entries():
            tell = getattr(getattr(fn, "__self__", None), "tell_packet", None)
            told: Told | None = tell(fn, args) if tell is not None else None
            if told is not None:
                yield n, self._packet(n, told, due_ns, cause, held=False), told

    def _take(self, numbers: dict[int, int]) -> None:
        """Take packets out of the heap and park them, each with what holds it."""
        if not numbers:
            return
        told = {n: told for n, _, told in self._flying() if n in numbers}
        # Newest first, each before what is parked: that was sent later.
        for due_ns, n, strand, fn, args, cause in reversed(
            self._loop.withdraw(numbers)
        ):
            entry = (strand, fn, args)
            transit = Transit(n, told[n], due_ns, numbers[n], cause, entry)
            self.parked[n] = transit
            flow = transit.flow
            if flow is not None:
                if flow.parked is None:
                    flow.parked = deque()
                flow.parked.appendleft(transit)

    def _packet(
        self, n: int, told: Told, due_ns: int, cause: int, *, held: bool
    ) -> Packet:
        return Packet(
            n,
            told.kind,
            told.link.src,
            told.link.dst,
            told.connection,
            told.size,
            self._call_of(cause),
            told.sent_ns / NANOS,
            due_ns / NANOS,
            held,
        )

    def packet_of(self, transit: Transit) -> Packet:
        """Give a held packet as a test sees it."""
        return self._packet(
            transit.n, transit.told, transit.due_ns, transit.cause, held=True
        )

    def packets(self) -> list[Packet]:
        """Give all packets in flight, held ones too, in order of sending."""
        flying = [packet for _, packet, _ in self._flying()]
        held = [self.packet_of(transit) for transit in self.parked.values()]
        return sorted((*flying, *held), key=lambda packet: packet.n)

    async def wait_idle(self) -> None:
        """Wait until nothing is under way but what is held."""
        while True:
            due = self._next_due_ns()
            if due is None:
                return
            # Not `sleep(0)`: what is due in this instant runs when nothing else can.
            future = self._loop.create_future()
            self._loop.at(due, self._sim.fault_strand, _wake, (future,))
            await future

    def _next_due_ns(self) -> int | None:
        dues = [
            due_ns
            for due_ns, _, _, fn, _, _ in self._loop.internal_entries()
            if isinstance(getattr(fn, "__self__", None), Flow)
            or hasattr(getattr(fn, "__self__", None), "tell_packet")
        ]
        if dues:
            return min(dues)
        parked = sum(transit.told.size for transit in self.parked.values())
        flying = sum(
            end.out.in_flight
            for end in self._net.ends()
            if not end.out.dst.life.shut  # else it waits there
        )
        return self._loop.now_ns if flying > parked else None

    def carried(self, link: Link) -> int:
        """Count the packets of a link that are in flight or held."""
        flying = sum(told.link is link for _, _, told in self._flying())
        return flying + sum(t.told.link is link for t in self.parked.values())


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _owner(transit: Transit) -> object:
    return getattr(transit.fn, "__self__", None)
