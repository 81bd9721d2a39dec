"""Frozen records of what happened in a run, in order, and their digests.

A trace is appended to as rows, the least the hot path can afford, which become
`Record`s when somebody reads them. What happened is one `bytes` object, encoded at once:
a row of nested tuples costs less to make, but more to keep, to show to the garbage
collector and to free. How the loop got there (a step) is a plain tuple.

Two digests say whether two runs were the same: `digest` covers protocol events only and
is equal across processes, hash seeds, platforms and Python minors; `schedule_digest`
covers every record and is promised within one Python minor. Read `Trace.append` first,
then `Trace._absorb`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from rpcsim.errors import TraceFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

__all__ = [
    "Data",
    "Difference",
    "Level",
    "Record",
    "Trace",
    "TraceFile",
    "environment",
    "first_difference",
    "is_protocol",
    "read_jsonl",
    "write_jsonl",
]

Value: TypeAlias = "str | int | bool | bytes | None"
Data: TypeAlias = "tuple[tuple[str, Value], ...]"
Level: TypeAlias = Literal["off", "protocol", "steps"]
# A record before it has its number, told apart by length: 3 is (encoded time, kind, host
# and data; strand; cause) of what happened, 4 is (time, host, strand, cause) of a step,
# 6 is (time, kind, host, strand, cause, data) of its like, 1 holds the six of a note.
Row: TypeAlias = "tuple[Any, ...]"

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
# What `Trace.call` shows of records that do not name the call, when it led to them.
_FAULTS: Final = ("fault", "rule", "conn.reset", "conn.lost", "point")
# Rows are folded this many at a time: one encoder call for a whole chunk of steps costs
# a tenth of one call per step, and fixed chunks keep the digest independent of when the
# folding happens.
CHUNK: Final = 4096
KEEP: Final = 20_000
# A line of a trace file: longer ones are refused before they are parsed.
MAX_LINE: Final = 16 * 1024 * 1024
# Bytes of a trace file that are written at once.
FILE_CHUNK: Final = 256 * 1024

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(
    tuple[int, str, str, tuple[tuple[str, Any], ...]]
).decode


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
        "_lines",
        "_noted",
        "_protocol",
        "_schedule",
        "_shut",
        "_watchers",
        "_write",
        "level",
        "rows",
    )

    def __init__(self, *, level: Level = "protocol", keep: int = KEEP) -> None:
        self.level: Final[Level] = level
        self.rows: list[Row] = []
        self._keep = max(keep, 0)
        self._dropped = 0  # records no longer in `rows`
        self._base = 0  # records already folded into the digests
        self._shut = level == "off"
        self._noted = False
        self._watchers: list[Callable[[Record], None]] = []
        self._protocol = hashlib.blake2b(digest_size=16)
        self._schedule = hashlib.blake2b(digest_size=16)
        self._write: Callable[[bytes], object] | None = None
        self._lines = bytearray()

    def __repr__(self) -> str:
        return f"<Trace {self.level}: {len(self)} records>"

    def __len__(self) -> int:
        return self._dropped + len(self.rows)

    def __iter__(self) -> Iterator[Record]:
        """Yield the kept records, oldest first."""
        for n, row in enumerate(self.rows, self._dropped):
            yield _record_of(n, row)

    def __reversed__(self) -> Iterator[Record]:
        """Yield the kept records, newest first."""
        for n in range(len(self) - 1, self._dropped - 1, -1):
            yield self[n]

    def __getitem__(self, n: int) -> Record:
        """Give record number `n` (negative: from the end); `IndexError` if dropped."""
        if n < 0:
            n += len(self)
        if n < self._dropped:
            raise IndexError(f"record {n} was dropped: only {len(self.rows)} are kept")
        return _record_of(n, self.rows[n - self._dropped])

    def append(
        self, t_ns: int, kind: str, host: str, strand: str, cause: int, data: Data
    ) -> int:
        """Add a record and give its number; -1 when it is off or sealed."""
        if self._shut:
            return -1
        rows = self.rows
        if kind in _UNHASHED:
            row: Row = (t_ns, kind, host, strand, cause, data)
            if kind in NOTE_KINDS:
                row, self._noted = (row,), True
            elif kind == "step" and not data:
                row = (t_ns, host, strand, cause)
            rows.append(row)
        else:
            rows.append((_encode((t_ns, kind, host, data)), strand, cause))
        if len(rows) >= self._keep + 2 * CHUNK:
            self.trim()
        number = self._dropped + len(rows) - 1
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
        self._shut = True

    def trim(self) -> None:
        """Fold all full chunks into the digests and drop what is beyond `keep`."""
        rows = self.rows
        if self._dropped + len(rows) - self._base < CHUNK:
            return
        self._fold()
        surplus = min(len(rows) - self._keep, self._base - self._dropped)
        if surplus > 0:
            del rows[:surplus]
            self._dropped += surplus

    def _fold(self) -> None:
        while self._base + CHUNK <= len(self):
            start = self._base - self._dropped
            chunk = self.rows[start : start + CHUNK]
            self._absorb(chunk)
            if self._write is not None:
                self._stream(chunk)
            self._base += CHUNK

    def _absorb(self, chunk: Sequence[Row]) -> None:
        """Add rows to the digests.

        What happened goes into the protocol digest, back to back, so that it does not
        matter how many steps lie between (the level and the Python minor decide that);
        of such a record the schedule's own part has strand, cause and place.
        """
        told = [row[0] for row in chunk if len(row) == 3]
        if told or self._noted:
            self._protocol.update(b"".join(told))
            chunk = [row[1:] if len(row) == 3 else row for row in chunk if len(row) > 1]
        self._schedule.update(_encode(chunk))

    def _finish(self) -> tuple[str, str] | None:
        if self.level == "off":
            return None
        self._fold()
        kept = self._protocol.copy(), self._schedule.copy()
        self._absorb(self.rows[self._base - self._dropped :])
        self._schedule.update(self._protocol.digest())
        done = self._protocol.hexdigest(), self._schedule.hexdigest()
        # The run may go on: what was hashed for this answer is not the record of it.
        self._protocol, self._schedule = kept
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

    def connection(self, label: str) -> list[Record]:
        """Give the kept records about one connection, both ends, in order."""
        return [record for record in self if record.get("connection") == label]

    def causes(self, n: int) -> list[Record]:
        """Give what led to record `n`, oldest first, itself last.

        The chain begins where nothing led on, or with the oldest record still kept.
        """
        chain = [self[n]]
        while chain[-1].cause >= self._dropped and chain[-1].cause < chain[-1].n:
            chain.append(self[chain[-1].cause])
        return chain[::-1]

    def call(self, id: str) -> list[Record]:  # noqa: A002 - as the records name it
        """Give the kept records of one call, and of what faults did to it, in order.

        Args:
            id: The family's own id of the call, as `call.*` records have it.
        """
        found: dict[int, Record] = {}
        ours: set[int] = set()
        for record in self:
            names = record.get("id")
            if names == id:
                found[record.n] = record
            elif names is not None or record.cause not in ours:
                # Another call's, or not led to by this one.
                continue
            elif record.kind.startswith(_FAULTS):
                found[record.n] = record
            ours.add(record.n)
        return list(found.values())

    def diff(self, other: Trace) -> Difference | None:
        """Give the first record in which two traces differ, or `None`."""
        return first_difference(self, other)

    # -- files -----------------------------------------------------------------------

    def stream_to(
        self, write: Callable[[bytes], object], header: Mapping[str, Any]
    ) -> None:
        """Write the trace as a file (simulation.md 11.5) while it grows.

        Args:
            write: Takes some 256 KiB at a time.
            header: What the first line says beside the schema.

        Raises:
            ValueError: The trace is off, or records were dropped already.
        """
        if self.level == "off":
            raise ValueError("a trace that is off has nothing to write; choose a level")
        if self._base:
            raise ValueError("the trace has begun without its file; stream it at once")
        self._write = write
        self._lines += _dump({"schema": SCHEMA, **header}) + b"\n"

    def finish_stream(self, end: Mapping[str, Any]) -> None:
        """Write what is left and the last line; without a file do nothing."""
        if self._write is None:
            return
        self._fold()
        rest = self.rows[self._base - self._dropped :]
        self._stream(rest)
        self._lines += _dump({"end": self._closing(end)}) + b"\n"
        self._write(bytes(self._lines))
        self._lines.clear()
        self._write = None

    def _stream(self, chunk: Sequence[Row]) -> None:
        lines = self._lines
        for n, row in enumerate(chunk, self._base):
            lines += _dump(_plain(_record_of(n, row)))
            lines += b"\n"
            if len(lines) >= FILE_CHUNK and self._write is not None:
                self._write(bytes(lines))
                lines.clear()

    def _closing(self, end: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "records": len(self),
            "digest": self.digest,
            "schedule_digest": self.schedule_digest,
            **end,
        }


def _record_of(n: int, row: Row) -> Record:
    if len(row) == 3:
        told, strand, cause = row
        t_ns, kind, host, data = _decode(told)
        return Record(n, t_ns, kind, host, strand, cause, data)
    if len(row) == 4:
        t_ns, host, strand, cause = row
        return Record(n, t_ns, "step", host, strand, cause, ())
    return Record(n, *(row[0] if len(row) == 1 else row))


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
    lines.append(_dump({"end": trace._closing(end)}))
    return b"\n".join([*lines, b""]).decode()


def environment() -> dict[str, Any]:
    """Give what a header says of the interpreter; nothing of the machine or the time."""
    from importlib import metadata  # only headers need it, and it takes 10 ms

    packages = {}
    for name in ("greenlet", "msgspec"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # part of the program, not installed
            continue
    return {
        "rpcsim": metadata.version("rpcsim"),
        "python": ".".join(map(str, sys.version_info[:3])),
        "platform": sys.platform,
        "packages": packages,
        "hash_seed": os.environ.get("PYTHONHASHSEED", "random"),
    }


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


_dump: Final = msgspec.json.Encoder().encode
