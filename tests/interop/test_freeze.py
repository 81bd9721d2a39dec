"""freezegun as a follower of the simulated clock."""

from __future__ import annotations

import ast
import asyncio
import datetime
import random
import subprocess
import sys
import time
import warnings
from datetime import datetime as early_datetime
from pathlib import Path
from time import time as early_time
from typing import TYPE_CHECKING, Any

import pytest
from _pytest import timing
from freezegun import freeze_time

import rpcsim
from rpcsim.errors import SimulationError
from rpcsim.harness import simulate
from rpcsim.interop import freeze, frozen_start
from rpcsim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Callable

WALL = 946_684_800


def readings() -> int:
    """Ask every clock for the wall time, in microseconds; they agree to one."""
    epoch = datetime.datetime(1970, 1, 1)
    us = datetime.timedelta(microseconds=1)
    day = datetime.date(1970, 1, 1)
    told: int = (datetime.datetime.now() - epoch) // us
    assert told == (early_datetime.now() - epoch) // us
    assert told == (datetime.datetime.utcnow() - epoch) // us
    # freezegun computes these as floats of seconds.
    for seconds in (time.time(), early_time(), time.time_ns() / 1e9):
        assert abs(seconds * 1e6 - told) <= 1
    for moment in (
        datetime.datetime(*time.gmtime()[:6]),
        datetime.datetime(*time.localtime()[:6]),
        datetime.datetime.strptime(time.strftime("%Y%m%d%H%M%S"), "%Y%m%d%H%M%S"),
    ):
        assert (moment - epoch) // us // 10**6 == told // 10**6
    assert (datetime.date.today() - day).days == told // 10**6 // 86_400
    assert (early_datetime.today() - epoch).days == told // 10**6 // 86_400
    return told


