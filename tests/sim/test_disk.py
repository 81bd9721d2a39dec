"""Disks: what outlives a crash, what full, slow and failing ones do."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.errors import HostDown
from rpcsim.ports import current
from rpcsim.sim import DiskModel, DiskSnapshot, Sim, Uniform

if TYPE_CHECKING:
    from rpcsim.ports import Disk
    from rpcsim.sim._host import SimHost

OLD, NEW = b"old" * 500, b"new!" * 700


def disk() -> Disk:
    return current().disk


async def replace(*, synced: bool = True) -> None:
    """Put a new content in the place of an old one, the way that survives."""
    await disk().write_at("state.tmp", 0, NEW[:1000])
    await disk().append("state.tmp", NEW[1000:])
    if synced:
        await disk().fsync("state.tmp")
    await disk().rename("state.tmp", "state")
    await disk().fsync_dir()


def after_a_crash(
    seed: int, turns: int, *, synced: bool, model: DiskModel
) -> tuple[dict[str, bytes], bool]:
    """Cut the power after so many turns; what is there then, and whether it was done."""
    with Sim(seed=seed) as sim:
        box = sim.host("box", disk=model)
        box.disk.restore(DiskSnapshot.holding({"state": OLD}))
        work = box.inside(sim.loop.make_task, replace(synced=synced))
        sim.step(turns)
        done = work.done()
        box.crash()
        box.restart()
        return box.disk.snapshot().files, done


@pytest.mark.parametrize(
    "model",
    [
        DiskModel(latency="1ms"),
        DiskModel(torn="byte"),
        DiskModel(reorder=False, torn="none", latency=Uniform("1ms", "3ms")),
    ],
    ids=["sector", "byte", "prefix"],
)
def test_write_fsync_rename_leaves_old_or_new(model: DiskModel) -> None:
    """A power cut at every turn, whatever the disk keeps (check 41)."""
    contents = set()
    for turns in range(1, 16):
        for seed in range(12):
            files, done = after_a_crash(seed, turns, synced=True, model=model)
            assert files["state"] in (OLD, NEW)
            assert not done or files == {"state": NEW}
            contents.add(files["state"])
    assert contents == {OLD, NEW}


def test_without_fsync_a_lost_or_torn_file_appears() -> None:
    """Within 100 seeds (check 41)."""
    broken: dict[str, int] = {}
    for seed in range(100):
        files, _ = after_a_crash(seed, 12, synced=False, model=DiskModel())
        content = files["state"]
        if content not in (OLD, NEW):
            kind = "lost" if not content else "torn"
            broken[kind] = broken.get(kind, 0) + 1
            assert len(content) % 512 in (0, 1000 % 512, len(NEW) % 512)
    assert set(broken) == {"lost", "torn"}


def run_on(host: SimHost, main: Any) -> Any:
    return host.run(main)


def test_reordered_unsynced_writes() -> None:
    """With `reorder` a later write may outlive an earlier one; else a prefix does."""

    def survivors(*, reorder: bool) -> set[bytes]:
        found = set()
        for seed in range(60):
            with Sim(seed=seed) as sim:
                box = sim.host("box", disk=DiskModel(reorder=reorder, torn="none"))
                box.disk.restore(DiskSnapshot.holding({"f": b"..."}))

                async def write() -> None:
                    for at, data in enumerate((b"a", b"b", b"c")):
                        await disk().write_at("f", at, data)

                box.run(write)
                box.crash()
                box.restart()
                found.add(box.disk.snapshot().files["f"])
        return found

    assert survivors(reorder=False) == {b"...", b"a..", b"ab.", b"abc"}
    assert survivors(reorder=True) == {
        bytes(pick) for pick in _any_of((b".a", b".b", b".c"))
    }


def _any_of(options: tuple[bytes, ...]) -> list[list[int]]:
    picks: list[list[int]] = [[]]
    for option in options:
        picks = [[*pick, one] for pick in picks for one in option]
    return picks


def test_a_process_crash_loses_nothing() -> None:
    """Written files stay whole: the system outlives the program (4.3)."""
    with Sim() as sim:
        box = sim.host("box")
        box.run(disk().write_at("x", 0, b""))  # the disk of the test's host, not box's
        box.run(lambda: current().bridge.wait(disk().append("logs/a", b"one")))
        box.crash("process")
        box.restart()
        assert box.disk.snapshot().files == {"logs/a": b"one"}
        assert sim.test.disk.snapshot().files == {"x": b""}


def test_a_lying_disk_loses_what_was_synced() -> None:
    """`fsync` says it is done, and a power cut proves it wrong (4.5)."""

    async def write() -> None:
        await disk().append("f", b"x" * 100)
        await disk().fsync("f")
        await disk().fsync_dir()

    found = set()
    for seed in range(20):
        with Sim(seed=seed) as sim:
            box = sim.host("box", disk=DiskModel(lying_fsync=1))
            box.run(write)
            box.crash()
            found.add("f" in box.disk.snapshot().files)
    assert found == {True, False}


def test_names_are_safe_after_fsync_dir() -> None:
    """Creation, renaming and removal, each directory for itself (4.5)."""

    async def change() -> None:
        for path in ("a/new", "b/new"):
            await disk().append(path, b"1")
            await disk().fsync(path)
        await disk().rename("a/old", "a/renamed")
        await disk().remove("b/old")
        await disk().fsync_dir("a")

    before = {"a/old": b"o", "b/old": b"o"}
    outcomes = set()
    for seed in range(40):
        with Sim(seed=seed) as sim:
            box = sim.host("box")
            box.disk.restore(DiskSnapshot.holding(before))
            box.run(change)
            assert sorted(box.disk.snapshot().files) == ["a/new", "a/renamed", "b/new"]
            box.crash()
            names = sorted(box.disk.snapshot().files)
            assert names[:2] == ["a/new", "a/renamed"]
            outcomes.add(tuple(names[2:]))
    assert outcomes == {(), ("b/new",), ("b/old",), ("b/new", "b/old")}


def test_a_full_disk_takes_what_fits() -> None:
    """`ENOSPC` after the bytes that fitted; freed room is there again (check 42)."""

    async def fill() -> None:
        await disk().append("a", b"x" * 60)
        with pytest.raises(OSError, match="No space") as full:
            await disk().append("b", b"y" * 60)
        assert (full.value.errno, full.value.filename) == (errno.ENOSPC, "b")
        assert (await disk().stat("b")).size == 40
        await disk().write_at("a", 0, b"z" * 60)  # takes no room
        with pytest.raises(OSError, match="No space"):
            await disk().truncate("a", 61)
        await disk().remove("a")
        await disk().append("b", b"y" * 20)

    with Sim() as sim:
        box = sim.host("box", disk=DiskModel(capacity=100))
        box.run(fill)
        with box.disk.full(), pytest.raises(OSError, match="No space"):
            box.run(lambda: current().bridge.wait(disk().append("b", b"!")))
        assert box.disk.snapshot().files == {"b": b"y" * 60}


def test_failing_and_read_only_disks() -> None:
    """Errors reach the caller as `OSError` with their numbers (check 42)."""

    async def story() -> None:
        box = sim.by_name["box"].disk
        with box.fail("read", "db/*", count=2):
            for _ in range(2):
                with pytest.raises(OSError, match="Input/output") as failed:
                    await disk().read("db/1")
                assert failed.value.errno == errno.EIO
            assert await disk().read("db/1") == b"one"  # two were to fail
        with box.fail("fsync"), pytest.raises(OSError, match="Input/output"):
            await disk().fsync("db/1")
        with box.read_only():
            for change in (
                disk().append("db/1", b"!"),
                disk().truncate("db/1"),
                disk().rename("db/1", "db/2"),
                disk().remove("db/1"),
            ):
                with pytest.raises(OSError, match="Read-only") as failed:
                    await change
                assert failed.value.errno == errno.EROFS
            assert await disk().read("db/1") == b"one"
            await disk().fsync("db/1")
        box.flip("db/1", 0)
        assert await disk().read("db/1") == b"nne"

    with Sim() as sim:
        box = sim.host("box")
        box.disk.restore(DiskSnapshot.holding({"db/1": b"one"}))
        box.run(story)
        assert repr(box.disk) == "<disk of box: 1 files, sound>"
    told = [r.get("what") for r in sim.trace if r.kind == "fault" and r.get("what")]
    assert told[:2] == ["read of db/* fails with EIO"] * 2


def test_drawn_errors_and_bits() -> None:
    """`read_error` and `corrupt` are probabilities, drawn from the disk's stream."""

    async def read() -> tuple[int, int]:
        failed = flipped = 0
        for _ in range(300):
            try:
                data = await disk().read("f")
            except OSError:
                failed += 1
            else:
                bits = [bin(a ^ b).count("1") for a, b in zip(data, OLD, strict=True)]
                assert sum(bits) <= 1
                flipped += sum(bits)
        return failed, flipped

    def run(seed: int) -> tuple[int, int]:
        with Sim(seed=seed) as sim:
            model = DiskModel(read_error=0.2, corrupt=0.3)
            box = sim.host("box", disk=model)
            box.disk.restore(DiskSnapshot.holding({"f": OLD}))
            result: tuple[int, int] = box.run(read)
            return result

    failed, flipped = run(1)
    assert 40 < failed < 80
    assert 45 < flipped < 100
    assert run(1) == (failed, flipped) != run(2)


