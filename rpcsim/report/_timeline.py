"""The timeline: one line for each thing that happened, in words.

Packets, connections and the broker's bookkeeping are left out: what is told is who
called what, what the far side did with it, what went wrong, and how it ended. The
words of each kind of record are one function of the table at the end.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rpcsim.trace import Record

__all__ = ["timeline"]

WIDTH: Final = 100
# Columns before the words: time, two blanks, host, two blanks, mark, blank.
TIME: Final = 9
MOST_HOST: Final = 12


@dataclass(frozen=True, slots=True)
class _Line:
    """One line to be: mark and words; `None` words leave the record out."""

    mark: str
    words: str


# What a mark looks like, and how it is written in ASCII.
_MARKS: Final = {
    "call": ("→", ">"),
    "answer": ("←", "<"),
    "work": ("·", "."),
    "bad": ("✗", "x"),
    "fault": ("⚡", "!"),
    "host": ("■", "#"),
    "note": (" ", " "),
}


@dataclass(slots=True)
class _Teller:
    """What was told so far: calls by id, and which steps they belong to.

    Attributes:
        named_faults: Whether faults are told by id, so that the network's own words
            for them would say the same twice.
    """

    named_faults: bool = False
    steps: dict[str, str] = field(default_factory=dict)
    calls: dict[str, str] = field(default_factory=dict)
    callers: dict[str, str] = field(default_factory=dict)
    open: dict[str, dict[str, str]] = field(default_factory=dict)
    ended: bool = False
    executed: dict[str, int] = field(default_factory=dict)

    def line(self, record: Record) -> _Line | None:
        """Give the line of a record, or `None` if it is not told."""
        tell = _WORDS.get(record.kind)
        return None if tell is None else tell(self, record)

    def call_of(self, record: Record) -> str:
        """Name the call a record is about: its method, and its step if it has one."""
        ident = _text(record, "id")
        method = _text(record, "method") or self.calls.get(ident, "a call")
        step = self.steps.get(ident)
        return f"{method} [{step}]" if step else method


def timeline(
    trace: Iterable[Record],
    *,
    origin_ns: int = 0,
    last: int | None = None,
    width: int = WIDTH,
    ascii_only: bool = False,
) -> str:
    """Tell a trace, one line for each thing that happened.

    Args:
        trace: The records, in order.
        origin_ns: When the run began, on the trace's clock; times count from there.
        last: Only so many of the newest lines; `None` for all.
        width: Columns at most; longer lines are wrapped below their words.
        ascii_only: Use no other characters.

    Returns:
        Lines without a line end after the last.
    """
    records = list(trace)
    teller = _Teller(
        named_faults=any(r.kind == "fault" and r.get("id") for r in records)
    )
    told = [(r, line) for r in records if (line := teller.line(r)) is not None]
    if not told:
        return "(nothing happened that is worth a line)"
    left_out = 0 if last is None else max(len(told) - last, 0)
    shown = told[left_out:]
    hosts = min(max(len(_host(record)) for record, _line in shown), MOST_HOST)
    lines = [f"{'':{TIME}}  ... {left_out} lines before"] if left_out else []
    before: tuple[str, str] | None = None
    for record, line in shown:
        time = _time(record.t_ns - origin_ns)
        # Equal times and hosts are left blank: what belongs together reads together.
        same_time = before is not None and before[0] == time
        same_host = same_time and before is not None and before[1] == _host(record)
        head = (
            f"{'' if same_time else time:>{TIME}}  "
            f"{'' if same_host else _host(record)[:MOST_HOST]:<{hosts}}  "
        )
        before = (time, _host(record))
        mark = _MARKS[line.mark][ascii_only]
        words = _ascii(line.words) if ascii_only else _printable(line.words)
        lines += _wrapped(f"{head}{mark} ", words, width)
    return "\n".join(lines)


def _host(record: Record) -> str:
    # Faults are nobody's: they are told in the place of a host as what they are.
    return "" if record.kind in ("fault", "phase") else record.host


def _time(ns: int) -> str:
    # A tenth of a millisecond tells steps of a protocol apart; more is noise.
    tenths = round(ns / 100_000)
    sign = "-" if tenths < 0 else ""
    return f"{sign}{abs(tenths) // 10_000}.{abs(tenths) % 10_000:04d}"


def _wrapped(head: str, words: str, width: int) -> list[str]:
    room = max(width - len(head), 20)
    parts = textwrap.wrap(words, room, break_on_hyphens=False) or [""]
    return [
        (head if n == 0 else " " * len(head)) + part for n, part in enumerate(parts)
    ]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in text)


def _ascii(text: str) -> str:
    return "".join(
        c if " " <= c <= "~" else f"\\u{{{ord(c):x}}}" if c.isprintable() else "."
        for c in text
    )


# -- words, kind by kind ---------------------------------------------------------------


def _begin(teller: _Teller, record: Record) -> _Line:
    step, client = _text(record, "step"), _text(record, "client")
    told = _text(record, "told")
    teller.open.setdefault(record.host, {})[step] = told
    return _Line("call", f"{client} {told} [{step}]")


def _end(teller: _Teller, record: Record) -> _Line:
    step = _text(record, "step")
    teller.open.get(record.host, {}).pop(step, None)
    client, told = _text(record, "client"), _text(record, "told")
    error = _text(record, "error")
    if not error:
        return _Line("answer", f"{client} has {told} [{step}]")
    sure = {
        "maybe": "whether it ran is not known",
        "no": "it did not run",
        "raised": "it ran and raised",
    }.get(_text(record, "outcome"), "")
    tail = f" ({sure})" if sure else ""
    text = f": {_first_part(told)}" if told else ""
    return _Line("bad", f"{client} gets {error}{text}{tail} [{step}]")


def _first_part(text: str) -> str:
    """Cut an error's text before its advice: the timeline says what happened."""
    cuts = [text.find(sign, 30) for sign in (" (", "; ", ": ")]
    return text[: min((cut for cut in cuts if cut > 0), default=len(text))]


