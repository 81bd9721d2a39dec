"""The self-check: run something again under other circumstances, compare everything.

`heap` runs it again in this process, after the heap was disturbed and another
simulation ran; `fresh` in a new interpreter with another hash seed; `file` in a new
interpreter too, strictly along the written tape of the first run. What differs then
depends on addresses, on state left in the process, on the order of hashes, or on
something real, and `_causes.py` finds out on which.
"""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rpcsim.errors import NondeterminismError
from rpcsim.explore._causes import HASH_SEEDS, Cause, Laboratory
from rpcsim.explore._compare import Mismatch, first_mismatch
from rpcsim.explore._subject import clutter, run_fresh, subject_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rpcsim.explore._subject import Observed, Subject
    from rpcsim.trace import Difference

__all__ = ["WAYS", "Finding", "check", "check_determinism"]

WAYS: Final = ("heap", "fresh", "file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one way of running again showed.

    Attributes:
        way: `heap`, `fresh` or `file`.
        seed: The run's seed.
        records: How many records were compared.
        digest: The first run's digest.
        difference: The first record, choice, number of draws or outcome that differs;
            `None` when all are equal.
        cause: Why, if something differs.
    """

    way: str
    seed: int
    records: int
    digest: str | None
    difference: Difference | Mismatch | None
    cause: Cause | None = None

    @property
    def ok(self) -> bool:
        """Whether both runs were the same."""
        return self.difference is None

    def told(self) -> str:
        """Tell it; a difference with both sides and its cause."""
        if self.difference is None:
            return f"{self.way}: {self.records} records equal, digest {self.digest}"
        return f"{self.way}: {self.difference}\n  cause: {self.cause}"


def check_determinism(
    what: str | os.PathLike[str],
    *,
    seed: int | None = None,
    policy: str = "random",
    ways: Sequence[str] = WAYS,
) -> list[Finding]:
    """Run something once, then again in each way, and compare.

    Args:
        what: The path of a scenario file, or `package.module:function` of a function
            or coroutine function that takes a `Sim`; what it returns is compared too.
        seed: In place of the scenario's own; a program's is 0.
        policy: Of a program; a scenario has its own.
        ways: Some of `WAYS`.

    Returns:
        One finding per way, in their order.

    Raises:
        ScenarioError: It is not a good scenario.
        ValueError: There is no such program, or way.
        SimulationError: The new interpreter failed; the text has what it said.
    """
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise ValueError(f"no way {unknown[0]!r} to check; known: {', '.join(WAYS)}")
    subject = subject_of(what, seed=seed, policy=policy)
    first = subject.run()
    laboratory = Laboratory(subject, first)
    return [_look(way, subject, first, laboratory) for way in ways]


def check(
    what: str | os.PathLike[str],
    *,
    seed: int | None = None,
    policy: str = "random",
    ways: Sequence[str] = WAYS,
) -> None:
    """Check as `check_determinism` does; raise the first difference.

    Args:
        what: As there.
        seed: As there.
        policy: As there.
        ways: As there.

    Raises:
        NondeterminismError: Two runs differ; the text has both sides and the cause.
    """
    for finding in check_determinism(what, seed=seed, policy=policy, ways=ways):
        if not finding.ok:
            raise NondeterminismError(
                f"{os.fspath(what)}, seed {finding.seed}, {finding.told()}"
            )


def _look(
    way: str, subject: Subject, first: Observed, laboratory: Laboratory
) -> Finding:
    if way == "heap":
        second = _again_here(subject)
    else:
        mine = os.environ.get("PYTHONHASHSEED")
        other = next(seed for seed in HASH_SEEDS if seed != mine)
        tape = first.tape if way == "file" else None
        second = run_fresh(subject, hash_seed=other, tape=tape)
    found = first_mismatch(first, second)
    return Finding(
        way=way,
        seed=first.seed,
        records=len(first.records),
        digest=first.digest,
        difference=found,
        cause=None
        if found is None
        else laboratory.cause(found, second, here=way == "heap"),
    )


def _again_here(subject: Subject) -> Observed:
    held = clutter()
    other = subject.run(seed=subject.seed ^ 1)
    gc.collect()
    again = subject.run()
    # Both are held until here, so that the last run got other addresses.
    del held, other
    return again
