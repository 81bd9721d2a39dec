"""Classes of the data model: frozen dataclasses whose fields name their kinds.

A record reads itself from a node by the table of its fields. Keys that the format
knows and this version does not offer are listed in `later`, so that they get an error
of their own and are never silently ignored.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rpcsim.scenario._kinds import FAILED, Choice, Kind, show
from rpcsim.scenario._problems import did_you_mean
from rpcsim.scenario._values import UNSET

if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import Field

    from rpcsim.scenario._problems import Node, Path, Problems

__all__ = [
    "Record",
    "RecordKind",
    "VariantKind",
    "is_required",
    "plain_record",
    "table_of",
]


class Record:
    """Base of the classes of the model.

    Values given in Python are normalised (`"400ms"` becomes a `Span`, a list a tuple);
    a wrong one is left as it is and told by the validator, with its path.
    """

    __slots__ = ()
    # What a message calls one of these.
    noun: ClassVar[str] = "mapping"
    # The value of the discriminating key: the role of a host, the kind of a fault.
    tag: ClassVar[str] = ""
    # Keys of the format that this version does not offer.
    later: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            kind: Kind | None = item.metadata.get("kind")
            value = getattr(self, item.name)
            if kind is None or value is UNSET or value is None:
                continue
            object.__setattr__(self, item.name, kind.coerce(value))

    @classmethod
    def check(cls, record: Any, path: Path, into: Problems) -> None:
        """Report what is wrong with the record as a whole."""


def table_of(cls: type[Record]) -> dict[str, Field[Any]]:
    """Give the keys of a record: name to field, in the order they are written."""
    return {
        item.name: item
        for item in fields(cls)  # type: ignore[arg-type]  # subclasses are dataclasses
        if "kind" in item.metadata
    }


def is_required(item: Field[Any]) -> bool:
    """Whether a key must be given."""
    return item.default is MISSING and item.default_factory is MISSING


@dataclass(frozen=True, slots=True)
class RecordKind(Kind):
    """A mapping with fixed keys, read into one class."""

    cls: type[Record]

    @property
    def told(self) -> str:  # type: ignore[override]  # computed instead of stored
        """What a message says was expected."""
        return f"a {self.cls.noun} (a mapping)"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Read all keys; wrong ones take their default, so that checking can go on."""
        if isinstance(node.value, self.cls):
            return node.value
        if not isinstance(node.value, dict):
            return self.wrong(node, path, into)
        return self.cls_read(self.cls, node, path, into)

    @staticmethod
    def cls_read(
        cls: type[Record],
        node: Node,
        path: Path,
        into: Problems,
        *,
        skip: frozenset[str] = frozenset(),
        table: Mapping[str, Field[Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Any:
        """Read a mapping into a class.

        Args:
            cls: The class.
            node: The mapping.
            path: Where it stands.
            into: Where problems go.
            skip: Keys somebody else has read.
            table: The keys to read; `None` for all of the class.
            extra: Values of the fields that are not read here.
        """
        values = dict(extra or {})
        table = table_of(cls) if table is None else table
        for name, (_key, value) in node.value.items():
            if name in skip:
                continue
            if name in table:
                found = table[name].metadata["kind"].read(value, (*path, name), into)
                if found is not FAILED:
                    values[name] = found
            else:
                _unknown(cls, name, path, into, table, skip)
        for name, item in table.items():
            if name in values:
                continue
            if is_required(item):
                if name not in node.value:
                    into.add(path, f'key "{name}" is missing from this {cls.noun}')
                values[name] = None
        record = cls(**values)
        cls.check(record, path, into)
        return record

    def coerce(self, value: Any) -> Any:
        """Take an object of the class as it is."""
        return value if isinstance(value, Record) else Kind.coerce(self, value)

    def plain(self, value: Any) -> Any:
        """Give a mapping of what is not the default."""
        return plain_record(value) if isinstance(value, Record) else value


def _unknown(
    cls: type[Record],
    name: str,
    path: Path,
    into: Problems,
    table: Mapping[str, object],
    skip: frozenset[str],
) -> None:
    if name in cls.later:
        into.add(
            (*path, name),
            f'key "{name}" is not offered yet for this {cls.noun}',
            "take it out",
            key=True,
        )
        return
    known = (*table, *sorted(skip), *cls.later)
    into.add(
        (*path, name),
        f'unknown key "{name}" in this {cls.noun}',
        did_you_mean(name, known) or f"known: {', '.join(table)}",
        key=True,
    )


@dataclass(frozen=True, slots=True)
class VariantKind(Kind):
    """A mapping whose class is chosen by the value of one key.

    Attributes:
        key: The discriminating key: `role`, `kind`.
        noun: What a message calls its values.
        classes: Those offered, by tag.
        later: Tags of the format that this version does not offer.
    """

    key: str
    noun: str
    classes: Mapping[str, type[Record]]
    later: tuple[str, ...] = ()

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Read the key, then the mapping by the table of its class."""
        if isinstance(node.value, Record):
            return node.value
        if not isinstance(node.value, dict):
            into.add(path, f"expected a mapping with {self.key}, found {show(node)}")
            return FAILED
        if self.key not in node.value:
            into.add(path, *self._missing(node))
            return FAILED
        words = Choice(tuple(self.classes), self.later, self.noun)
        tag = words.read(node.value[self.key][1], (*path, self.key), into)
        if tag is FAILED:
            return FAILED
        skip: Final = frozenset({self.key})
        return RecordKind.cls_read(self.classes[tag], node, path, into, skip=skip)

    def _missing(self, node: Node) -> tuple[str, str]:
        """Give what to tell of a mapping without the key, and what it is spelt as."""
        known = {name for cls in self.classes.values() for name in table_of(cls)}
        near = [name for name in node.value if did_you_mean(name, [self.key])]
        misspelt = next((name for name in near if name not in known), None)
        hint = f'is "{misspelt}" meant to be "{self.key}"?' if misspelt else ""
        return f'key "{self.key}" is missing: which {self.noun} is it', hint

    def coerce(self, value: Any) -> Any:
        """Take an object of one of the classes as it is."""
        return value if isinstance(value, Record) else Kind.coerce(self, value)

    def plain(self, value: Any) -> Any:
        """Give a mapping that begins with the discriminating key."""
        if not isinstance(value, Record):
            return value
        told = plain_record(value)
        # A fault is known by its id; the id of a host is what an agent is called.
        named = self.key == "kind" and "id" in told
        first = {"id": told.pop("id")} if named else {}
        return {**first, self.key: value.tag, **told}


def plain_record(record: Record) -> dict[str, Any]:
    """Give a record as plain data: keys in order, defaults left out."""
    told: dict[str, Any] = {}
    for name, item in table_of(type(record)).items():
        value = getattr(record, name)
        default = item.default
        if default is MISSING and item.default_factory is not MISSING:
            default = item.default_factory()
        if value is UNSET or (value is None and default is not UNSET):
            continue
        if default is not MISSING and default is not UNSET and value == default:
            continue
        told[name] = item.metadata["kind"].plain(value)
    return told
