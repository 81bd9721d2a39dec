"""Files that remember what was synced, and lose the rest with the power.

Of every file two contents are kept: what programs see, and what is on the platter;
between them the writes not synced, in order. The same for names: a directory's changes
wait until it is synced. Losing the power keeps a drawn part of what waits.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from rpcsim.sim._streams import SimStream

__all__ = ["Change", "File", "Files", "Torn", "parent"]

Torn: TypeAlias = Literal["sector", "byte", "none"]
SECTOR: Final = 512


def parent(path: str) -> str:
    """Give the directory a path is in."""
    return path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of names: made (`new`), removed (`old`) or renamed (both)."""

    old: str | None
    new: str | None
    file: File

    def touches(self, directory: str) -> bool:
        """Whether it is safe once that directory is synced."""
        paths = (path for path in (self.old, self.new) if path is not None)
        return any(parent(path) == directory for path in paths)

    def apply(self, names: dict[str, File]) -> None:
        """Make the change."""
        if self.old is not None and names.get(self.old) is self.file:
            del names[self.old]
        if self.new is not None:
            names[self.new] = self.file


class File:
    """One file, whatever its names."""

    __slots__ = ("_safe", "content", "modified_ns", "unsynced")

    def __init__(self) -> None:
        self.content = bytearray()
        self._safe = bytearray()
        # (offset, data) of a write; (size, None) of a truncation.
        self.unsynced: list[tuple[int, bytes | None]] = []
        self.modified_ns = 0

    def write(self, offset: int, data: bytes) -> None:
        """Write, for programs to see."""
        _apply(self.content, offset, data)
        self.unsynced.append((offset, data))

    def truncate(self, size: int) -> None:
        """Cut or fill up, for programs to see."""
        _apply(self.content, size, None)
        self.unsynced.append((size, None))

    def sync(self) -> None:
        """Make safe all that was written."""
        for offset, data in self.unsynced:
            _apply(self._safe, offset, data)
        self.unsynced.clear()

    def damage(self, offset: int, mask: int) -> None:
        """Flip bits of one byte, safe or not."""
        for content in (self.content, self._safe):
            if offset < len(content):
                content[offset] ^= mask

    def lose(self, stream: SimStream, *, torn: Torn, reorder: bool) -> int:
        """Lose the power: keep a drawn part; gives how many writes were lost."""
        waiting = self.unsynced
        if reorder:
            kept = [write for write in waiting if stream.getrandbits(1)]
        else:
            kept = waiting[: stream.below(len(waiting) + 1)]
        lost = len(waiting) - len(kept)
        if kept:
            offset, data = kept[-1]
            if data is not None:
                size = _cut(stream, offset, len(data), torn)
                lost += size < len(data)
                kept[-1] = (offset, data[:size])
        self.unsynced = kept
        self.sync()
        self.content = bytearray(self._safe)
        return lost


def _apply(content: bytearray, at: int, data: bytes | None) -> None:
    end = at if data is None else at + len(data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if data is None:
        del content[at:]
    else:
        content[at:end] = data


def _cut(stream: SimStream, offset: int, size: int, torn: Torn) -> int:
    """Draw how much of the last write is kept: up to a boundary inside, or all."""
    if torn == "byte":
        return 1 + stream.below(size) if size > 1 else size
    if torn == "none":
        return size
    first = SECTOR - offset % SECTOR
    cuts = [*range(first, size, SECTOR), size]
    return cuts[stream.below(len(cuts))] if len(cuts) > 1 else size


class Files:
    """All files of a disk, by name."""

    __slots__ = ("_safe", "changes", "names")

    def __init__(self) -> None:
        self.names: dict[str, File] = {}
        self._safe: dict[str, File] = {}
        self.changes: list[Change] = []

    def copy(self) -> Files:
        """Give files of their own that are in the same state."""
        return copy.deepcopy(self)

    def size(self) -> int:
        """Give how many bytes programs see in all."""
        return sum(len(file.content) for file in self.names.values())

    def change(self, old: str | None, new: str | None, file: File) -> None:
        """Change names, for programs to see."""
        change = Change(old, new, file)
        change.apply(self.names)
        self.changes.append(change)

    def sync_names(self, directory: str) -> None:
        """Make safe what was done to the names in a directory."""
        left = []
        for change in self.changes:
            if change.touches(directory):
                change.apply(self._safe)
            else:
                left.append(change)
        self.changes = left

    def sync_all(self) -> None:
        """Make everything safe."""
        for file in self.names.values():
            file.sync()
        self._safe = dict(self.names)
        self.changes.clear()

    def lose(
        self, stream: SimStream, *, torn: Torn, reorder: bool
    ) -> list[tuple[str, int]]:
        """Lose the power; gives (path, writes lost), in order of their making."""
        changes = self.changes
        if changes and reorder:
            changes = [change for change in changes if stream.getrandbits(1)]
        elif changes:
            changes = changes[: stream.below(len(changes) + 1)]
        for change in changes:
            change.apply(self._safe)
        names = self._safe
        told = [(path, 0) for path in self.names if path not in names]
        self.changes = []
        self.names = dict(names)
        for path, file in names.items():
            if file.unsynced:
                lost = file.lose(stream, torn=torn, reorder=reorder)
                if lost:
                    told.append((path, lost))
        return told
