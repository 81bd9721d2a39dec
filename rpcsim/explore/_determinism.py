"""The self-check: run a scenario again under other circumstances, compare every record.

`heap` runs it again in this process, after the heap was disturbed and another
simulation ran; `fresh` in a new interpreter with another hash seed. What differs then
depends on addresses, on state left in the process, or on the order of hashes.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rpcsim.errors import SimulationError
from rpcsim.scenario import Scenario
from rpcsim.trace import Difference, first_difference, read_jsonl, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rpcsim.harness import RunResult
    from rpcsim.trace import Record

__all__ = ["WAYS", "Finding", "check_determinism", "fresh_main"]

WAYS: Final = ("heap", "fresh")
# What the new interpreter is told, so that its sets and dictionaries differ from ours.
OTHER_HASH_SEEDS: Final = ("4242", "77")
# Objects made and partly freed between two runs: a few megabytes.
CLUTTER: Final = 40_000
# Beyond the scenario's own limit: starting an interpreter, importing, writing.
GRACE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one way of running again showed.

    Attributes:
        way: `heap` or `fresh`.
        seed: The run's seed.
        records: How many records were compared.
        digest: The first run's digest.
        difference: The first record that differs; `None` when all are equal.
    """

    way: str
    seed: int
    records: int
    digest: str | None
    difference: Difference | None

    @property
    def ok(self) -> bool:
        """Whether both runs were the same."""
        return self.difference is None

    def told(self) -> str:
        """Tell it; a difference with both sides and a likely cause."""
        if self.difference is None:
            return f"{self.way}: {self.records} records equal, digest {self.digest}"
        return f"{self.way}: {self.difference}\n  likely: {_cause(self)}"


def check_determinism(
    path: str | os.PathLike[str],
    *,
    seed: int | None = None,
    ways: Sequence[str] = WAYS,
) -> list[Finding]:
    """Run a scenario file once, then again in each way, and compare.

    Args:
        path: The scenario file.
        seed: In place of the scenario's own.
        ways: Some of `WAYS`.

    Returns:
        One finding per way, in their order.

    Raises:
        ScenarioError: It is not a good scenario.
        SimulationError: The new interpreter failed; the text has what it said.
    """
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise ValueError(f"no way {unknown[0]!r} to check; known: {', '.join(WAYS)}")
    scenario = Scenario.load(path)
    if seed is not None:
        scenario = scenario.replace(seed=seed)
    first = scenario.run(trace="steps")
    checks = {"heap": _again_here, "fresh": _again_fresh}
    return [_compare(way, first, checks[way](scenario)) for way in ways]


def _compare(way: str, first: RunResult, second: Sequence[Record]) -> Finding:
    # Long runs keep their newest records only; the older ones are in the digests,
    # and both sides keep equally many.
    return Finding(
        way=way,
        seed=first.seed,
        records=len(first.trace),
        digest=first.digest,
        difference=first_difference(first.trace, second),
    )


def _again_here(scenario: Scenario) -> Sequence[Record]:
    clutter = [bytearray(i * 7919 % 2048) for i in range(CLUTTER)]
    del clutter[::3], clutter[::2]
    other = scenario.replace(seed=scenario.seed ^ 1).run(trace="steps")
    gc.collect()
    again = list(scenario.run(trace="steps").trace)
    # Both are held until here, so that the last run got other addresses.
    del clutter, other
    return again


def _again_fresh(scenario: Scenario) -> Sequence[Record]:
    mine = os.environ.get("PYTHONHASHSEED")
    other = next(seed for seed in OTHER_HASH_SEEDS if seed != mine)
    with tempfile.TemporaryDirectory(prefix="rpcsim-") as folder:
        out = Path(folder) / "trace.jsonl"
        done = subprocess.run(
            [
                *(sys.executable, "-c"),
                "from rpcsim.explore import fresh_main; fresh_main()",
                *(scenario.origin, str(scenario.seed), str(out)),
            ],
            env={**os.environ, "PYTHONHASHSEED": other},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=scenario.limits.real_time.seconds + GRACE_SECONDS,
            check=False,
        )
        if done.returncode != 0 or not out.exists():
            said = done.stderr.strip().splitlines()
            raise SimulationError(
                f"running {scenario.name} in a new interpreter failed "
                f"(exit {done.returncode}): {said[-1] if said else 'it said nothing'}"
            )
        return read_jsonl(out.read_text("utf-8")).records


def fresh_main() -> None:
    """Run a scenario in this interpreter and write its trace: the other end of `fresh`.

    Takes from the command line: path, seed, path of the trace to write.
    """
    path, seed, out = sys.argv[1:4]
    result = Scenario.load(path).run(seed=int(seed), trace="steps")
    text = write_jsonl(
        result.trace,
        header={"seed": result.seed, "level": "steps"},
        end={"outcome": result.verdict},
    )
    Path(out).write_text(text, "utf-8")


def _cause(finding: Finding) -> str:
    difference = finding.difference
    assert difference is not None  # the caller's case
    told = f"{difference.left} {difference.right}"
    if "0x" in told:
        return "a text with an address in it (`repr` of an object without one)"
    if finding.way == "fresh":
        return (
            "order of hashes: iteration over a set of text; or the real clock, chance, "
            "or a file that changes"
        )
    return (
        "state left in the process by the first run (a cache, a counter in a module), "
        "or order by address (`id`, a set of objects)"
    )
