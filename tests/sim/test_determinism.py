"""One program, one seed, one run: in this process, and in fresh ones."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from asyncio import as_completed as early_as_completed
from asyncio import wait as early_wait
from pathlib import Path
from typing import Any

import pytest

from rpcsim.sim import Sim
from rpcsim.trace import write_jsonl
from tests.sim.programs import (
    RACES,
    conversation,
    fail_after,
    perturbations,
    race_outcome,
)

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
junk = [[n] for n in range({junk})]
from tests.sim.programs import conversation, race_outcome
from tests.sim.test_determinism import trace_file
runs = [race_outcome(), race_outcome(seed=3, policy="random")]
for policy in ("fifo", "random"):
    trace = conversation(seed=9, policy=policy, trace="steps").trace
    runs.append([trace.digest, trace.schedule_digest])
runs.append(trace_file())
print(json.dumps(runs, default=str))
"""


@pytest.mark.parametrize("race", RACES, ids=lambda race: race.__name__)
def test_races_have_one_outcome(race: Any) -> None:
    """`TaskGroup`, `wait`, `as_completed`, `all_tasks` over a moving heap (check 17)."""
    outcomes = set()
    for junk in perturbations():
        with Sim() as sim:
            log: list[Any] = []
            # More or fewer tasks before, so that numbers and registers differ.
            for _ in range(len(junk) % 5):
                sim.run(asyncio.sleep(0))
            sim.run(race(log))
        with Sim(trace="off") as sim:  # a register that grows and shrinks
            sim.run(_many(len(junk)))
        outcomes.add(repr(log))
    assert len(outcomes) == 1


async def _many(n: int) -> None:
    await asyncio.gather(*(asyncio.sleep(1) for _ in range(n)))


def test_names_bound_early_are_reached() -> None:
    """`from asyncio import as_completed, wait` before the run (check 18)."""

    async def race() -> list[Any]:
        log: list[Any] = []
        gathers = [asyncio.gather(asyncio.sleep(1, n)) for n in range(9)]
        done, _ = await early_wait(gathers)
        log += [future.result() for future in done]
        for future in early_as_completed([fail_after(1, [], n) for n in range(6)]):
            log.append(await future)
        return log

    outcomes = set()
    for junk in perturbations():
        with Sim() as sim:
            outcomes.add(repr(sim.run(race)))
        assert junk is not None
    assert outcomes == {repr([[n] for n in range(9)] + list(range(6)))}
    assert "set" not in vars(asyncio.tasks)


def fresh_process(hash_seed: int) -> Any:
    """Run the races and conversations in a new interpreter."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(junk=hash_seed * 1_000)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_fresh_processes_agree() -> None:
    """Digests and outcomes are equal under other hash seeds (checks 17, 74)."""
    here: list[Any] = [race_outcome(), race_outcome(seed=3, policy="random")]
    for policy in ("fifo", "random"):
        trace = conversation(seed=9, policy=policy, trace="steps").trace
        here.append([trace.digest, trace.schedule_digest])
    here.append(trace_file())
    plain = json.loads(json.dumps(here, default=str))
    for hash_seed in (1, 2, 77):
        assert fresh_process(hash_seed) == plain


def trace_file() -> str:
    """Give the trace file of one run, as text."""
    trace = conversation(seed=4, policy="pct(horizon=50)", trace="steps").trace
    return write_jsonl(trace, header={"seed": 4}, end={})


def test_a_trace_file_holds_nothing_of_the_machine() -> None:
    """Equal runs give equal files, here and in fresh processes (above; check 74)."""
    assert trace_file() == trace_file()
    for word in (str(ROOT), "0x", str(os.getpid()) + ","):
        assert word not in trace_file().replace("10.0.0", "")


def told_races() -> str | None:
    """Record what the races note, in simulated time; give the protocol digest."""
    with Sim(seed=1, policy="fifo") as sim:
        for race in RACES:
            log: list[Any] = []
            sim.run(race(log))
            sim.record("mock", (("race", race.__name__), ("log", repr(log))))
    return sim.trace.digest


def test_the_protocol_digest_is_that_of_every_python() -> None:
    """One value for 3.11, 3.12 and 3.13, whose step counts differ (check 74)."""
    assert told_races() == "c11ba195f3db46db75e63369b2fe6b8e"


def test_a_seed_is_a_run() -> None:
    """Equal seeds give equal digests; other seeds other ones (11.3)."""
    digests = set()
    for seed in range(6):
        one, two = (
            conversation(seed=seed, policy="random", trace="steps").trace
            for _ in range(2)
        )
        assert one.diff(two) is None
        assert one.digest == two.digest
        assert one.schedule_digest == two.schedule_digest
        digests.add(one.digest)
    assert len(digests) == 6


def test_the_level_of_the_trace_does_not_change_the_digest() -> None:
    """Steps are in the schedule digest only (11.2, 11.3)."""
    plain = conversation(seed=5).trace
    steps = conversation(seed=5, trace="steps").trace
    off = conversation(seed=5, trace="off").trace
    assert plain.digest == steps.digest
    assert len(steps) > len(plain)
    assert (off.digest, off.schedule_digest, len(off)) == (None, None, 0)


def test_the_seed_of_fifo_draws_nothing() -> None:
    """`fifo` makes no choices; the network draws from streams of its own (10.1)."""
    sim = conversation(seed=1)
    assert "schedule" not in sim.entropy.draws()
    assert conversation(seed=1, policy="random").entropy.draws()["schedule"] >= 10


def test_one_more_draw_changes_no_other_stream() -> None:
    """A draw in `user/a` changes nothing but what it is used for (check 25)."""

    def run(extra: bool) -> Any:
        with Sim(seed=2) as sim:
            if extra:
                sim.entropy.stream("user/a").random()
            other = [sim.entropy.stream("user/b").random(), sim.entropy.uuid4()]
            log: list[Any] = []
            for race in RACES:
                sim.run(race(log))
        return other, log, sim.trace.digest

    assert run(False) == run(True)


def test_nothing_in_a_trace_shows_an_address() -> None:
    """Strands and data are names (11.1)."""
    for record in conversation(trace="steps").trace:
        assert " at 0x" not in str(record)
        assert "0x" not in record.strand
