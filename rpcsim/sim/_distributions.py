"""Distributions of delays, drawn as integers and equal on every platform.

Each delay takes one draw of one bounded integer, interpolated in the tables of
`_tables.py`. A greater draw never gives a lesser delay, so that 0 is the least one: the
quiet answer, to which shrinking goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from rpcsim.ports import duration_text, to_ns
from rpcsim.sim._tables import EXPONENTIAL, LN2, NORMAL, NORMAL_TAIL, POWERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rpcsim.ports import Duration
    from rpcsim.sim._streams import SimStream

__all__ = [
    "Constant",
    "Exponential",
    "Latency",
    "LogNormal",
    "Normal",
    "Pareto",
    "Samples",
    "Uniform",
    "as_latency",
]

_BITS: Final = 24  # of the fractions in the tables
_RANGE: Final = 1 << 31  # of a draw: 7 bits of index and 24 between two entries
# Most digits left of the point that a power may have: 2**40 times the median.
_MOST: Final = 40


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


class Normal:
    """The normal distribution, cut at 0.

    Args:
        mean: Mean delay.
        deviation: Standard deviation.
    """

    __slots__ = ("deviation_ns", "mean_ns")

    def __init__(self, mean: Duration, deviation: Duration) -> None:
        self.mean_ns = _delay(mean, "mean")
        self.deviation_ns = _delay(deviation, "deviation")

    def draw(self, stream: SimStream) -> int:
        """Draw a delay."""
        ns = self.mean_ns + (self.deviation_ns * _normal(stream) >> _BITS)
        return max(ns, 0)

    def __str__(self) -> str:
        return (
            f"normal({duration_text(self.mean_ns)}, {duration_text(self.deviation_ns)})"
        )


class Exponential:
    """The exponential distribution, above a floor.

    Args:
        mean: Mean of what is added to the floor.
        floor: Least delay.
    """

    __slots__ = ("floor_ns", "mean_ns")

    def __init__(self, mean: Duration, floor: Duration = 0) -> None:
        self.mean_ns = _delay(mean, "mean")
        self.floor_ns = _delay(floor, "floor")

    def draw(self, stream: SimStream) -> int:
        """Draw a delay."""
        return self.floor_ns + (self.mean_ns * _exponential(stream) >> _BITS)

    def __str__(self) -> str:
        told = f"exponential({duration_text(self.mean_ns)})"
        return f"{duration_text(self.floor_ns)} + {told}" if self.floor_ns else told


class LogNormal:
    """A delay whose logarithm is normal: mostly near the median, at times far above.

    Args:
        median: The delay that half of the packets stay below.
        sigma: Standard deviation of the logarithm; 0.5 makes one packet in 40 take
            over 2.7 times the median.
    """

    __slots__ = ("_sigma", "median_ns")

    def __init__(self, median: Duration, sigma: float) -> None:
        self.median_ns = _delay(median, "median")
        self._sigma = _factor(sigma, "sigma")

    def draw(self, stream: SimStream) -> int:
        """Draw a delay."""
        return self.median_ns * _exp(self._sigma * _normal(stream) >> _BITS) >> _BITS

    def __str__(self) -> str:
        sigma = self._sigma / (1 << _BITS)
        return f"lognormal({duration_text(self.median_ns)}, {sigma:g})"


class Pareto:
    """A heavy tail between two bounds: of what exceeds x, a fixed share exceeds 2x.

    Args:
        low: Least delay.
        high: Greatest delay; what would exceed it takes just as long.
        alpha: Steepness: delays above x are 2**alpha times rarer above 2x.
    """

    __slots__ = ("_alpha", "high_ns", "low_ns")

    def __init__(self, low: Duration, high: Duration, alpha: float = 1.5) -> None:
        self.low_ns = _delay(low, "low")
        self.high_ns = _delay(high, "high")
        self._alpha = _factor(alpha, "alpha")
        if not 0 < self.low_ns <= self.high_ns:
            raise ValueError(f"Pareto needs 0 < low <= high, not {low!r}, {high!r}")

    def draw(self, stream: SimStream) -> int:
        """Draw a delay."""
        power = (_exponential(stream) << _BITS) // self._alpha
        return min(self.low_ns * _exp(power) >> _BITS, self.high_ns)

    def __str__(self) -> str:
        alpha = self._alpha / (1 << _BITS)
        bounds = f"{duration_text(self.low_ns)}..{duration_text(self.high_ns)}"
        return f"pareto({bounds}, {alpha:g})"


class Samples:
    """One of the delays given, each as likely; such as those measured somewhere.

    Args:
        delays: The delays; one given twice is twice as likely.
    """

    __slots__ = ("_sorted",)

    def __init__(self, delays: Sequence[Duration]) -> None:
        self._sorted = tuple(sorted(_delay(delay, "sample") for delay in delays))
        if not self._sorted:
            raise ValueError("Samples needs at least one delay")

    def draw(self, stream: SimStream) -> int:
        """Draw one of the delays."""
        return self._sorted[stream.below(len(self._sorted))]

    def __str__(self) -> str:
        low, high = duration_text(self._sorted[0]), duration_text(self._sorted[-1])
        return f"{len(self._sorted)} samples of {low}..{high}"


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


def _delay(duration: Duration, what: str) -> int:
    ns = to_ns(duration)
    if ns < 0:
        raise ValueError(f"a {what} cannot be negative: {duration!r}")
    return ns


def _factor(value: float, what: str) -> int:
    if not 0 < value <= 1_000:
        raise ValueError(f"{what} is a number above 0, up to 1000, not {value!r}")
    return max(round(value * (1 << _BITS)), 1)


def _between(table: tuple[int, ...], index: int, part: int, bits: int) -> int:
    low = table[index]
    return low + ((table[index + 1] - low) * part >> bits)


def _normal(stream: SimStream) -> int:
    """Draw from the standard normal distribution, in 2**-24."""
    half = _RANGE >> 1
    drawn = stream.below(_RANGE)
    # The table is of the upper half; the lower one is its mirror.
    above = drawn - half if drawn >= half else half - 1 - drawn
    index, part = above >> _BITS, above & ((1 << _BITS) - 1)
    if index == len(NORMAL) - 2:
        value = _between(NORMAL_TAIL, part >> 19, part & ((1 << 19) - 1), 19)
    else:
        value = _between(NORMAL, index, part, _BITS)
    return value if drawn >= half else -value


def _exponential(stream: SimStream) -> int:
    """Draw from the exponential distribution of mean 1, in 2**-24."""
    part, bits = stream.below(_RANGE), 31
    base = 0
    while bits > 7:
        bits -= 7
        index, part = part >> bits, part & ((1 << bits) - 1)
        if index < len(EXPONENTIAL) - 1:
            return base + _between(EXPONENTIAL, index, part, bits)
        # It has no memory: beyond the last entry it begins anew.
        base += EXPONENTIAL[-1]
    return base


def _exp(power: int) -> int:
    """Give e to a power; both in 2**-24."""
    whole, part = divmod((power << _BITS) // LN2, 1 << _BITS)
    value = _between(POWERS, part >> 18, part & ((1 << 18) - 1), 18)
    return value >> -whole if whole < 0 else value << min(whole, _MOST)
