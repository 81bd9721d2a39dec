"""What verbs print: text in colour where that is wanted, tables, one JSON document."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["RESULT_FORMAT", "ClosedPipe", "Output", "use_color"]

RESULT_FORMAT: Final = "rpcsim.result/1"
# Verdict to colour; the word itself is always there, colour is never the only sign.
_COLORS: Final = {
    "valid": "green",
    "equal": "green",
    "invalid": "red",
    "different": "red",
    "error": "red",
    "unknown": "yellow",
    "skipped": "yellow",
}


def use_color(choice: str, stream: TextIO | None) -> bool:
    """Decide about colour: the option, then the environment, then the terminal."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    if stream is None:  # closed before we began
        return False
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class ClosedPipe(Exception):
    """Whoever read our output has seen enough.

    Not a `BrokenPipeError`, which the parser below would take for its own.
    """


def _write(stream: TextIO, text: str) -> None:
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        raise ClosedPipe from None


@dataclass(slots=True)
class Output:
    """Where a verb's words go.

    Attributes:
        json: Print one JSON document on stdout at the end, and nothing else there.
        quiet: Leave out what is not a result.
        color: Whether stdout takes colour.
        ascii: Keep to ASCII.
    """

    json: bool = False
    quiet: bool = False
    color: bool = False
    ascii: bool = False

    def text(self, text: str = "") -> None:
        """Print a result; `--json` leaves it out."""
        if not self.json:
            _write(sys.stdout, text)

    def note(self, text: str) -> None:
        """Print something about the work, on stderr."""
        if not self.quiet and not self.json:
            _write(sys.stderr, text)

    def problem(self, text: str) -> None:
        """Print an error, on stderr."""
        _write(sys.stderr, text)

    def document(self, verb: str, data: Mapping[str, Any]) -> None:
        """Print the one JSON document of a verb."""
        if self.json:
            told = {"format": RESULT_FORMAT, "verb": verb, **data}
            _write(
                sys.stdout, json.dumps(told, sort_keys=True, ensure_ascii=self.ascii)
            )

    def paint(self, word: str, padded: str | None = None) -> str:
        """Give a verdict's word in its colour."""
        shown = word if padded is None else padded
        color = _COLORS.get(word)
        if not self.color or color is None:
            return shown
        return typer.style(shown, fg=color, bold=True)

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows under heads, columns as wide as they need."""
        widths = [max(len(row[n]) for row in (heads, *rows)) for n in range(len(heads))]
        self.text(
            "  ".join(h.ljust(w) for h, w in zip(heads, widths, strict=True)).rstrip()
        )
        for row in rows:
            cells = [
                self.paint(cell, cell.ljust(width))
                for cell, width in zip(row, widths, strict=True)
            ]
            self.text("  ".join(cells).rstrip())
