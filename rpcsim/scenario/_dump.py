"""The canonical text of a scenario: keys in order, one step or fault per line."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from rpcsim.scenario._problems import Problems
from rpcsim.scenario._yaml import core_scalar

__all__ = ["dump_json", "dump_yaml", "named_code"]

HEADER: Final = "# yaml-language-server: $schema=scenario-1.schema.json\n"
# Text that reads as itself without quotes, inside `{}` and `[]` too.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./$+][A-Za-z0-9_./$+<>* -]*")
# Lists whose items stand one per line, wherever they are.
_LINES: Final = frozenset({"steps", "faults", "expect", "invariants", "links"})
# Mappings whose entries stand one per line.
_BLOCKS: Final = frozenset({"topology", "hosts", "workload", "clients"})


def named_code(value: Any, path: tuple[str | int, ...] = ()) -> Any:
    """Replace callables by their importable names.

    Raises:
        ScenarioError: One has none: a lambda, or a function inside another.
    """
    if isinstance(value, dict):
        return {name: named_code(item, (*path, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [named_code(item, (*path, index)) for index, item in enumerate(value)]
    if not callable(value):
        return value
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", "<")
    if module in (None, "__main__") or "<" in name:
        into = Problems()
        into.add(
            path,
            f"{name} has no importable name",
            "define it at the top of a module to write the scenario down",
        )
        into.raise_if_any()
    return f"{module}:{name}"


def dump_json(plain: dict[str, Any]) -> str:
    """Write plain data as JSON."""
    return json.dumps(plain, ensure_ascii=False, indent=2) + "\n"


def dump_yaml(plain: dict[str, Any], *, header: bool = False) -> str:
    """Write plain data as canonical YAML."""
    lines = [HEADER] if header else []
    for name, value in plain.items():
        lines.extend(_block(name, value, ""))
    return "".join(lines)


def _block(name: str, value: Any, indent: str) -> list[str]:
    key = f"{indent}{_scalar(name)}:"
    if isinstance(value, list) and value and name in _LINES:
        return [f"{key}\n"] + [f"{indent}  - {_flow(item)}\n" for item in value]
    # A client holds steps, so it stands in lines of its own.
    block = name in _BLOCKS or (isinstance(value, dict) and "steps" in value)
    if isinstance(value, dict) and value and block:
        lines = [f"{key}\n"]
        for below, item in value.items():
            lines.extend(_block(below, item, indent + "  "))
        return lines
    return [f"{key} {_flow(value)}\n"]


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_scalar(k)}: {_flow(v)}" for k, v in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(_flow(item) for item in value)}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    if _PLAIN.fullmatch(value) and value[-1] not in " -" and " -" not in value[:2]:
        try:
            plain = core_scalar(value) == value and isinstance(core_scalar(value), str)
        except ValueError:
            plain = False
        if plain:
            return value
    return _quoted(value)


def _quoted(text: str) -> str:
    told = json.dumps(text, ensure_ascii=False)
    # JSON leaves characters bare that YAML does not allow, or counts as line ends.
    return "".join(char if char.isprintable() else _escape(ord(char)) for char in told)


def _escape(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
