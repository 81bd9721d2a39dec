"""How links between hosts are shaped on real sockets: latency, bandwidth, loss.

The draws are those of the simulation, from the same streams; when they are made
depends on the machine. All three are lower bounds: the machine may be later, which is
measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from rpcsim.ports import NANOS, to_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.ports import Stream

__all__ = ["Shape", "Shapes", "Way", "names_pair", "read_settings"]

Side: TypeAlias = "tuple[str, ...]"  # host names; ("*",) is every host

# A lost segment is sent again after 200 ms, doubling, for 924 s (simulation.md 6.2).
FIRST_RETRY_NS: Final = 200_000_000
LONGEST_RETRY_NS: Final = 120 * NANOS
RETRANSMIT_TIMEOUT_NS: Final = 924 * NANOS
CHANCES: Final = 1 << 20  # of a loss, as the simulation draws it
# Settings the simulation has and a proxy of streams cannot offer.
NOT_OFFERED: Final = (
    *("queue", "mtu", "slicer", "send_buffer", "receive_buffer", "unreachable"),
    *("backlog_full", "syn_timeout", "retransmit_timeout", "datagrams"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """One setting of links, as `net.link` was told.

    Attributes:
        src: Hosts at the sending side.
        dst: Hosts at the receiving side.
        settings: What it sets: `latency` (draws nanoseconds from a stream),
            `bandwidth` (bits per second, 0 for unlimited), `loss` (probability).
    """

    src: Side
    dst: Side
    settings: dict[str, Any] = field(default_factory=dict)

    def rank(self, src: str, dst: str) -> int:
        """How closely it names the pair: -1 not at all, 0 by `*`, 2 both by name."""
        if not names_pair(src, dst, self.src, self.dst):
            return -1
        return (src in self.src) + (dst in self.dst)


class Way:
    """One shaped direction between two hosts.

    Attributes:
        faults: Names of what shapes it, as the report has them.
    """

    __slots__ = (
        "_bandwidth",
        "_draw",
        "_free_ns",
        "_latency",
        "_loss",
        "_losses",
        "faults",
    )

    def __init__(
        self, settings: dict[str, Any], draw: Stream, losses: Stream, free_ns: int
    ) -> None:
        self._latency: Callable[[Stream], int] | None = settings.get("latency")
        self._bandwidth: int = settings.get("bandwidth", 0)
        self._loss: float = settings.get("loss", 0.0)
        self._draw = draw
        self._losses = losses
        self._free_ns = free_ns
        self.faults = tuple(settings)

    @property
    def free_ns(self) -> int:
        """When the last byte it took has left the sender."""
        return self._free_ns

    def delay_ns(self) -> int:
        """Draw how long the next piece is under way."""
        return 0 if self._latency is None else max(0, self._latency(self._draw))

    def due_ns(self, size: int, now_ns: int) -> int:
        """Give the moment the next piece may arrive, at the earliest."""
        leaves = now_ns
        if self._bandwidth:
            leaves = max(now_ns, self._free_ns)
            leaves += -(-size * 8 * NANOS // self._bandwidth)  # rounded up
            self._free_ns = leaves
        return leaves + self.delay_ns() + self._stall_ns()

    def _stall_ns(self) -> int:
        """Give how long the stream stands for the losses of one segment."""
        stall, retry = 0, FIRST_RETRY_NS
        while stall < RETRANSMIT_TIMEOUT_NS and self._loses():
            stall += retry
            retry = min(retry * 2, LONGEST_RETRY_NS)
        return stall

    def _loses(self) -> bool:
        if not self._loss:
            return False
        return self._losses.below(CHANCES) >= round((1 - self._loss) * CHANCES)


class Shapes:
    """All settings of links of one run.

    Args:
        streams: Gives the stream of a name.
    """

    def __init__(self, streams: Callable[[str], Stream]) -> None:
        self._streams = streams
        self._shapes: list[Shape] = []
        self._ways: dict[tuple[str, str], Way | None] = {}

    def __repr__(self) -> str:
        return f"<{len(self._shapes)} shapes of links>"

    def __bool__(self) -> bool:
        return bool(self._shapes)

    def add(self, *shapes: Shape) -> None:
        """Add settings; among equally close ones the latest counts."""
        self._shapes += shapes
        for (src, dst), way in list(self._ways.items()):
            # What is in line stays in line when the link is shaped anew.
            free = 0 if way is None else way.free_ns
            self._ways[src, dst] = self._make(src, dst, free)

    def way(self, src: str, dst: str) -> Way | None:
        """Give a direction; `None`: nothing shapes it."""
        key = (src, dst)
        if key not in self._ways:
            self._ways[key] = self._make(src, dst, 0)
        return self._ways[key]

    def _make(self, src: str, dst: str, free_ns: int) -> Way | None:
        best: dict[str, int] = {}
        found: dict[str, Any] = {}
        for shape in self._shapes:
            rank = shape.rank(src, dst)
            for name, value in shape.settings.items():
                if rank >= best.get(name, 0) and rank >= 0:
                    best[name], found[name] = rank, value
        if not found:
            return None
        label = f"net/{src}>{dst}"
        return Way(found, self._streams(label), self._streams(f"{label}/loss"), free_ns)


def names_pair(src: str, dst: str, left: Side, right: Side) -> bool:
    """Whether two sides name a direction between two hosts."""
    return (src in left or left == ("*",)) and (dst in right or right == ("*",))


def read_settings(given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Check settings of `net.link`; those that are `None` are left out.

    Returns:
        What can be applied, and the names of those that are not offered here.

    Raises:
        TypeError: There is no such setting.
        ValueError: A value is out of range.
    """
    read: dict[str, Any] = {}
    missing: list[str] = []
    for name, value in given.items():
        if value is None:
            continue
        if name in NOT_OFFERED:
            missing.append(name)
        elif name in _READERS:
            read[name] = _READERS[name](value)
        else:
            near = get_close_matches(name, (*_READERS, *NOT_OFFERED), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"links have no setting {name!r}{hint}")
    return read, missing


def _latency(value: Any) -> Callable[[Stream], int]:
    draw = getattr(value, "draw", None)
    if callable(draw):
        return lambda stream: int(draw(stream))
    fixed = to_ns(value)
    if fixed < 0:
        raise ValueError(f"a latency cannot be negative: {value!r}")
    return lambda stream: fixed


def _bandwidth(value: Any) -> int:
    if value == math.inf:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 1:
        raise ValueError(
            "a bandwidth is bits per second, at least 1, or math.inf for no limit, "
            f"not {value!r}"
        )
    return round(value)


def _loss(value: Any) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 <= value <= 1
    ):
        raise ValueError(f"loss is a probability, 0 to 1, not {value!r}")
    return float(value)


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "latency": _latency,
    "bandwidth": _bandwidth,
    "loss": _loss,
}
