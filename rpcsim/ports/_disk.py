"""What the core may ask of a disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Disk", "FileStat", "disk_path"]


@dataclass(frozen=True, slots=True)
class FileStat:
    """What is known of a file without reading it.

    Attributes:
        size: Bytes.
        modified_ns: When it was last written, in nanoseconds since 1970 by the
            host's wall clock.
    """

    size: int
    modified_ns: int


class Disk(Protocol):
    """The files of one host; they outlive its programs.

    Paths are relative, with `/` between their parts. A directory is there while a file
    is in it. What was written may be lost with the power until `fsync` of the file;
    that it was created, renamed or removed, until `fsync_dir` of its directory.
    Failures are `OSError` with the system's numbers.
    """

    async def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Give what a file holds from `offset` on, at most `size` bytes (`None`: all).

        Raises:
            FileNotFoundError: There is no such file.
        """

    async def write_at(self, path: str, offset: int, data: bytes) -> None:
        """Write over what is there, and beyond its end; a new file is made.

        Raises:
            OSError: `ENOSPC`, after the bytes that fitted.
        """

    async def append(self, path: str, data: bytes) -> int:
        """Write at the end, made if it is new; gives the offset it was written at."""

    async def truncate(self, path: str, size: int = 0) -> None:
        """Cut a file to so many bytes, or fill it up with zeros."""

    async def fsync(self, path: str) -> None:
        """Return when what was written to the file is safe."""

    async def fsync_dir(self, path: str = "") -> None:
        """Return when names made, renamed and removed in a directory are safe.

        Args:
            path: The directory; `""` is the one all paths begin in.
        """

    async def rename(self, old: str, new: str) -> None:
        """Give a file another name, in the place of whatever had that name."""

    async def remove(self, path: str) -> None:
        """Remove a file."""

    async def list(self, path: str = "") -> list[str]:
        """Give the names in a directory, sorted: of files and of directories."""

    async def stat(self, path: str) -> FileStat:
        """Tell size and time of a file."""


def disk_path(path: str, *, directory: bool = False) -> str:
    """Read a path of a disk; raises `ValueError` if it is none.

    Args:
        path: Parts with `/` between them; none is empty, `.` or `..`.
        directory: Whether it names a directory, so that `""` is allowed.
    """
    if directory and path == "":
        return path
    if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path:
        raise ValueError(
            f"a path of a disk is relative, such as 'jobs/1.json', not {path!r}"
        )
    return path
