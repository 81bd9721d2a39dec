"""From runs to one figure: size the samples, take several, keep the median."""

from __future__ import annotations

import gc
import statistics
import time
from typing import TYPE_CHECKING, Any

from tests.bench._own import OWN, THREADS
from tests.bench._peers import measure

if TYPE_CHECKING:
    from tests.bench._rows import Row

__all__ = ["figure", "has", "once", "sample"]

# Five samples of a slow loop need not take the afternoon: the rest is left out.
LIMIT_SECONDS = 60.0


def has(peer: str, row: Row) -> bool:
    """Whether a loop runs a row."""
    if peer == "asyncio" and row.simulated:
        return False
    if row.others or peer == "rpcsim":
        return True
    return peer == "asyncio" and row.id in THREADS


def once(peer: str, row: Row, n: int) -> tuple[int, float]:
    """Run a row once at size n; give operations done and seconds (or mebibytes)."""
    gc.collect()
    if peer == "rpcsim" and row.id in OWN:
        return OWN[row.id](row, n)
    if peer == "asyncio" and row.id in THREADS:
        return THREADS[row.id](row, n)
    return measure(peer, row, n)


def figure(row: Row, done: int, spent: float) -> float:
    """Give the result in the row's unit."""
    each = spent / done
    if row.rising:
        return 1 / each
    return each * {"us": 1e6, "ms": 1e3, "MiB": 1}[row.unit]


def sample(peer: str, row: Row, *, seconds: float, repeats: int) -> dict[str, Any]:
    """Take the samples of one row on one loop, after a warm-up.

    Args:
        peer: Name of the loop.
        row: What is measured.
        seconds: How long a sample should take, about.
        repeats: How many samples.
    """
    n, first = _warm_up(peer, row, seconds)
    if row.unit == "MiB" or first is not None:
        repeats = 1  # a process grows but once; a slow loop need not take all day
    end = time.perf_counter() + LIMIT_SECONDS
    samples = [] if first is None else [first]
    while len(samples) < repeats and time.perf_counter() < end:
        samples.append(figure(row, *once(peer, row, n)))
    return {"median": statistics.median(samples), "samples": samples, "operations": n}


def _warm_up(peer: str, row: Row, seconds: float) -> tuple[int, float | None]:
    """Find how many operations take about so long.

    Returns:
        The size of a sample; and the figure of the warm-up, if that took so long that
        it must do.
    """
    if row.unit == "MiB":
        return row.smallest, None
    n = max(row.smallest // 10, 1) if row.fixed else row.smallest
    while True:
        done, spent = once(peer, row, n)
        if spent > LIMIT_SECONDS / 4:
            return n, figure(row, done, spent)
        if row.fixed:
            return row.smallest, None
        if spent >= seconds / 4:
            return max(row.smallest, round(n * seconds / spent)), None
        n = min(n * 10, max(n * 2, round(n * seconds / max(spent, 1e-6))))
