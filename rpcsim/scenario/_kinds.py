"""The kinds of value a key may have, each able to read, normalise and write itself.

Every class of the data model names the kind of each of its fields; reading, dumping,
normalising and checking follow from that table. To add a key, add a field; to add a
kind, subclass `Kind`. Record kinds (classes of fields) are in `_record.py`.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rpcsim.scenario._problems import Node, Problems, did_you_mean
from rpcsim.scenario._values import Span, bytes_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rpcsim.scenario._problems import Path

__all__ = [
    "FAILED",
    "Choice",
    "Code",
    "Data",
    "Flag",
    "Items",
    "Kind",
    "Names",
    "Number",
    "SpanKind",
    "Table",
    "Text",
    "node_of",
    "of",
    "plain_data",
    "show",
]

# What `read` gives when the value is wrong; the problem is then already reported.
FAILED: Final[Any] = type("Failed", (), {"__repr__": lambda _self: "FAILED"})()
# Some three centuries; the clock counts in 64 bits elsewhere.
MAX_SPAN: Final = Span(2**63 - 1)


class Kind:
    """How values of one kind are read, normalised and written."""

    __slots__ = ()
    # What a message says was expected.
    told = "a value"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Give the model's value, or report and give `FAILED`."""
        raise TypeError(f"{type(self).__name__} does not read")

    def coerce(self, value: Any) -> Any:
        """Normalise a value given in Python; one that is wrong is left as it is."""
        into = Problems()
        found = self.read(node_of(value), (), into)
        return value if into.found or found is FAILED else found

    def plain(self, value: Any) -> Any:
        """Give the value as plain JSON data."""
        return value

    def wrong(self, node: Node, path: Path, into: Problems) -> Any:
        """Report that the value is not of this kind."""
        into.add(path, f"expected {self.told}, found {show(node)}")
        return FAILED


def of(kind: Kind) -> Mapping[str, Kind]:
    """Give the `metadata` of a field whose values are of a kind."""
    return {"kind": kind}


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Text, perhaps of one pattern."""

    pattern: str = ""
    told: str = "text"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Take text as it stands."""
        value = node.value
        if not isinstance(value, str):
            return self.wrong(node, path, into)
        if self.pattern and not re.fullmatch(self.pattern, value):
            return self.wrong(node, path, into)
        return value


@dataclass(frozen=True, slots=True)
class Number(Kind):
    """A whole number in a range, both ends included."""

    low: int = 0
    high: int = 2**63 - 1

    @property
    def told(self) -> str:  # type: ignore[override]  # computed instead of stored
        """What a message says was expected."""
        ends = {0: "0", 2**63 - 1: "2**63-1", 2**64 - 1: "2**64-1"}
        return (
            f"a whole number from {ends.get(self.low, self.low)} "
            f"to {ends.get(self.high, self.high)}"
        )

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Take whole numbers only: `1.0` is not one."""
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int):
            return self.wrong(node, path, into)
        if not self.low <= value <= self.high:
            return self.wrong(node, path, into)
        return value


@dataclass(frozen=True, slots=True)
class Flag(Kind):
    """`true` or `false`."""

    told: str = "true or false"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Take truth values only."""
        if not isinstance(node.value, bool):
            return self.wrong(node, path, into)
        return node.value


