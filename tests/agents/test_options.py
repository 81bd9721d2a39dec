from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcsim.agents._options import Limits, limits_of, time_value
from rpcsim.ports import NANOS


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (5, 5),
        (0.5, 0.5),
        ("7", 7),
        ("1.5s", 1.5),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
    ],
)
def test_time_values_in_all_documented_forms(value: Any, seconds: Any) -> None:
    """Numbers, numeric text and the four suffixes; fractions are kept."""
    assert time_value(value) == seconds * NANOS


def test_none_stays_none() -> None:
    """No limit stays no limit."""
    assert time_value(None) is None


@pytest.mark.parametrize("value", ["", "x", "5w", "m", -1, "-1s", float("nan"), "inf"])
def test_bad_values_are_refused(value: Any) -> None:
    """The text of the error has the value."""
    with pytest.raises(ValueError, match="time value"):
        time_value(value)


@pytest.mark.parametrize("value", [object(), [], True, b"5"])
def test_other_types_are_refused(value: Any) -> None:
    """Only numbers and text are time values."""
    with pytest.raises(TypeError, match="time value"):
        time_value(value)


@pytest.mark.parametrize(
    ("timeout", "start", "complete"),
    [(None, 10, 90), (5, 5, 5), (("1m", "2h"), 60, 7200), ([1, 2], 1, 2)],
)
def test_timeouts(timeout: Any, start: Any, complete: Any) -> None:
    """One value is both limits; a pair is start and completion."""
    assert limits_of(timeout) == Limits(start * NANOS, complete * NANOS)


def test_a_part_of_a_timeout_may_be_without_limit() -> None:
    """None in a pair is no limit for that part; three parts are refused."""
    assert limits_of((None, 3)) == Limits(None, 3 * NANOS)
    with pytest.raises(ValueError, match="start, complete"):
        limits_of((1, 2, 3))


@given(value=st.text() | st.floats() | st.integers() | st.none() | st.booleans())
@settings(deadline=None, derandomize=True)
def test_any_value_is_read_or_refused(value: Any) -> None:
    """Nothing but ValueError and TypeError comes out."""
    try:
        nanos: Any = time_value(value)
    except (ValueError, TypeError):
        return
    assert nanos is None or nanos >= 0
