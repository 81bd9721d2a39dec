"""What came of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rpcsim.check import OutcomeKind
    from rpcsim.ports import Inexact, Mode
    from rpcsim.sim import Tape
    from rpcsim.trace import Trace

__all__ = ["RunResult", "StepOutcome", "Verdict"]

# `unknown`: a limit was reached before it could be told.
Verdict = Literal["valid", "invalid", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What came of one step.

    Attributes:
        id: The step.
        client: Whose.
        kind: `ok`, `raised`, `no` or `maybe`.
        value: What it gave.
        error: What it raised; `None` if nothing.
        began_ns: When it began, from the beginning of the run.
        ended_ns: When it had its outcome; the end of the run if it had none.
    """

    id: str
    client: str
    kind: OutcomeKind
    value: Any = None
    error: BaseException | None = None
    began_ns: int = 0
    ended_ns: int = 0

    @property
    def took_ns(self) -> int:
        """How long it took."""
        return self.ended_ns - self.began_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One run, judged.

    Attributes:
        name: The plan's name.
        mode: `sim` or `real`.
        seed: What all draws derived from.
        problems: What did not hold, one text each.
        limits: Limits that were reached, so that nothing can be told for sure.
        outcomes: Step id to outcome, in the order the steps began.
        trace: What happened.
        origin_ns: When on the trace's clock the run began.
        sim_seconds: How long it took by the run's own clock.
        inexact: Faults that were not exact (real mode).
        leftovers: What was left behind, one line each.
        tape: The choices of a simulated run that recorded them; else `None`.
        draws: Stream to the number of its draws, in order of first use.
    """

    name: str
    mode: Mode
    seed: int
    problems: Sequence[str]
    outcomes: Mapping[str, StepOutcome]
    trace: Trace = field(repr=False)
    limits: Sequence[str] = ()
    origin_ns: int = 0
    sim_seconds: float = 0.0
    inexact: Sequence[Inexact] = ()
    leftovers: Sequence[str] = ()
    tape: Tape | None = field(default=None, repr=False)
    draws: Mapping[str, int] = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        """Whether everything held."""
        return not self.problems and not self.limits

    @property
    def verdict(self) -> Verdict:
        """`valid`, `invalid`, or `unknown` when a limit was reached."""
        if self.problems:
            return "invalid"
        return "unknown" if self.limits else "valid"

    @property
    def digest(self) -> str | None:
        """The trace's digest: equal digests mean the same run."""
        return self.trace.digest

    @property
    def schedule_digest(self) -> str | None:
        """The digest of every record, schedule included."""
        return self.trace.schedule_digest

    def summary(self) -> str:
        """Tell it in a few lines."""
        kinds = [outcome.kind for outcome in self.outcomes.values()]
        counts = ", ".join(
            f"{kinds.count(kind)} {kind}"
            for kind in ("ok", "raised", "no", "maybe")
            if kind in kinds
        )
        lines = [
            f"{self.name}: {self.verdict} ({self.mode}, seed {self.seed}, "
            f"{self.sim_seconds:.3f} s; {counts or 'no steps'})"
        ]
        lines += [f"  - {problem}" for problem in self.problems]
        lines += [f"  - not decided: {limit}" for limit in self.limits]
        lines += [f"  - inexact: {item.fault}: {item.reason}" for item in self.inexact]
        return "\n".join(lines)

    def raise_if_failed(self) -> None:
        """Raise `AssertionError` with the summary unless everything held."""
        if not self.ok:
            raise AssertionError(self.summary())
