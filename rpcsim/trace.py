"""Frozen records of what happened in a run, in order, and their digests.

A trace is appended to as raw tuples, because that is all the hot path can afford, and
turned into `Record`s when somebody reads it. Two digests say whether two runs were the
same: `digest` covers protocol events only and is equal across processes, hash seeds,
platforms and Python minors; `schedule_digest` covers every record and is promised
within one Python minor. Read `Trace.append` first, then `Trace._fold`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from rpcsim.errors import TraceFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = [
    "Data",
    "Difference",
    "Level",
    "Record",
    "Trace",
    "TraceFile",
    "first_difference",
    "is_protocol",
    "read_jsonl",
    "write_jsonl",
]

Value: TypeAlias = "str | int | bool | bytes | None"
Data: TypeAlias = "tuple[tuple[str, Value], ...]"
Level: TypeAlias = Literal["off", "protocol", "steps"]
# (t_ns, kind, host, strand, cause, data): a record before it has its number.
Raw: TypeAlias = "tuple[int, str, str, str, int, Data]"

SCHEMA: Final = "rpcsim.trace/1"
# How the loop got there rather than what happened: step counts differ between Python
# minors (3.11's wait_for makes a task, 3.12's does not), so these stay out of `digest`.
SCHEDULE_KINDS: Final = frozenset(
    {
        "step",
        "timer",
        "task.start",
        "task.end",
        "task.cancel",
        "task.fail",
        "task.eager",
    }
)
NOTE_KINDS: Final = frozenset({"note"})
_UNHASHED: Final = SCHEDULE_KINDS | NOTE_KINDS
# Records are encoded this many at a time: one encoder call for a whole chunk costs a
# tenth of one call per record, and fixed chunks keep the digest independent of when
# the folding happens.
CHUNK: Final = 4096
KEEP: Final = 20_000
# A line of a trace file: longer ones are refused before they are parsed.
MAX_LINE: Final = 16 * 1024 * 1024

_encode = msgspec.msgpack.Encoder().encode


def is_protocol(kind: str) -> bool:
    """Say whether records of this kind count for `Trace.digest`."""
    return kind not in _UNHASHED


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that happened.

    Attributes:
        n: Its number in the run, from 0.
        t_ns: When, in nanoseconds since the run began.
        kind: What, such as `conn.open` or `call.reply`.
        host: Name of the host on whose behalf it happened.
        strand: Label of the strand (task, endpoint, ...) that did it.
        cause: Number of the record whose step led to this one; -1 for none.
        data: (name, value) pairs in an order fixed by the kind.
    """

    n: int
    t_ns: int
    kind: str
    host: str
    strand: str
    cause: int
    data: Data

    def get(self, name: str, default: Value = None) -> Value:
        """Give the value called `name` in `data`."""
        for key, value in self.data:
            if key == name:
                return value
        return default

    def __str__(self) -> str:
        told = " ".join(
            f"{key}={value if not isinstance(value, bytes) else value.hex()}"
            for key, value in self.data
        )
        return f"{self.t_ns / 1e9:12.6f}  {self.host}  {self.kind}  {told}".rstrip()


