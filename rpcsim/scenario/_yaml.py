"""YAML text into nodes with positions.

Only the core schema of YAML 1.2 is read: `true` and `false`, `null`, integers, floats,
text. So a host called `no` stays `no`, and `12:30` is text. PyYAML's own constructor
follows YAML 1.1 and keeps no positions, hence its events and our composer.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

import yaml

from rpcsim.scenario._problems import Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpcsim.scenario._problems import Problems

__all__ = ["MAX_DEPTH", "MAX_NODES", "compose_yaml", "core_scalar"]

MAX_NODES: Final = 10_000
MAX_DEPTH: Final = 64
# A number longer than this is a mistake, and costs quadratic time to convert.
MAX_DIGITS: Final = 64

_WORDS: Final = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NO_NUMBER: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# libyaml where the wheel has it: a comment of four megabytes costs the other parser
# seconds.
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Stop(Exception):
    """Reading cannot go on; the problem is already reported."""


def compose_yaml(text: str, problems: Problems) -> Node | None:
    """Read one document; `None` when there is nothing to go on with."""
    try:
        return _Composer(text, problems).document()
    except _Stop:
        return None
    except yaml.YAMLError as error:
        _report(error, text, problems)
        return None


def core_scalar(text: str) -> Any:
    """Give the value of a plain scalar in the core schema of YAML 1.2.

    Raises:
        ValueError: A number that JSON does not have, or too long a one.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a number of more than {MAX_DIGITS} digits")
        prefix = text[:2]
        return int(text, 8 if prefix == "0o" else 16 if prefix == "0x" else 10)
    if _NO_NUMBER.fullmatch(text):
        raise ValueError(f"{text} is not a number JSON has")
    if _FLOAT.fullmatch(text):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text} is too large")
        return value
    return text


class _Composer:
    def __init__(self, text: str, problems: Problems) -> None:
        self._problems = problems
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._open: set[str] = set()
        self._nodes = 0

    def document(self) -> Node | None:
        """Read the one document of the stream."""
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._stop(event, "a second document; write one per file")
                root, _count = self._node(next(self._events), 0)
        if root is None:
            self._problems.add_at(1, 1, "the file is empty", "start with `rpcsim: 1`")
        return root

    def _node(self, event: Any, depth: int) -> tuple[Node, int]:
        """Give a node and how many it counts for, aliases taken at full size."""
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth > MAX_DEPTH:
            self._stop(event, f"nested deeper than {MAX_DEPTH} levels")
        self._count(event, 1)
        self._no_tag(event)
        if event.anchor is not None:
            self._open.add(event.anchor)
        if isinstance(event, yaml.ScalarEvent):
            node, count = self._scalar(event), 1
        elif isinstance(event, yaml.SequenceStartEvent):
            node, count = self._sequence(event, depth)
        else:
            node, count = self._mapping(event, depth)
        if event.anchor is not None:
            self._open.discard(event.anchor)
            self._anchors[event.anchor] = (node, count)
        return node, count

    def _alias(self, event: Any) -> tuple[Node, int]:
        if event.anchor in self._open:
            self._stop(event, f"alias *{event.anchor} stands inside its own anchor")
        if event.anchor not in self._anchors:
            self._stop(event, f"alias *{event.anchor} has no anchor before it")
        node, count = self._anchors[event.anchor]
        self._count(event, count)
        return node, count

    def _scalar(self, event: Any) -> Node:
        value: Any = event.value
        if event.implicit[0] and not event.style:
            try:
                value = core_scalar(event.value)
            except ValueError as error:
                self._error(event, str(error))
                value = None
        elif any("\ud800" <= char <= "\udfff" for char in value):
            self._error(event, "text with half a surrogate pair")
            value = ""
        return self._make(event, value)

    def _sequence(self, start: Any, depth: int) -> tuple[Node, int]:
        items: list[Node] = []
        total = 1
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            node, count = self._node(event, depth + 1)
            items.append(node)
            total += count
        return self._make(start, items), total

    def _mapping(self, start: Any, depth: int) -> tuple[Node, int]:
        pairs: dict[str, tuple[Node, Node]] = {}
        total = 1
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event)
            node, count = self._node(next(self._events), depth + 1)
            total += count + 1
            if key.value in pairs:
                first = pairs[key.value][0]
                self._error(
                    event, f'key "{key.value}" stands twice, first in line {first.line}'
                )
                continue
            pairs[key.value] = (key, node)
        return self._make(start, pairs), total

    def _key(self, event: Any) -> Node:
        self._count(event, 1)
        if isinstance(event, yaml.AliasEvent):
            node, _count = self._anchors.get(event.anchor or "", (Node(None), 0))
            if not isinstance(node.value, str):
                self._stop(event, "a key must be plain text")
            return self._make(event, node.value)
        if not isinstance(event, yaml.ScalarEvent):
            self._stop(event, "a key must be plain text")
        self._no_tag(event)
        if event.value == "<<" and not event.style:
            self._error(event, "merge keys are not read", "write the keys out")
        # Keys are taken as written: a host called `no` or `12` is text.
        node = self._make(event, event.value)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, 1)
        return node

    def _no_tag(self, event: Any) -> None:
        if event.tag is not None:
            self._error(event, f"tag {event.tag!r} is not read", "write plain values")

    def _count(self, event: Any, more: int) -> None:
        self._nodes += more
        if self._nodes > MAX_NODES:
            self._stop(event, f"more than {MAX_NODES} values, aliases counted in full")

    def _make(self, event: Any, value: Any) -> Node:
        mark = event.start_mark
        return Node(value, mark.line + 1, mark.column + 1)

    def _error(self, event: Any, message: str, hint: str = "") -> None:
        mark = event.start_mark
        self._problems.add_at(mark.line + 1, mark.column + 1, message, hint)

    def _stop(self, event: Any, message: str) -> None:
        self._error(event, message)
        raise _Stop


_NO_COLON: Final = "does the line before lack a colon, or a space after it?"
# What the reader says, with and without its C half, and what a person does then.
_HINTS: Final = {
    "did not find expected key": "indent it like its neighbours",
    "expected <block end>": "indent it like its neighbours",
    "mapping values are not allowed": _NO_COLON,
    "could not find expected ':'": _NO_COLON,
}


def _report(error: yaml.YAMLError, text: str, problems: Problems) -> None:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        _report_unreadable(error, text, problems)
        return
    parts = (getattr(error, "problem", ""), getattr(error, "context", ""))
    told = "not YAML: " + " ".join(str(part) for part in parts if part)
    hint = next((hint for words, hint in _HINTS.items() if words in told), "")
    if text[mark.index : mark.index + 1] == "\t":
        told, hint = "a tab, which YAML does not take here", "indent with spaces"
    problems.add_at(mark.line + 1, mark.column + 1, told, hint)


def _report_unreadable(error: yaml.YAMLError, text: str, problems: Problems) -> None:
    """Report a character YAML does not allow, of which only the offset is known."""
    offset = int(getattr(error, "position", 0) or 0)
    before = text[:offset]
    line = before.count("\n") + 1
    column = offset - (before.rfind("\n") + 1) + 1
    reason = getattr(error, "reason", "cannot be read")
    problems.add_at(line, column, f"not YAML: {reason}")
