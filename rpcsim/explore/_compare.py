"""Two runs compared: record by record, choice by choice, draw by draw, and outcome."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from rpcsim.sim import Track
from rpcsim.trace import Difference, first_difference

if TYPE_CHECKING:
    from rpcsim.explore._subject import Observed
    from rpcsim.sim import Tape

__all__ = ["Mismatch", "first_mismatch"]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What differs between two runs whose records are equal.

    Attributes:
        what: A choice, a number of draws, the outcome.
        first: It in the first run.
        second: It in the second.
    """

    what: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.what}\n   first: {self.first}\n  second: {self.second}"


def first_mismatch(first: Observed, second: Observed) -> Difference | Mismatch | None:
    """Give the first difference between two runs; `None` if there is none.

    Records, then choices with their ranges, draws per stream, outcome. Draws of the
    schedule do not count: a replay makes its choices without.
    """
    found = first_difference(first.records, second.records)
    if found is not None:
        return found
    choice = _choices(first.tape, second.tape)
    if choice is not None:
        return choice
    for label in {**first.draws, **second.draws}:
        one, two = first.draws.get(label, 0), second.draws.get(label, 0)
        if one != two and label != "schedule":
            return Mismatch(f"draws from stream {label!r}", str(one), str(two))
    if first.outcome != second.outcome:
        return Mismatch("the outcome", first.outcome, second.outcome)
    # Long runs keep their newest records only; the older ones are in the digests.
    if first.schedule_digest != second.schedule_digest:
        return Mismatch(
            "the digest of records no longer kept",
            str(first.schedule_digest),
            str(second.schedule_digest),
        )
    return None


def _choices(first: Tape, second: Tape) -> Mismatch | None:
    for label in {**first.tracks, **second.tracks}:
        one = first.tracks.get(label, Track())
        two = second.tracks.get(label, Track())
        if one == two:
            continue
        pairs = zip_longest(
            zip(one.values, one.ranges, strict=True),
            zip(two.values, two.ranges, strict=True),
        )
        for index, (left, right) in enumerate(pairs):
            if left != right:
                where = f"choice {index} of stream {label!r}"
                return Mismatch(where, _choice(left), _choice(right))
    return None


def _choice(choice: tuple[int | None, int | None] | None) -> str:
    return "(none)" if choice is None else f"{choice[0]} of {choice[1]}"
