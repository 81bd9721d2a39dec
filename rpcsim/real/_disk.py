"""The disk of a real host: a directory of its own, gone with the runtime."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rpcsim.ports import FileStat, disk_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.real._home import Home

__all__ = ["Disks", "RealDisk"]

T = TypeVar("T")


class Disks:
    """The directories of one runtime, made on first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._path: Path | None = None

    def of(self, host: str) -> Path:
        """Give the directory of a host."""
        with self._lock:
            if self._path is None:
                self._path = Path(tempfile.mkdtemp(prefix="rpcsim-disk-"))
        path = self._path / host
        path.mkdir(exist_ok=True)
        return path

    def close(self) -> None:
        """Remove them."""
        with self._lock:
            path, self._path = self._path, None
        if path is not None:
            shutil.rmtree(path)


class RealDisk:
    """`rpcsim.ports.Disk` on the file system; calls run in threads."""

    def __init__(self, disks: Disks, home: Home) -> None:
        self._disks: Final = disks
        self._home: Final = home
        # Done in one thread at a time and in order, as the simulated disk does.
        self._turn: Final = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<disk of {self._home.host}>"

    async def _do(self, fn: Callable[..., T], *args: Any) -> T:
        self._home.check_alive("use its disk")
        async with self._turn:
            return await asyncio.to_thread(fn, self._disks.of(self._home.host), *args)

    async def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Give what a file holds from `offset` on."""
        if offset < 0 or (size is not None and size < 0):
            raise ValueError(f"offset and size are bytes, from 0: {offset}, {size}")
        return await self._do(_read, disk_path(path), offset, size)

    async def write_at(self, path: str, offset: int, data: bytes) -> None:
        """Write over what is there, and beyond its end."""
        if offset < 0:
            raise ValueError(f"an offset is bytes, from 0, not {offset}")
        await self._do(_write, disk_path(path), offset, bytes(data))

    async def append(self, path: str, data: bytes) -> int:
        """Write at the end; gives the offset it was written at."""
        return await self._do(_write, disk_path(path), None, bytes(data))

    async def truncate(self, path: str, size: int = 0) -> None:
        """Cut a file to so many bytes, or fill it up with zeros."""
        if size < 0:
            raise ValueError(f"a size is bytes, from 0, not {size}")
        await self._do(_truncate, disk_path(path), size)

    async def fsync(self, path: str) -> None:
        """Return when what was written to the file is safe."""
        await self._do(_fsync, disk_path(path), os.O_RDWR)

    async def fsync_dir(self, path: str = "") -> None:
        """Return when the names in a directory are safe."""
        await self._do(_fsync, disk_path(path, directory=True), os.O_RDONLY)

    async def rename(self, old: str, new: str) -> None:
        """Give a file another name, in the place of whatever had that name."""
        await self._do(_rename, disk_path(old), disk_path(new))

    async def remove(self, path: str) -> None:
        """Remove a file."""
        await self._do(_remove, disk_path(path))

    async def list(self, path: str = "") -> list[str]:
        """Give the names in a directory, sorted: of files and of directories."""
        return await self._do(_list, disk_path(path, directory=True))

    async def stat(self, path: str) -> FileStat:
        """Tell size and time of a file."""
        return await self._do(_stat, disk_path(path))


def _read(root: Path, path: str, offset: int, size: int | None) -> bytes:
    with (root / path).open("rb") as file:
        file.seek(offset)
        return file.read(-1 if size is None else size)


def _write(root: Path, path: str, offset: int | None, data: bytes) -> int:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(handle, "r+b") as file:
        at = file.seek(0, os.SEEK_END) if offset is None else file.seek(offset)
        file.write(data)
    return at


def _truncate(root: Path, path: str, size: int) -> None:
    os.truncate(root / path, size)


def _fsync(root: Path, path: str, flags: int) -> None:
    handle = os.open(root / path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _rename(root: Path, old: str, new: str) -> None:
    if not (root / old).is_file():
        (root / old).stat()  # no such file
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    (root / old).replace(root / new)
    _prune(root, root / old)


def _remove(root: Path, path: str) -> None:
    (root / path).unlink()
    _prune(root, root / path)


def _prune(root: Path, gone: Path) -> None:
    """Remove the directories that held nothing else: they are there for their files."""
    place = gone.parent
    with contextlib.suppress(OSError):  # not empty
        while place != root:
            place.rmdir()
            place = place.parent


def _list(root: Path, path: str) -> list[str]:
    return sorted(entry.name for entry in (root / path).iterdir())


def _stat(root: Path, path: str) -> FileStat:
    told = (root / path).stat()
    return FileStat(told.st_size, told.st_mtime_ns)
