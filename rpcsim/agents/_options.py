"""Options of containers and stubs: their names, their forms, what they mean in time."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rpcsim.core import near
from rpcsim.ports import NANOS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KNOWN", "Limits", "limits_of", "normalise", "start_of", "time_value"]

# Every documented option of gofer.md section 3; `strict=True` takes no other.
KNOWN: Final = frozenset(
    {
        "any",
        "async",
        "async_",
        "authenticator",
        "calls",
        "ctag",
        "data",
        "exchange",
        "import_exceptions",
        "password",
        "progress",
        "reply",
        "secret",
        "strict",
        "timeout",
        "trigger",
        "ttl",
        "url",
        "user",
        "wait",
        "watchdog",
        "window",
    }
)
# Two names of one option: `async` is a reserved word, `data` the modern name of `any`.
_TWINS: Final = {"async": "async_", "data": "any"}
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DEFAULT: Final = (10, 90)


def normalise(options: Mapping[str, Any], *, strict: bool = False) -> dict[str, Any]:
    """Give the options under one name each.

    Raises:
        TypeError: Both names of one option with different values; or, if `strict`, a
            name that is not documented.
    """
    if strict:
        for name in options:
            if name not in KNOWN:
                raise TypeError(f"unknown option {name!r}{near(name, KNOWN)}")
    chosen: dict[str, Any] = {}
    for name, value in options.items():
        settled = _TWINS.get(name, name)
        if settled in chosen and chosen[settled] != value:
            twin = next(twin for twin, one in _TWINS.items() if one == settled)
            raise TypeError(
                f"options {settled!r} and {twin!r} are one option, given with two "
                f"values: {chosen[settled]!r} and {value!r}"
            )
        chosen[settled] = value
    return chosen


def time_value(value: Any) -> int | None:
    """Read a documented time value, in nanoseconds; `None` stays `None`.

    Args:
        value: Seconds as a number or numeric text, or text ending in `s m h d`.

    Raises:
        ValueError: Empty, negative, not finite or malformed.
        TypeError: Neither a number nor text.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"a time value is a number or text, not {value!r}")
    return _nanos(value)  # every call reads its limits, and they are few


@functools.lru_cache(maxsize=256, typed=True)
def _nanos(value: float | str) -> int:
    unit = 1
    seconds: float
    if isinstance(value, str):
        if not value:
            raise ValueError("a time value is empty; write seconds, or text as '5m'")
        number = value
        if value[-1] in _UNITS:
            number, unit = value[:-1], _UNITS[value[-1]]
        try:
            seconds = float(number)
        except ValueError:
            raise ValueError(
                f"not a time value: {value!r}; write a number of seconds, or a number "
                "and one of s m h d, as in '5m'"
            ) from None
    else:
        seconds = value
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"a time value is finite and not negative, not {value!r}")
    return round(seconds * unit * NANOS)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a caller waits, in nanoseconds; `None` for ever.

    Attributes:
        start: From sending until the agent says that it started.
        complete: From then until the result.
    """

    start: int | None
    complete: int | None


def limits_of(timeout: Any) -> Limits:
    """Read the option `timeout`: one time value for both limits, or a pair of them."""
    if timeout is None:
        timeout = _DEFAULT
    if isinstance(timeout, (list, tuple)):
        if len(timeout) != 2:
            raise ValueError(
                f"timeout is one time value, or (start, complete), not {timeout!r}"
            )
        return Limits(time_value(timeout[0]), time_value(timeout[1]))
    both = time_value(timeout)
    return Limits(both, both)


def start_of(timeout: Any) -> int | None:
    """Give the first of the limits that `limits_of` reads."""
    if timeout is None:
        timeout = _DEFAULT
    return time_value(timeout[0] if isinstance(timeout, (list, tuple)) else timeout)
