"""The tape: the choices of a run, by stream, as integers with their ranges.

Index 0 is always the quiet answer: the oldest runnable entry, the least of a range. So
a tape of zeros, or one that is too short, continues as first in, first out; setting a
number to zero removes one deviation and moves no other. Ids and the `random` module
depend on the seed alone and are on no tape: a zero there would make two ids equal.
Read `Tape` first; `_taping.py` writes and follows tapes during a run.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from rpcsim.errors import TraceFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["SCHEDULE", "Tape", "Track"]

SCHEMA: Final = "rpcsim.tape/1"
SCHEDULE: Final = "schedule"
# Longer lines are refused before they are parsed, as in a trace file.
MAX_LINE: Final = 16 * 1024 * 1024
# Two numbers of eight bytes each: a third of a gigabyte of choices is no test.
MAX_CHOICES: Final = 20_000_000
# Choices in one line of a file: short enough for an error to name a place.
PER_LINE: Final = 1_000
# JSON numbers beyond this lose digits in other readers (RFC 8259, section 6).
_EXACT: Final = 1 << 53

Scope: TypeAlias = Literal["task", "host"]


@dataclass(frozen=True, slots=True)
class Track:
    """The choices of one stream, in the order they were made.

    Attributes:
        values: What was chosen, 0 <= value < range; `None` where the tape is silent.
        ranges: How many alternatives there were; `None` where that is not known.
            As long as `values`.
    """

    values: tuple[int | None, ...] = ()
    ranges: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        if len(self.values) != len(self.ranges):
            raise ValueError(
                f"a track needs one range per value: {len(self.values)} values, "
                f"{len(self.ranges)} ranges"
            )
        for index, (value, of) in enumerate(zip(self.values, self.ranges, strict=True)):
            wrong = _misfit(value, of)
            if wrong:
                raise ValueError(f"choice {index}: {wrong}")

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tape:
    """The choices of one run; a value, made by a recording run or by hand.

    Attributes:
        tracks: Stream to its choices, in order of first use.
        seed: The seed of the recorded run, from which all that is not on the tape is
            drawn; `None` if the tape was made by hand.
        policy: What the recorded run was told to do, as text.
        scope: Which strands the choices are about.
        complete: Whether it holds all choices of a run, so that a strict replay may
            not make more of them.
    """

    tracks: Mapping[str, Track] = field(default_factory=dict)
    seed: int | None = None
    policy: str = ""
    scope: Scope = "task"
    complete: bool = False

    def __repr__(self) -> str:
        held = ", ".join(f"{label}: {len(t)}" for label, t in self.tracks.items())
        return f"<Tape of seed {self.seed}: {held or 'empty'}>"

    def __len__(self) -> int:
        return sum(map(len, self.tracks.values()))

    @classmethod
    def of(
        cls,
        choices: Mapping[str, Mapping[int, int] | Sequence[int]],
        *,
        seed: int | None = None,
        scope: Scope = "task",
    ) -> Tape:
        """Make a tape by hand; ranges are not known, so none is checked.

        Args:
            choices: Stream to its choices: a sequence from the first one on, or
                {index: value}, silent about the indices between.
            seed: What the rest is drawn from, if it matters.
            scope: Which strands the choices are about.
        """
        tape = cls(seed=seed, scope=scope)
        for label, given in choices.items():
            if hasattr(given, "items"):
                pairs = dict(given.items())
                if any(index < 0 for index in pairs):
                    raise ValueError(f"{label}: a choice has an index of 0 or more")
                length = max(pairs, default=-1) + 1
                values = tuple(pairs.get(index) for index in range(length))
            else:
                values = tuple(given)
            tape = tape.with_track(label, Track(values, (None,) * len(values)))
        return tape

    @classmethod
    def zeros(cls, n: int) -> Tape:
        """Make a tape of `n` schedule choices that are all 0."""
        return cls.of({SCHEDULE: [0] * n})

    def with_track(self, label: str, track: Track) -> Tape:
        """Give a copy with another track; an empty one is taken off."""
        tracks = {**self.tracks, label: track}
        if not len(track):
            del tracks[label]
        return dataclasses.replace(self, tracks=tracks, complete=False)

    def fix(self, label: str, index: int, value: int | None) -> Tape:
        """Give a copy in which one choice is fixed, or with `None` left open."""
        track = self.tracks.get(label, Track())
        missing = (None,) * (index + 1 - len(track))
        values, ranges = [*track.values, *missing], [*track.ranges, *missing]
        values[index] = value
        return self.with_track(label, Track(tuple(values), tuple(ranges)))

    def cut(self, length: int, label: str = SCHEDULE) -> Tape:
        """Give a copy that holds only the first `length` choices of a stream."""
        track = self.tracks.get(label, Track())
        kept = Track(track.values[:length], track.ranges[:length])
        return self.with_track(label, kept)

    def only(self, *labels: str) -> Tape:
        """Give a copy with some streams only; the others are drawn again."""
        tracks = {k: track for k, track in self.tracks.items() if k in labels}
        return dataclasses.replace(self, tracks=tracks, complete=False)

    def deviations(self) -> Iterator[tuple[str, int, int]]:
        """Yield (stream, index, value) of every choice that is not 0."""
        for label, track in self.tracks.items():
            for index, value in enumerate(track.values):
                if value:
                    yield label, index, value

    def cost(self) -> tuple[int, int, int]:
        """Give what shrinking makes smaller: choices not 0, length, sum of values."""
        values = [value for _, _, value in self.deviations()]
        return len(values), len(self), sum(values)

    def plain(self) -> dict[str, dict[int, int]]:
        """Give the choices that are not 0 as {stream: {index: value}}."""
        told: dict[str, dict[int, int]] = {}
        for label, index, value in self.deviations():
            told.setdefault(label, {})[index] = value
        return told

    # -- files -------------------------------------------------------------------------

    def dumps(self) -> str:
        """Give the text of a tape file: JSON lines, a header, choices, an end."""
        header = {
            "schema": SCHEMA,
            "seed": None if self.seed is None else _number(self.seed),
            "policy": self.policy,
            "scope": self.scope,
            "complete": self.complete,
        }
        lines = [_dump(header)]
        for label, track in self.tracks.items():
            for first in range(0, len(track), PER_LINE):
                values = track.values[first : first + PER_LINE]
                ranges = track.ranges[first : first + PER_LINE]
                same = len(set(ranges)) == 1
                line = {
                    "s": label,
                    "i": first,
                    "v": [None if v is None else _number(v) for v in values],
                    # Draws of one link have one range: told once.
                    "n": _range(ranges[0]) if same else [_range(n) for n in ranges],
                }
                lines.append(_dump(line))
        lines.append(_dump({"end": {"choices": len(self)}}))
        return "\n".join(lines) + "\n"

    @classmethod
    def loads(cls, text: str) -> Tape:
        """Read the text of a tape file; one without its end is read as cut.

        Raises:
            TraceFormatError: A line is not what it should be; the text names it.
        """
        return _Reader(text).tape()


def _misfit(value: object, of: object) -> str:
    """Say what is wrong with a choice; nothing if it is a good one."""
    if of is not None and (not _is_int(of) or of < 1):  # type: ignore[operator]  # an int
        return f"a range is a whole number of at least 1, not {_short(of)}"
    if value is None:
        return ""
    if not _is_int(value) or value < 0:  # type: ignore[operator]  # an int
        return f"a choice is a whole number of at least 0, not {_short(value)}"
    if of is not None and value >= of:  # type: ignore[operator]  # ints, both
        return f"{_short(value)} is not below its range {_short(of)}"
    return ""


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: object) -> str:
    if _is_int(value) and abs(value) >= _EXACT:  # type: ignore[arg-type]  # an int
        return f"a number of {value.bit_length()} bits"  # type: ignore[attr-defined]
    told = repr(value)
    return told if len(told) <= 40 else told[:37] + "..."


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _number(value: int) -> int | str:
    return value if abs(value) < _EXACT else hex(value)


def _range(n: int | None) -> int | str | None:
    if n is None or n < _EXACT:
        return n
    power = n.bit_length() - 1
    return f"2^{power}" if n == 1 << power else hex(n)


class _Reader:
    """Reads one file, line by line; every error names the line, and the position."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._held: dict[str, tuple[list[int | None], list[int | None]]] = {}
        self._count = 0

    def tape(self) -> Tape:
        header = self._header()
        ended = False
        for number, line in enumerate(self._lines[1:], 2):
            if ended:
                if line:
                    raise TraceFormatError(f"line {number}: text after the end line")
                continue
            last = number == len(self._lines)
            if last and (not line or not line.endswith("}")):
                break  # the write was cut in this line, or before it
            value = self._object(line, number)
            if "end" in value:
                self._end(value["end"], number)
                ended = True
            else:
                self._choices(value, number)
        tracks = {
            label: Track(tuple(values), tuple(ranges))
            for label, (values, ranges) in self._held.items()
        }
        header["complete"] = header["complete"] and ended
        return Tape(tracks=tracks, **header)

    def _object(self, line: str, number: int) -> dict[str, Any]:
        if len(line) > MAX_LINE:
            raise TraceFormatError(f"line {number}: longer than {MAX_LINE} characters")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TraceFormatError(f"line {number}: not JSON ({error})") from None
        if not isinstance(value, dict):
            raise TraceFormatError(f"line {number}: expected a JSON object")
        return value

    def _header(self) -> dict[str, Any]:
        value = self._object(self._lines[0], 1)
        schema = value.get("schema")
        if schema != SCHEMA:
            raise TraceFormatError(
                f"line 1: expected schema {SCHEMA!r}, found {_short(schema)}; was the "
                "file written with `Tape.dumps()`?"
            )
        seed = self._int(value.get("seed"), 1, "seed")
        policy, scope = value.get("policy", ""), value.get("scope", "task")
        complete = value.get("complete", False)
        if not isinstance(policy, str):
            raise TraceFormatError(f"line 1: policy is a text, not {_short(policy)}")
        if scope not in ("task", "host"):
            raise TraceFormatError(
                f"line 1: scope is 'task' or 'host', not {_short(scope)}"
            )
        if not isinstance(complete, bool):
            raise TraceFormatError(
                f"line 1: complete is true or false, not {_short(complete)}"
            )
        return {"seed": seed, "policy": policy, "scope": scope, "complete": complete}

    def _choices(self, value: dict[str, Any], number: int) -> None:
        label, first = value.get("s"), value.get("i")
        raw_values, raw_ranges = value.get("v"), value.get("n")
        if not isinstance(label, str):
            raise TraceFormatError(f"line {number}: s is a stream, not {_short(label)}")
        values, ranges = self._held.setdefault(label, ([], []))
        if not _is_int(first) or first != len(values):
            raise TraceFormatError(
                f"line {number}: stream {label!r} goes on with choice {len(values)}, "
                f"not {_short(first)}"
            )
        if not isinstance(raw_values, list):
            raise TraceFormatError(f"line {number}: v is a list of choices")
        if not isinstance(raw_ranges, list):
            raw_ranges = [raw_ranges] * len(raw_values)
        if len(raw_values) != len(raw_ranges):
            raise TraceFormatError(
                f"line {number}: {len(raw_values)} choices, {len(raw_ranges)} ranges"
            )
        self._count += len(raw_values)
        if self._count > MAX_CHOICES:
            raise TraceFormatError(f"line {number}: more than {MAX_CHOICES} choices")
        for place, (raw, raw_of) in enumerate(zip(raw_values, raw_ranges, strict=True)):
            where = f"position {place + 1}"
            chosen = self._int(raw, number, where)
            of = self._int(raw_of, number, where)
            wrong = _misfit(chosen, of)
            if wrong:
                raise TraceFormatError(f"line {number}, {where}: {wrong}")
            values.append(chosen)
            ranges.append(of)

    def _int(self, value: object, number: int, where: str) -> int | None:
        """Read a number, a hexadecimal text, or a power of two."""
        if value is None:
            return None
        if _is_int(value):
            return value  # type: ignore[return-value]  # an int
        if isinstance(value, str):
            try:
                if value.startswith("2^"):
                    power = int(value[2:])
                    if 0 <= power <= 8 * MAX_LINE:
                        return 1 << power
                elif value.startswith(("0x", "-0x")):
                    return int(value, 16)
            except ValueError:
                pass
        raise TraceFormatError(
            f"line {number}, {where}: expected a whole number, found {_short(value)}"
        )

    def _end(self, value: object, number: int) -> None:
        told = value.get("choices") if isinstance(value, dict) else None
        if told != self._count:
            raise TraceFormatError(
                f"line {number}: the end tells of {_short(told)} choices, the file "
                f"holds {self._count}"
            )
