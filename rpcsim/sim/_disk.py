"""Disks of hosts: they take time, fill up, fail, and forget what was not synced.

A disk is its host's over all restarts. An operation is seen by programs when it is
asked for, and answered when the disk, which does one thing at a time, is done with it;
a crash in between finds it among the writes that were not synced.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Self
from zlib import crc32

from rpcsim.ports import NANOS, FileStat, disk_path, duration_text, to_ns
from rpcsim.sim._distributions import as_latency
from rpcsim.sim._files import File, Files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rpcsim.ports import Duration
    from rpcsim.sim._distributions import Latency
    from rpcsim.sim._files import Torn
    from rpcsim.sim._host import SimHost
    from rpcsim.sim._sim import Sim
    from rpcsim.sim._strand import Life
    from rpcsim.trace import Data

__all__ = ["SOUND", "DiskFault", "DiskModel", "DiskSnapshot", "HostDisk", "SimDisk"]

_TEXTS: Final = {
    errno.ENOSPC: "No space left on device",
    errno.EIO: "Input/output error",
    errno.EROFS: "Read-only file system",
    errno.ENOENT: "No such file or directory",
    errno.EISDIR: "Is a directory",
    errno.ENOTDIR: "Not a directory",
}
_CHANGING: Final = ("write", "truncate", "rename", "remove")
_OPERATIONS: Final = ("read", "fsync", *_CHANGING)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskModel:
    """What a disk is like.

    Attributes:
        capacity: Bytes that fit; `None` for any number.
        latency: How long each operation takes: a duration or a distribution.
        bandwidth: Bytes read or written in a second; `None` for any number.
        torn: Where the last write that outlives a power cut may end: at a 512-byte
            boundary (`"sector"`), anywhere (`"byte"`), or only whole (`"none"`).
        reorder: Whether any of the unsynced writes may outlive it, or only the first.
        lying_fsync: Probability that a sync does nothing and says it did.
        read_error: Probability that reading fails with `EIO`.
        corrupt: Probability that reading gives one flipped bit.
    """

    capacity: int | None = None
    latency: Latency | Duration = 0
    bandwidth: int | None = None
    torn: Torn = "sector"
    reorder: bool = True
    lying_fsync: float = 0.0
    read_error: float = 0.0
    corrupt: float = 0.0

    def __post_init__(self) -> None:
        as_latency(self.latency)
        if self.torn not in ("sector", "byte", "none"):
            raise ValueError(f"torn is 'sector', 'byte' or 'none', not {self.torn!r}")
        if self.capacity is not None and self.capacity < 0:
            raise ValueError(f"a capacity is bytes, from 0, not {self.capacity!r}")
        if self.bandwidth is not None and self.bandwidth <= 0:
            raise ValueError(
                f"a bandwidth is bytes a second, more than 0, not {self.bandwidth!r}"
            )
        for name in ("lying_fsync", "read_error", "corrupt"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a probability, 0 to 1, not {value!r}")


SOUND: Final = DiskModel()  # a disk nobody says anything about


class DiskSnapshot:
    """The state of a disk at one moment, to be restored on any disk."""

    __slots__ = ("_files",)

    def __init__(self, files: Files) -> None:
        self._files = files

    def __repr__(self) -> str:
        return f"<DiskSnapshot of {len(self._files.names)} files>"

    @classmethod
    def holding(cls, files: Mapping[str, bytes]) -> Self:
        """Make one of files that are all synced."""
        made = Files()
        for path, data in files.items():
            file = File()
            file.write(0, data)
            made.change(None, disk_path(path), file)
        made.sync_all()
        return cls(made)

    @property
    def files(self) -> dict[str, bytes]:
        """What programs saw: path to content, in order of making."""
        return {path: bytes(f.content) for path, f in self._files.names.items()}

    def thaw(self) -> Files:
        """Give files in that state."""
        return self._files.copy()


class DiskFault:
    """A fault of a disk in force; leaving its block, or `undo`, lifts it."""

    __slots__ = ("_disk", "count", "number", "operation", "path", "slower_ns", "text")

    def __init__(
        self,
        disk: SimDisk,
        text: str,
        *,
        operation: str = "",
        path: str = "*",
        number: int = 0,
        count: int | None = None,
        slower_ns: int = 0,
    ) -> None:
        self._disk = disk
        self.text: Final = text
        self.operation: Final = operation
        self.path: Final = path
        self.number: Final = number
        self.count = count
        self.slower_ns: Final = slower_ns

    def __repr__(self) -> str:
        return f"<{self.text} on the disk of {self._disk.host}>"

    def hits(self, operation: str, path: str) -> bool:
        """Whether an operation fails by it, counting down."""
        if not self.number or self.number == errno.ENOSPC:
            return False
        wanted = self.operation
        if wanted not in (operation, "") or (not wanted and operation in _SAFE):
            return False
        if not fnmatchcase(path, self.path):
            return False
        if self.count is not None:
            self.count -= 1
            if not self.count:
                self.undo()
        return True

    def undo(self) -> None:
        """Lift it; doing so twice does nothing."""
        self._disk.lift(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()


_SAFE: Final = ("read", "fsync")  # what a read-only disk does


class SimDisk:
    """The disk of one host, as a test sees and breaks it.

    Attributes:
        host: Name of the host.
        model: What it is like.
    """

    def __init__(self, sim: Sim, host: str, model: DiskModel) -> None:
        self.sim: Final = sim
        self.host: Final = host
        self.model: Final = model
        self.stored = Files()
        self.faults: list[DiskFault] = []
        self._latency = as_latency(model.latency)
        self._busy_ns = 0

    def __repr__(self) -> str:
        told = ", ".join(fault.text for fault in self.faults) or "sound"
        return f"<disk of {self.host}: {len(self.stored.names)} files, {told}>"

    # -- its state ---------------------------------------------------------------------

    def snapshot(self) -> DiskSnapshot:
        """Take its present state, what is not synced included."""
        return DiskSnapshot(self.stored.copy())

    def restore(self, snapshot: DiskSnapshot) -> None:
        """Put it into an earlier state, its own or another disk's."""
        self.stored = snapshot.thaw()
        self.record("disk.restore", ("files", len(self.stored.names)))

    def power_lost(self) -> None:
        """Keep what was synced, and a drawn part of the rest."""
        model = self.model
        stream = self.sim.entropy.stream(f"disk/{self.host}")
        told = self.stored.lose(stream, torn=model.torn, reorder=model.reorder)
        for path, writes in told:
            self.record("disk.lost", ("path", path), ("writes", writes))
        self._busy_ns = 0

    # -- faults ------------------------------------------------------------------------

    def full(self) -> DiskFault:
        """Let nothing more fit: `ENOSPC`, after the bytes that fit."""
        return self._begin(DiskFault(self, "full", number=errno.ENOSPC))

    def read_only(self) -> DiskFault:
        """Refuse every change: `EROFS`."""
        return self._begin(DiskFault(self, "read-only", number=errno.EROFS))

    def slow(self, by: Duration) -> DiskFault:
        """Have every operation take so much longer."""
        by_ns = to_ns(by)
        if by_ns <= 0:
            raise ValueError(f"a slow disk takes longer: slow({by!r})")
        text = f"slow by {duration_text(by_ns)}"
        return self._begin(DiskFault(self, text, slower_ns=by_ns))

    def fail(
        self,
        operation: str,
        path: str = "*",
        *,
        number: int = errno.EIO,
        count: int | None = None,
    ) -> DiskFault:
        """Have operations fail.

        Args:
            operation: `read`, `write`, `truncate`, `fsync`, `rename` or `remove`.
            path: Paths it is about; `*` and `?` as in file names.
            number: The system's number of the error.
            count: How many fail; `None` for all until it is undone.
        """
        if operation not in _OPERATIONS:
            known = ", ".join(_OPERATIONS)
            raise ValueError(f"a disk can fail to {known}, not to {operation!r}")
        if count is not None and count < 1:
            raise ValueError(f"count is how many fail, from 1, not {count!r}")
        text = f"{operation} of {path} fails with {errno.errorcode.get(number, number)}"
        fault = DiskFault(
            self, text, operation=operation, path=path, number=number, count=count
        )
        return self._begin(fault)

    def flip(self, path: str, offset: int, bit: int = 0) -> None:
        """Flip one bit that is stored.

        Raises:
            FileNotFoundError: There is no such file.
        """
        self.file(path).damage(offset, 1 << bit)
        self.record("fault", ("kind", "disk"), ("do", "flip"), ("path", path))

    def _begin(self, fault: DiskFault) -> DiskFault:
        self.faults.append(fault)
        self._tell("begin", fault)
        return fault

    def lift(self, fault: DiskFault) -> None:
        """End a fault."""
        left = [one for one in self.faults if one is not fault]
        if len(left) < len(self.faults):
            self.faults = left
            self._tell("end", fault)

    def _tell(self, what: str, fault: DiskFault) -> None:
        self.record("fault", ("kind", "disk"), ("do", what), ("what", fault.text))

    # -- what operations ask ---------------------------------------------------------------

    def record(self, kind: str, *data: tuple[str, Any]) -> None:
        """Record something that happened to it."""
        told: Data = data
        self.sim.record_on(self.host, kind, told)

    def error(self, number: int, operation: str, path: str) -> OSError:
        """Make, and record, the error of an operation."""
        name = errno.errorcode.get(number, str(number))
        self.record("disk.error", ("do", operation), ("path", path), ("error", name))
        return OSError(number, _TEXTS.get(number, "Disk failure"), path)

    def check(self, operation: str, path: str) -> None:
        """Raise what a fault makes of an operation."""
        for fault in list(self.faults):
            if fault.hits(operation, path):
                raise self.error(fault.number, operation, path)

    def file(self, path: str) -> File:
        """Find a file."""
        file = self.stored.names.get(disk_path(path))
        if file is None:
            raise OSError(errno.ENOENT, _TEXTS[errno.ENOENT], path)
        return file

    def file_to_write(self, path: str) -> File:
        """Find a file, or make it."""
        names = self.stored.names
        file = names.get(disk_path(path))
        if file is None:
            self.check_free(path)
            file = File()
            self.stored.change(None, path, file)
        return file

    def check_free(self, path: str) -> None:
        """Refuse a name that is a directory's, or whose directory is a file."""
        for name in self.stored.names:
            if name.startswith(f"{path}/"):
                raise OSError(errno.EISDIR, _TEXTS[errno.EISDIR], path)
            if path.startswith(f"{name}/"):
                raise OSError(errno.ENOTDIR, _TEXTS[errno.ENOTDIR], path)

    def room(self) -> int | None:
        """Give how many bytes still fit; `None` for any number."""
        if any(fault.number == errno.ENOSPC for fault in self.faults):
            return 0
        capacity = self.model.capacity
        return None if capacity is None else max(0, capacity - self.stored.size())

    def chance(self, probability: float) -> bool:
        """Draw whether something happens; what is certain draws nothing."""
        if probability in (0, 1):
            return probability == 1
        return self.sim.entropy.stream(f"disk/{self.host}").random() < probability

    async def work(self, size: int = 0) -> None:
        """Take the time of one operation, after those asked for before."""
        loop, model = self.sim.loop, self.model
        ns = self._latency.draw(self.sim.entropy.stream(f"disk/{self.host}"))
        ns += sum(fault.slower_ns for fault in self.faults)
        if model.bandwidth is not None:
            ns += size * NANOS // model.bandwidth
        due = self._busy_ns = max(self._busy_ns, loop.now_ns) + ns
        if due <= loop.now_ns:
            await asyncio.sleep(0)  # a disk is never quicker than a turn
            return
        done = loop.create_future()
        loop.at(due, loop.strand, _finish, (done,))
        await done


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


