"""What a run tells of itself while it runs: what is there, waits, or failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rpcsim.real._home import task_label

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from types import FrameType

    from rpcsim.real._engine import Engine
    from rpcsim.real._home import Home

__all__ = ["take_failures", "tell_leftovers", "tell_waiting"]


def tell_leftovers(engine: Engine) -> Iterator[str]:
    """Tell of what a test has there: tasks, listeners, connections, timers, threads.

    What software given to a host owns is the host's, and ends with it.
    """
    for home in engine.homes.values():
        if home is not engine.backstage and not home.dead:
            yield from home.lines()


def tell_waiting(engine: Engine) -> Iterator[str]:
    """Tell what waits: tasks with their place, then threads with what they wait for."""
    for home in _alive(engine):
        for task in home.tasks:
            yield f"{task_label(task)} of host {home.host}, at {_place(task)}"
    for home in _alive(engine):
        for job in home.jobs:
            what = job.waiting.what if job.waiting is not None else "nothing: it runs"
            yield f"thread {job.thread!r} of host {home.host}, waits for {what}"


def take_failures(engine: Engine) -> list[Exception]:
    """Take the failures nobody has asked for so far; they count as seen."""
    for home in engine.homes.values():
        for error, where in home.take_failures():
            engine.keep(error, where)
    for job in list(engine.pool.failed):
        failure = job.failure()
        if failure is not None:
            job.asked = True
            engine.keep(failure, f"thread work {job.name} of host {job.host}")
    engine.pool.failed.clear()
    kept, engine.kept = engine.kept, []
    return kept


def _alive(engine: Engine) -> Iterator[Home]:
    return (
        h for h in engine.homes.values() if h is not engine.backstage and not h.dead
    )


def _place(task: asyncio.Task[Any]) -> str:
    """Give file:line where a task stands."""
    frames: list[FrameType] = task.get_stack(limit=1)
    if not frames:
        return "an unknown place"
    return f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}"
