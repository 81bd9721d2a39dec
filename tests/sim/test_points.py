"""Points of production code, armed by a plan."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.errors import BlockingInCoroutine, PlanError, SimulationError
from rpcsim.ports import current
from rpcsim.sim import Sim, crash, delay, pause, raise_

if TYPE_CHECKING:
    from rpcsim.sim import Passing


def blocking(log: list[Any], n: int = 4) -> None:
    """Pass a point between two notes, `n` times."""
    for i in range(n):
        log.append(f"before {i}")
        current().points.point("store", sn=str(i))
        log.append(f"after {i}")
        time.sleep(1)


def host_of(sim: Sim, log: list[Any], name: str = "box") -> Any:
    """Declare a host that runs `blocking`."""

    async def program() -> None:
        await current().bridge.call_blocking(blocking, log)

    return sim.host(name, program)


def test_a_crash_at_the_second_passing_happens_there() -> None:
    """Nothing after the point runs, not even the rest of the step (check 43)."""
    log: list[str] = []
    with Sim() as sim:
        box = host_of(sim, log)
        sim.at_point("store", host="box", nth=2, do=crash)
        sim.clock.advance(10)
        assert box.state == "crashed"
        assert log == ["before 0", "after 0", "before 1"]
        assert sim.unreached() == []
        box.restart()
        sim.clock.advance(10)
        assert log[3:] == [f"{w} {i}" for i in range(4) for w in ("before", "after")]
    told = [(r.t_ns, r.kind, r.data) for r in sim.trace if r.kind in ("point", "fault")]
    assert [kind for _, kind, _ in told] == ["point", "point", "fault"]
    assert told[1][0] == 10**9
    assert told[1][2] == (("name", "store"), ("sn", "1"))
    assert told[2][2] == (
        ("kind", "point"),
        ("do", "crash at passing 2 of point 'store' on box"),
    )


def test_a_point_never_reached_is_reported() -> None:
    """By the run, and in its trace (check 43)."""
    log: list[str] = []
    with Sim() as sim:
        host_of(sim, log)
        sim.at_point("store", nth=9, do=crash)
        sim.at_point("nowhere", do=pause)
        with sim.at_point("store", nth=1, do=crash):
            pass  # disarmed before anything runs, and so never reached
        sim.clock.advance(10)
        unreached = [
            "crash at passing 9 of point 'store' (passed 4 times)",
            "pause at passing 1 of point 'nowhere' (passed 0 times)",
            "crash at passing 1 of point 'store' (passed 0 times)",
        ]
        assert sim.unreached() == unreached
    kind = "plan.unreached"
    assert [r.get("what") for r in sim.trace if r.kind == kind] == unreached
    assert len(log) == 8


def test_a_pause_holds_blocking_code_at_the_point() -> None:
    """It goes on there when the host is resumed (4.4)."""
    log: list[str] = []
    with Sim() as sim:
        box = host_of(sim, log)
        sim.at_point("store", nth=1, do=pause)
        sim.clock.advance(5)
        assert (box.state, log) == ("paused", ["before 0"])
        box.resume()
        sim.clock.advance(0.5)
        assert log == ["before 0", "after 0"]


def test_delay_and_raise() -> None:
    """Blocking code stays so long; an error comes out of the point (4.4)."""
    seen: list[float] = []

    def program() -> None:
        for _ in range(3):
            current().points.point("p")
            seen.append(sim.clock.elapsed)

    with Sim() as sim:
        sim.at_point("p", nth=1, do=delay("3s"))
        sim.at_point("p", nth=3, do=raise_(ConnectionError("cut")))
        box = sim.host("box")
        with pytest.raises(ConnectionError, match="cut"):
            box.run(program)
    assert seen == [3, 3]


def test_a_coroutine_cannot_be_delayed() -> None:
    """The middle of a step is no place to wait; it is an error (4.4)."""

    async def program() -> None:
        current().points.point("p")

    with pytest.raises(BlockingInCoroutine, match="sleep"), Sim() as sim:
        sim.at_point("p", do=delay(1))
        sim.run(program)


def test_a_crash_in_a_coroutine_lets_nothing_out() -> None:
    """The step runs to its `await`; what it writes or records is lost (4.4)."""
    got: list[bytes] = []

    async def serve() -> None:
        async def take(reader: asyncio.StreamReader, writer: Any) -> None:
            got.append(await reader.read(100))

        await (await asyncio.start_server(take, "", 7)).serve_forever()

    async def client() -> None:
        _, writer = await asyncio.open_connection("server", 7)
        current().points.point("p")
        writer.write(b"too late")
        current().trace.emit("note", (("text", "too late"),))
        assert not current().points.buggify("rare")
        current().points.point("p")
        await asyncio.sleep(0)
        got.append(b"never")

    with Sim() as sim:
        sim.host("server", serve)
        sim.at_point("p", do=crash)
        sim.buggify("rare")
        sim.host("client", client)
        sim.clock.advance(5)
        assert got == []
    assert sum(r.kind == "point" for r in sim.trace) == 1
    assert not [r for r in sim.trace if r.kind == "note"]


def test_any_function_and_every_passing() -> None:
    """`do` gets the passing; `nth=None` means each; another host does not count."""
    seen: list[Any] = []

    def note(passing: Passing) -> None:
        seen.append((passing.host.name, passing.count, dict(passing.labels)))

    with Sim() as sim:
        for name in ("a", "b"):
            host_of(sim, [], name)
        armed = sim.at_point("store", host="a", nth=None, do=note)
        sim.clock.advance(1.5)
        told = "<note at every passing of point 'store' on a: passed 2 times>"
        assert repr(armed) == told
        armed.undo()
        armed.undo()
        sim.clock.advance(5)
    assert seen == [("a", 1, {"sn": "0"}), ("a", 2, {"sn": "1"})]


def test_rare_branches() -> None:
    """False unless a plan turns it on; then drawn from a stream of its own (4.4)."""

    def ask() -> list[bool]:
        return [current().points.buggify("slow path") for _ in range(200)]

    def run(seed: int) -> tuple[list[bool], list[bool], float]:
        with Sim(seed=seed) as sim:
            box = sim.host("box")
            assert not any(box.run(ask))
            with sim.buggify("slow path", host="box", probability=0.3):
                drawn = box.run(ask)
                assert not any(sim.run(ask))
            with sim.buggify("slow path"):
                always = box.run(ask)
            return drawn, always, sim.entropy.stream("user/box").random()

    drawn, always, chance = run(5)
    assert all(always)
    assert 30 < sum(drawn) < 90
    assert run(5)[0] == drawn != run(6)[0]
    with Sim(seed=5) as sim:
        assert sim.entropy.stream("user/box").random() == chance


def test_contradictions_and_nonsense_are_refused_when_armed() -> None:
    """Not when the point is passed."""
    with Sim() as sim:
        sim.host("box")
        sim.at_point("p", host="box", nth=2, do=crash)
        for host, which in (("box", 2), (None, 2), ("box", None)):
            with pytest.raises(PlanError, match="is armed already"):
                sim.at_point("p", host=host, nth=which, do=pause)
        sim.at_point("p", host="box", nth=3, do=pause)
        sim.at_point("p", host="test", nth=2, do=pause)
        wrong: tuple[Any, ...] = (0, 1.5, True)
        for nth in wrong:
            with pytest.raises(PlanError, match="counts passings from 1"):
                sim.at_point("q", nth=nth, do=crash)
        with pytest.raises(PlanError, match="not 'crash'"):
            sim.at_point("q", do="crash")  # type: ignore[arg-type]  # on purpose
        with pytest.raises(SimulationError, match="did you mean 'box'"):
            sim.at_point("q", host="bix", do=crash)
        with pytest.raises(PlanError, match="probability"):
            sim.buggify("q", probability=2)
    with pytest.raises(ValueError, match="not a duration"):
        delay("soon")
    with pytest.raises(TypeError, match="takes an exception"):
        raise_("oops")  # type: ignore[arg-type]  # on purpose


def test_unarmed_points_leave_no_trace() -> None:
    """A program with points has the digest of one without."""

    def run(*, points: bool) -> str | None:
        async def program() -> None:
            if points:
                current().points.point("store", sn="1")
                current().points.buggify("rare")
            await asyncio.sleep(1)

        with Sim(trace="steps") as sim:
            sim.host("box").run(program)
        return sim.trace.schedule_digest

    assert run(points=True) == run(points=False)