class Trace:
    """The record of one run; grows while it runs, readable at any time.

    Args:
        level: `"protocol"` leaves out steps, timers and tasks; `"steps"` keeps all;
            `"off"` records nothing, and the digests are `None`.
        keep: How many of the newest records stay readable; older ones are folded
            into the digests and dropped.
    """

    __slots__ = (
        "_base",
        "_dropped",
        "_keep",
        "_pending",
        "_protocol",
        "_schedule",
        "_sealed",
        "_watchers",
        "level",
        "raw",
    )

    def __init__(self, *, level: Level = "protocol", keep: int = KEEP) -> None:
        self.level: Final[Level] = level
        self.raw: list[Raw] = []
        self._keep = max(keep, 0)
        self._dropped = 0  # records no longer in `raw`
        self._base = 0  # records already folded into the digests
        self._sealed = False
        # Protocol records of folded chunks that do not fill a chunk of their own yet.
        self._pending: list[tuple[int, str, str, Data]] = []
        self._watchers: list[Callable[[Record], None]] = []
        self._protocol = hashlib.blake2b(digest_size=16)
        self._schedule = hashlib.blake2b(digest_size=16)

    def __repr__(self) -> str:
        return f"<Trace {self.level}: {len(self)} records>"

    def __len__(self) -> int:
        return self._dropped + len(self.raw)

    def __iter__(self) -> Iterator[Record]:
        """Yield the kept records, oldest first."""
        for n, raw in enumerate(self.raw, self._dropped):
            yield Record(n, *raw)

    def __getitem__(self, n: int) -> Record:
        """Give record number `n` (negative: from the end); `IndexError` if dropped."""
        if n < 0:
            n += len(self)
        if n < self._dropped:
            raise IndexError(f"record {n} was dropped: only {len(self.raw)} are kept")
        return Record(n, *self.raw[n - self._dropped])

    def append(
        self, t_ns: int, kind: str, host: str, strand: str, cause: int, data: Data
    ) -> int:
        """Add a record and give its number; -1 when it is off or sealed."""
        if self._sealed or self.level == "off":
            return -1
        raw = self.raw
        raw.append((t_ns, kind, host, strand, cause, data))
        if len(raw) >= self._keep + 2 * CHUNK:
            self.trim()
        number = self._dropped + len(raw) - 1
        if self._watchers:
            record = Record(number, t_ns, kind, host, strand, cause, data)
            for watcher in self._watchers:
                watcher(record)
        return number

    def watch(self, fn: Callable[[Record], None]) -> None:
        """Have `fn` called with every record from now on, as it is added.

        It runs in the midst of whatever made the record, so it may only note things
        and wake others.
        """
        self._watchers.append(fn)

    def seal(self) -> None:
        """Take no more records: the verdict is formed."""
        self._sealed = True

    def trim(self) -> None:
        """Fold all full chunks into the digests and drop what is beyond `keep`."""
        self._fold()
        surplus = min(len(self.raw) - self._keep, self._base - self._dropped)
        if surplus > 0:
            del self.raw[:surplus]
            self._dropped += surplus

    def _fold(self) -> None:
        while self._base + CHUNK <= len(self):
            start = self._base - self._dropped
            self._absorb(self.raw[start : start + CHUNK])
            self._base += CHUNK

    def _absorb(self, chunk: list[Raw]) -> None:
        self._schedule.update(_encode([raw for raw in chunk if raw[1] != "note"]))
        pending = self._pending
        pending += [
            (t_ns, kind, host, data)
            for t_ns, kind, host, _strand, _cause, data in chunk
            if kind not in _UNHASHED
        ]
        # Protocol records have chunks of their own, counted in protocol records, so
        # that the digest does not depend on how many steps lie between them (on the
        # level and the Python minor).
        while len(pending) >= CHUNK:
            self._protocol.update(_encode(pending[:CHUNK]))
            del pending[:CHUNK]

    def _finish(self) -> tuple[str, str] | None:
        if self.level == "off":
            return None
        self._fold()
        kept = self._protocol.copy(), self._schedule.copy(), self._pending[:]
        self._absorb(self.raw[self._base - self._dropped :])
        self._protocol.update(_encode(self._pending))
        done = self._protocol.hexdigest(), self._schedule.hexdigest()
        # The run may go on: what was hashed for this answer is not the record of it.
        self._protocol, self._schedule, self._pending = kept
        return done

    @property
    def digest(self) -> str | None:
        """BLAKE2b-128, as hex, of all protocol records (time, kind, host, data)."""
        done = self._finish()
        return done and done[0]

    @property
    def schedule_digest(self) -> str | None:
        """BLAKE2b-128, as hex, of every record with all its fields."""
        done = self._finish()
        return done and done[1]

    def lane(self, host: str) -> list[Record]:
        """Give the kept records of one host, in order."""
        return [record for record in self if record.host == host]

    def of_kind(self, *prefixes: str) -> list[Record]:
        """Give the kept records whose kind is, or starts with `prefix.`, one of these."""
        return [
            record
            for record in self
            if any(
                record.kind == p or record.kind.startswith(p + ".") for p in prefixes
            )
        ]

    def diff(self, other: Trace) -> Difference | None:
        """Give the first record in which two traces differ, or `None`."""
        return first_difference(self, other)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two traces part.

    Attributes:
        index: Position of the first differing record, counted from 0.
        left: That record in the first trace; `None` when it ended before.
        right: The same of the second.
        before: The last records both have in common, oldest first.
    """

    index: int
    left: Record | None
    right: Record | None
    before: tuple[Record, ...] = ()

    def __str__(self) -> str:
        lines = [f"first difference at record {self.index}"]
        lines += [f"    both: {record}" for record in self.before]
        lines += [f"   first: {self.left or '(ended)'}"]
        lines += [f"  second: {self.right or '(ended)'}"]
        return "\n".join(lines)


def first_difference(
    left: Iterable[Record], right: Iterable[Record]
) -> Difference | None:
    """Compare two record sequences one by one; `None` when they are equal."""
    ours, theirs = list(left), list(right)
    for index in range(max(len(ours), len(theirs))):
        mine = ours[index] if index < len(ours) else None
        other = theirs[index] if index < len(theirs) else None
        if mine != other:
            before = tuple(ours[max(0, index - 3) : index])
            return Difference(index, mine, other, before)
    return None


# -- Files ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A trace read back from a file.

    Attributes:
        header: The first line: schema, versions, seed, policy.
        records: All records, in order.
        end: The last line: counts, digests, outcome; `None` when the file is cut.
    """

    header: Mapping[str, Any]
    records: tuple[Record, ...]
    end: Mapping[str, Any] | None = field(default=None)

    @property
    def cut(self) -> bool:
        """Whether the last line is missing: the run was stopped while writing."""
        return self.end is None