def test_time_on_a_disk_is_exact() -> None:
    """Latency and bytes over bandwidth, one operation after another (check 42)."""

    async def story() -> list[float]:
        took = []
        for work in (
            disk().append("f", bytes(1000)),
            disk().read("f", 500),
            disk().fsync("f"),
        ):
            before = sim.clock.elapsed
            await work
            took.append(round(sim.clock.elapsed - before, 9))
        before = sim.clock.elapsed
        with sim.by_name["box"].disk.slow("1s"):
            await asyncio.gather(disk().fsync("f"), disk().stat("f"))
        return [*took, round(sim.clock.elapsed - before, 9)]

    with Sim() as sim:
        box = sim.host("box", disk=DiskModel(latency="10ms", bandwidth=1000))
        assert box.run(story) == [1.01, 0.51, 0.01, 2.02]


def test_a_snapshot_brings_back_what_was_not_synced_too() -> None:
    """Restoring it, and losing the power then, draws anew (4.5)."""
    with Sim(seed=8) as sim:
        box, other = sim.host("box"), sim.host("other")
        box.run(lambda: current().bridge.wait(disk().append("f", b"x" * 2000)))
        saved = box.disk.snapshot()
        assert repr(saved) == "<DiskSnapshot of 1 files>"
        found = set()
        for _ in range(100):
            other.disk.restore(saved)
            assert other.disk.snapshot().files == {"f": b"x" * 2000}
            other.crash()
            other.restart()
            found.add(len(other.disk.snapshot().files.get("f", b"?")))
        assert {1, 0, 512, 2000} <= found


