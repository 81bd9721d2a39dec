"""Sets of tasks replay in fresh processes, here a few of the thousand of the script."""

from __future__ import annotations

from tests.explore.replays import different


def test_fresh_processes_do_not_differ() -> None:
    """0 of 12, each with its own hash seed and heap (check 17)."""
    assert different(12) == 0
