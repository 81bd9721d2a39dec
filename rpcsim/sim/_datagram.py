"""How links treat datagrams: loss in bursts, copies, disorder, flipped bits, fragments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rpcsim.ports import Duration, to_ns

if TYPE_CHECKING:
    from rpcsim.sim._streams import SimStream

__all__ = ["CHANCES", "Burst", "Datagrams", "flipped", "hits"]

CHANCES: Final = 1 << 20


def hits(stream: SimStream, probability: float) -> bool:
    """Draw whether something of that probability happens; none is drawn for 0."""
    if not probability:
        return False
    # 0 is the quiet answer: it does not happen.
    return stream.below(CHANCES) >= round((1 - probability) * CHANCES)


def flipped(data: bytes, bits: int, stream: SimStream) -> bytes:
    """Flip bits at drawn places."""
    altered = bytearray(data)
    for _ in range(bits if data else 0):
        place = stream.below(len(data) * 8)
        altered[place >> 3] ^= 1 << (place & 7)
    return bytes(altered)


def _check(**chances: float) -> None:
    for name, value in chances.items():
        if isinstance(value, bool) or not 0 <= value <= 1:
            raise ValueError(f"{name} is a probability from 0 to 1, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Loss by a model of two states (Gilbert and Elliott); it begins in the good one.

    Attributes:
        worsens: Probability, at each packet, to go from the good state to the bad.
        recovers: Probability, at each packet, to go back.
        good: Probability of loss in the good state.
        bad: Probability of loss in the bad state.
    """

    worsens: float
    recovers: float
    good: float = 0.0
    bad: float = 1.0

    def __post_init__(self) -> None:
        _check(
            worsens=self.worsens, recovers=self.recovers, good=self.good, bad=self.bad
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Datagrams:
    """What a link does to datagrams, beside what it does to every packet.

    Attributes:
        loss: Probability that a packet (a fragment, too) is lost, beside the link's.
        duplicate: Probability that a datagram arrives twice.
        reorder: Probability that one is delayed by `reorder_by`, and so overtaken.
        reorder_by: How long.
        corrupt: Probability that a bit is flipped.
        checksum: Whether a datagram with flipped bits is dropped by the receiver's
            system instead of delivered.
        burst: Loss that comes in bursts; `None` for none.
        dont_fragment: Whether datagrams larger than a packet are refused with
            `EMSGSIZE` instead of sent in fragments.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_by: Duration = "10ms"
    corrupt: float = 0.0
    checksum: bool = True
    burst: Burst | None = None
    dont_fragment: bool = False

    def __post_init__(self) -> None:
        _check(
            loss=self.loss,
            duplicate=self.duplicate,
            reorder=self.reorder,
            corrupt=self.corrupt,
        )
        if to_ns(self.reorder_by) <= 0:
            raise ValueError(f"reorder_by is a positive time, not {self.reorder_by!r}")
        if self.burst is not None and self.loss:
            raise ValueError("loss and burst contradict each other: give one of them")