def _text(record: Record, name: str) -> str:
    value = record.get(name)
    return "" if value is None else str(value)


def _invoke(teller: _Teller, record: Record) -> _Line | None:
    ident, method = _text(record, "id"), _text(record, "method")
    target = _text(record, "target")
    teller.calls[ident] = method
    teller.callers[ident] = record.host
    # A step on this host that does this and has no call yet has told it already.
    taken = set(teller.steps.values())
    for step, told in teller.open.get(record.host, {}).items():
        if step not in taken and {method, target} <= set(told.split()):
            teller.steps[ident] = step
            return None
    return _Line("call", f"calls {method} of {target}")


def _outcome(teller: _Teller, record: Record) -> _Line | None:
    if _text(record, "id") in teller.steps:
        return None  # the step's own line tells it, with the value
    method = teller.call_of(record)
    error = _text(record, "error")
    if error:
        return _Line("bad", f"gets {error} from {method}")
    return _Line("answer", f"has the answer of {method}")


def _exec_start(teller: _Teller, record: Record) -> _Line:
    ident = _text(record, "id")
    times = teller.executed[ident] = teller.executed.get(ident, 0) + 1
    again = "" if times == 1 else f", run number {times} of this request"
    return _Line("work", f"runs {teller.call_of(record)}{again}")


def _exec_end(teller: _Teller, record: Record) -> _Line:
    error = _text(record, "error")
    name = teller.call_of(record)
    if error:
        return _Line("bad", f"{name} raises {error}")
    return _Line("work", f"{name} is done")


def _timeout(teller: _Teller, record: Record) -> _Line:
    what = "completed" if record.get("index") == 1 else "started"
    return _Line("bad", f"{teller.call_of(record)} was not {what} in time")


def _late(teller: _Teller, record: Record) -> _Line:
    return _Line("note", f"drops a late answer of {teller.call_of(record)}")


def _discarded(teller: _Teller, record: Record) -> _Line:
    reason = _text(record, "reason")
    return _Line("bad", f"discards {teller.call_of(record)}: {reason}")


def _received(teller: _Teller, record: Record) -> _Line | None:
    if not record.get("redelivered"):
        return None
    return _Line("note", f"is given {teller.call_of(record)} again by the broker")


def _fault(teller: _Teller, record: Record) -> _Line | None:
    ident = _text(record, "id")
    if ident:
        told = _text(record, "told")
        if record.get("state") == "off":
            return _Line("fault", f"{ident} is over: {told}")
        return _Line("fault", f"{ident}: {told}")
    if teller.named_faults:
        return None
    words = [str(value) for _name, value in record.data if value not in (None, "")]
    return _Line("fault", " ".join(words))


def _crash(_teller: _Teller, record: Record) -> _Line:
    power = record.get("kind") == "power"
    return _Line("host", "loses power" if power else "its process dies")


def _stopped(teller: _Teller, _record: Record) -> _Line | None:
    # At the end of a run every host is stopped: no news.
    return None if teller.ended else _Line("host", "stops")


def _phase(teller: _Teller, record: Record) -> _Line | None:
    if record.get("name") == "end":
        teller.ended = True
        return _Line("note", "the run is over")
    return None


def _words(mark: str, words: str) -> Callable[[_Teller, Record], _Line]:
    return lambda _teller, _record: _Line(mark, words)


def _restart(_teller: _Teller, record: Record) -> _Line:
    return _Line("host", f"starts again, life number {_text(record, 'incarnation')}")


def _plain(mark: str, verb: str) -> Callable[[_Teller, Record], _Line]:
    def tell(_teller: _Teller, record: Record) -> _Line:
        told = ", ".join(f"{n} {v!s}" for n, v in record.data if v not in (None, ""))
        return _Line(mark, f"{verb}: {told}" if told else verb)

    return tell


_WORDS: Final[dict[str, Callable[[_Teller, Record], Any]]] = {
    "client.begin": _begin,
    "client.end": _end,
    "call.invoke": _invoke,
    "call.outcome": _outcome,
    "call.exec_start": _exec_start,
    "call.exec_end": _exec_end,
    "call.timeout": _timeout,
    "call.late": _late,
    "call.discarded": _discarded,
    "call.received": _received,
    "fault": _fault,
    "host.start": _words("host", "starts"),
    "host.restart": _restart,
    "host.crash": _crash,
    "host.stop": _stopped,
    "phase": _phase,
    "conn.refused": _plain("bad", "connection refused"),
    "conn.reset": _plain("bad", "connection reset"),
    "rule": _plain("fault", "rule"),
    "point": _plain("note", "passes"),
    "log": _plain("note", "logs"),
    "escape": _plain("bad", "left the simulation"),
}
