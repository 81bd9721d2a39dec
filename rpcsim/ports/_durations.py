"""Durations at the public face, and the integer nanoseconds inside."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final, TypeAlias

__all__ = ["NANOS", "Duration", "duration_text", "to_ns"]

NANOS: Final = 1_000_000_000
Duration: TypeAlias = "int | float | timedelta | str"

_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": NANOS,
    "m": 60 * NANOS,
    "h": 3_600 * NANOS,
    "d": 86_400 * NANOS,
}
_TEXT: Final = re.compile(r"([+-]?\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)")


def to_ns(duration: Duration) -> int:
    """Turn a duration into whole nanoseconds.

    Args:
        duration: Seconds as a number, a `timedelta`, or a number with one unit of
            `ns us ms s m h d` as text (`"250ms"`).

    Raises:
        ValueError: The text has another form, or the number is not finite.
        TypeError: It is something else.
    """
    if isinstance(duration, bool):
        raise TypeError(f"a duration is seconds, text or a timedelta, not {duration!r}")
    if isinstance(duration, int):
        return duration * NANOS
    if isinstance(duration, float):
        if not math.isfinite(duration):
            raise ValueError(f"a duration must be finite, not {duration!r}")
        return round(duration * NANOS)
    if isinstance(duration, timedelta):
        days, seconds, micros = duration.days, duration.seconds, duration.microseconds
        return (days * 86_400 + seconds) * NANOS + micros * 1_000
    if isinstance(duration, str):
        match = _TEXT.fullmatch(duration)
        if match is None:
            raise ValueError(
                f"not a duration: {duration!r}; write a number and one unit of "
                "ns us ms s m h d, as in '250ms'"
            )
        number, unit = match.groups()
        if "." not in number:
            return int(number) * _UNITS[unit]
        return round(float(number) * _UNITS[unit])
    raise TypeError(f"a duration is seconds, text or a timedelta, not {duration!r}")


def duration_text(ns: int) -> str:
    """Write nanoseconds in the largest unit that gives a whole number (`1500ms`)."""
    for unit in ("d", "h", "m", "s", "ms", "us"):
        if ns and ns % _UNITS[unit] == 0:
            return f"{ns // _UNITS[unit]}{unit}"
    return f"{ns}ns" if ns else "0s"