def write_jsonl(
    trace: Trace, *, header: Mapping[str, Any], end: Mapping[str, Any]
) -> str:
    """Give the text of a trace file (simulation.md 11.5): header, records, end."""
    lines = [_dump({"schema": SCHEMA, **header})]
    lines += [_dump(_plain(record)) for record in trace]
    closing = {
        "records": len(trace),
        "digest": trace.digest,
        "schedule_digest": trace.schedule_digest,
        **end,
    }
    lines.append(_dump({"end": closing}))
    return "\n".join(lines) + "\n"


def read_jsonl(text: str) -> TraceFile:
    """Read a trace file; a missing last line is read as a cut file.

    Raises:
        TraceFormatError: A line is not what it should be; the text names the line.
    """
    lines = text.split("\n")
    header = _line(lines[0], 1)
    if header.get("schema") != SCHEMA:
        found = header.get("schema")
        raise TraceFormatError(
            f"line 1: expected schema {SCHEMA!r}, found {found!r}; "
            "was the file written by `rpcsim run --trace`?"
        )
    records: list[Record] = []
    end: Mapping[str, Any] | None = None
    for number, line in enumerate(lines[1:], 2):
        if end is not None:
            if line:
                raise TraceFormatError(f"line {number}: text after the end line")
            continue
        if number == len(lines) and not _complete(line):
            break  # the write was cut in this line
        value = _line(line, number)
        if "end" in value:
            end = value["end"]
        else:
            records.append(_record(value, number, len(records)))
    return TraceFile(header, tuple(records), end)


def _complete(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _line(line: str, number: int) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise TraceFormatError(f"line {number}: longer than {MAX_LINE} characters")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TraceFormatError(f"line {number}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise TraceFormatError(f"line {number}: expected a JSON object")
    return value


def _record(value: dict[str, Any], number: int, expected: int) -> Record:
    try:
        data = tuple((str(key), _value(v)) for key, v in value["d"].items())
        record = Record(
            int(value["n"]),
            int(value["t"]),
            str(value["k"]),
            str(value["h"]),
            str(value["s"]),
            int(value["c"]),
            data,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TraceFormatError(f"line {number}: not a record ({error!r})") from None
    if expected and record.n < expected:
        raise TraceFormatError(f"line {number}: record {record.n} out of order")
    return record


def _value(value: Any) -> Value:
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    if value is None or isinstance(value, (str, int, bool)):
        return value
    raise ValueError(f"a value of type {type(value).__name__}")


def _plain(record: Record) -> dict[str, Any]:
    data = {
        key: {"b64": base64.b64encode(value).decode()}
        if isinstance(value, bytes)
        else value
        for key, value in record.data
    }
    return {
        "n": record.n,
        "t": record.t_ns,
        "k": record.kind,
        "h": record.host,
        "s": record.strand,
        "c": record.cause,
        "d": data,
    }


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
