"""Eager task factories become ours, and do not break the replay (check 13)."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from rpcsim.errors import ForeignTaskWarning
from rpcsim.sim import Sim
from rpcsim.sim._task import SimTask

EAGER = sys.version_info >= (3, 12)


def plain_class(coro: Any, loop: Any) -> Any:
    """Make a task as aiohttp does."""
    options: Any = {"eager_start": True} if EAGER else {}
    return asyncio.Task(coro, loop=loop, **options)


def run(**options: Any) -> tuple[list[str], Sim]:
    """Set the eager factory, where there is one; tell the order things ran in."""
    log: list[str] = []

    async def child(name: str, seconds: float) -> str:
        log.append(f"{name} begins")
        await asyncio.sleep(seconds)
        log.append(f"{name} ends")
        return name

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))
        async with asyncio.TaskGroup() as group:
            for n in range(4):
                task = group.create_task(child(f"child {n}", 1))
                assert type(task) is SimTask
                log.append(f"made {task.get_name()}")
        other = plain_class(child("plain", 1), loop)
        assert type(other) is SimTask
        assert isinstance(other, asyncio.Task)
        log.append("made")
        await other
        await asyncio.to_thread(log.append, "blocking")

    with Sim(trace="steps", **options) as sim:
        sim.run(main)
    assert sim.leftovers == ()
    return log, sim


@pytest.mark.parametrize("policy", ["fifo", "random"])
@pytest.mark.parametrize("eager", ["start", "defer"])
def test_eager_tasks_are_ours_and_replay(policy: str, eager: Any) -> None:
    """The class is ours, names count per host, two runs are one run."""
    first, one = run(policy=policy, eager=eager, seed=4)
    second, two = run(policy=policy, eager=eager, seed=4)
    assert first == second
    assert one.trace.schedule_digest == two.trace.schedule_digest
    assert one.trace.digest == two.trace.digest
    assert "made test/child-2" in first


def test_an_eager_task_begins_inside_the_creating_step() -> None:
    """Where the interpreter has them; `defer` makes them ordinary tasks."""
    begun, sim = run()
    deferred, later = run(eager="defer")
    assert deferred.index("child 0 begins") > deferred.index("made test/child-5")
    assert later.trace.of_kind("task.eager") == []
    if EAGER:
        assert begun[:2] == ["child 0 begins", "made test/child-2"]
        told = [r.get("task") for r in sim.trace.of_kind("task.eager")]
        assert told[0] == "test/child-2"
    else:
        assert begun[0] == "made test/child-2"


def test_a_name_that_is_not_known_is_refused() -> None:
    """`eager` is `start` or `defer`."""
    with pytest.raises(ValueError, match="unknown eager 'defr'; did you mean 'defer'"):
        Sim(eager="defr")  # type: ignore[arg-type]


def test_the_class_is_asyncios_own_after_the_run() -> None:
    """Code outside the simulation makes real tasks during a run, too."""
    before = asyncio.Task
    with Sim() as sim:
        sim.run(lambda: None)
        assert asyncio.Task is not before
        assert issubclass(before, asyncio.Task)

        class Own(asyncio.Task[Any]):
            pass

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_task_factory(lambda loop, coro, **_: Own(coro, loop=loop))
            with pytest.warns(ForeignTaskWarning):
                await loop.create_task(asyncio.sleep(1))

        sim.run(main)
    assert asyncio.Task is before
