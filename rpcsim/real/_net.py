"""The network between hosts, as a test breaks and shapes it on real sockets.

State lives on the loop's thread; the public methods may be called from any. What is
cut or slow here is asked by `_network.py` before it connects and by the proxy of
`_proxy.py` for every piece of data. `_shapes.py` has the settings of links,
`_flight.py` what is held, `_messages.py` the rules about messages.
"""

from __future__ import annotations

import asyncio
import errno
import time
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from rpcsim.errors import PlanError, SimulationError
from rpcsim.ports import NANOS
from rpcsim.real._flight import Flights
from rpcsim.real._meddling import Connection, Meddling, NetFault
from rpcsim.real._messages import Messages
from rpcsim.real._proxy import open_proxy
from rpcsim.real._shapes import Shape, Shapes, names_pair, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rpcsim.ports import Address, RpcMatch
    from rpcsim.real._engine import Engine
    from rpcsim.real._proxy import Relay

__all__ = ["Connection", "NetFault", "RealNet"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

Side: TypeAlias = "tuple[str, ...]"  # host names; ("*",) is every host
SYN_TIMEOUT_NS: Final = 127 * NANOS  # Linux with its default of six retries
SYN_AGAIN_NS: Final = NANOS  # the first of them (RFC 6298, section 2)


@dataclass(slots=True, eq=False)
class Cut:
    """A partition in force.

    Attributes:
        left: Hosts at one side.
        right: Hosts at the other.
        both: Whether data is held both ways, or from left to right only.
        repaired: Pairs of sides that were repaired within it.
    """

    left: Side
    right: Side
    both: bool
    repaired: list[tuple[Side, Side]] = field(default_factory=list)

    def __str__(self) -> str:
        arrow = "<->" if self.both else "->"
        return f"{'+'.join(self.left)} {arrow} {'+'.join(self.right)}"

    def holds(self, src: str, dst: str) -> bool:
        """Whether data from `src` to `dst` is held by it."""
        if src == dst:
            return False
        hit = names_pair(src, dst, self.left, self.right) or (
            self.both and names_pair(dst, src, self.left, self.right)
        )
        return hit and not any(
            names_pair(src, dst, a, b) or names_pair(dst, src, a, b)
            for a, b in self.repaired
        )


class RealNet(Meddling):
    """`rpcsim.ports.Net` over loopback sockets."""

    def __init__(self, engine: Engine, *, faults: bool) -> None:
        self.faults: Final = faults
        self.relays: dict[Relay, None] = {}
        self._engine = engine
        self._failing = []
        self._cuts: list[Cut] = []
        self.shapes: Final = Shapes(engine.entropy.stream)
        self.flights = Flights(engine)
        self.quiet = True  # nothing is cut, held or shaped: pieces just pass
        self._dark: set[str] = set()  # crashed hosts, silent as without power
        self._changed: list[asyncio.Future[None]] = []
        # Made by the first `rpc`: messages without rules cost one look.
        self.messages: Messages | None = None
        # Connects that have reached the proxy's socket but not the listener's yet.
        self._arrivals: dict[str, asyncio.Future[None]] = {}

    def __repr__(self) -> str:
        cuts = ", ".join(map(str, self._cuts)) or "whole"
        return f"<loopback network, {'with' if self.faults else 'no'} proxy: {cuts}>"

    # -- what a test calls ---------------------------------------------------------------

    def link(
        self,
        a: str | Sequence[str],
        b: str | Sequence[str],
        *,
        both: bool = True,
        latency: Any = None,
        bandwidth: float | None = None,
        loss: float | None = None,
        **more: Any,
    ) -> None:
        """Shape what goes from `a` to `b`, and back if `both`.

        Args:
            a: A host, several, or `"*"` for all.
            b: The same.
            both: Whether the way back is shaped too.
            latency: The least delay of each piece: a duration, or a distribution with
                `draw(stream)` giving nanoseconds. `None` changes nothing.
            bandwidth: Bits per second, for all connections of a direction together.
            loss: Probability, 0 to 1, that a piece is lost: its stream then stalls.
            **more: Settings of the simulation that real sockets do not offer, such as
                `slicer`; the run's report names them.

        Raises:
            PlanError: The runtime has no proxy to delay anything in.
            InexactFault: The run is strict, and a setting is not exact here.
        """
        left, right = self._side(a), self._side(b)
        given = {"latency": latency, "bandwidth": bandwidth, "loss": loss, **more}
        settings, missing = read_settings(given)
        if settings:
            self._need_proxy(f"link({'=..., '.join(settings)}=...)")
        told = f"link({a!r}, {b!r})"
        for name in (*settings, *missing):
            self._engine.ledger.fault(name, f"{told} with {name}={given[name]!r}")
        if not settings:
            return

        def apply() -> None:
            shapes = [Shape(left, right, settings)]
            if both:
                shapes.append(Shape(right, left, settings))
            self.shapes.add(*shapes)
            self.changed()

        self._engine.do(apply)

    def partition(
        self,
        a: str | Sequence[str],
        b: str | Sequence[str],
        *,
        direction: Literal["both", "a->b", "b->a"] = "both",
    ) -> NetFault:
        """Hold everything between two sides until the returned fault is undone.

        Raises:
            PlanError: The runtime has no proxy to hold anything in.
        """
        if direction not in ("both", "a->b", "b->a"):
            raise ValueError(
                f"direction is 'both', 'a->b' or 'b->a', not {direction!r}"
            )
        left, right = self._side(a), self._side(b)
        self._need_proxy("partition")
        if direction == "b->a":
            left, right = right, left
        cut = Cut(left, right, both=direction == "both")
        self._engine.do(self._begin, cut)

        return NetFault(
            f"partition {cut}", partial(self._after_run, partial(self._end, cut))
        )

    def repair(self, a: str | Sequence[str], b: str | Sequence[str]) -> None:
        """Let data between two sides pass again, in both directions."""
        left, right = self._side(a), self._side(b)

        def apply() -> None:
            for cut in self._cuts:
                cut.repaired.append((left, right))
            self._tell("partition", "repair", f"{'+'.join(left)} <-> {'+'.join(right)}")

        self._engine.do(apply)

    def repair_all(self) -> None:
        """Undo every partition."""

        def apply() -> None:
            if self._cuts:
                self._cuts.clear()
                self._tell("partition", "repair", "*")

        self._engine.do(apply)

    def rpc(self, **match: Any) -> RpcMatch:
        """Choose messages by what they mean, for a rule: `net.rpc(...).drop()`.

        Rules act where messages are written, and need no proxy.

        Args:
            **match: `kind`, `method`, `call_no`, `attempt`, `src`, `dst`, `system`,
                `call_id` and `labels`, as `rpcsim.ports.RpcMatch` takes them.
        """
        if self.messages is None:
            self.messages = Messages(self._engine)
        return self.messages.match(**match)

    def unreached(self) -> list[str]:
        """Name the RPC rules that never matched anything, in order of adding."""
        return [] if self.messages is None else self.messages.rules.book.unreached()

    def _begin(self, cut: Cut) -> None:
        self._cuts.append(cut)
        self._tell("partition", "begin", str(cut))

    def _end(self, cut: Cut) -> None:
        if cut in self._cuts:
            self._cuts.remove(cut)
            self._tell("partition", "end", str(cut))

    def _tell(self, kind: str, what: str, between: str) -> None:
        data = (("kind", kind), ("do", what), ("between", between))
        self._engine.test.ports.trace.emit("fault", data)
        self.changed()

    def _need_proxy(self, what: str) -> None:
        if not self.faults:
            raise PlanError(
                f"{what} needs the fault proxy on real sockets: make the runtime with "
                "Runtime(faults=True)"
            )

    def _side(self, side: str | Sequence[str]) -> Side:
        names = (side,) if isinstance(side, str) else tuple(side)
        known = self._engine.directory.by_name
        if not names:
            raise ValueError("a side of a link needs at least one host")
        for name in names:
            if name != "*" and name not in known:
                near = get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise SimulationError(
                    f"no host is called {name!r}{hint} (declared: {', '.join(known)})"
                )
        return names

    # -- what connections ask, on the loop's thread -----------------------------------------

    def is_cut(self, src: str, dst: str) -> bool:
        """Whether data from `src` to `dst` must wait."""
        return any(cut.holds(src, dst) for cut in self._cuts)

    def delay_ns(self, src: str, dst: str) -> int:
        """Draw how long a packet of a connect is under way."""
        way = self.shapes.way(src, dst)
        return 0 if way is None else way.delay_ns()

    def set_dark(self, host: str, *, dark: bool) -> None:
        """Have a host answer nobody, as one without power; or answer again."""
        (self._dark.add if dark else self._dark.discard)(host)
        self.changed()

    def changed(self) -> None:
        """Let everything that waits look again."""
        self.quiet = not (self._cuts or self.shapes or self.flights.holding)
        waiting, self._changed = self._changed, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
        for relay in list(self.relays):
            relay.pump()

    async def reach(self, src: str, dst: str, place: Address, label: str) -> None:
        """Wait as a connect does until its packets pass, and for the round trip.

        Raises:
            TimeoutError: `ETIMEDOUT`, after the system's usual limit.
            OSError: A fault says so.
        """
        await self.flights.connect(src, dst, label)
        self.fail_if_told("connect", dst, place[1])

        def answered() -> bool:
            cut = self.is_cut(src, dst) or self.is_cut(dst, src)
            return not cut and dst not in self._dark

        dark = dst in self._dark
        if not await self._until(answered, SYN_TIMEOUT_NS):
            raise TimeoutError(
                errno.ETIMEDOUT, f"Connect call to {label} timed out: no answer"
            )
        if dark:
            # The lost SYN is sent again, a second later at the earliest: until then
            # a machine that has just come up may begin to listen.
            listeners = self._engine.directory.listeners
            await self._until(lambda: place in listeners, SYN_AGAIN_NS)
        trip = self.delay_ns(src, dst) + self.delay_ns(dst, src)
        if trip and src != dst:
            await asyncio.sleep(trip / NANOS)

    async def _until(self, condition: Callable[[], bool], limit_ns: int) -> bool:
        """Wait until something here is so; says whether it came within the limit."""
        end = time.monotonic_ns() + limit_ns
        while not condition():
            left = (end - time.monotonic_ns()) / NANOS
            if left <= 0:
                return False
            future = self._engine.loop.create_future()
            self._changed.append(future)
            await asyncio.wait({future}, timeout=left)
        return True

    async def arrival(self, label: str) -> None:
        """Wait until a connection has gone through its proxy to the listener.

        Without it a connect would succeed where nobody listens any more.
        """
        future = self._arrivals.setdefault(label, self._engine.loop.create_future())
        try:
            await future
        finally:
            self._arrivals.pop(label, None)

    def arrived(self, label: str, error: Exception | None) -> None:
        """Tell the outcome of dialling on from the proxy."""
        loop = self._engine.loop
        future = self._arrivals.setdefault(label, loop.create_future())
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
            future.exception()  # the caller may have gone; that is no failure

    async def open_proxy(
        self, host: str, place: Address, real: Address
    ) -> asyncio.Server:
        """Put a proxy before a listener; it is the machine's, not the host's."""
        work = open_proxy(self._engine, host, place, real)
        return await self._engine.backstage_task(work, f"proxy of {host}:{place[1]}")
