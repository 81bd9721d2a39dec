"""JSON text into nodes with positions; strict, like the standard (RFC 8259).

The standard library's decoder keeps no positions, lets the last of two equal keys
win and reads `NaN`, so the few lines of grammar stand here.
"""

from __future__ import annotations

import math
import re
from json.decoder import JSONDecodeError, scanstring  # type: ignore[attr-defined]  # the decoder's own string scanner, in C
from typing import TYPE_CHECKING, Any, Final, NoReturn

from rpcsim.scenario._problems import Node
from rpcsim.scenario._yaml import MAX_DEPTH, MAX_DIGITS, MAX_NODES

if TYPE_CHECKING:
    from rpcsim.scenario._problems import Problems

__all__ = ["compose_json"]

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD: Final = re.compile(r"[A-Za-z]+")
_WORDS: Final = {"true": True, "false": False, "null": None}


class _Stop(Exception):
    """Reading cannot go on; the problem is already reported."""


def compose_json(text: str, problems: Problems) -> Node | None:
    """Read one document; `None` when there is nothing to go on with."""
    reader = _Reader(text, problems)
    try:
        return reader.document()
    except _Stop:
        return None


class _Reader:
    def __init__(self, text: str, problems: Problems) -> None:
        self._text = text
        self._problems = problems
        self._pos = 0
        self._nodes = 0
        # Positions are asked for in rising order, so line ends are counted on from
        # the last one asked for.
        self._seen = 0
        self._line = 1
        self._line_start = 0

    def document(self) -> Node:
        """Read the one value of the text."""
        self._space()
        node = self._value(0)
        self._space()
        if self._pos < len(self._text):
            self._stop("text after the end of the document")
        return node

    def _value(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            self._stop(f"nested deeper than {MAX_DEPTH} levels")
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._stop(f"more than {MAX_NODES} values")
        line, column = self._place(self._pos)
        char = self._text[self._pos : self._pos + 1]
        if char == "{":
            return Node(self._object(depth), line, column)
        if char == "[":
            return Node(self._array(depth), line, column)
        if char == '"':
            return Node(self._string(), line, column)
        return Node(self._literal(char), line, column)

    def _object(self, depth: int) -> dict[str, tuple[Node, Node]]:
        pairs: dict[str, tuple[Node, Node]] = {}
        self._pos += 1
        if self._accept("}"):
            return pairs
        while True:
            self._space()
            line, column = self._place(self._pos)
            if not self._text.startswith('"', self._pos):
                self._stop('expected a key in quotes, or "}"')
            self._nodes += 1
            key = Node(self._string(), line, column)
            self._expect(":")
            self._space()
            value = self._value(depth + 1)
            if key.value in pairs:
                first = pairs[key.value][0].line
                self._problems.add_at(
                    line,
                    column,
                    f'key "{key.value}" stands twice, first in line {first}',
                )
            else:
                pairs[key.value] = (key, value)
            if self._accept("}"):
                return pairs
            self._expect(",")

    def _array(self, depth: int) -> list[Node]:
        items: list[Node] = []
        self._pos += 1
        if self._accept("]"):
            return items
        while True:
            self._space()
            items.append(self._value(depth + 1))
            if self._accept("]"):
                return items
            self._expect(",")

    def _string(self) -> str:
        try:
            value, end = scanstring(self._text, self._pos + 1, True)
        except JSONDecodeError as error:
            self._pos = error.pos
            self._stop(f"not JSON: {error.msg}")
        text = str(value)
        if any("\ud800" <= char <= "\udfff" for char in text):
            self._stop("text with half a surrogate pair")
        self._pos = end
        return text

    def _literal(self, char: str) -> Any:
        if char == "-" or char.isdigit():
            return self._number()
        word = _WORD.match(self._text, self._pos)
        if word is not None and word[0] in _WORDS:
            self._pos = word.end()
            return _WORDS[word[0]]
        if word is not None and word[0] in ("NaN", "Infinity"):
            self._stop(f"{word[0]} is not a number JSON has")
        self._stop("expected a value" if char else "the text ends too early")

    def _number(self) -> Any:
        match = _NUMBER.match(self._text, self._pos)
        if match is None:
            self._stop("not a number")
        if len(match[0]) > MAX_DIGITS:
            self._stop(f"a number of more than {MAX_DIGITS} digits")
        exact = match[1] is None and match[2] is None
        value = int(match[0]) if exact else float(match[0])
        if isinstance(value, float) and not math.isfinite(value):
            self._stop(f"{match[0]} is too large")
        self._pos = match.end()
        return value

    def _space(self) -> None:
        match = _SPACE.match(self._text, self._pos)
        assert match is not None  # the pattern matches the empty text
        self._pos = match.end()

    def _accept(self, char: str) -> bool:
        self._space()
        found = self._text.startswith(char, self._pos)
        self._pos += found
        return found

    def _expect(self, char: str) -> None:
        if not self._accept(char):
            self._stop(f'expected "{char}"')

    def _place(self, pos: int) -> tuple[int, int]:
        if pos < self._seen:
            self._line, self._line_start, self._seen = 1, 0, 0
        newlines = self._text.count("\n", self._seen, pos)
        if newlines:
            self._line += newlines
            self._line_start = self._text.rfind("\n", self._seen, pos) + 1
        self._seen = pos
        return self._line, pos - self._line_start + 1

    def _stop(self, message: str) -> NoReturn:
        self._problems.add_at(*self._place(self._pos), message)
        raise _Stop
