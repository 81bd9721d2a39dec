"""Shrinking ends at the choices that matter, and says what it cost."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcsim.explore import shrink_tape
from rpcsim.sim import Sim, Tape, Track, replay

ROOT = Path(__file__).parents[2]


def orders(**options: Any) -> tuple[list[int], Sim]:
    """Let twelve tasks take forty steps each; give the order in which they did."""
    order: list[int] = []

    async def walk(n: int) -> None:
        for _ in range(40):
            order.append(n)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(walk(n) for n in range(12)))

    with Sim(trace="off", **options) as sim:
        sim.run(main)
    return order, sim


def is_bad(order: list[int]) -> bool:
    """Fail when two unlikely things happened: each needs a deviation of its own."""
    # Task 5 took its first step before task 0, and 7 its fourth right after 11 its.
    early = order.index(5) < order.index(0)
    seventh = [at for at, n in enumerate(order) if n == 7]
    last = [at for at, n in enumerate(order) if n == 11]
    return early and seventh[20] > last[20]


def test_two_hundred_deviations_become_the_two_that_matter() -> None:
    """On a failing tape of a random run (check 24)."""
    seed = next(n for n in range(500) if is_bad(orders(seed=n, policy="random")[0]))
    _, sim = orders(seed=seed, policy="random", record=True)
    assert sim.tape is not None
    assert sim.tape.cost()[0] >= 200

    def fails(tape: Tape) -> bool:
        return is_bad(orders(policy=replay(tape, strict=False))[0])

    shrunk = shrink_tape(sim.tape, fails)
    assert fails(shrunk.tape)
    assert shrunk.done
    assert shrunk.after[0] == 2
    assert shrunk.runs < 400
    # Nothing of it can be left out.
    for label, index, _ in shrunk.tape.deviations():
        assert not fails(shrunk.tape.fix(label, index, 0))
    assert str(shrunk).startswith(f"{shrunk.before[0]} deviations reduced to 2 in ")
    assert "schedule[" in str(shrunk)


PRINTED = (
    "import pathlib, sys; from rpcsim.sim import Tape, replay; "
    "from tests.explore.test_shrink import is_bad, orders; "
    "tape = Tape.loads(pathlib.Path({path!r}).read_text()); "
    "sys.exit(is_bad(orders(policy=replay(tape, strict=False))[0]))"
)


def test_a_shrunk_tape_fails_in_another_process(tmp_path: Path) -> None:
    """Written to its file and followed there, it fails in the same way (check 24)."""
    seed = next(n for n in range(500) if is_bad(orders(seed=n, policy="random")[0]))
    _, sim = orders(seed=seed, policy="random", record=True)
    assert sim.tape is not None
    shrunk = shrink_tape(
        sim.tape, lambda tape: is_bad(orders(policy=replay(tape, strict=False))[0])
    )
    path = tmp_path / "found.tape"
    path.write_text(shrunk.tape.dumps())
    command = shlex.join([sys.executable, "-c", PRINTED.format(path=str(path))])
    done = subprocess.run(
        shlex.split(command),
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "5"},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=40),
    st.lists(st.integers(0, 9), max_size=40),
    st.data(),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_the_end_is_minimal(
    one: list[int], two: list[int], data: st.DataObject
) -> None:
    """No choice can be left out or lowered, whatever it takes to fail."""
    needs = {
        ("schedule", index): data.draw(st.integers(1, one[index]))
        for index in data.draw(st.sets(st.integers(0, len(one) - 1), max_size=3))
        if one[index]
    }
    ranges = (10,)
    tape = Tape(
        tracks={
            "schedule": Track(tuple(one), ranges * len(one)),
            "net/a>b": Track(tuple(two), ranges * len(two)),
        }
    )

    def fails(tape: Tape) -> bool:
        values = tape.tracks.get("schedule", Track()).values
        return all(
            index < len(values) and (values[index] or 0) >= least
            for (_, index), least in needs.items()
        )

    shrunk = shrink_tape(tape, fails)
    assert {
        (label, index): value for label, index, value in shrunk.tape.deviations()
    } == (needs)
    assert len(shrunk.tape) == max((index + 1 for _, index in needs), default=0)
    if not needs:
        assert "first in, first out" in str(shrunk)


def test_a_tape_that_does_not_fail_is_refused() -> None:
    """There is nothing to shrink; the text says what to look at."""
    with pytest.raises(ValueError, match="does not fail: record it"):
        shrink_tape(Tape.zeros(3), lambda _tape: False)


def test_the_runs_are_limited() -> None:
    """What was found by then is given, and said not to be minimal."""
    tape = Tape.of({"schedule": [1] * 64})

    def fails(tape: Tape) -> bool:
        return len(list(tape.deviations())) >= 20

    shrunk = shrink_tape(tape, fails, max_runs=5)
    assert not shrunk.done
    assert shrunk.runs == 5
    assert "ran out before it was minimal" in str(shrunk)
    assert fails(shrunk.tape)
