"""Trace files written while the run goes on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from rpcsim.sim import Sim
from rpcsim.trace import read_jsonl

ROOT = Path(__file__).parents[2]


async def story() -> None:
    """Some tasks, timers and a connection."""
    served = asyncio.Event()

    async def handle(reader: Any, writer: Any) -> None:
        writer.write(await reader.readline())
        writer.close()
        served.set()

    server = await asyncio.start_server(handle, "127.0.0.1", 7)
    reader, writer = await asyncio.open_connection("127.0.0.1", 7)
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    writer.close()
    await served.wait()
    await asyncio.gather(*(asyncio.sleep(n / 10) for n in range(20)))
    server.close()


def write_story(path: Path, **options: Any) -> Sim:
    """Run the story with a trace file; give the machine that ran it."""
    with Sim(seed=3, policy="random", trace_file=path, **options) as sim:
        sim.run(story)
    return sim


def test_a_file_holds_all_records_though_memory_does_not(tmp_path: Path) -> None:
    """Header, every record in order, end; memory keeps the tail it was told to."""
    path = tmp_path / "run.jsonl"
    sim = write_story(path, trace="steps", keep=10)
    file = read_jsonl(path.read_text("utf-8"))
    assert not file.cut
    assert [record.n for record in file.records] == list(range(len(sim.trace)))
    assert file.records[-10:] == tuple(sim.trace)[-10:]
    assert list(file.header) == [
        "schema",
        "rpcsim",
        "python",
        "platform",
        "packages",
        "hash_seed",
        "seed",
        "policy",
        "scope",
        "wall_start",
        "level",
        "options",
    ]
    assert (file.header["seed"], file.header["policy"]) == (3, "random")
    assert file.end is not None
    assert list(file.end) == [
        "records",
        "digest",
        "schedule_digest",
        "outcome",
        "sim_time_ns",
        "steps",
        "draws",
        "inexact",
    ]
    assert file.end["digest"] == sim.trace.digest
    assert file.end["schedule_digest"] == sim.trace.schedule_digest
    assert (file.end["outcome"], file.end["steps"]) == ("passed", sim.loop.steps)


def test_a_failing_run_says_so_in_its_file(tmp_path: Path) -> None:
    """Whatever ended the block, the file is whole and tells the outcome."""
    path = tmp_path / "run.jsonl"
    with pytest.raises(RuntimeError), Sim(trace_file=path) as sim:
        sim.ports.trace.emit("user.seen")
        raise RuntimeError("a test failed")
    file = read_jsonl(path.read_text("utf-8"))
    assert file.end is not None
    assert file.end["outcome"] == "failed"
    assert [record.kind for record in file.records] == ["user.seen", "end"]


def test_a_file_changes_nothing_else_and_replays(tmp_path: Path) -> None:
    """Digests are those of a run without; another process writes the same (check 74).

    The header may differ, and does in the hash seed.
    """
    path = tmp_path / "here.jsonl"
    sim = write_story(path)
    with Sim(seed=3, policy="random") as plain:
        plain.run(story)
    assert plain.trace.schedule_digest == sim.trace.schedule_digest
    code = (
        "import sys; from pathlib import Path; "
        "from tests.sim.test_trace_file import write_story; "
        "write_story(Path(sys.argv[1]))"
    )
    other = tmp_path / "there.jsonl"
    environ = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(other)]
    subprocess.run(command, check=True, env=environ, cwd=ROOT)
    here, there = (p.read_text("utf-8").split("\n", 1) for p in (path, other))
    assert json.loads(there[0])["hash_seed"] == "4711"
    assert here[1] == there[1]


def test_a_long_trace_streams_in_bounded_memory(tmp_path: Path) -> None:
    """A hundred thousand events grow memory by the kept tail only (check 76)."""
    path = tmp_path / "run.jsonl"

    def main() -> None:
        emit = sim.ports.trace.emit
        for n in range(100_000):
            emit("user.count", (("n", n),))

    with Sim(trace_file=path, keep=1_000) as sim:
        tracemalloc.start()
        try:
            main()
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert grown < 6 * 2**20
    assert len(read_jsonl(path.read_text("utf-8")).records) == 100_001


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """Before anything runs, and before the file is touched."""
    with pytest.raises(ValueError, match="trace='off' has nothing to write"):
        Sim(trace="off", trace_file=tmp_path / "never.jsonl")
    assert not (tmp_path / "never.jsonl").exists()
    with (
        pytest.raises(OSError, match="nowhere"),
        Sim(trace_file=tmp_path / "nowhere/x"),
    ):
        pass
    with Sim() as sim:  # the one that failed to begin left nothing behind
        assert sim.clock.elapsed == 0
