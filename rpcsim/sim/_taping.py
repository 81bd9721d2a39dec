"""Writing tapes and following them, between the streams of a run and its program.

A run without a tape never meets this file. With one, every draw passes `Tap.pick`,
which asks the source of choices, if there is one, and writes down what came of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from rpcsim.errors import ReplayError, SimulationError
from rpcsim.sim._tape import SCHEDULE, Tape, Track

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.sim._policy import Chooser
    from rpcsim.sim._sim import Sim

__all__ = ["Choices", "Recorder", "Rest", "Tap", "TapePlayer"]

# What choices the tape is silent about are.
Rest: TypeAlias = Literal["fifo", "zero", "seed"]
# Records shown with an error.
LAST: Final = 5


class Choices(Protocol):
    """Where the integers of a run come from, in place of its seed.

    A tape is one; so is a strategy of a property-based test, which then finds and
    shrinks schedules, latencies and faults like any other data.
    """

    def draw(self, label: str, n: int) -> int | None:
        """Give an integer, 0 <= i < n; `None` leaves this choice to the seed.

        Args:
            label: The stream: `schedule`, `net/a>b`, ...
            n: How many alternatives there are; 0 is the quiet one.
        """


class Recorder:
    """Writes down choices, by stream."""

    __slots__ = ("_tracks",)

    def __init__(self) -> None:
        self._tracks: dict[str, tuple[list[int], list[int]]] = {}

    def track(self, label: str) -> tuple[list[int], list[int]]:
        """Give the lists of values and ranges of one stream, to append to."""
        track = self._tracks.get(label)
        if track is None:
            track = self._tracks[label] = ([], [])
        return track

    def tape(self, **about: Any) -> Tape:
        """Give what was written so far as a tape."""
        tracks = {
            label: Track(tuple(values), tuple(ranges))
            for label, (values, ranges) in self._tracks.items()
            if values
        }
        return Tape(tracks=tracks, **about)


class TapePlayer:
    """Follows a tape during one run.

    Args:
        tape: What to follow.
        strict: Whether a choice with another range than the recorded one, or one
            more than a complete tape holds, is `ReplayError`; else the recorded
            choice is cut to the last alternative, and counted.
        rest: What the tape is silent about: `"fifo"` takes schedule choices as 0
            and draws the others from the seed, `"zero"` takes all as 0, `"seed"`
            draws all.

    Attributes:
        clamped: Choices that were cut to the last alternative.
        misfits: Choices whose range was another than the recorded one.
        silent: Choices the tape did not hold.
    """

    __slots__ = (
        "_at",
        "_rest",
        "_sim",
        "_strict",
        "clamped",
        "misfits",
        "silent",
        "tape",
    )

    def __init__(self, tape: Tape, *, strict: bool, rest: Rest) -> None:
        self.tape: Final = tape
        self.clamped = 0
        self.misfits = 0
        self.silent = 0
        self._strict = strict
        self._rest = rest
        self._at: dict[str, int] = {}
        self._sim: Sim | None = None

    def __repr__(self) -> str:
        return (
            f"<player of {self.tape!r}: {sum(self._at.values())} choices, "
            f"{self.misfits} of another range, {self.silent} not on the tape>"
        )

    def attach(self, sim: Sim) -> None:
        """Tell it the run, which its errors describe and are kept by."""
        self._sim = sim

    def draw(self, label: str, n: int) -> int | None:
        """Give the recorded choice, or what stands in for a silent tape."""
        index = self._at.get(label, 0)
        self._at[label] = index + 1
        track = self.tape.tracks.get(label)
        if track is None or index >= len(track):
            if self._strict and self.tape.complete:
                held = 0 if track is None else len(track)
                raise self._astray(
                    label, index, None, n, f"the tape ends after {held} choices there"
                )
            return self._silence(label)
        value, of = track.values[index], track.ranges[index]
        if value is None:
            return self._silence(label)
        if of is not None and of != n:
            self.misfits += 1
            if self._strict:
                told = f"the tape holds {value} of {of}"
                raise self._astray(label, index, of, n, told)
        if value >= n:
            self.clamped += 1
            if self._strict:
                raise self._astray(label, index, of, n, f"the tape holds {value}")
            return n - 1
        return value

    def _silence(self, label: str) -> int | None:
        self.silent += 1
        if self._rest == "zero" or (self._rest == "fifo" and label == SCHEDULE):
            return 0
        return None

    def _astray(
        self, label: str, index: int, recorded: int | None, found: int, told: str
    ) -> ReplayError:
        sim = self._sim
        moment, last = "", ""
        if sim is not None:
            moment = f" at {sim.loop.now_ns / 1e9:.9g} s, in {sim.loop.strand.label}"
            records = list(sim.trace)[-LAST:]
            last = "".join(f"\n    {record}" for record in records)
            last = last and f"\n  last records:{last}"
        error = ReplayError(
            f"replay left its tape at choice {index} of stream {label!r}{moment}: "
            f"{told}, the program now has a choice among {found}; it is another "
            "program, or another version of it: record again, or replay with "
            f"strict=False{last}",
            stream=label,
            index=index,
            recorded=recorded,
            found=found,
        )
        if sim is not None:
            sim.keep(error)
        return error


class Tap:
    """What stands between the streams of one run and its program.

    Args:
        source: Where choices come from; `None` leaves all to the seed.
        recorder: Where they are written down; `None` for nowhere.
    """

    __slots__ = ("recorder", "source")

    def __init__(self, source: Choices | None, recorder: Recorder | None) -> None:
        self.source: Final = source
        self.recorder: Final = recorder

    def pick(self, label: str, n: int, drawn: int) -> int:
        """Give the value to use where the seed drew `drawn` of `n`.

        The seed is asked in any case: fixing one choice leaves the later ones of the
        stream what they were.
        """
        value = drawn
        if self.source is not None:
            given = self.source.draw(label, n)
            if given is not None:
                if not 0 <= given < n:
                    raise SimulationError(
                        f"the source of choices gave {given} for stream {label!r}, "
                        f"where there are {n} alternatives; give 0 <= i < {n}"
                    )
                value = given
        if self.recorder is not None:
            values, ranges = self.recorder.track(label)
            values.append(value)
            ranges.append(n)
        return value

    def chooser(self, own: Chooser | None) -> Chooser:
        """Wrap the chooser of a policy; `None` is first in, first out."""
        if self.source is not None or self.recorder is None:
            return self._picking(own)
        values, ranges = self.recorder.track(SCHEDULE)
        note_value, note_range = values.append, ranges.append

        def oldest(n: int) -> int:
            note_value(0)
            note_range(n)
            return 0

        def choose(n: int) -> int:
            value = drawn(n)
            note_value(value)
            note_range(n)
            return value

        if own is None:
            return oldest
        drawn: Callable[[int], int] = own
        return choose

    def _picking(self, own: Chooser | None) -> Chooser:
        pick = self.pick
        return lambda n: pick(SCHEDULE, n, 0 if own is None else own(n))
