"""What a run needs, its limits, its schedule, and rules over the whole of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rpcsim.scenario._kinds import (
    FAILED,
    Choice,
    Flag,
    Items,
    Kind,
    Number,
    SpanKind,
    of,
    show,
)
from rpcsim.scenario._record import Record
from rpcsim.scenario._values import Span

if TYPE_CHECKING:
    from rpcsim.scenario._problems import Node, Path, Problems

__all__ = [
    "ALWAYS_ON",
    "Invariant",
    "InvariantKind",
    "Limits",
    "Requires",
    "Schedule",
    "SeedKind",
]

# Checked in every run unless switched off.
ALWAYS_ON: Final = ("nothing-left-behind", "no-unhandled-error")
INVARIANTS_LATER: Final = (
    *("replies-match", "no-call-after-stop", "at-most-once", "at-least-once"),
    *("exactly-once", "no-lost-job", "ends-once", "queue-fifo", "queue-limit"),
    *("stream-gapless", "window-respected", "ttl-respected", "progress-monotone"),
    *("cancel-final", "no-reply-after-cancel", "deadline-kept", "always"),
    *("eventually", "leads-to", "settles", "linearizable"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requires(Record):
    """What a run of the scenario needs.

    Attributes:
        modes: In which modes it makes sense.
        exact: Refuse a real run in which a fault would not be exact.
    """

    noun: ClassVar[str] = "requires"
    later: ClassVar[tuple[str, ...]] = ("python", "extras")
    modes: tuple[str, ...] = field(
        default=("sim", "real"),
        metadata=of(Items(Choice(("sim", "real"), noun="mode"), 1)),
    )
    exact: bool = field(default=False, metadata=of(Flag()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Record):
    """When a run is given up.

    Attributes:
        sim_time: Longest fault phase.
        steps: Most turns of the simulated loop.
        real_time: Longest run by the machine's own clock.
        steps_per_instant: Most turns without simulated time moving.
        settle: Longest settle phase.
    """

    noun: ClassVar[str] = "limits"
    sim_time: Span = field(default=Span(600 * 10**9), metadata=of(SpanKind()))
    steps: int = field(default=5_000_000, metadata=of(Number(1)))
    real_time: Span = field(default=Span(120 * 10**9), metadata=of(SpanKind()))
    steps_per_instant: int = field(default=100_000, metadata=of(Number(1)))
    settle: Span = field(default=Span(60 * 10**9), metadata=of(SpanKind()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(Record):
    """How the simulation chooses among what could run next.

    Attributes:
        policy: `fifo` or `random`.
    """

    noun: ClassVar[str] = "schedule"
    later: ClassVar[tuple[str, ...]] = ("depth", "horizon", "scope")
    policy: str = field(
        default="random",
        metadata=of(Choice(("fifo", "random"), ("pct",), noun="policy")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariant(Record):
    """A rule that is checked over the whole run.

    Attributes:
        name: Which.
        on: `False` switches an always-on rule off.
    """

    name: str
    on: bool = True


@dataclass(frozen=True, slots=True)
class InvariantKind(Kind):
    """A name, or `{name: off}`."""

    told: str = "the name of an invariant, or {name: off}"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Read either form."""
        if isinstance(node.value, Invariant):
            return node.value
        words = Choice(ALWAYS_ON, INVARIANTS_LATER, "invariant")
        if isinstance(node.value, str):
            known = words.known(node.value, path, into)
            return Invariant(name=node.value) if known else FAILED
        if not isinstance(node.value, dict) or len(node.value) != 1:
            return self.wrong(node, path, into)
        ((name, (_key, value)),) = node.value.items()
        if not words.known(name, (*path, name), into, key=True):
            return FAILED
        # `off` is text in YAML 1.2; a truth value is taken as well.
        if value.value is not False and value.value != "off":
            into.add((*path, name), f"expected off, found {show(value)}")
            return FAILED
        return Invariant(name=name, on=False)

    def plain(self, value: Any) -> Any:
        """Write the shorter form."""
        if not isinstance(value, Invariant):
            return value
        return value.name if value.on else {value.name: "off"}


@dataclass(frozen=True, slots=True)
class SeedKind(Number):
    """A seed."""

    high: int = 2**64 - 1
