"""Ambient clocks, chance and identity: simulated in steps, real elsewhere."""

from __future__ import annotations

import ast
import os
import platform
import random
import secrets
import socket
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from random import random as early_random
from typing import Any

import pytest

import rpcsim.sim
from rpcsim.sim import Sim

ROOM = Path(rpcsim.sim.__file__).parent


def values() -> list[Any]:
    """Ask everything that is replaced."""
    return [
        *(time.time(), time.time_ns(), time.monotonic(), time.monotonic_ns()),
        *(time.perf_counter(), time.perf_counter_ns(), time.process_time()),
        *(time.thread_time_ns(), time.localtime()[:6], time.gmtime()[:6]),
        *(time.strftime("%Y-%m-%d %H:%M:%S"), time.ctime()),
        *(random.random(), random.randint(1, 10**9), early_random()),
        *(random.SystemRandom().random(), os.urandom(8), os.urandom(0)),
        *(secrets.token_hex(8), secrets.randbelow(10**9)),
        *(uuid.uuid4(), uuid.uuid1(), uuid.uuid1(), os.getpid()),
        *(socket.gethostname(), platform.node()),
    ]


def test_two_runs_see_equal_values() -> None:
    """Time, chance and ids are functions of the seed (check 66)."""

    def run(seed: int) -> list[list[Any]]:
        seen = []
        with Sim(seed=seed) as sim:
            for host in ("a", "b"):
                seen.append(sim.host(host).run(values))
                sim.clock.advance(1.5)
        return seen

    first, other = run(1), run(2)
    assert run(1) == first
    a, b = first
    assert a[:4] == [946684800.0, 946684800 * 10**9, 0.0, 0]
    assert b[:4] == [946684801.5, 946684801_500_000_000, 1.5, 1_500_000_000]
    assert b[10:12] == ["2000-01-01 00:00:01", "Sat Jan  1 00:00:01 2000"]
    assert a[-1] == a[-2] == "a"
    assert len({a[-3], b[-3]}) == 2
    assert a[20].version == 4
    assert (a[21].version, a[21].variant) == (1, uuid.RFC_4122)
    assert a[21] != a[22]
    assert a[12:22] != other[0][12:22]
    assert a[:6] == other[0][:6]


def test_names_and_state_are_the_originals_afterwards() -> None:
    """After a run, also a failed one, everything is as it was (check 66)."""
    names = [
        (module, name)
        for module in (time, os, random, uuid, secrets, socket, platform)
        for name in ("time", "sleep", "urandom", "_urandom", "uuid1", "node", "getpid")
        if hasattr(module, name)
    ]
    before = [getattr(module, name) for module, name in names]
    random.seed(5)
    state = random.getstate()
    with pytest.raises(ZeroDivisionError), Sim() as sim:
        assert time.time is not before[0]
        sim.run(values)
        sim.run(lambda: 1 / 0)
    assert [getattr(module, name) for module, name in names] == before
    assert random.getstate() == state


def test_code_outside_steps_reads_real_time() -> None:
    """The test, and the runner's timing, during a run (check 67)."""
    with Sim() as sim:
        sim.run(lambda: time.sleep(10_000))
        assert time.time() > 1_600_000_000
        assert time.perf_counter() != sim.clock.elapsed
        assert os.getpid() > 0
        assert socket.gethostname() != "test"

        def story() -> None:
            assert time.monotonic() == 10_000
            with sim.real_time():
                assert time.time() > 1_600_000_000
            assert time.time() == 946_684_800 + 10_000

        sim.run(story)


def test_parts_may_be_chosen() -> None:
    """`ambient={...}` replaces some, `False` nothing (9.1)."""

    def seen() -> tuple[bool, bool]:
        return time.monotonic() == 0, socket.gethostname() == "test"

    with Sim(ambient={"time"}) as sim:
        assert sim.run(seen) == (True, False)
    with Sim(ambient={"identity"}) as sim:
        assert sim.run(seen) == (False, True)
    with Sim(ambient=False) as sim:
        assert sim.run(seen) == (False, False)


def test_the_wall_clock_starts_where_told() -> None:
    """Naive is UTC; the `Clock` port and `time.time` agree."""
    start = datetime(2024, 2, 29, 12, tzinfo=UTC)
    with Sim(wall_start=start.replace(tzinfo=None)) as sim:
        sim.clock.advance("36h")
        assert sim.clock.now() == datetime(2024, 3, 2, tzinfo=UTC)
        assert sim.run(time.time) == sim.clock.now().timestamp()
        assert sim.clock.now(None).utcoffset() is not None
        assert repr(sim.clock) == "<SimClock at 129600 s>"


def test_arguments_pass_through() -> None:
    """The replaced functions keep their signatures."""
    with Sim() as sim:

        def story() -> list[Any]:
            with pytest.raises(ValueError, match="negative"):
                os.urandom(-1)
            return [
                time.gmtime(0)[:3],
                time.localtime(86_400)[:3],
                time.strftime("%Y", time.gmtime(0)),
                time.ctime(0),
                uuid.uuid1(node=7, clock_seq=3).node,
                len(os.urandom(5)),
            ]

        assert sim.run(story) == [
            *((1970, 1, 1), (1970, 1, 2), "1970", "Thu Jan  1 00:00:00 1970", 7, 5)
        ]
    assert len(os.urandom(5)) == 5
    assert uuid.uuid1(node=7).node == 7


def test_one_file_touches_the_machine_and_one_greenlet() -> None:
    """Imports of the room: clock, chance and threads in one file (check 83)."""
    for path in sorted(ROOM.glob("*.py")):
        modules = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(str(node.module))
        touched = modules & {"time", "os", "uuid", "random", "threading", "secrets"}
        if path.name == "_streams.py":
            # Its own generators; of `uuid` only the value class.
            assert touched <= {"random", "uuid"}
        elif path.name in ("_external.py", "_logs.py"):
            # Real threads of their own, and the name of the running one.
            assert touched <= {"threading"}
        elif path.name != "_ambient.py":
            assert not touched, path.name
        assert ("greenlet" in modules) == (path.name == "_fiber.py"), path.name


def test_the_stream_module_uses_no_ambient_chance() -> None:
    """Only `random.Random(seed)`; never a function of the module (1, 10.1)."""
    tree = ast.parse((ROOM / "_streams.py").read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("random", "uuid")
    }
    assert used == {"Random"}
