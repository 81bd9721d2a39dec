"""The fault plan: what goes wrong, when, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rpcsim.scenario._expects import COUNTED, COUNTED_LATER
from rpcsim.scenario._kinds import (
    Choice,
    Flag,
    Items,
    Names,
    Number,
    SpanKind,
    Text,
    of,
)
from rpcsim.scenario._record import Record, RecordKind
from rpcsim.scenario._topology import LINK, NAME, ZERO, Latency, LatencyKind

if TYPE_CHECKING:
    from rpcsim.scenario._problems import Path, Problems
    from rpcsim.scenario._values import Span

__all__ = [
    "FAULTS",
    "FAULTS_LATER",
    "Crash",
    "Fault",
    "LatencyFault",
    "Partition",
    "Restart",
    "Stop",
    "When",
]

GLOB: Final = Text(
    pattern=r"[A-Za-z0-9_*?][A-Za-z0-9._*?-]*", told="the name of a host, or a glob"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class When(Record):
    """The event a fault is tied to, instead of a time.

    Attributes:
        event: Of history, such as `exec_start`.
        method: Glob of the method's dotted name.
        host: Glob of the host where it happens.
        nth: Which of the matching events, from 1.
    """

    noun: ClassVar[str] = "when"
    later: ClassVar[tuple[str, ...]] = (
        *("system", "queue", "client", "step", "key", "sender", "receiver", "phase"),
        *("every", "p"),
    )
    event: str = field(metadata=of(Choice(COUNTED, COUNTED_LATER, "event of history")))
    method: str = field(default="*", metadata=of(Text(told="a method, or a glob")))
    host: str = field(default="*", metadata=of(Text(told="a host, or a glob")))
    nth: int = field(default=1, metadata=of(Number(1, 1_000_000)))


_LATER: Final = ("p", "count", "pinned", "nth", "point")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Record):
    """Something that goes wrong; its class says the kind.

    Attributes:
        id: Unique name; `""` means `f1`, `f2`, ... by position.
        at: When it begins, from the start of the run.
        when: The event it begins at instead.
        delay: How long after `when`.
    """

    noun: ClassVar[str] = "fault"
    later: ClassVar[tuple[str, ...]] = _LATER
    id: str = field(default="", metadata=of(NAME))
    at: Span | None = field(default=None, metadata=of(SpanKind()))
    when: When | None = field(default=None, metadata=of(RecordKind(When)))
    delay: Span = field(default=ZERO, metadata=of(SpanKind()))

    @classmethod
    def check(cls, record: Any, path: Path, into: Problems) -> None:
        """Report a beginning that contradicts itself."""
        check_beginning(record, path, into)


def check_beginning(record: Any, path: Path, into: Problems) -> None:
    """Report two beginnings, or a delay of nothing."""
    if record.at is not None and record.when is not None:
        into.add((*path, "when"), "give at or when, not both", key=True)
    if record.delay != ZERO and record.when is None:
        into.add(
            (*path, "delay"), "delay counts from when", "write at instead", key=True
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LastingFault(Fault):
    """A fault with an end; without one it lasts until the fault phase is over.

    Attributes:
        until: When it ends, from the start of the run.
        lasts: How long after its beginning it ends.
    """

    until: Span | None = field(default=None, metadata=of(SpanKind()))
    lasts: Span | None = field(default=None, metadata=of(SpanKind()))

    @classmethod
    def check(cls, record: Any, path: Path, into: Problems) -> None:
        """Report times that contradict each other."""
        check_lasting(record, path, into)


def check_lasting(record: Any, path: Path, into: Problems) -> None:
    """Report two ends, or an end before the beginning."""
    check_beginning(record, path, into)
    if record.until is not None and record.lasts is not None:
        into.add((*path, "lasts"), "give until or lasts, not both", key=True)
    begin = record.at or ZERO
    if record.until is not None and record.until <= begin:
        into.add(
            (*path, "until"),
            f"until {record.until} is not after at {begin}",
            "give a later time, or lasts",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFault(LastingFault):
    """Kind `latency`: messages travel longer.

    Attributes:
        link: Which links: `a -> b` or `a <-> b`, globs allowed.
        latency: How long, in place of what the topology says.
    """

    tag: ClassVar[str] = "latency"
    link: str = field(default="* <-> *", metadata=of(LINK))
    latency: Latency = field(metadata=of(LatencyKind()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition(LastingFault):
    """Kind `partition`: hosts cannot reach each other; connections stall.

    Attributes:
        groups: Lists of hosts; none reaches another list's.
        isolate: One host, cut off from all others.
        one_way: `a -> b`: only this direction is cut.
    """

    tag: ClassVar[str] = "partition"
    later: ClassVar[tuple[str, ...]] = (*_LATER, "shape", "mode")
    groups: tuple[tuple[str, ...], ...] = field(
        default=(), metadata=of(Items(Items(GLOB, 1), 2))
    )
    isolate: str | None = field(default=None, metadata=of(GLOB))
    one_way: str | None = field(default=None, metadata=of(LINK))

    @classmethod
    def check(cls, record: Any, path: Path, into: Problems) -> None:
        """Report none or several ways to say what is cut."""
        check_lasting(record, path, into)
        given = [
            name for name in ("groups", "isolate", "one_way") if getattr(record, name)
        ]
        if len(given) > 1:
            into.add(
                (*path, given[1]), f"give {given[0]} or {given[1]}, not both", key=True
            )
        if not given and not _mentions(path, into):
            into.add(path, "what is cut is missing", "give groups, isolate or one_way")
        if record.one_way is not None and "<->" in record.one_way:
            into.add(
                (*path, "one_way"), "one way is written with ->", "use groups for both"
            )


def _mentions(path: Path, into: Problems) -> bool:
    """Whether the text names a cut, be it a wrong one: then that is told already."""
    node = into.root.at(path)
    return isinstance(node.value, dict) and any(
        name in node.value for name in ("groups", "isolate", "one_way", "shape")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash(Fault):
    """Kind `crash`: hosts die at once, without any clean-up.

    Attributes:
        on: Which hosts, globs allowed.
        restart_after: When they come back; `None`: after the fault phase.
        power: A power cut, of which peers hear nothing; `False`: the process dies and
            its machine closes its connections.
    """

    tag: ClassVar[str] = "crash"
    on: tuple[str, ...] = field(metadata=of(Names(GLOB, 1)))
    restart_after: Span | None = field(default=None, metadata=of(SpanKind()))
    power: bool = field(default=True, metadata=of(Flag()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop(LastingFault):
    """Kind `stop`: hosts are stopped in order, and started again at the end.

    Attributes:
        on: Which hosts, globs allowed.
    """

    tag: ClassVar[str] = "stop"
    on: tuple[str, ...] = field(metadata=of(Names(GLOB, 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart(Fault):
    """Kind `restart`: hosts are stopped in order and started again at once.

    Attributes:
        on: Which hosts, globs allowed.
    """

    tag: ClassVar[str] = "restart"
    on: tuple[str, ...] = field(metadata=of(Names(GLOB, 1)))


# Kind to class, as files name them.
FAULTS: Final[dict[str, type[Fault]]] = {
    cls.tag: cls for cls in (LatencyFault, Partition, Crash, Stop, Restart)
}
FAULTS_LATER: Final = (
    *("bandwidth", "buffer", "mtu", "fragment", "loss", "duplicate", "reorder"),
    *("corrupt", "truncate", "hold", "swizzle", "reset", "half_open", "slow_close"),
    *("refuse", "blackhole", "accept_limit", "dns", "tls", "pause", "slow", "clock"),
    *("kill_worker", "fd_limit", "disk", "broker", "rpc", "buggify", "nemesis"),
)