@dataclass(frozen=True, slots=True)
class SpanKind(Kind):
    """A duration; never negative."""

    told: str = "a duration such as 250ms, or seconds"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Take seconds as a number, or a number with one unit as text."""
        value = node.value
        # The sign is refused here: `to_ns` reads it, for clock offsets.
        signed = isinstance(value, str) and value[:1] in ("+", "-")
        try:
            span = FAILED if signed else Span.of(value)
        except (TypeError, ValueError, OverflowError):
            span = FAILED
        if span is FAILED or not Span(0) <= span <= MAX_SPAN:
            return self.wrong(node, path, into)
        return span

    def plain(self, value: Any) -> Any:
        """Write it in the largest unit that is a whole number."""
        return str(value) if isinstance(value, Span) else value


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One word of several.

    Attributes:
        words: What may be written now.
        later: Words of the format that this version does not offer.
        noun: What a message calls them.
    """

    words: tuple[str, ...]
    later: tuple[str, ...] = ()
    noun: str = "word"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Take one of the words, suggesting the nearest."""
        value = node.value
        if not isinstance(value, str):
            into.add(path, f"expected a {self.noun}, found {show(node)}")
            return FAILED
        return value if self.known(value, path, into) else FAILED

    def known(
        self, value: str, path: Path, into: Problems, *, key: bool = False
    ) -> bool:
        """Report a word that is not known, or not offered yet."""
        if value in self.words:
            return True
        if value in self.later:
            into.add(
                path,
                f'{self.noun} "{value}" is not offered yet',
                f"offered now: {', '.join(self.words)}",
                key=key,
            )
            return False
        hint = did_you_mean(value, (*self.words, *self.later))
        into.add(
            path,
            f'unknown {self.noun} "{_clip(value)}"',
            hint or f"known: {', '.join(self.words)}",
            key=key,
        )
        return False


@dataclass(frozen=True, slots=True)
class Code(Kind):
    """Code by name, or, in the Python form, the callable itself."""

    told: str = "code as package.module:attribute"
    pattern: str = r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Take a name; nothing is imported."""
        value = node.value
        if callable(value):
            return value
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            return self.wrong(node, path, into)
        return value


def module_or_class() -> Code:
    """Give the kind of `package.module` or `package.module:Class`."""
    return Code(
        told="a module as package.module, or package.module:Class",
        pattern=r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)?",
    )


@dataclass(frozen=True, slots=True)
class Items(Kind):
    """A list of values of one kind; a tuple in the model."""

    item: Kind
    least: int = 0
    told: str = "a list"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Read every item, so that all problems are found; wrong ones are left out."""
        if not isinstance(node.value, list):
            return self.wrong(node, path, into)
        if len(node.value) < self.least:
            into.add(path, f"expected at least {self.least} items")
        found = [
            self.item.read(item, (*path, index), into)
            for index, item in enumerate(node.value)
        ]
        return tuple(item for item in found if item is not FAILED)

    def coerce(self, value: Any) -> Any:
        """Normalise each item."""
        if not isinstance(value, (list, tuple)):
            return value
        return tuple(self.item.coerce(item) for item in value)

    def plain(self, value: Any) -> Any:
        """Give a list."""
        if not isinstance(value, (list, tuple)):
            return value
        return [self.item.plain(item) for item in value]


@dataclass(frozen=True, slots=True)
class Names(Items):
    """One name or a list of names; a tuple in the model."""

    told: str = "a name or a list of names"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Take a lone name as a list of one."""
        if isinstance(node.value, str):
            found = self.item.read(node, path, into)
            return FAILED if found is FAILED else (found,)
        return Items.read(self, node, path, into)

    def coerce(self, value: Any) -> Any:
        """Take a lone name as a list of one."""
        return Items.coerce(self, [value] if isinstance(value, str) else value)


