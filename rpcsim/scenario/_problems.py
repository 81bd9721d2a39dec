"""What is wrong with a scenario, told all at once and by position."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from rpcsim.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Node",
    "Path",
    "Problem",
    "Problems",
    "Source",
    "did_you_mean",
    "path_text",
]

# Keys and list positions from the top of the document.
Path: TypeAlias = "tuple[str | int, ...]"

SHOWN: Final = 20
WIDTH: Final = 100
# The line ends both YAML and its position marks count.
_LINES: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a document, with its place.

    Attributes:
        value: Text, number, truth value, `None` or (Python form only) a callable; a
            list of nodes; or a dictionary of key to (key node, value node).
        line: From 1; 0 when the document is not a text.
        column: From 1, in characters.
    """

    value: Any
    line: int = 0
    column: int = 0

    def at(self, path: Path, *, key: bool = False) -> Node:
        """Give the node at a path, or the nearest above it that exists.

        Args:
            path: Where to look.
            key: Give the node of the last key rather than of its value.
        """
        node = self
        for index, part in enumerate(path):
            if isinstance(node.value, dict) and part in node.value:
                name, below = node.value[part]
                node = name if key and index == len(path) - 1 else below
            elif (
                isinstance(node.value, list)
                and isinstance(part, int)
                and part < len(node.value)
            ):
                node = node.value[part]
            else:
                break
        return node


@dataclass(frozen=True, slots=True)
class Source:
    """A scenario's text and the name it goes by in messages.

    Attributes:
        name: Path of the file, or `<text>`.
        text: What it holds.
        kind: `yaml` or `json`.
    """

    name: str
    text: str
    kind: str = "yaml"

    def excerpt(self, line: int, column: int) -> str:
        """Show one line with a caret under a column, both clipped to be readable."""
        lines = _LINES.split(self.text)
        if not 1 <= line <= len(lines):
            return ""
        told = "".join(
            char if char.isprintable() else " " if char == "\t" else "\N{MIDDLE DOT}"
            for char in lines[line - 1]
        )
        if not told.strip():
            return ""
        caret = max(column - 1, 0)
        start = max(0, caret - WIDTH // 2) if len(told) > WIDTH else 0
        shown = told[start : start + WIDTH].rstrip()
        return f"    {shown}\n    {' ' * (caret - start)}^"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        path: Where, such as `faults[0].kind`; `""` for the document itself.
        line: From 1; 0 when there is no text.
        column: From 1; 0 when there is no text.
        message: What is wrong, naming the value.
        hint: The next thing to try, or `""`.
    """

    path: str
    line: int
    column: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.message}" + (f"; {self.hint}" if self.hint else "")

    def told(self, source: Source | None) -> str:
        """Write it in one line, with the source line and a caret when there is one."""
        if source is None:
            return str(self)
        if not self.line:
            return f"{source.name}: {self}"
        line = f"{source.name}:{self.line}:{self.column}: {self}"
        excerpt = source.excerpt(self.line, self.column)
        return f"{line}\n{excerpt}" if excerpt else line


@dataclass(slots=True)
class Problems:
    """Collects problems while a document is read and checked.

    Attributes:
        root: The document, from which paths get their positions.
        source: Its text; `None` for the Python form.
        found: Everything that makes the scenario unusable.
        warnings: What is suspicious and harmless.
    """

    root: Node = field(default_factory=lambda: Node(None))
    source: Source | None = None
    found: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def add(
        self, path: Path, message: str, hint: str = "", *, key: bool = False
    ) -> None:
        """Report something wrong at a path; `key` points at the key, not the value."""
        node = self.root.at(path, key=key)
        self.found.append(
            Problem(path_text(path), node.line, node.column, message, hint)
        )

    def add_at(self, line: int, column: int, message: str, hint: str = "") -> None:
        """Report something wrong at a position of the text."""
        self.found.append(Problem("", line, column, message, hint))

    def warn(self, path: Path, message: str, hint: str = "") -> None:
        """Note something suspicious."""
        node = self.root.at(path)
        self.warnings.append(
            Problem(path_text(path), node.line, node.column, message, hint)
        )

    def raise_if_any(self) -> None:
        """Raise one `ScenarioError` that tells all problems, if there are any."""
        if not self.found:
            return
        # What the reader could not take is told once, not again as a wrong value.
        unread = {(p.line, p.column) for p in self.found if p.line and not p.path}
        ordered = sorted(
            {p for p in self.found if not p.path or (p.line, p.column) not in unread},
            key=_position,
        )
        lines = [problem.told(self.source) for problem in ordered[:SHOWN]]
        if len(ordered) > SHOWN:
            lines.append(f"... and {len(ordered) - SHOWN} more problems")
        raise ScenarioError("\n".join(lines), ordered[:SHOWN])


def _position(problem: Problem) -> tuple[int, int, str, str]:
    return (problem.line, problem.column, problem.path, problem.message)


def path_text(path: Path) -> str:
    """Write a path as `faults[0].kind`."""
    told = ""
    for part in path:
        told += f"[{part}]" if isinstance(part, int) else f".{part}" if told else part
    return told


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the known name nearest to `word`, or give `""`.

    Near is an edit distance of at most 2, or 3 from eight letters on; of equally near
    names the first of the alphabet is taken.
    """
    limit = 3 if len(word) >= 8 else 2
    near = sorted(
        (distance, name)
        for name in known
        if abs(len(name) - len(word)) <= limit
        and (distance := _distance(word.lower(), name.lower())) <= limit
        and distance < max(len(word), 2)
    )
    return f'did you mean "{near[0][1]}"?' if near else ""


def _distance(left: str, right: str) -> int:
    """Count the edits between two words; two letters swapped are one edit."""
    rows = [list(range(len(right) + 1))]
    for i, a in enumerate(left, 1):
        row = [i]
        for j, b in enumerate(right, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