class HostDisk:
    """The `Disk` port of one incarnation."""

    __slots__ = ("_host", "_life")

    def __init__(self, host: SimHost, life: Life) -> None:
        self._host = host
        self._life = life

    @property
    def _disk(self) -> SimDisk:
        return self._host.disk

    def __repr__(self) -> str:
        return repr(self._disk)

    def _alive(self) -> SimDisk:
        if self._life.dead:
            raise self._disk.sim.host_down(self._life.host)
        return self._disk

    async def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Give what a file holds from `offset` on."""
        disk = self._alive()
        if offset < 0 or (size is not None and size < 0):
            raise ValueError(f"offset and size are bytes, from 0: {offset}, {size}")
        file = disk.file(path)
        end = len(file.content) if size is None else offset + size
        data = bytes(file.content[offset:end])
        await disk.work(len(data))
        disk.check("read", path)
        if disk.chance(disk.model.read_error):
            raise disk.error(errno.EIO, "read", path)
        if data and disk.chance(disk.model.corrupt):
            stream = disk.sim.entropy.stream(f"disk/{disk.host}")
            bit = stream.below(8 * len(data))
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            data = bytes(flipped)
            disk.record("disk.corrupt", ("path", path), ("bit", bit))
        self._told("read", path, offset, data)
        return data

    async def write_at(self, path: str, offset: int, data: bytes) -> None:
        """Write over what is there, and beyond its end."""
        if offset < 0:
            raise ValueError(f"an offset is bytes, from 0, not {offset}")
        disk = self._alive()
        disk.check("write", path)
        await self._write(disk.file_to_write(path), path, offset, bytes(data))

    async def append(self, path: str, data: bytes) -> int:
        """Write at the end; gives the offset it was written at."""
        disk = self._alive()
        disk.check("write", path)
        file = disk.file_to_write(path)
        offset = len(file.content)
        await self._write(file, path, offset, bytes(data))
        return offset

    async def _write(self, file: File, path: str, offset: int, data: bytes) -> None:
        disk = self._disk
        room, size = disk.room(), len(file.content)
        fits = len(data)
        if room is not None and offset + fits > size + room:
            fits = max(0, min(fits, size + room - offset))
        if fits:
            file.write(offset, data[:fits])
            self._wrote(file)
        self._told("write", path, offset, data[:fits])
        await disk.work(fits)
        if fits < len(data):
            raise disk.error(errno.ENOSPC, "write", path)

    async def truncate(self, path: str, size: int = 0) -> None:
        """Cut a file to so many bytes, or fill it up with zeros."""
        disk = self._alive()
        if size < 0:
            raise ValueError(f"a size is bytes, from 0, not {size}")
        disk.check("truncate", path)
        file, room = disk.file(path), disk.room()
        if room is not None and size > len(file.content) + room:
            raise disk.error(errno.ENOSPC, "truncate", path)
        file.truncate(size)
        self._wrote(file)
        disk.record("disk.truncate", ("path", path), ("size", size))
        await disk.work()

    async def fsync(self, path: str) -> None:
        """Return when what was written to the file is safe."""
        disk = self._alive()
        file = disk.file(path)
        await disk.work()
        disk.check("fsync", path)
        if not disk.chance(disk.model.lying_fsync):
            file.sync()
        disk.record("disk.fsync", ("path", path))

    async def fsync_dir(self, path: str = "") -> None:
        """Return when the names in a directory are safe."""
        disk = self._alive()
        disk_path(path, directory=True)
        await disk.work()
        disk.check("fsync", path)
        if not disk.chance(disk.model.lying_fsync):
            disk.stored.sync_names(path)
        disk.record("disk.fsync_dir", ("path", path))

    async def rename(self, old: str, new: str) -> None:
        """Give a file another name, in the place of whatever had that name."""
        disk = self._alive()
        disk_path(new)
        disk.check("rename", old)
        file = disk.file(old)
        if old != new:
            disk.check_free(new)
            disk.stored.change(old, new, file)
        disk.record("disk.rename", ("path", old), ("to", new))
        await disk.work()

    async def remove(self, path: str) -> None:
        """Remove a file."""
        disk = self._alive()
        disk.check("remove", path)
        disk.stored.change(path, None, disk.file(path))
        disk.record("disk.remove", ("path", path))
        await disk.work()

    async def list(self, path: str = "") -> list[str]:
        """Give the names in a directory, sorted: of files and of directories."""
        disk = self._alive()
        inside = f"{disk_path(path, directory=True)}/" if path else ""
        names = disk.stored.names
        found = {n[len(inside) :].split("/")[0] for n in names if n.startswith(inside)}
        await disk.work()
        if path and not found:
            number = errno.ENOTDIR if path in names else errno.ENOENT
            raise OSError(number, _TEXTS[number], path)
        return sorted(found)

    async def stat(self, path: str) -> FileStat:
        """Tell size and time of a file."""
        disk = self._alive()
        file = disk.file(path)
        told = FileStat(len(file.content), file.modified_ns)
        await disk.work()
        return told

    def _wrote(self, file: File) -> None:
        clock: Callable[[], int] = self._life.ports.clock.wall_ns
        file.modified_ns = clock()

    def _told(self, what: str, path: str, offset: int, data: bytes) -> None:
        self._disk.record(
            f"disk.{what}",
            ("path", path),
            ("offset", offset),
            ("bytes", len(data)),
            ("crc", crc32(data)),
        )
