"""Files and texts into records: encoding, size, format version, then the table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from rpcsim.errors import ScenarioError
from rpcsim.scenario._json import compose_json
from rpcsim.scenario._kinds import show
from rpcsim.scenario._problems import Problem, Source, did_you_mean
from rpcsim.scenario._record import Record, RecordKind
from rpcsim.scenario._yaml import compose_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from rpcsim.scenario._problems import Node, Problems

__all__ = ["FORMAT", "KINDS", "MAX_BYTES", "read_document", "source_of"]

FORMAT: Final = 1
MAX_BYTES: Final = 4 * 1024 * 1024
# What a file name must end with, and how the file is then read.
KINDS: Final = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}
# Half a pair is no character: no encoding has it.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_COMPOSERS: Final = {"yaml": compose_yaml, "json": compose_json}


def source_of(path: Path) -> Source:
    """Read a file's text.

    Raises:
        ScenarioError: Its name has another ending, it is too large or not UTF-8.
        OSError: It cannot be read.
    """
    name = str(path)
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        hint = did_you_mean(path.suffix, KINDS) or "name it .yaml, .yml or .json"
        raise _unreadable(name, f'no scenario file ends with "{path.suffix}"', hint)
    if path.exists() and not path.is_file():
        # A pipe would be waited for, for ever.
        hint = "name a file that holds a scenario"
        raise _unreadable(name, "not a regular file", hint)
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise _unreadable(name, "larger than 4 MiB", "split it into several files")
    try:
        return Source(name, data.decode("utf-8-sig"), kind)
    except UnicodeDecodeError as error:
        raise _unreadable(
            name, f"not UTF-8 at byte {error.start}", "save it as UTF-8"
        ) from None


def _unreadable(name: str, message: str, hint: str) -> ScenarioError:
    problem = Problem("", 0, 0, message, hint)
    return ScenarioError(f"{name}: {problem}", [problem])


def read_document(cls: type[Record], source: Source, into: Problems) -> Any:
    """Read a source into a class; `None`, with problems reported, if that fails."""
    if source.kind not in _COMPOSERS:
        raise ValueError(f"a scenario is read as yaml or json, not {source.kind!r}")
    if len(source.text) > MAX_BYTES:
        into.add_at(1, 1, "larger than 4 MiB")
        return None
    if (half := _SURROGATE.search(source.text)) is not None:
        before = source.text[: half.start()]
        line = before.count("\n") + 1
        into.add_at(line, half.start() - before.rfind("\n"), "half a surrogate pair")
        return None
    root = _COMPOSERS[source.kind](source.text, into)
    if root is None:
        return None
    into.root = root
    if not isinstance(root.value, dict):
        into.add(
            (), f"expected a mapping that begins with rpcsim: 1, found {show(root)}"
        )
        return None
    if not _version(root, into):
        return None
    return RecordKind.cls_read(cls, root, (), into, skip=frozenset({"rpcsim"}))


def _version(root: Node, into: Problems) -> bool:
    """Whether the document can be read on; a wrong version would give noise only."""
    if "rpcsim" not in root.value:
        into.add((), 'key "rpcsim" is missing: the format version', "write rpcsim: 1")
        return True
    version = root.value["rpcsim"][1]
    if type(version.value) is int and version.value == FORMAT:
        return True
    newer = type(version.value) is int and version.value > FORMAT
    into.add(
        ("rpcsim",),
        f"format version {show(version)} is not known",
        f"the newest known is {FORMAT}"
        + ("; a newer rpcsim wrote it" if newer else ""),
    )
    return False
