"""Traces: what is kept, what is folded, digests, and the file format."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcsim.errors import TraceFormatError
from rpcsim.trace import (
    CHUNK,
    Record,
    Trace,
    first_difference,
    is_protocol,
    read_jsonl,
    write_jsonl,
)

SAMPLE = Path(__file__).parent / "samples" / "trace-1.jsonl"
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.text(max_size=9)
)
DATA = st.lists(st.tuples(st.text(max_size=5), VALUES | st.binary(max_size=9))).map(
    lambda pairs: tuple(dict(pairs).items())
)
RAWS = st.lists(
    st.tuples(
        st.integers(0, 10**12),
        st.sampled_from(["conn.open", "call.request", "step", "timer", "note"]),
        st.sampled_from(["a", "b", ""]),
        st.text(max_size=5),
        st.integers(-1, 50),
        DATA,
    ),
    max_size=30,
)


def filled(raws: Any, **options: Any) -> Trace:
    trace = Trace(**options)
    for raw in raws:
        trace.append(*raw)
    return trace


def numbered(count: int, **options: Any) -> Trace:
    """Make a trace of so many protocol records."""
    trace = Trace(**options)
    for n in range(count):
        trace.append(n, "conn.data", "a", "s", n - 1, (("bytes", n),))
    return trace


def test_records_read_back_as_they_were_added() -> None:
    """By number, from the end, by host, by kind; the raw tuples become records."""
    trace = Trace()
    assert trace.append(5, "conn.open", "a", "a/x", -1, (("connection", "a>b"),)) == 0
    assert trace.append(7, "conn.data", "b", "b/x", 0, (("crc", b"\x01\xff"),)) == 1
    assert trace.append(9, "connect", "b", "b/x", 1, ()) == 2
    assert trace[0] == Record(
        0, 5, "conn.open", "a", "a/x", -1, (("connection", "a>b"),)
    )
    assert trace[-1].n == 2
    assert [r.n for r in trace.lane("b")] == [1, 2]
    assert [r.n for r in trace.of_kind("conn")] == [0, 1]
    assert [r.n for r in trace.of_kind("conn.data", "connect")] == [1, 2]
    assert trace[0].get("connection") == "a>b"
    assert trace[0].get("else", 3) == 3
    assert str(trace[1]) == "    0.000000  b  conn.data  crc=01ff"
    assert repr(trace) == "<Trace protocol: 3 records>"
    with pytest.raises(IndexError):
        trace[3]


def test_a_sealed_or_switched_off_trace_takes_nothing() -> None:
    """After the verdict nothing is recorded; off has no digest."""
    trace = numbered(3)
    digest = trace.digest
    trace.seal()
    assert trace.append(9, "conn.open", "a", "", -1, ()) == -1
    assert (len(trace), trace.digest) == (3, digest)
    off = numbered(3, level="off")
    assert (len(off), off.digest, off.schedule_digest) == (0, None, None)


def test_old_records_are_folded_and_dropped() -> None:
    """The newest `keep` stay; the digest does not depend on it (check 76)."""
    count = 5 * CHUNK + 123
    whole, short = numbered(count, keep=10**6), numbered(count, keep=100)
    none = numbered(count, keep=0)
    assert len(whole) == len(short) == len(none) == count
    assert len(whole.rows) == count
    assert len(short.rows) < 100 + 2 * CHUNK
    short.trim()
    assert 100 <= len(short.rows) < 100 + CHUNK
    assert short[-1].n == count - 1
    assert next(iter(short)).n == count - len(short.rows)
    assert short.digest == whole.digest == none.digest
    assert short.schedule_digest == whole.schedule_digest == none.schedule_digest
    with pytest.raises(IndexError, match="record 0 was dropped: only"):
        short[0]


def test_the_memory_of_a_long_trace_is_bounded() -> None:
    """A tenth of a million records grow it by the kept tail only (check 76)."""
    trace = Trace(keep=1_000)
    tracemalloc.start()
    try:
        for n in range(100_000):
            trace.append(n, "conn.data", "a", "s", -1, (("bytes", n),))
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 6 * 2**20
    assert len(trace) == 100_000


@given(RAWS, st.integers(0, 10))
@settings(deadline=None, derandomize=True)
def test_digests_count_what_they_should(raws: Any, drop: int) -> None:
    """Protocol records without number, strand and cause; all records; no notes."""
    trace = filled(raws)
    protocol = [raw for raw in raws if is_protocol(raw[1])]
    moved = [(*raw[:3], raw[3] + "!", raw[4] + 1, raw[5]) for raw in protocol]
    assert filled(moved).digest == trace.digest
    if protocol:
        assert filled(moved).schedule_digest != trace.schedule_digest
        del protocol[drop % len(protocol)]
        assert filled(protocol).digest != trace.digest
    quiet = [raw for raw in raws if raw[1] != "note"]
    assert filled(quiet).schedule_digest == trace.schedule_digest
    assert filled(raws).schedule_digest == trace.schedule_digest


def test_digests_are_pinned() -> None:
    """They are a promise across processes, platforms and versions."""
    trace = numbered(3)
    assert trace.digest == "80e3ebf55672bf3292fb05fabb6528cd"
    assert trace.schedule_digest == "9d8a58c9c743e480a6079be9bfbeb292"


def test_the_first_difference_is_told_with_what_came_before() -> None:
    """Which record, in both, and the last common ones."""
    one, two = numbered(6), numbered(4)
    assert one.diff(numbered(6)) is None
    two.append(4, "conn.lost", "a", "s", 3, ())
    difference = one.diff(two)
    assert difference is not None
    assert (difference.index, len(difference.before)) == (4, 3)
    assert difference.right is not None
    assert difference.right.kind == "conn.lost"
    assert str(difference).startswith("first difference at record 4\n    both: ")
    ended = first_difference(numbered(2), numbered(3))
    assert ended is not None
    assert "first: (ended)" in str(ended)


def test_views_follow_connections_calls_and_causes() -> None:
    """One connection's records; what led to a record; a call with what faults did."""
    trace = Trace(level="steps")
    add = trace.append
    call, other = ("id", "sn-1"), ("id", "sn-2")
    assert add(0, "call.request", "a", "a/x", -1, (call,)) == 0
    assert add(0, "conn.data", "a", "a/x", 0, (("connection", "a>b"),)) == 1
    assert add(0, "call.request", "a", "a/y", -1, (other,)) == 2
    assert add(0, "fault", "a", "a/x", 0, (("what", "duplicated"),)) == 3
    assert add(0, "fault", "a", "a/y", 2, (("what", "dropped"),)) == 4
    assert add(0, "rule", "a", "a/x", 3, (("what", "delayed"),)) == 5
    assert add(7, "timer", "a", "a/x", 5, ()) == 6
    assert add(7, "conn.reset", "b", "b/z", 6, (("connection", "a>b"),)) == 7
    assert add(8, "call.reply", "b", "b/z", 7, (call,)) == 8
    assert [r.n for r in trace.connection("a>b")] == [1, 7]
    assert [r.n for r in trace.causes(8)] == [0, 3, 5, 6, 7, 8]
    assert [r.n for r in trace.causes(2)] == [2]
    assert [r.n for r in trace.call("sn-1")] == [0, 3, 5, 7, 8]
    assert [r.n for r in trace.call("sn-2")] == [2, 4]
    assert trace.call("sn-3") == []
    assert [r.n for r in reversed(trace)] == list(range(8, -1, -1))


