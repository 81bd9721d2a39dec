"""Code named in a scenario, imported when it is run."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from rpcsim.errors import ScenarioError

__all__ = ["find_code", "find_plugin", "on_path"]


def on_path(source: str) -> None:
    """Make the project a scenario file lies in importable.

    Args:
        source: Path of the file; the nearest directory above it that has a
            `pyproject.toml` is the project. `""` for a scenario from no file.
    """
    if not source:
        return
    for folder in Path(source).resolve().parents:
        if (folder / "pyproject.toml").is_file():
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))
            return


def find_code(code: Any) -> Any:
    """Give what `package.module:attribute` names; a callable is given as it is.

    Raises:
        ScenarioError: There is no such module or attribute.
    """
    if not isinstance(code, str):
        return code
    module_name, _colon, attribute = code.partition(":")
    found = _module(module_name, code)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ScenarioError(
                f'"{code}": module {module_name} has no {attribute}; is it spelt as '
                "there?"
            )
        found = getattr(found, name)
    return found


def find_plugin(name: Any) -> Any:
    """Give the module or class that `package.module[:Class]` names."""
    if not isinstance(name, str):
        return name
    return find_code(name) if ":" in name else _module(name, name)


def _module(name: str, code: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ScenarioError(
            f'"{code}": no module {error.name}; is its package below the directory '
            "with the pyproject.toml, or installed?"
        ) from error
    except Exception as error:
        raise ScenarioError(
            f'"{code}": importing {name} raised {type(error).__name__}: {error}'
        ) from error
