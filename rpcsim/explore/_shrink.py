"""Reducing a failing tape to the choices that matter.

Fewer choices that are not 0 come first, then a shorter tape, then smaller numbers
(`Tape.cost`). Blocks are tried before single choices, halving them as delta debugging
does (Zeller and Hildebrandt, 2002): 200 deviations of which 2 matter take some dozen
runs. What is given back was seen to fail, and no single choice of it can be left out.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rpcsim.sim import Tape, Track

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Shrunk", "shrink_tape"]

MAX_RUNS: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """What came of shrinking.

    Attributes:
        tape: The least tape found; it fails.
        before: Cost of the tape given: choices not 0, length, sum of values.
        after: Cost of the least.
        runs: How often the program ran.
        done: Whether no single choice can be left out; false when the runs ran out.
    """

    tape: Tape
    before: tuple[int, int, int]
    after: tuple[int, int, int]
    runs: int
    done: bool

    def __str__(self) -> str:
        kept = ", ".join(f"{s}[{i}] = {v}" for s, i, v in self.tape.deviations())
        more = "" if self.done else "; the runs ran out before it was minimal"
        return (
            f"{self.before[0]} deviations reduced to {self.after[0]} in {self.runs} "
            f"runs: {kept or 'fails first in, first out'}{more}"
        )


class _RunsSpent(Exception):
    """No more runs are allowed."""


def shrink_tape(
    tape: Tape, fails: Callable[[Tape], bool], *, max_runs: int = MAX_RUNS
) -> Shrunk:
    """Give the least tape found that still fails.

    Args:
        tape: A tape that fails.
        fails: Runs the program along a tape, as with
            `Sim(policy=replay(tape, strict=False))`, and says whether it fails in
            the same way.
        max_runs: How often it may be asked.

    Raises:
        ValueError: The tape does not fail at all.
    """
    search = _Search(tape, fails, max_runs)
    if not search.try_(tape):
        raise ValueError(
            f"{tape!r} does not fail: record it from the failing run, and have `fails` "
            "replay it with the seed and scope it holds"
        )
    done = True
    try:
        search.run()
    except _RunsSpent:
        done = False
    return Shrunk(
        tape=search.best,
        before=tape.cost(),
        after=search.best.cost(),
        runs=search.runs,
        done=done,
    )


class _Search:
    """The passes over one tape, repeated until none of them changes anything."""

    def __init__(self, tape: Tape, fails: Callable[[Tape], bool], most: int) -> None:
        self.best = tape
        self.runs = 0
        self._fails = fails
        self._most = most
        # Tapes that differ only in ranges or trailing silence are the same run.
        self._seen: dict[object, bool] = {}

    def try_(self, tape: Tape) -> bool:
        """Run along a tape; if it fails and is cheaper it becomes the best."""
        key = tuple((label, track.values) for label, track in tape.tracks.items())
        known = self._seen.get(key)
        if known is None:
            if self.runs >= self._most:
                raise _RunsSpent
            self.runs += 1
            known = self._seen[key] = bool(self._fails(tape))
        if known and tape.cost() < self.best.cost():
            self.best = tape
        return known

    def run(self) -> None:
        """Run all passes to a fixed point."""
        while True:
            before = self.best.cost()
            self._zero()
            self._trim()
            self._lower()
            if self.best.cost() == before:
                return

    def _zero(self) -> None:
        """Set blocks of deviations to 0, then single ones."""
        size = len(list(self.best.deviations()))
        if size:
            self.try_(_zeroed(self.best, list(self.best.deviations())))
        while size:
            size = (size + 1) // 2
            # From the end: what comes late depends on what came before it.
            start = len(list(self.best.deviations()))
            while start > 0:
                start -= size
                block = list(self.best.deviations())[max(start, 0) : start + size]
                self.try_(_zeroed(self.best, block))
            if size == 1:
                return

    def _trim(self) -> None:
        """Take zeros off the ends, and whole streams off the tape."""
        for label in list(self.best.tracks):
            self.try_(self.best.with_track(label, Track()))
            track = self.best.tracks.get(label)
            if track is None:
                continue
            used = [index for index, value in enumerate(track.values) if value]
            self.try_(self.best.cut(max(used, default=-1) + 1, label))
            # A deviation may be as good earlier, on a shorter tape.
            self._earlier(label)

    def _earlier(self, label: str) -> None:
        track = self.best.tracks.get(label)
        used = [i for i, v in enumerate(track.values if track else ()) if v]
        if not used or track is None:
            return
        last, value = used[-1], track.values[used[-1]]
        before = used[-2] if len(used) > 1 else -1
        step = (last - before) // 2
        while step:
            moved = self.best.fix(label, last, 0).fix(label, last - step, value)
            if self.try_(_unranged(moved, label).cut(last - step + 1, label)):
                last -= step
                step = min(step, last - before - 1)
            else:
                step //= 2

    def _lower(self) -> None:
        """Make single numbers smaller: 1, the half, one less."""
        for label, index, value in list(self.best.deviations()):
            low, high = 0, value  # `low` does not fail, `high` does
            while high - low > 1:
                middle = 1 if high == value and low == 0 else (low + high) // 2
                if self.try_(self.best.fix(label, index, middle)):
                    high = middle
                else:
                    low = middle


def _zeroed(tape: Tape, block: Sequence[tuple[str, int, int]]) -> Tape:
    """Give the tape with some choices set to 0."""
    by_label: dict[str, list[int]] = {}
    for label, index, _ in block:
        by_label.setdefault(label, []).append(index)
    tracks = dict(tape.tracks)
    for label, indices in by_label.items():
        values = list(tracks[label].values)
        for index in indices:
            values[index] = 0
        tracks[label] = Track(tuple(values), tracks[label].ranges)
    return dataclasses.replace(tape, tracks=tracks, complete=False)


def _unranged(tape: Tape, label: str) -> Tape:
    """Forget the ranges of a stream: another choice stands in their place."""
    track = tape.tracks[label]
    return tape.with_track(label, Track(track.values, (None,) * len(track)))