def test_digests_do_not_depend_on_when_somebody_looks() -> None:
    """Steps and notes between the events, chunks, and questions change nothing."""
    plain, busy = Trace(level="steps"), Trace(level="steps", keep=0)
    for n in range(2 * CHUNK):
        for trace in (plain, busy):
            trace.append(n, "step", "a", "a/x", -1, ())
            trace.append(n, "conn.data", "a", "a/x", n, (("bytes", n),))
        if n % 1000 == 0:
            assert busy.digest == plain.digest
    assert busy.digest == numbered(2 * CHUNK).digest
    assert busy.schedule_digest == plain.schedule_digest


def test_watchers_see_every_record_as_it_is_added() -> None:
    """With its number, also when older ones were dropped."""
    trace, seen = Trace(keep=0), []
    trace.watch(lambda record: seen.append(record.n))
    for n in range(3 * CHUNK):
        trace.append(n, "conn.data", "a", "s", -1, ())
    assert seen == list(range(3 * CHUNK))


@given(RAWS)
@settings(deadline=None, derandomize=True)
def test_files_read_back(raws: Any) -> None:
    """Header, records and end survive the way through text (11.5)."""
    trace = filled(raws)
    text = write_jsonl(trace, header={"seed": 7}, end={"outcome": "passed"})
    file = read_jsonl(text)
    assert file.records == tuple(trace)
    assert (file.header["seed"], file.cut) == (7, False)
    assert file.end is not None
    assert file.end["digest"] == trace.digest
    assert list(file.end)[:3] == ["records", "digest", "schedule_digest"]
    assert text.endswith("}\n")


