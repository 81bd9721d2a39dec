"""Durations: what is read, what is refused, and their text."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcsim.ports import duration_text, to_ns


@pytest.mark.parametrize(
    ("given_", "ns"),
    [
        (0, 0),
        (3, 3_000_000_000),
        (0.1, 100_000_000),
        (-1.5, -1_500_000_000),
        ("250us", 250_000),
        ("3ms", 3_000_000),
        ("1.5s", 1_500_000_000),
        ("2m", 120_000_000_000),
        ("24h", 86_400_000_000_000),
        ("-1d", -86_400_000_000_000),
        ("7ns", 7),
        (timedelta(days=1, microseconds=1), 86_400_000_001_000),
    ],
)
def test_durations_are_read(given_: Any, ns: int) -> None:
    """Seconds, text with one unit, `timedelta`; exact to the nanosecond."""
    assert to_ns(given_) == ns


@pytest.mark.parametrize(
    ("given_", "error"),
    [
        ("5 ms", ValueError),
        ("", ValueError),
        ("5", ValueError),
        ("1h30m", ValueError),
        ("1e3s", ValueError),
        (float("inf"), ValueError),
        (float("nan"), ValueError),
        (True, TypeError),
        (None, TypeError),
        (b"5ms", TypeError),
    ],
)
def test_what_is_no_duration_is_told(given_: Any, error: type[Exception]) -> None:
    """The error shows what was given."""
    with pytest.raises(error) as raised:
        to_ns(given_)
    assert repr(given_) in str(raised.value)


@given(st.integers(0, 10**20))
def test_text_reads_back(ns: int) -> None:
    """`duration_text` and `to_ns` are inverse."""
    assert to_ns(duration_text(ns)) == ns


def test_text_uses_the_largest_whole_unit() -> None:
    """So that reports stay short."""
    texts = [duration_text(n) for n in (0, 1, 1_500_000_000, 3_600 * 10**9)]
    assert texts == ["0s", "1ns", "1500ms", "1h"]
