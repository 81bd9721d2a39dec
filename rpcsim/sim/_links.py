"""Links between hosts: how long a packet takes, and whether it passes at all.

A link is one direction between two hosts. Unless something is set beyond its latency,
it is *plain*: packets are only delayed. Everything else (`Link.special`) is asked for
on a path of its own, so that it costs nothing where it is not used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from rpcsim.ports import NANOS, duration_text, to_ns
from rpcsim.sim._datagram import Datagrams
from rpcsim.sim._distributions import (
    Constant,
    Latency,
    LogNormal,
    Normal,
    Pareto,
    as_latency,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rpcsim.sim._streams import SimStream

__all__ = [
    "LINK_DEFAULTS",
    "PROFILES",
    "Link",
    "LinkCounters",
    "Partition",
    "Shape",
    "Slicer",
]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

Side: TypeAlias = "tuple[str, ...]"  # host names; ("*",) is every host
Slicer: TypeAlias = Literal["write", "mss", "random", "byte"]

BUFFER: Final = 64 * 1024
HEADERS: Final = 40  # of IPv4 and TCP, without options
LARGEST_SEGMENT: Final = 1_460  # what an Ethernet frame leaves to them
CHANCES: Final = 1 << 20  # steps a probability is drawn in


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """What one direction between two hosts has carried.

    Attributes:
        sent: Packets put on it, lost ones too.
        delivered: Packets that arrived; those in flight not yet.
        dropped: Packets lost by chance, rule, full queue or partition.
        duplicated: Copies made by rules or by chance.
        corrupted: Packets altered on the way.
        bytes: Payload of the packets sent.
    """

    sent: int
    delivered: int
    dropped: int
    duplicated: int
    corrupted: int
    bytes: int


# What every link begins with, by setting.
LINK_DEFAULTS: Final[dict[str, Any]] = {
    "latency": Constant(0),
    "bandwidth": 0,  # bits per second; 0 is unlimited
    "queue": 0,  # bytes; 0 is unlimited
    "loss": 0.0,
    "mtu": 1_500,
    "slicer": "write",
    "send_buffer": BUFFER,
    "receive_buffer": BUFFER,
    "unreachable": "silent",
    "backlog_full": "drop",
    "syn_timeout": 127 * NANOS,
    "retransmit_timeout": 924 * NANOS,
    "datagrams": None,  # what it does to them beside all this
}


# What `net.profile` sets. The figures are of the kind one meets, not of one place.
PROFILES: Final[dict[str, dict[str, Any]]] = {
    "lan": {
        "latency": Normal("200us", "40us"),
        "bandwidth": 1_000_000_000,
        "slicer": "mss",
    },
    "wan": {
        "latency": LogNormal("40ms", 0.2),
        "bandwidth": 100_000_000,
        "loss": 0.0005,
        "slicer": "mss",
    },
    "mobile": {
        "latency": LogNormal("80ms", 0.5),
        "bandwidth": 5_000_000,
        "queue": 256 * 1024,
        "loss": 0.01,
        "slicer": "mss",
    },
    "hostile": {
        "latency": Pareto("5ms", "2s", 1.2),
        "bandwidth": 1_000_000,
        "queue": 32 * 1024,
        "loss": 0.05,
        "slicer": "random",
    },
}


@dataclass(frozen=True, slots=True)
class Shape:
    """One setting of links, as `net.link` was told.

    Attributes:
        src: Hosts it applies to on the sending side.
        dst: The same on the receiving side.
        settings: What it sets, by name, as checked by `read`.
    """

    src: Side
    dst: Side
    settings: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def read(given: dict[str, Any]) -> dict[str, Any]:
        """Check settings as a user gives them; those that are `None` are left out.

        Raises:
            ValueError: A value is out of range, or two contradict each other.
        """
        told = {name: value for name, value in given.items() if value is not None}
        read = {name: _READERS[name](name, value) for name, value in told.items()}
        if read.get("queue") and read.get("bandwidth") == 0:
            raise ValueError("a queue forms only where the bandwidth is limited")
        return read

    def rank(self, src: str, dst: str) -> int:
        """How closely it names the pair: -1 not at all, 0 by `*`, 2 both by name."""
        rank = 0
        for side, name in ((self.src, src), (self.dst, dst)):
            if name in side:
                rank += 1
            elif side != ("*",):
                return -1
        return rank


class Link:
    """One direction between two hosts.

    Attributes:
        cut: Whether a partition drops all its packets.
        special: Whether a packet needs more than a look at its delay: it is cut, or
            shaped beyond latency, or rules or holds may be about it.
        watched: Whether rules or holds may be about its packets.
        free_ns: When the last byte it accepted has left the sender.
    """

    __slots__ = (
        "_cut",
        "_watched",
        "backlog_full",
        "bandwidth",
        "bytes",
        "corrupted",
        "datagrams",
        "dropped",
        "dst",
        "duplicated",
        "fixed_ns",
        "free_ns",
        "latency",
        "loss",
        "losses",
        "mtu",
        "queue",
        "receive_buffer",
        "retransmit_timeout",
        "send_buffer",
        "sent",
        "slicer",
        "special",
        "src",
        "stream",
        "syn_timeout",
        "unreachable",
    )

    def __init__(self, src: str, dst: str, streams: Callable[[str], SimStream]) -> None:
        self.src = src
        self.dst = dst
        self.stream = streams(f"net/{src}>{dst}")
        # Streams of their own, so that losses and cuts never shift a latency.
        self.losses = streams
        self.sent = 0
        self.bytes = 0
        self.dropped = 0
        self.duplicated = 0
        self.corrupted = 0
        self.free_ns = 0
        self._cut = False
        self._watched = False
        self.latency: Latency
        self.bandwidth: int
        self.queue: int
        self.loss: float
        self.mtu: int
        self.slicer: Slicer
        self.send_buffer: int
        self.receive_buffer: int
        self.unreachable: Literal["silent", "icmp"]
        self.backlog_full: Literal["drop", "refuse"]
        self.syn_timeout: int
        self.retransmit_timeout: int
        self.datagrams: Datagrams | None
        # The delay when it is constant, so that the common link draws nothing and
        # calls nothing; -1 when it must be drawn.
        self.fixed_ns = 0
        self.special = False
        self.shape(())

    def __repr__(self) -> str:
        told = [str(self.latency)]
        told += [
            f"{name} {getattr(self, name)}"
            for name in ("bandwidth", "queue", "loss", "slicer")
            if getattr(self, name) != LINK_DEFAULTS[name]
        ]
        if self._cut:
            told.append("cut")
        return f"<link {self.src} -> {self.dst}: {', '.join(told)}>"

    @property
    def cut(self) -> bool:
        """Whether a partition drops all its packets."""
        return self._cut

    @cut.setter
    def cut(self, cut: bool) -> None:
        self._cut = cut
        self._mark()

    @property
    def watched(self) -> bool:
        """Whether rules or holds may be about its packets."""
        return self._watched

    @watched.setter
    def watched(self, watched: bool) -> None:
        if watched is not self._watched:
            self._watched = watched
            self._mark()

    def _mark(self) -> None:
        self.special = bool(
            self._cut
            or self._watched
            or self.bandwidth
            or self.loss
            or self.slicer != "write"
        )

    def shape(self, shapes: Sequence[Shape]) -> None:
        """Take the settings that apply: the most specific, the latest among equals."""
        best = dict.fromkeys(LINK_DEFAULTS, -1)
        found = dict(LINK_DEFAULTS)
        for shape in shapes:
            rank = shape.rank(self.src, self.dst)
            for name, value in shape.settings.items():
                if rank >= best[name] and rank >= 0:
                    best[name], found[name] = rank, value
        for name, value in found.items():
            setattr(self, name, value)
        self.fixed_ns = self.latency.ns if isinstance(self.latency, Constant) else -1
        self._mark()

    def delay(self) -> int:
        """Draw how long the next packet takes, in nanoseconds."""
        fixed = self.fixed_ns
        return fixed if fixed >= 0 else self.latency.draw(self.stream)

    def loses(self) -> bool:
        """Draw whether the next packet is lost."""
        if not self.loss:
            return False
        stream = self.losses(f"net/{self.src}>{self.dst}/loss")
        # 0 is the quiet answer: nothing is lost.
        return stream.below(CHANCES) >= round((1 - self.loss) * CHANCES)

    def cuts(self, size: int) -> list[int]:
        """Give where a stream's `size` bytes are cut, in order, the end included."""
        if self.slicer == "random":
            stream = self.losses(f"net/{self.src}>{self.dst}/cuts")
            largest, cuts, at = self.segment, [], 0
            while at < size:
                # 0 is the quiet answer: as much as fits into one segment.
                at += min(largest, size - at) - stream.below(min(largest, size - at))
                cuts.append(at)
            return cuts
        step = {"byte": 1, "mss": self.segment}.get(self.slicer, max(size, 1))
        return [*range(step, size, step), size]

    @property
    def segment(self) -> int:
        """Most bytes of a stream in one packet, where the slicer asks."""
        return max(min(self.mtu - HEADERS, LARGEST_SEGMENT), 1)

    def queued(self, now_ns: int) -> int:
        """Give how many bytes wait to leave the sender."""
        if not self.bandwidth or self.free_ns <= now_ns:
            return 0
        return (self.free_ns - now_ns) * self.bandwidth // (8 * NANOS)

    def takes(self, size: int, now_ns: int) -> int:
        """Give how many of `size` bytes the queue has room for; all if it is empty."""
        if not self.queue:
            return size
        return min(size, max(self.queue - self.queued(now_ns), 0))

    def room_in(self, size: int, now_ns: int) -> int:
        """Give in how many nanoseconds there is room for that many bytes."""
        over = self.queued(now_ns) + min(size, self.queue) - self.queue
        return max(self._takes_ns(over), 1)

    def leaves(self, size: int, now_ns: int) -> int:
        """Put a packet into line; gives when its last byte has left."""
        if not self.bandwidth:
            return now_ns
        begin = max(now_ns, self.free_ns)
        self.free_ns = begin + self._takes_ns(size)
        return self.free_ns

    def _takes_ns(self, size: int) -> int:
        return -(-max(size, 0) * 8 * NANOS // self.bandwidth)  # rounded up

    def count(self, size: int) -> None:
        """Count a packet put on it."""
        self.sent += 1
        self.bytes += size


class Partition:
    """A cut between two sides, in one direction or both."""

    __slots__ = ("_left", "_repaired", "_right", "both")

    def __init__(self, left: Side, right: Side, *, both: bool) -> None:
        self._left = left
        self._right = right
        self.both = both
        self._repaired: list[tuple[Side, Side]] = []

    def __str__(self) -> str:
        arrow = "<->" if self.both else "->"
        return f"{'+'.join(self._left)} {arrow} {'+'.join(self._right)}"

    def cuts(self, src: str, dst: str) -> bool:
        """Whether packets from `src` to `dst` are dropped by it."""
        if src == dst:
            return False
        hit = names_pair(src, dst, self._left, self._right) or (
            self.both and names_pair(dst, src, self._left, self._right)
        )
        return hit and not any(
            names_pair(src, dst, a, b) or names_pair(dst, src, a, b)
            for a, b in self._repaired
        )

    def repair(self, left: Side, right: Side) -> None:
        """Let packets between two sides pass again, in both directions."""
        self._repaired.append((left, right))


def names_pair(src: str, dst: str, left: Side, right: Side) -> bool:
    """Whether two sides name a direction between two hosts."""
    return (src in left or left == ("*",)) and (dst in right or right == ("*",))


# -- reading what users give -----------------------------------------------------------


def _amount(name: str, value: Any) -> int:
    """Read a number of which there may be any, unlimited being infinity."""
    if value == math.inf:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 1:
        raise ValueError(
            f"{name} is a number of at least 1, or math.inf for no limit, not {value!r}"
        )
    return round(value)


def _size(name: str, value: Any) -> int:
    if type(value) is not int or value < (HEADERS + 1 if name == "mtu" else 1):
        raise ValueError(f"{name} is a number of bytes, not {value!r}")
    return value


def _chance(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a probability, 0 to 1, not {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability, 0 to 1, not {value!r}")
    return float(value)


def _word(*known: str) -> Callable[[str, Any], str]:
    def read(name: str, value: Any) -> str:
        if value not in known:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")
        return str(value)

    return read


def _span(name: str, value: Any) -> int:
    ns = to_ns(value)
    if ns <= 0:
        raise ValueError(f"{name} is a time above 0, not {duration_text(ns)}")
    return ns


def _datagrams(name: str, value: Any) -> Datagrams:
    if not isinstance(value, Datagrams):
        raise TypeError(f"{name} is a `Datagrams(loss=..., ...)`, not {value!r}")
    return value


_READERS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "latency": lambda _, value: as_latency(value),
    "bandwidth": _amount,
    "queue": _amount,
    "loss": _chance,
    "mtu": _size,
    "slicer": _word(*get_args(Slicer)),
    "send_buffer": _size,
    "receive_buffer": _size,
    "unreachable": _word("silent", "icmp"),
    "backlog_full": _word("drop", "refuse"),
    "syn_timeout": _span,
    "retransmit_timeout": _span,
    "datagrams": _datagrams,
}
