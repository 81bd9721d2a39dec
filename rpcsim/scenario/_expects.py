"""What must come of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rpcsim.scenario._kinds import (
    FAILED,
    Choice,
    Code,
    Data,
    Items,
    Kind,
    Number,
    SpanKind,
    Text,
    of,
)
from rpcsim.scenario._record import Record, RecordKind
from rpcsim.scenario._values import UNSET, Span, Unset

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.scenario._problems import Node, Path, Problems

__all__ = ["COUNTED", "OUTCOMES", "Allowed", "Count", "Expect"]

OUTCOMES: Final = ("ok", "raised", "no", "maybe")
# Events of history that can be counted and waited for, as the trace names them after
# `call.` (scenario.md 3.2).
COUNTED: Final = (
    "invoke",
    "received",
    "outcome",
    "request",
    "stored",
    "exec_start",
    "exec_end",
    "started",
    "reply",
    "error",
    "discarded",
)
COUNTED_LATER: Final = (
    *("progress", "packet", "cancel_asked", "cancel_answered"),
    *("reply_sent", "queue_enter", "queue_leave"),
)
ERROR: Final = Text(
    pattern=r"[A-Za-z_][\w.]*", told="the name of an error class, such as KeyError"
)


@dataclass(frozen=True, slots=True)
class BetweenKind(Kind):
    """`[least, most]`, two durations."""

    told: str = "[least, most], two durations"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Read a pair in order."""
        if not isinstance(node.value, list) or len(node.value) != 2:
            return self.wrong(node, path, into)
        pair = Items(SpanKind()).read(node, path, into)
        if len(pair) != 2:
            return FAILED
        if pair[0] > pair[1]:
            into.add(path, f"{pair[0]} is later than {pair[1]}")
        return pair

    def plain(self, value: Any) -> Any:
        """Write both durations."""
        return Items(SpanKind()).plain(value)

    def coerce(self, value: Any) -> Any:
        """Normalise both durations."""
        return Items(SpanKind()).coerce(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed(Record):
    """An outcome that a step may have; everything given must hold.

    Attributes:
        value: The returned value; may be `None`.
        error: Name of the class of the error, or of one of its bases.
        outcome: `ok`, `raised`, `no` or `maybe`.
        matches: A glob for the text of the value or error, or an object all of whose
            keys the value must have with matching values.
        within: From the beginning of the step, not later than this.
        between: From the beginning of the step, neither earlier nor later.
    """

    noun: ClassVar[str] = "outcome"
    value: Any | Unset = field(default=UNSET, metadata=of(Data()))
    error: str | None = field(default=None, metadata=of(ERROR))
    outcome: str | None = field(
        default=None, metadata=of(Choice(OUTCOMES, noun="outcome"))
    )
    matches: Any | Unset = field(default=UNSET, metadata=of(Data()))
    within: Span | None = field(default=None, metadata=of(SpanKind()))
    between: tuple[Span, Span] | None = field(default=None, metadata=of(BetweenKind()))

    @classmethod
    def check(cls, record: Any, path: Path, into: Problems) -> None:
        """Report what cannot hold together."""
        check_allowed(record, path, into)


def check_allowed(record: Any, path: Path, into: Problems) -> None:
    """Report an outcome that contradicts itself."""
    valued = record.value is not UNSET
    if valued and record.error is not None:
        into.add((*path, "error"), "a step has a value or an error, not both", key=True)
    elif valued and record.outcome not in (None, "ok"):
        into.add((*path, "outcome"), "only an outcome of ok has a value", key=True)
    elif record.error is not None and record.outcome == "ok":
        into.add((*path, "outcome"), "an outcome of ok has no error", key=True)
    if record.within is not None and record.between is not None:
        into.add((*path, "between"), "give within or between, not both", key=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Count(Record):
    """Which records of history are counted.

    Attributes:
        event: Such as `exec_start`.
        method: Glob of the method's dotted name.
        host: Glob of the host's name.
    """

    noun: ClassVar[str] = "count"
    later: ClassVar[tuple[str, ...]] = (
        *("system", "queue", "client", "step", "key", "sender", "receiver", "phase"),
    )
    event: str = field(metadata=of(Choice(COUNTED, COUNTED_LATER, "event of history")))
    method: str = field(default="*", metadata=of(Text(told="a method, or a glob")))
    host: str = field(default="*", metadata=of(Text(told="a host, or a glob")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect(Record):
    """One expectation: about a step, a count, or by code of your own.

    Attributes:
        step: Which step; left out where the expectation stands in the step itself.
        value, error, outcome, matches, within, between: As in `Allowed`.
        any_of: Allowed outcomes, one of which is enough.
        count: What to count, held against `equals`, `at_least`, `at_most`.
        call: A function given the `RunResult`; it fails by raising or by giving
            `False` or a text.
    """

    noun: ClassVar[str] = "expectation"
    later: ClassVar[tuple[str, ...]] = ("state",)
    step: str | None = field(default=None, metadata=of(Text(told="a step id")))
    value: Any | Unset = field(default=UNSET, metadata=of(Data()))
    error: str | None = field(default=None, metadata=of(ERROR))
    outcome: str | None = field(
        default=None, metadata=of(Choice(OUTCOMES, noun="outcome"))
    )
    matches: Any | Unset = field(default=UNSET, metadata=of(Data()))
    within: Span | None = field(default=None, metadata=of(SpanKind()))
    between: tuple[Span, Span] | None = field(default=None, metadata=of(BetweenKind()))
    any_of: tuple[Allowed, ...] = field(
        default=(), metadata=of(Items(RecordKind(Allowed), 1))
    )
    count: Count | None = field(default=None, metadata=of(RecordKind(Count)))
    equals: int | None = field(default=None, metadata=of(Number()))
    at_least: int | None = field(default=None, metadata=of(Number()))
    at_most: int | None = field(default=None, metadata=of(Number()))
    call: str | Callable[..., Any] | None = field(default=None, metadata=of(Code()))

    @classmethod
    def check(cls, record: Any, path: Path, into: Problems) -> None:
        """Report what cannot hold together."""
        check_allowed(record, path, into)
        limits = [
            n
            for n in ("equals", "at_least", "at_most")
            if getattr(record, n) is not None
        ]
        if record.count is None and limits:
            into.add((*path, limits[0]), "a number needs a count", key=True)
        if record.count is not None and not limits:
            into.add(
                (*path, "count"), "a count needs equals, at_least or at_most", key=True
            )

    @property
    def about_outcome(self) -> bool:
        """Whether it says anything of an outcome of a step."""
        told = (self.error, self.outcome, self.within, self.between)
        return (
            self.value is not UNSET
            or self.matches is not UNSET
            or bool(self.any_of)
            or any(item is not None for item in told)
        )
