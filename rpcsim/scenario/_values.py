"""Lengths of time and the marked values a scenario may hold."""

from __future__ import annotations

import base64
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rpcsim.ports import NANOS, duration_text, to_ns

if TYPE_CHECKING:
    from rpcsim.ports import Duration

__all__ = ["UNSET", "Span", "Unset", "draw", "ref"]


class Unset:
    """The type of `UNSET`: a value was not given, where `None` is a value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNSET"

    def __copy__(self) -> Unset:
        return self

    def __deepcopy__(self, memo: object) -> Unset:
        return self

    def __reduce__(self) -> str:
        return "UNSET"


UNSET: Final = Unset()


@functools.total_ordering
@dataclass(frozen=True, slots=True)
class Span:
    """A length of time as a scenario means it.

    A type of its own, because a bare number is seconds in a file and nanoseconds in a
    clock, and a value must not change when it is normalised twice.

    Attributes:
        ns: Whole nanoseconds.
    """

    ns: int

    @classmethod
    def of(cls, duration: Duration | Span) -> Span:
        """Read seconds, `"250ms"` or a `timedelta`; errors as `ports.to_ns`."""
        return duration if isinstance(duration, Span) else cls(to_ns(duration))

    @property
    def seconds(self) -> float:
        """The same in seconds."""
        return self.ns / NANOS

    def __str__(self) -> str:
        return duration_text(self.ns)

    def __lt__(self, other: Span) -> bool:
        return self.ns < other.ns


def ref(path: str) -> dict[str, Any]:
    """Stand for an earlier outcome of the run: `ref("bark.value.text")`."""
    return {"$ref": path}


class _Draw:
    """Values drawn at site `workload/<client>`."""

    __slots__ = ()

    @staticmethod
    def int(low: int, high: int) -> dict[str, Any]:
        """Draw a whole number, both ends included."""
        return {"$draw": {"int": [low, high]}}

    @staticmethod
    def one_of(*items: Any) -> dict[str, Any]:
        """Draw one of the items."""
        return {"$draw": {"one_of": list(items)}}


draw: Final = _Draw()


def bytes_value(data: bytes) -> dict[str, Any]:
    """Give the marked form of bytes."""
    return {"$bytes": base64.b64encode(data).decode()}