def test_after_every_event_the_clocks_agree() -> None:
    """`datetime`, `time`, the loop and the port, in steps and outside (check 68)."""
    counters: list[tuple[float, float, float]] = []

    def check() -> None:
        assert readings() == sim.clock.wall_ns() // 1000
        counters.append(
            (time.monotonic(), time.perf_counter(), sim.loop.now_ns // 1000 / 1e6)
        )

    def sleep_and_check() -> None:
        time.sleep(75)
        check()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        chance = random.Random(3)
        for _ in range(200):
            loop.call_later(chance.random() * 100_000, check)
        check()
        await asyncio.sleep(86_400.123_456_7)
        check()
        await asyncio.to_thread(sleep_and_check)

    with Sim() as sim:
        host = sim.host("box")
        with freeze(sim):
            host.run(story)
            check()
            sim.clock.advance("1ms")
            check()
        assert host.run(time.time_ns) == sim.clock.wall_ns()
        assert time.time() > WALL + 10**8
    assert len(counters) > 100
    first = counters[0]
    for reading in counters:
        gone = [round(now - then, 6) for now, then in zip(reading, first, strict=True)]
        assert max(gone) - min(gone) <= 2e-6


def names() -> list[Any]:
    return [time.time, time.sleep, time.monotonic, datetime.datetime, random.getstate()]


def test_everything_is_put_back() -> None:
    """After the freeze, after the run, also when the run ends first (9.1)."""
    before = names()
    with Sim() as sim:
        inside = names()
        with freeze(sim) as frozen:
            assert names()[:1] != inside[:1]
            assert "2000-01-01" in repr(frozen)
        assert names() == inside
        assert repr(frozen) == "<FrozenClock off>"
        freeze(sim).start()
        sim.clock.advance(1)
    assert names() == before
    assert frozen_start() is None
    with pytest.raises(SimulationError, match="inside the `with` block"):
        freeze(sim).start()


def test_moving_the_freezer_moves_the_simulation() -> None:
    """What is due on the way runs at its own time; back is an error (9.2)."""
    seen: list[tuple[float, str]] = []

    def note() -> None:
        seen.append((sim.clock.elapsed, datetime.datetime.now().isoformat()))

    with Sim() as sim, freeze(sim) as frozen:
        for when in (1, 3, 3600):
            sim.loop.call_at(when, note)
        frozen.tick()
        frozen.tick(datetime.timedelta(seconds=4))
        frozen.move_to("2000-01-01T02:00:00+01:00")
        frozen.move_to(datetime.datetime(2000, 1, 1, 2))
        assert sim.clock.elapsed == 7200
        with pytest.raises(ValueError, match="time does not go back"):
            frozen.move_to("2000-01-01")
        with pytest.raises(SimulationError, match="freeze once"):
            freeze(sim).start()
    assert seen == [
        (1, "2000-01-01T00:00:01"),
        (3, "2000-01-01T00:00:03"),
        (3600, "2000-01-01T01:00:00"),
    ]


def test_a_users_freeze_around_a_world_is_its_start() -> None:
    """`@freeze_time` sets `wall_start`; following it inside agrees (9.2)."""
    with freeze_time("2024-02-29 12:00:00"):
        with simulate() as world:
            world.clock.advance(1)
            assert world.clock.now().isoformat() == "2024-02-29T12:00:01+00:00"
            with world.freeze():
                world.clock.advance(1)
                assert readings() == world.clock.wall_ns() // 1000
                assert world.run(readings) == world.clock.wall_ns() // 1000
        assert datetime.datetime.now().isoformat() == "2024-02-29T12:00:00"


def test_a_users_freeze_inside_suspends_following() -> None:
    """With one warning, until it ends; then the clocks catch up (9.2)."""
    with Sim() as sim, freeze(sim):
        sim.clock.advance(1)
        with freeze_time("1999-01-01"):
            with pytest.warns(UserWarning, match="user's own"):
                sim.clock.advance(1)
            assert datetime.datetime.now().year == 1999
        with freeze_time("1999-01-01"), warnings.catch_warnings():
            warnings.simplefilter("error")
            sim.clock.advance(1)
        sim.clock.advance(1)
        assert readings() == (WALL + 4) * 10**6


def test_a_hosts_own_clock_is_told_of() -> None:
    """The freeze shows the world's time; the trace has a note (9.2)."""
    with Sim() as sim:
        box = sim.host("box")
        box.clock.skew("1h")
        with freeze(sim):
            assert box.run(time.time) == WALL
            box.clock.step("1h")
        assert box.run(time.time) == WALL + 7200
    notes = [r.host for r in sim.trace if r.kind == "note"]
    assert notes == ["box", "box"]


def test_equal_digests_with_and_without() -> None:
    """Following changes nothing in the run."""

    def run(watch: Callable[[Sim], Any]) -> str | None:
        with Sim(seed=3, policy="random", trace="steps") as sim:
            box = sim.host("box", lambda: asyncio.sleep(5))
            with watch(sim):
                sim.clock.advance(3)
                box.crash()
        return sim.trace.schedule_digest

    assert run(freeze) == run(lambda sim: sim.background())


def test_without_freezegun_the_rest_works() -> None:
    """It is loaded on first use, not by `rpcsim` or a run (check 68)."""
    code = (
        "import sys; sys.modules['freezegun'] = None\n"
        "import time, rpcsim\n"
        "with rpcsim.simulate() as world:\n"
        "    world.clock.advance(5)\n"
        "    assert world.run(time.time) == 946684805\n"
        "    try:\n"
        "        world.freeze().start()\n"
        "    except ImportError:\n"
        "        print('fine')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "fine\n"


def test_our_modules_keep_no_clock_where_the_freeze_finds_it() -> None:
    """Outside the real side, nothing binds a clock function to a module's name (9.3)."""
    root = Path(rpcsim.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if path.name == "_ambient.py" or path.parent.name == "real":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                taken = {alias.name for alias in node.names}
                assert not taken, f"{path} takes {taken} from time"


def test_the_runners_own_timing_stays_real() -> None:
    """Durations and progress of the test session are the machine's (9.3)."""
    with Sim() as sim, freeze(sim):
        sim.clock.advance("1h")
        assert time.time() == WALL + 3600
        assert timing.time() > WALL + 10**8
        assert timing.perf_counter() != timing.perf_counter()
