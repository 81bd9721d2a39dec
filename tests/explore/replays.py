"""How many of N fresh processes differ: `python -m tests.explore.replays [N]`.

Each runs the same programs (`TaskGroup`, `wait`, `as_completed`, `all_tasks`, results of
`gather`; a conversation over streams) under its own hash seed and with its own
garbage on the heap. The target is 0 of 1 000 (simulation.md 13).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tests.sim.programs import conversation, race_outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = Path(__file__).parents[2]
POLICIES = ("fifo", "random", "pct(depth=3, horizon=100)")


def outcome() -> str:
    """Run everything once and tell what came of it, in one line."""
    told: list[object] = []
    for policy in POLICIES:
        told.append(race_outcome(seed=3, policy=policy))
        trace = conversation(seed=9, policy=policy, trace="steps").trace
        told += [trace.digest, trace.schedule_digest]
    return repr(told)


def fresh(n: int) -> str:
    """Run it in a new interpreter, the n-th."""
    code = (
        f"junk = [[i] for i in range({n * 137 % 5_000})]; del junk[::3]\n"
        "from tests.explore.replays import outcome; print(outcome())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": str(n), "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def different(
    count: int,
    over: Callable[[Callable[[int], str], Iterable[int]], Iterable[str]] = map,
) -> int:
    """Say how many of `count` fresh processes differ from this one.

    Args:
        count: How many processes.
        over: Maps them, in this thread or in several.
    """
    outcomes = Counter(over(fresh, range(count)))
    return count - outcomes[outcome()]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = different(count, pool.map)
    print(f"{found} of {count} fresh processes differ")  # noqa: T201 - a script
    sys.exit(found > 0)


if __name__ == "__main__":
    main()
