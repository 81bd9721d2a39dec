"""The disk of real hosts: files in a directory that goes with the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rpcsim.errors import HostDown
from rpcsim.ports import Disk, current
from rpcsim.real import Runtime

if TYPE_CHECKING:
    from pathlib import Path


def disk() -> Disk:
    return current().disk


async def story() -> None:
    """Do everything the port offers."""
    await disk().write_at("logs/a", 3, b"34")
    assert await disk().append("logs/a", b"5") == 5
    assert await disk().read("logs/a") == b"\0\0\x00345"
    assert await disk().read("logs/a", 3, 2) == b"34"
    await disk().fsync("logs/a")
    await disk().fsync_dir("logs")
    await disk().truncate("logs/a", 4)
    told = await disk().stat("logs/a")
    assert (told.size, told.modified_ns > 0) == (4, True)
    assert (await disk().list(), await disk().list("logs")) == (["logs"], ["a"])
    await disk().append("logs/b", b"old")
    await disk().rename("logs/a", "logs/b")
    assert await disk().read("logs/b") == b"\0\0\x003"
    for missing in (disk().read("logs/a"), disk().rename("x", "y"), disk().list("x")):
        with pytest.raises(FileNotFoundError):
            await missing
    with pytest.raises(IsADirectoryError):
        await disk().append("logs", b"1")
    await disk().remove("logs/b")
    assert await disk().list() == []  # a directory is there for its files
    for path in ("", "/etc/passwd", "../up"):
        with pytest.raises(ValueError, match="relative"):
            await disk().read(path)
    for wrong in (
        disk().write_at("f", -1, b""),
        disk().truncate("f", -1),
        disk().read("f", -1),
    ):
        with pytest.raises(ValueError, match="from 0"):
            await wrong


def test_files_of_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay over restarts, are no other host's, and go with the runtime (4.5)."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Runtime() as runtime:
        box, other = runtime.host("box"), runtime.host("other")
        box.run(story)
        box.run(_keep)
        old = box.ports.disk
        box.crash()
        box.restart()
        assert box.run(_kept) == b"kept"
        assert other.run(_names) == []
        with pytest.raises(HostDown, match="use its disk"):
            runtime.bridge.wait(old.read("state"))
        assert repr(box.ports.disk) == "<disk of box>"
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


async def _keep() -> None:
    await disk().append("state", b"kept")


async def _kept() -> bytes:
    return await disk().read("state")


async def _names() -> list[str]:
    return await disk().list()
