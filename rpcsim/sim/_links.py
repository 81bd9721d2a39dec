"""Links between hosts: how long a packet takes, and whether it passes at all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypeAlias

from rpcsim.ports import duration_text, to_ns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rpcsim.ports import Duration
    from rpcsim.sim._streams import SimStream

__all__ = ["Constant", "Latency", "Link", "Partition", "Shape", "Uniform", "as_latency"]

Side: TypeAlias = "tuple[str, ...]"  # host names; ("*",) is every host


class Latency(Protocol):
    """A distribution of delays."""

    def draw(self, stream: SimStream) -> int:
        """Draw one delay, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same delay.

    Attributes:
        ns: The delay, in nanoseconds.
    """

    ns: int

    def draw(self, stream: SimStream) -> int:
        """Give the delay; nothing is drawn."""
        return self.ns

    def __str__(self) -> str:
        return duration_text(self.ns)


class Uniform:
    """Every delay between two bounds is equally likely, to the nanosecond.

    Args:
        low: Least delay.
        high: Greatest delay, included.
    """

    __slots__ = ("high_ns", "low_ns")

    def __init__(self, low: Duration, high: Duration) -> None:
        self.low_ns = to_ns(low)
        self.high_ns = to_ns(high)
        if not 0 <= self.low_ns <= self.high_ns:
            raise ValueError(f"a latency needs 0 <= low <= high, not {low!r}, {high!r}")

    def draw(self, stream: SimStream) -> int:
        """Draw a delay."""
        return self.low_ns + stream.below(self.high_ns - self.low_ns + 1)

    def __str__(self) -> str:
        return f"{duration_text(self.low_ns)}..{duration_text(self.high_ns)}"


def as_latency(value: Latency | Duration) -> Latency:
    """Read what a user gives as a latency: a distribution, or a duration."""
    if isinstance(value, (int, float, str, timedelta)):
        ns = to_ns(value)
        if ns < 0:
            raise ValueError(f"a latency cannot be negative: {value!r}")
        return Constant(ns)
    if not hasattr(value, "draw"):
        raise TypeError(
            f"a latency is a duration such as '5ms', or Uniform(low, high), not {value!r}"
        )
    return value


@dataclass(frozen=True, slots=True)
class Shape:
    """One setting of links, as `net.link` was told.

    Attributes:
        src: Hosts it applies to on the sending side.
        dst: The same on the receiving side.
        latency: Delay of each packet; `None` leaves it as it is.
    """

    src: Side
    dst: Side
    latency: Latency | None = None

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
    """One direction between two hosts."""

    __slots__ = ("cut", "dst", "fixed_ns", "latency", "src", "stream")

    def __init__(self, src: str, dst: str, stream: SimStream) -> None:
        self.src = src
        self.dst = dst
        self.stream = stream
        self.cut = False
        self.latency: Latency = Constant(0)
        # The delay when it is constant, so that the common link draws nothing and
        # calls nothing; -1 when it must be drawn.
        self.fixed_ns = 0

    def __repr__(self) -> str:
        state = ", cut" if self.cut else ""
        return f"<link {self.src} -> {self.dst}: {self.latency}{state}>"

    def shape(self, shapes: Sequence[Shape]) -> None:
        """Take the settings that apply: the most specific, the latest among equals."""
        best = -1
        for shape in shapes:
            rank = shape.rank(self.src, self.dst)
            if rank >= best and rank >= 0 and shape.latency is not None:
                best = rank
                self.latency = shape.latency
        constant = isinstance(self.latency, Constant)
        self.fixed_ns = self.latency.ns if isinstance(self.latency, Constant) else -1
        assert constant == (self.fixed_ns >= 0)

    def delay(self) -> int:
        """Draw how long the next packet takes, in nanoseconds."""
        fixed = self.fixed_ns
        return fixed if fixed >= 0 else self.latency.draw(self.stream)


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
        hit = _pair(src, dst, self._left, self._right) or (
            self.both and _pair(dst, src, self._left, self._right)
        )
        return hit and not any(
            _pair(src, dst, a, b) or _pair(dst, src, a, b) for a, b in self._repaired
        )

    def repair(self, left: Side, right: Side) -> None:
        """Let packets between two sides pass again, in both directions."""
        self._repaired.append((left, right))


def _pair(src: str, dst: str, left: Side, right: Side) -> bool:
    return (src in left or left == ("*",)) and (dst in right or right == ("*",))