def test_paths_and_directories() -> None:
    """A directory is there while a file is in it; names do not collide."""

    async def story() -> None:
        for path in ("", "/etc", "a//b", "../a", "a/..", "a\0"):
            with pytest.raises(ValueError, match="relative"):
                await disk().read(path)
        with pytest.raises(FileNotFoundError):
            await disk().read("a")
        await disk().append("a/b/c", b"1")
        await disk().append("a/d", b"22")
        assert (await disk().list(), await disk().list("a")) == (["a"], ["b", "d"])
        with pytest.raises(IsADirectoryError):
            await disk().append("a/b", b"1")
        with pytest.raises(NotADirectoryError):
            await disk().append("a/d/e", b"1")
        with pytest.raises(NotADirectoryError):
            await disk().list("a/d")
        await disk().rename("a/b/c", "a/d")
        assert await disk().read("a/d") == b"1"
        with pytest.raises(FileNotFoundError):
            await disk().list("a/b")
        with pytest.raises(ValueError, match="offset"):
            await disk().write_at("a/d", -1, b"")
        with pytest.raises(ValueError, match="size"):
            await disk().truncate("a/d", -1)
        with pytest.raises(ValueError, match="offset and size"):
            await disk().read("a/d", 0, -1)
        await asyncio.sleep(5)
        await disk().write_at("a/d", 3, b"4")
        told = await disk().stat("a/d")
        assert (told.size, await disk().read("a/d")) == (4, b"1\0\0004")
        assert told.modified_ns == current().clock.wall_ns()

    with Sim() as sim:
        sim.host("box").run(story)


def test_nonsense_is_refused_when_given() -> None:
    """Models and faults that mean nothing."""
    wrong: tuple[dict[str, Any], ...] = (
        {"torn": "half"},
        {"capacity": -1},
        {"bandwidth": 0},
        {"read_error": 1.5},
        {"latency": "-1s"},
    )
    for options in wrong:
        with pytest.raises(ValueError, match=r"torn|capacity|bandwidth|read_|negative"):
            DiskModel(**options)
    with Sim() as sim:
        box = sim.host("box").disk
        with pytest.raises(ValueError, match="not to 'fly'"):
            box.fail("fly")
        with pytest.raises(ValueError, match="from 1"):
            box.fail("read", count=0)
        with pytest.raises(ValueError, match="takes longer"):
            box.slow(0)


def test_dead_code_cannot_reach_the_disk() -> None:
    """What is left of a step that crashed its host writes nothing (4.3)."""
    raised: list[BaseException] = []

    async def program() -> None:
        sim.by_name["box"].crash()
        try:
            await disk().append("f", b"late")
        except HostDown as error:
            raised.append(error)

    with Sim() as sim:
        sim.host("box", program)
        sim.clock.advance(1)
        assert sim.by_name["box"].disk.snapshot().files == {}
    assert len(raised) == 1


def test_one_seed_one_disk() -> None:
    """Equal digests; draws of one disk shift nobody else's."""

    def run(*, also: bool) -> tuple[dict[str, bytes], str | None]:
        with Sim(seed=4) as sim:
            if also:
                loud = sim.host("loud", disk=DiskModel(latency=Uniform("1ms", "2ms")))
                loud.run(replace)
            box = sim.host("box", disk=DiskModel(latency=Uniform("1ms", "9ms")))
            box.run(replace(synced=False))
            box.run(lambda: current().bridge.wait(disk().append("state", NEW)))
            box.crash()
            return box.disk.snapshot().files, sim.trace.digest

    assert run(also=False) == run(also=False)
    assert run(also=False)[0] == run(also=True)[0]
