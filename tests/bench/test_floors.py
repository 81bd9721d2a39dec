"""Every row at a hundredth of its size, against a fifth of its goal.

This catches collapses, not percentages: the machine may be busy, so a row is tried
until it passes, at most `TRIES` times. `python -m tests.bench` gives the real figures.
"""

from __future__ import annotations

import pytest

from tests.bench._rows import ROWS, Row, row_of
from tests.bench._sampling import figure, once
from tests.bench._table import met, render, target

pytestmark = pytest.mark.bench

SHARE = 5
TRIES = 8
SIZES = {
    "chain": 10_000,
    "ready_100": 10_000,
    "ready_10000": 40_000,
    "timers": 5_000,
    "rpc_msgspec": 500,
    "rpc_json": 500,
    "streams_1": 500,
    "streams_50": 1_000,
    "empty": 50,
    "chaos": 5,
    "blocking": 200,
    "nested": 200,
    "agent": 50,
    "import": 1,
    "memory": 100_000,
}


def small(row: Row) -> float:
    """Give the figure of one small run."""
    return figure(row, *once("rpcsim", row, SIZES[row.id]))


def floor_of(row: Row) -> float:
    """Give a fifth of the row's goal; of times and sizes, five times the goal."""
    assert row.goal is not None
    base = row.goal.of
    results = {base: {"rpcsim": {"median": small(row_of(base))}}} if base else {}
    goal = target(row, results)
    assert goal is not None
    return goal / SHARE if row.rising else goal * SHARE


@pytest.mark.parametrize("name", [row.id for row in ROWS if row.goal])
def test_no_row_has_collapsed(name: str) -> None:
    """A small run of the row reaches a fifth of the goal, in one of several tries."""
    row = row_of(name)
    tried = []
    for _ in range(TRIES):
        value, floor = small(row), floor_of(row)
        if met(row, value, floor):
            return
        tried.append(f"{value:.4g} (floor {floor:.4g})")
    pytest.fail(f"{row.title}, in {row.unit}: {', '.join(tried)}")


def test_the_table_tells_goals_and_ratios() -> None:
    """The table shows our figure, the goal, whether it is met, and both ratios."""
    results = {
        "timers": {
            "rpcsim": {"median": 300_000.0},
            "asyncio": {"median": 200_000.0},
            "other": {"median": 400_000.0},
            "broken": {"failed": "took too long"},
        },
        "blocking": {"rpcsim": {"median": 50.0}, "asyncio": {"median": 100.0}},
    }
    text = render(results, ["rpcsim", "asyncio", "other", "broken"])
    timers, blocking = text.splitlines()[1:]
    told = "300 k/s 150 k/s met 200 k/s x1.50 400 k/s - x0.75"
    assert " ".join(timers.split()).endswith(told)
    assert "NOT MET" in blocking
    assert "x2.00" in blocking


def test_a_goal_may_be_a_share_of_another_row() -> None:
    """The goal for 10 000 tasks follows the figure for 100; without it there is none."""
    row = row_of("ready_10000")
    assert target(row, {"ready_100": {"rpcsim": {"median": 800.0}}}) == 600.0
    assert target(row, {}) is None