@dataclass(frozen=True, slots=True)
class Table(Kind):
    """Named values of one kind, in the order of the file."""

    item: Kind
    key: Text = Text(pattern=r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", told="a name")
    least: int = 0
    told: str = "a mapping"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Read every value; wrong ones are left out."""
        if not isinstance(node.value, dict):
            return self.wrong(node, path, into)
        if len(node.value) < self.least:
            into.add(path, "expected at least one name")
        found: dict[str, Any] = {}
        for name, (key, value) in node.value.items():
            below = (*path, name)
            if not re.fullmatch(self.key.pattern, name):
                into.add(
                    below,
                    f"expected {self.key.told} of letters, digits, . _ -, found {show(key)}",
                    key=True,
                )
                continue
            item = self.item.read(value, below, into)
            if item is not FAILED:
                found[name] = item
        return found

    def coerce(self, value: Any) -> Any:
        """Normalise each value."""
        if not isinstance(value, dict):
            return value
        return {name: self.item.coerce(item) for name, item in value.items()}

    def plain(self, value: Any) -> Any:
        """Give a dictionary."""
        if not isinstance(value, dict):
            return value
        return {name: self.item.plain(item) for name, item in value.items()}


@dataclass(frozen=True, slots=True)
class Data(Kind):
    """Plain JSON, with the marked values `$bytes`, `$ref` and `$draw`.

    Attributes:
        shape: What it must be: `any`, `list` or `mapping`.
    """

    shape: str = "any"

    @property
    def told(self) -> str:  # type: ignore[override]  # computed instead of stored
        """What a message says was expected."""
        return {"any": "a value", "list": "a list", "mapping": "a mapping"}[self.shape]

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Take it as it stands, checking the marked values."""
        wanted = {"any": object, "list": list, "mapping": dict}[self.shape]
        if not isinstance(node.value, wanted):
            return self.wrong(node, path, into)
        value = self._read(node, path, into)
        return tuple(value) if self.shape == "list" else value

    def _read(self, node: Node, path: Path, into: Problems) -> Any:
        if isinstance(node.value, list):
            return [
                self._read(item, (*path, index), into)
                for index, item in enumerate(node.value)
            ]
        if not isinstance(node.value, dict):
            if callable(node.value):
                into.add(path, "expected JSON data, found a callable")
            return node.value
        for name, (_key, value) in node.value.items():
            if name.startswith("$") and not name.startswith("$$"):
                _check_mark(name, value, len(node.value), (*path, name), into)
        return {
            name: self._read(value, (*path, name), into)
            for name, (_key, value) in node.value.items()
        }

    def plain(self, value: Any) -> Any:
        """Give lists for tuples."""
        return plain_data(value)


def _check_mark(name: str, node: Node, keys: int, path: Path, into: Problems) -> None:
    if name not in ("$bytes", "$ref", "$draw"):
        into.add(
            path,
            f'unknown mark "{_clip(name)}"',
            did_you_mean(name, ("$bytes", "$ref", "$draw"))
            or f'a key that begins with $ is written "${_clip(name)}"',
            key=True,
        )
    elif keys != 1:
        into.add(path, f'"{name}" must be the only key of its mapping', key=True)
    elif name == "$bytes":
        try:
            base64.b64decode(node.value, validate=True)
        except (binascii.Error, TypeError, ValueError):
            into.add(path, f"expected bytes in base64, found {show(node)}")
    elif name == "$ref":
        Text(
            pattern=r"[^.]+\.(value|error)(\.[^.]+)*",
            told='"step.value" or "step.value.path"',
        ).read(node, path, into)
    else:
        _check_draw(node, path, into)


def _check_draw(node: Node, path: Path, into: Problems) -> None:
    if not isinstance(node.value, dict) or len(node.value) != 1:
        into.add(path, f"expected one of int, one_of, found {show(node)}")
        return
    ((name, (_key, value)),) = node.value.items()
    if not Choice(("int", "one_of"), ("zipf",), "draw").known(
        name, (*path, name), into, key=True
    ):
        return
    items = value.value if isinstance(value.value, list) else None
    if name == "one_of" and not items:
        into.add((*path, name), "expected a list of alternatives")
    if name == "int":
        ends = [item.value for item in items or ()]
        whole = all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
        if len(ends) != 2 or not whole or ends[0] > ends[1]:
            into.add((*path, name), "expected [lowest, highest], two whole numbers")


def node_of(value: Any) -> Node:
    """Turn a value given in Python into a node without a place."""
    value = plain_data(value)
    if isinstance(value, list):
        return Node([node_of(item) for item in value])
    if isinstance(value, dict):
        return Node(
            {
                str(name): (Node(str(name)), node_of(item))
                for name, item in value.items()
            }
        )
    return Node(value)


def plain_data(value: Any) -> Any:
    """Give lists for tuples and marked values for bytes, all the way down."""
    if isinstance(value, (list, tuple)):
        return [plain_data(item) for item in value]
    if isinstance(value, dict):
        return {name: plain_data(item) for name, item in value.items()}
    if isinstance(value, (bytes, bytearray)):
        return bytes_value(bytes(value))
    return value


def show(node: Node) -> str:
    """Name what was found, short enough for one line of a message."""
    value = node.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing" if node.line else "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{_clip(value)}"'
    if isinstance(value, (int, float)):
        return str(value)
    return f"a {type(value).__name__}"


def _clip(text: str) -> str:
    told = "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in text)
    return told if len(told) <= 40 else told[:39] + "\N{HORIZONTAL ELLIPSIS}"
