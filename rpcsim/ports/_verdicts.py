"""What a fault rule may decide, as plain values both machines understand.

Durations are given as everywhere (`"5ms"`, seconds) and kept in nanoseconds. Packet
verdicts are decided by the network below the transport, message verdicts by
`Transport.write_message`; simulation.md 6.8 has the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from rpcsim.errors import RuleError
from rpcsim.ports._durations import duration_text, to_ns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rpcsim.ports._durations import Duration

__all__ = [
    "AfterDeadline",
    "Answer",
    "Copies",
    "Corrupt",
    "Deliver",
    "Drop",
    "Hold",
    "Pass",
    "Reset",
    "Truncate",
    "Verdict",
]


@dataclass(frozen=True, slots=True)
class Pass:
    """Not decided here: the next rule is asked."""

    def __str__(self) -> str:
        return "pass"


@dataclass(frozen=True, slots=True)
class Drop:
    """It never arrives; on stream data, a lost segment."""

    def __str__(self) -> str:
        return "drop"


class _Timed:
    """Reads durations into nanoseconds, and refuses negative ones."""

    __slots__ = ()

    @staticmethod
    def _ns(duration: Duration, what: str) -> int:
        ns = to_ns(duration)
        if ns < 0:
            raise RuleError(f"{what} cannot be negative: {duration!r}")
        return ns


@dataclass(frozen=True, slots=True, init=False)
class Deliver(_Timed):
    """It arrives later than it would.

    Args:
        after: How much later.
    """

    after_ns: int

    def __init__(self, after: Duration) -> None:
        object.__setattr__(self, "after_ns", self._ns(after, "a delay"))

    def __str__(self) -> str:
        return f"delay {duration_text(self.after_ns)}"


@dataclass(frozen=True, slots=True, init=False)
class Copies(_Timed):
    """It arrives once for each delay, in place of once.

    Args:
        after: How much later than it would each copy arrives; 0 is on time.
    """

    after_ns: tuple[int, ...]

    def __init__(self, after: Sequence[Duration]) -> None:
        told = tuple(self._ns(one, "a delay") for one in after)
        if not told:
            raise RuleError("Copies([]) is no copy at all: say Drop() instead")
        object.__setattr__(self, "after_ns", told)

    def __str__(self) -> str:
        return f"{len(self.after_ns)} copies"


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Bits of it are flipped; datagrams only.

    Attributes:
        bits: How many, at drawn places.
    """

    bits: int = 1

    def __str__(self) -> str:
        return f"corrupt {self.bits} bits"


@dataclass(frozen=True, slots=True)
class Truncate:
    """Only its first bytes arrive; datagrams only.

    Attributes:
        size: How many bytes.
    """

    size: int

    def __str__(self) -> str:
        return f"truncate to {self.size} bytes"


@dataclass(frozen=True, slots=True)
class Reset:
    """Its connection is reset at both ends; a connect is refused."""

    def __str__(self) -> str:
        return "reset"


@dataclass(frozen=True, slots=True)
class Hold:
    """It stays in flight until it is released."""

    def __str__(self) -> str:
        return "hold"


@dataclass(frozen=True, slots=True)
class Answer:
    """The caller gets this at once; the callee never sees the request.

    Attributes:
        value: What the call returns.
        error: What it raises instead.
    """

    value: Any = None
    error: Exception | None = None

    def __str__(self) -> str:
        return "answer" if self.error is None else f"raise {type(self.error).__name__}"


@dataclass(frozen=True, slots=True, init=False)
class AfterDeadline(_Timed):
    """It arrives when its caller's time limit is over.

    Args:
        extra: How long after the limit.
    """

    extra_ns: int

    def __init__(self, extra: Duration = "1ms") -> None:
        object.__setattr__(self, "extra_ns", self._ns(extra, "a delay"))

    def __str__(self) -> str:
        return f"{duration_text(self.extra_ns)} after the deadline"


Verdict: TypeAlias = (
    Pass
    | Drop
    | Deliver
    | Copies
    | Corrupt
    | Truncate
    | Reset
    | Hold
    | Answer
    | AfterDeadline
)
