"""`rpcsim check-determinism`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rpcsim.cli._errors import CliError, Exit, worst
from rpcsim.cli._files import scenario_files, shown
from rpcsim.cli._validate import problems_of
from rpcsim.errors import ScenarioError
from rpcsim.explore import WAYS, check_determinism

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rpcsim.cli._output import Output

__all__ = ["determinism_verb"]


def determinism_verb(
    output: Output, paths: Sequence[Path], *, seeds: str | None, ways: str
) -> Exit:
    """Check files in every way asked for; differences are told at once."""
    chosen = _ways(ways)
    wanted = _seeds(seeds)
    rows: list[list[str]] = []
    told: list[dict[str, Any]] = []
    codes: list[Exit] = []
    for path, _named in scenario_files(paths):
        name = shown(path)
        for seed in wanted:
            try:
                findings = check_determinism(name, seed=seed, ways=chosen)
            except ScenarioError as error:
                output.problem(str(error))
                told.append({"file": name, "problems": problems_of(error)})
                codes.append(Exit.USAGE)
                break
            for finding in findings:
                verdict = "equal" if finding.ok else "different"
                if not finding.ok:
                    output.text(f"{name}, seed {finding.seed}, {finding.told()}")
                    output.text()
                    codes.append(Exit.NOT_DETERMINISTIC)
                digest = finding.digest or "-"
                count = str(finding.records)
                rows.append(
                    [name, str(finding.seed), finding.way, verdict, count, digest]
                )
                told.append(
                    {
                        "file": name,
                        "seed": finding.seed,
                        "way": finding.way,
                        "verdict": verdict,
                        "records": finding.records,
                        "digest": finding.digest,
                        "difference": None if finding.ok else str(finding.difference),
                    }
                )
    if rows:
        output.table(["scenario", "seed", "way", "verdict", "records", "digest"], rows)
    code = worst(codes)
    output.document("check-determinism", {"checks": told, "exit": int(code)})
    return code


def _ways(text: str) -> list[str]:
    ways = [way.strip() for way in text.split(",") if way.strip()]
    for way in ways:
        if way not in WAYS:
            raise CliError(
                f'no way "{way}" to check', f"known: {', '.join(WAYS)}", exit=Exit.USAGE
            )
    return ways or list(WAYS)


def _seeds(text: str | None) -> Sequence[int | None]:
    if text is None:
        return [None]
    first, colon, last = text.partition(":")
    try:
        begin = int(first)
        end = int(last) if colon else begin + 1
    except ValueError:
        begin = end = 0
    if begin < 0 or end <= begin:
        raise CliError(
            f'"{text}" is not a range of seeds', "write A:B, as in --seeds 0:20"
        )
    return range(begin, end)
