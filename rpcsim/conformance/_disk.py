"""What any `Disk` must do while nothing goes wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rpcsim.conformance._checking import Check, araises, expect, run_all
from rpcsim.ports import current

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rpcsim.conformance._checking import Make
    from rpcsim.ports import Disk

__all__ = ["DISK", "check_disk"]


def check_disk(make: Make) -> None:
    """Check the disks of a machine's hosts: files, names, sizes, what outlives a stop.

    Args:
        make: Gives a fresh machine.
    """
    run_all(DISK, make)


def _on_disk(make: Make, story: Callable[[Disk], Awaitable[Any]]) -> None:
    with make() as machine:
        host = machine.host("server")

        async def main() -> None:
            await story(current().disk)

        host.run(main)


async def _content(disk: Disk, path: str) -> bytes:
    return await disk.read(path)


def what_was_written_is_read(make: Make) -> None:
    """Whole, and in parts; beyond the end there is nothing."""

    async def story(disk: Disk) -> None:
        await disk.write_at("a", 0, b"0123456789")
        expect(await disk.read("a") == b"0123456789", "other bytes were read")
        part = await disk.read("a", 3, 4)
        expect(part == b"3456", f"4 bytes from 3 on are {part!r}")
        expect(await disk.read("a", 8, 10) == b"89", "a read goes to the end at most")
        expect(await disk.read("a", 20) == b"", "beyond the end there is something")

    _on_disk(make, story)


def writes_replace_and_extend(make: Make) -> None:
    """In the middle, at the end, and beyond it, where zeros fill the gap."""

    async def story(disk: Disk) -> None:
        await disk.write_at("a", 0, b"aaaa")
        await disk.write_at("a", 2, b"bbbb")
        expect(await _content(disk, "a") == b"aabbbb", "a write in the middle is wrong")
        await disk.write_at("a", 8, b"c")
        got = await _content(disk, "a")
        expect(got == b"aabbbb\0\0c", f"a write beyond the end gave {got!r}")
        at = [await disk.append("b", b"xy"), await disk.append("b", b"z")]
        expect(at == [0, 2], f"append() said it wrote at {at}")
        expect(await _content(disk, "b") == b"xyz", "append() wrote elsewhere")
        expect((await disk.stat("b")).size == 3, "stat() tells another size")

    _on_disk(make, story)


def files_are_cut_and_filled(make: Make) -> None:
    """`truncate` cuts, or fills up with zeros."""

    async def story(disk: Disk) -> None:
        await disk.write_at("a", 0, b"abcdef")
        await disk.truncate("a", 2)
        expect(await _content(disk, "a") == b"ab", "truncate(2) left other bytes")
        await disk.truncate("a", 4)
        expect(await _content(disk, "a") == b"ab\0\0", "truncate(4) filled otherwise")
        await disk.truncate("a")
        expect((await disk.stat("a")).size == 0, "truncate() left bytes")

    _on_disk(make, story)


def missing_files_are_told(make: Make) -> None:
    """`FileNotFoundError` from whatever needs one."""

    async def story(disk: Disk) -> None:
        for work in (
            disk.read("no"),
            disk.stat("no"),
            disk.remove("no"),
            disk.rename("no", "other"),
            disk.fsync("no"),
        ):
            await araises(FileNotFoundError, work, "there is no such file")

    _on_disk(make, story)


def names_are_listed_in_order(make: Make) -> None:
    """Files and directories; a directory is there while a file is in it."""

    async def story(disk: Disk) -> None:
        for path in ("b", "jobs/2", "jobs/1", "a"):
            await disk.write_at(path, 0, b"x")
        names = await disk.list()
        expect(names == ["a", "b", "jobs"], f"the names are {names}")
        names = await disk.list("jobs")
        expect(names == ["1", "2"], f"the names in jobs are {names}")
        await disk.remove("jobs/1")
        await disk.remove("jobs/2")
        names = await disk.list()
        expect(names == ["a", "b"], f"an empty directory stays: {names}")

    _on_disk(make, story)


def a_rename_replaces(make: Make) -> None:
    """The old name is gone; what had the new one, too."""

    async def story(disk: Disk) -> None:
        await disk.write_at("new", 0, b"old content, longer")
        await disk.write_at("tmp", 0, b"content")
        await disk.fsync("tmp")
        await disk.rename("tmp", "new")
        await disk.fsync_dir()
        expect(await _content(disk, "new") == b"content", "the old content stays")
        expect(await disk.list() == ["new"], f"the names are {await disk.list()}")

    _on_disk(make, story)


def paths_are_plain_and_relative(make: Make) -> None:
    """No way out of the disk."""

    async def story(disk: Disk) -> None:
        for path in ("/etc/passwd", "../x", "a/../b", "a//b", "", "."):
            await araises(ValueError, disk.read(path), f"{path!r} is no path of a disk")

    _on_disk(make, story)


def hosts_have_disks_of_their_own(make: Make) -> None:
    """What one writes, no other sees."""
    with make() as machine:
        left, right = machine.host("left"), machine.host("right")

        async def write() -> None:
            await current().disk.write_at("a", 0, b"mine")

        async def names() -> list[str]:
            return await current().disk.list()

        left.run(write)
        seen = right.run(names)
        expect(seen == [], f"host right sees {seen} of host left")


def a_disk_outlives_its_programs(make: Make) -> None:
    """After a stop and a restart the files are there."""
    with make() as machine:
        host = machine.host("server")

        async def write() -> None:
            await current().disk.write_at("a", 0, b"kept")

        async def read() -> bytes:
            return await current().disk.read("a")

        host.run(write)
        machine.bridge.wait(host.stop())
        host.restart()
        machine.bridge.wait(host.wait_started())
        kept = host.run(read)
        expect(kept == b"kept", f"after a restart the file holds {kept!r}")


DISK: Final[tuple[Check, ...]] = (
    what_was_written_is_read,
    writes_replace_and_extend,
    files_are_cut_and_filled,
    missing_files_are_told,
    names_are_listed_in_order,
    a_rename_replaces,
    paths_are_plain_and_relative,
    hosts_have_disks_of_their_own,
    a_disk_outlives_its_programs,
)
