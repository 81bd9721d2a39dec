"""The network between hosts, as a test breaks and shapes it on real sockets.

State lives on the loop's thread; the public methods may be called from any. What is
cut or slow here is asked by `_network.py` before it connects and by the proxy of
`_proxy.py` for every piece of data.
"""

from __future__ import annotations

import asyncio
import errno
import time
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

from rpcsim.errors import PlanError, SimulationError
from rpcsim.ports import NANOS, Inexact, duration_text, to_ns
from rpcsim.real._proxy import open_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rpcsim.ports import Address
    from rpcsim.real._engine import Engine
    from rpcsim.real._proxy import Relay

__all__ = ["NetFault", "RealNet"]

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
        hit = _pair(src, dst, self.left, self.right) or (
            self.both and _pair(dst, src, self.left, self.right)
        )
        return hit and not any(
            _pair(src, dst, a, b) or _pair(dst, src, a, b) for a, b in self.repaired
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """One setting of links, as `net.link` was told.

    Attributes:
        src: Hosts at the sending side.
        dst: Hosts at the receiving side.
        draw_ns: Gives the delay of the next piece, from a stream.
    """

    src: Side
    dst: Side
    draw_ns: Callable[[Any], int]

    def rank(self, src: str, dst: str) -> int:
        """How closely it names the pair: -1 not at all, 0 by `*`, 2 both by name."""
        if not _pair(src, dst, self.src, self.dst):
            return -1
        return (src in self.src) + (dst in self.dst)


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
        """Lift it; doing so twice, or after the run, does nothing."""
        if self.active:
            self.active = False
            self._undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()


class RealNet:
    """`rpcsim.ports.Net` over loopback sockets."""

    def __init__(self, engine: Engine, *, faults: bool) -> None:
        self.faults: Final = faults
        self.late_ns = 0  # the greatest lateness of a delayed piece
        self.relays: dict[Relay, None] = {}
        self._engine = engine
        self._cuts: list[Cut] = []
        self._shapes: list[Shape] = []
        self._dark: set[str] = set()  # crashed hosts, silent as without power
        self._changed: list[asyncio.Future[None]] = []
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
    ) -> None:
        """Delay what goes from `a` to `b`, and back if `both`.

        Args:
            a: A host, several, or `"*"` for all.
            b: The same.
            both: Whether the way back is shaped too.
            latency: The least delay of each piece: a duration, or a distribution with
                `draw(stream)` giving nanoseconds. `None` changes nothing.

        Raises:
            PlanError: The runtime has no proxy to delay anything in.
        """
        left, right = self._side(a), self._side(b)
        if latency is None:
            return
        draw = _drawing(latency)
        self._need_proxy("link(latency=...)")

        def apply() -> None:
            self._shapes.append(Shape(left, right, draw))
            if both:
                self._shapes.append(Shape(right, left, draw))

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
        self._engine.note_inexact(
            "partition", "bytes that had passed the proxy still arrive"
        )
        self._engine.do(self._begin, cut)

        def undo() -> None:
            # After the run there is nothing left to repair, nor a loop to do it.
            if not self._engine.over:
                self._engine.do(self._end, cut)

        return NetFault(f"partition {cut}", undo)

    def repair(self, a: str | Sequence[str], b: str | Sequence[str]) -> None:
        """Let data between two sides pass again, in both directions."""
        left, right = self._side(a), self._side(b)

        def apply() -> None:
            for cut in self._cuts:
                cut.repaired.append((left, right))
            self._tell("repair", f"{'+'.join(left)} <-> {'+'.join(right)}")

        self._engine.do(apply)

    def repair_all(self) -> None:
        """Undo every partition."""

        def apply() -> None:
            if self._cuts:
                self._cuts.clear()
                self._tell("repair", "*")

        self._engine.do(apply)

    def _begin(self, cut: Cut) -> None:
        self._cuts.append(cut)
        self._tell("begin", str(cut))

    def _end(self, cut: Cut) -> None:
        if cut in self._cuts:
            self._cuts.remove(cut)
            self._tell("end", str(cut))

    def _tell(self, what: str, between: str) -> None:
        data = (("kind", "partition"), ("do", what), ("between", between))
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
        """Draw the least delay of the next piece: the closest, latest shape decides."""
        best, draw = -1, None
        for shape in self._shapes:
            rank = shape.rank(src, dst)
            if rank >= best and rank >= 0:
                best, draw = rank, shape.draw_ns
        if draw is None:
            return 0
        return max(0, draw(self._engine.entropy.stream(f"net/{src}>{dst}")))

    def set_dark(self, host: str, *, dark: bool) -> None:
        """Have a host answer nobody, as one without power; or answer again."""
        (self._dark.add if dark else self._dark.discard)(host)
        self.changed()

    def changed(self) -> None:
        """Let everything that waits look again."""
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
        """

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

    def late(self, late_ns: int) -> None:
        """Note how late a delayed piece left."""
        self.late_ns = max(self.late_ns, late_ns)

    def inexact(self) -> list[Inexact]:
        """Give what the report says of delays."""
        if not self._shapes:
            return []
        reason = "a lower bound: the machine may be later"
        return [
            Inexact("latency", reason, f"at most {duration_text(self.late_ns)} late")
        ]


def _pair(src: str, dst: str, left: Side, right: Side) -> bool:
    return (src in left or left == ("*",)) and (dst in right or right == ("*",))


def _drawing(latency: Any) -> Callable[[Any], int]:
    draw = getattr(latency, "draw", None)
    if callable(draw):
        return lambda stream: int(draw(stream))
    fixed = to_ns(latency)
    if fixed < 0:
        raise ValueError(f"a latency cannot be negative: {latency!r}")
    return lambda stream: fixed
