"""`rpcsim run`."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from rpcsim.cli._errors import CliError, Exit, worst
from rpcsim.cli._files import scenario_files, shown
from rpcsim.cli._validate import load, problems_of
from rpcsim.errors import ScenarioError
from rpcsim.report import timeline as tell
from rpcsim.trace import write_jsonl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rpcsim.cli._output import Output
    from rpcsim.harness import RunResult
    from rpcsim.scenario import Scenario

__all__ = ["run_verb"]

_CODES = {"valid": Exit.OK, "invalid": Exit.FAILED, "unknown": Exit.UNDECIDED}
MAX_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True)
class _Done:
    """One file's run, or why there was none."""

    file: str
    verdict: str
    exit: Exit
    scenario: Scenario | None = None
    result: RunResult | None = None
    problems: tuple[Any, ...] = ()


def run_verb(
    output: Output,
    paths: Sequence[Path],
    *,
    mode: str,
    seed: int | None,
    trace: Path | None,
    timeline: bool | None,
) -> Exit:
    """Run files in order, telling each; then a table of all."""
    if mode not in ("sim", "real"):
        raise CliError(f'--mode is sim or real, not "{mode}"', "try: --mode sim")
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise CliError(f"--seed is 0 to 2**64-1, not {seed}", "try: --seed 0")
    files = scenario_files(paths)
    if trace is not None and len(files) > 1:
        raise CliError(
            f"--trace takes one scenario, and there are {len(files)}", "name one file"
        )
    done: list[_Done] = []
    for path, named in files:
        one = _run_one(output, path, "real" if mode == "real" else "sim", seed, named)
        done.append(one)
        if one.result is None:
            continue
        if timeline or (timeline is None and (len(files) == 1 or not one.result.ok)):
            _tell(output, one, whole=timeline is True or len(files) == 1)
        if trace is not None:
            _write(trace, one)
    _summary(output, done)
    code = worst(one.exit for one in done)
    results = [_plain(one) for one in done]
    output.document("run", {"mode": mode, "results": results, "exit": int(code)})
    return code


def _run_one(
    output: Output,
    path: Path,
    mode: Literal["sim", "real"],
    seed: int | None,
    named: bool,
) -> _Done:
    name = shown(path)
    try:
        scenario = load(path)
        if not named and mode not in scenario.requires.modes:
            return _Done(name, "skipped", Exit.OK, scenario)
        for warning in scenario.warnings():
            output.note(f"{name}: warning: {warning}")
        result = scenario.run(mode=mode, seed=seed)
    except ScenarioError as error:
        if error.problems:
            output.problem(str(error))
            count = len(error.problems)
            told = f"{name} has {count} problem{'s' if count > 1 else ''}"
            step = f"correct the file, then try: rpcsim validate {name}"
            output.problem(CliError(told, step).line("run"))
        else:
            output.problem(CliError(f"{name}: {error}").line("run"))
        problems = problems_of(error) or [{"message": str(error)}]
        return _Done(name, "error", Exit.USAGE, problems=tuple(problems))
    return _Done(name, result.verdict, _CODES[result.verdict], scenario, result)


def _tell(output: Output, one: _Done, *, whole: bool) -> None:
    result, scenario = one.result, one.scenario
    assert result is not None  # the caller's case
    assert scenario is not None  # the same
    if output.quiet:
        return
    output.text(f"{scenario.name}: {scenario.about}")
    output.text()
    output.text(
        tell(
            result.trace,
            origin_ns=result.origin_ns,
            ascii_only=output.ascii,
            last=None if whole else 20,
        )
    )
    output.text()


def _summary(output: Output, done: Sequence[_Done]) -> None:
    for one in done:
        if one.result is not None and not one.result.ok:
            output.text(one.result.summary())
            output.text()
    rows = []
    for one in done:
        result = one.result
        if result is None:
            rows.append([one.file, one.verdict, "-", "-", "-", "-"])
            continue
        steps = str(len(result.outcomes))
        seconds = f"{result.sim_seconds:.3f} s"
        # Real runs never repeat to the nanosecond, so theirs would say nothing.
        digest = (result.digest or "-") if result.mode == "sim" else "-"
        rows.append([one.file, one.verdict, str(result.seed), steps, seconds, digest])
    output.table(["scenario", "verdict", "seed", "steps", "time", "digest"], rows)
    skipped = sum(one.verdict == "skipped" for one in done)
    if skipped:
        output.text(f"{skipped} skipped: not for this mode")


def _write(path: Path, one: _Done) -> None:
    result, scenario = one.result, one.scenario
    assert result is not None  # the caller's case
    assert scenario is not None  # the same
    header = {
        "rpcsim": version("rpcsim"),
        "python": platform.python_version(),
        "platform": sys.platform,
        "hash_seed": os.environ.get("PYTHONHASHSEED", "random"),
        "seed": result.seed,
        "policy": scenario.schedule.policy,
        "level": result.trace.level,
        "scenario": scenario.name,
        "mode": result.mode,
        "origin_ns": result.origin_ns,
    }
    end = {
        "outcome": result.verdict,
        "sim_time_ns": round(result.sim_seconds * 10**9),
        "inexact": [item.fault for item in result.inexact],
    }
    path.write_text(write_jsonl(result.trace, header=header, end=end), "utf-8")


def _plain(one: _Done) -> dict[str, Any]:
    told: dict[str, Any] = {"file": one.file, "verdict": one.verdict}
    if one.problems:
        told["problems"] = list(one.problems)
    result = one.result
    if result is None:
        return told
    return told | {
        "name": result.name,
        "mode": result.mode,
        "seed": result.seed,
        "problems": list(result.problems),
        "limits": list(result.limits),
        "leftovers": list(result.leftovers),
        "digest": result.digest,
        "schedule_digest": result.schedule_digest,
        "sim_seconds": result.sim_seconds,
        "inexact": [
            {"fault": i.fault, "reason": i.reason, "measured": i.measured}
            for i in result.inexact
        ],
        "outcomes": {
            ident: {
                "kind": outcome.kind,
                "error": None
                if outcome.error is None
                else type(outcome.error).__name__,
                "began": outcome.began_ns / 10**9,
                "took": outcome.took_ns / 10**9,
            }
            for ident, outcome in result.outcomes.items()
        },
    }
