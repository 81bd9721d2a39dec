"""`rpcsim validate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rpcsim.cli._errors import Exit
from rpcsim.cli._files import scenario_files, shown
from rpcsim.errors import ScenarioError
from rpcsim.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rpcsim.cli._output import Output

__all__ = ["load", "problems_of", "validate_verb"]


def load(path: Path) -> Scenario:
    """Load a file under the name the user gave, relative where possible."""
    return Scenario.load(shown(path))


def problems_of(error: ScenarioError) -> list[dict[str, Any]]:
    """Give the problems of a file as plain data."""
    return [
        {
            "path": problem.path,
            "line": problem.line,
            "column": problem.column,
            "message": problem.message,
            "hint": problem.hint,
        }
        for problem in error.problems
    ]


def validate_verb(output: Output, paths: Sequence[Path]) -> Exit:
    """Check files; all problems of all files are told."""
    files: list[dict[str, Any]] = []
    for path, _named in scenario_files(paths):
        name = shown(path)
        try:
            scenario = load(path)
        except ScenarioError as error:
            output.problem(str(error))
            files.append({"file": name, "ok": False, "problems": problems_of(error)})
            continue
        warnings = scenario.warnings()
        for warning in warnings:
            output.note(f"{name}: warning: {warning}")
        output.text(f"{name}: good")
        files.append({"file": name, "ok": True, "problems": [], "warnings": warnings})
    good = all(file["ok"] for file in files)
    code = Exit.OK if good else Exit.USAGE
    output.document("validate", {"files": files, "exit": int(code)})
    return code
