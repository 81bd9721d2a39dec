"""Paths on the command line into scenario files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rpcsim.cli._errors import CliError, Exit

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["scenario_files", "shown"]

ENDINGS: Final = (".yaml", ".yml", ".json")
# Kept failures are run by `replay`, not with the stories they were found in.
FOUND: Final = "found"


def scenario_files(paths: Sequence[Path]) -> list[tuple[Path, bool]]:
    """Give (file, named itself) pairs: of a directory all its files in name order.

    Raises:
        CliError: A path is not there, or a directory holds no scenario.
    """
    found: list[tuple[Path, bool]] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(_walk(path))
            if not inside:
                raise CliError(
                    f"{shown(path)} holds no scenario file",
                    "name a .yaml, .yml or .json file",
                )
            found += [(file, False) for file in inside]
        elif path.exists():
            found.append((path, True))
        else:
            raise CliError(
                f"{shown(path)} is not there", "check the path", exit=Exit.USAGE
            )
    return found


def _walk(folder: Path) -> list[Path]:
    files: list[Path] = []
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name != FOUND and not name.startswith(".")
        )
        files += [Path(top, name) for name in names if name.endswith(ENDINGS)]
    return files


def shown(path: Path | str) -> str:
    """Write a path relative to where we are, when it lies below."""
    try:
        # Not `Path.resolve`, which raises for links that lead nowhere.
        return str(Path(os.path.realpath(path)).relative_to(Path.cwd()))
    except ValueError:
        return str(path)
