"""The table: our figure, its goal, and how it compares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.bench._rows import ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench._rows import Row

__all__ = ["met", "render", "target"]

# results[row id][peer] is what a child printed, or {"failed": reason}.
Results = "Mapping[str, Mapping[str, Mapping[str, Any]]]"


def target(row: Row, results: Mapping[str, Any]) -> float | None:
    """Give the goal as a figure; `None` if there is none, or its base is missing."""
    if row.goal is None:
        return None
    if not row.goal.of:
        return row.goal.value
    base = results.get(row.goal.of, {}).get("rpcsim", {}).get("median")
    return None if base is None else float(row.goal.value * base)


def met(row: Row, value: float, goal: float) -> bool:
    """Whether a figure reaches its goal."""
    return value >= goal if row.rising else value <= goal


def _told(row: Row, value: float | None) -> str:
    if value is None:
        return "-"
    if row.unit != "/s":
        return f"{value:.3g} {row.unit}"
    if value >= 1e6:
        return f"{value / 1e6:.2f} M/s"
    return f"{value / 1e3:.3g} k/s" if value >= 1e3 else f"{value:.0f} /s"


def _ratio(row: Row, ours: float | None, theirs: float | None) -> str:
    """How many times as good as theirs ours is."""
    if ours is None or theirs is None:
        return "-"
    return f"x{ours / theirs if row.rising else theirs / ours:.2f}"


def render(results: Mapping[str, Any], peers: list[str]) -> str:
    """Write the table as text.

    Args:
        results: For each row and loop, what its process printed.
        peers: The loops, in the order of their columns; ours and asyncio first.
    """
    others = [peer for peer in peers if peer not in {"rpcsim", "asyncio"}]
    head = ["", "rpcsim", "goal", "", "asyncio", "ratio", *others, "to best peer"]
    lines = [head]
    for row in ROWS:
        if row.id not in results:
            continue
        figures = {p: r.get("median") for p, r in results[row.id].items()}
        ours, plain = figures.get("rpcsim"), figures.get("asyncio")
        goal = target(row, results)
        verdict = ""
        if goal is not None and ours is not None:
            verdict = "met" if met(row, ours, goal) else "NOT MET"
        rivals = [v for p, v in figures.items() if p in others and v is not None]
        best = (max if row.rising else min)(rivals) if rivals else None
        lines.append(
            [
                row.title,
                _told(row, ours),
                _told(row, goal) if row.goal else "",
                verdict,
                _told(row, plain),
                _ratio(row, ours, plain),
                *(_told(row, figures.get(peer)) for peer in others),
                _ratio(row, ours, best),
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