def test_a_stored_file_of_version_1_stays_readable() -> None:
    """What an earlier version wrote is read, keys of a later one are ignored (75)."""
    file = read_jsonl(SAMPLE.read_text("utf-8"))
    assert (file.header["seed"], file.header["policy"], file.cut) == (7, "fifo", False)
    assert file.records == (
        Record(0, 0, "host.start", "web", "web", -1, (("incarnation", 1),)),
        Record(1, 0, "step", "web", "web/main-1", 0, ()),
        Record(2, 1500, "conn.open", "web", "web/x", 1, (("connection", "a>b é"),)),
        Record(3, 1500, "conn.data", "db", "db/x", 2, (("head", b"\x00\xff"),)),
        Record(4, 2000, "end", "", "world", -1, (("left", 0), ("error", None))),
    )
    assert file.end is not None
    assert (file.end["records"], file.end["outcome"]) == (5, "passed")


def test_a_cut_file_is_read_as_cut() -> None:
    """Wherever it was cut: the whole records before are there (check 75)."""
    trace = numbered(5)
    text = write_jsonl(trace, header={}, end={})
    end_of_records = text.rindex('{"end"')
    header = text.index("\n") + 1
    for cut in range(header, end_of_records):
        file = read_jsonl(text[:cut])
        assert file.cut
        assert len(file.records) in (text[:cut].count("\n") - 1, text[:cut].count("\n"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: ["nonsense", *lines[1:]], "line 1: not JSON"),
        (lambda lines: ["{}", *lines[1:]], "line 1: expected schema"),
        (lambda lines: [lines[0], "[1]", *lines[2:]], "line 2: expected a JSON object"),
        (lambda lines: [lines[0], '{"n":0}', *lines[2:]], "line 2: not a record"),
        (lambda lines: [*lines[:2], lines[1], *lines[3:]], "line 3: .*out of order"),
        (lambda lines: [*lines, lines[1]], "after the end line"),
        (
            lambda lines: [
                lines[0],
                lines[1].replace('"bytes":0', '"bytes":[1]'),
                *lines[2:],
            ],
            "line 2: not a record",
        ),
        (
            lambda lines: [
                lines[0],
                lines[1].replace('"bytes":0', '"bytes":{"b64":"!"}'),
                *lines[2:],
            ],
            "line 2: not a record",
        ),
        (lambda lines: [lines[0], "[" * 100_000, *lines[2:]], "line 2: not JSON"),
    ],
)
def test_an_altered_file_is_told_with_its_line(change: Any, told: str) -> None:
    """`TraceFormatError` names the line (check 75)."""
    text = write_jsonl(numbered(3), header={}, end={})
    with pytest.raises(TraceFormatError, match=told):
        read_jsonl("\n".join(change(text.rstrip("\n").split("\n"))))


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin")))
@settings(deadline=None, derandomize=True)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but `TraceFormatError` comes out, with a whole header or without."""
    header = json.dumps({"schema": "rpcsim.trace/1"})
    for whole in (text, f"{header}\n{text}"):
        told = "line "
        try:
            read_jsonl(whole)
        except TraceFormatError as error:
            told = str(error)
        assert "line " in told
