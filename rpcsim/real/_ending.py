"""Ending what a host or a run owns, in order, and within a time limit."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from rpcsim.errors import FiberKilled
from rpcsim.real._home import task_label
from rpcsim.real._telling import take_failures

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rpcsim.real._engine import Engine
    from rpcsim.real._home import Home
    from rpcsim.real._host import RealHost

__all__ = ["Deadline", "end_home", "kill_home", "shut_down", "take"]

# A grace of 0 still lets cancelled tasks run their `finally` blocks: this long.
LEAST_SECONDS: Final = 0.2
TURNS: Final = 20  # loop turns for what was closed to come to rest before we look


class Deadline:
    """How long an ending may take; a second interrupt of the user's makes it now."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self._engine = engine
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left; 0 when the user is in a hurry."""
        if self._engine.hurry.done():
            return 0.0
        return max(0.0, self._end - time.monotonic())

    async def wait(
        self, things: Iterable[asyncio.Future[Any]], least: float = 0
    ) -> None:
        """Wait until all are done or the time is up, but `least` seconds; takes nothing."""
        pending = [thing for thing in things if not thing.done()]
        if pending and self.left > least:
            work = asyncio.ensure_future(asyncio.wait(pending, timeout=self.left))
            hurry = self._engine.hurry
            both: list[asyncio.Future[Any]] = [work, hurry]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            work.cancel()
            pending = [thing for thing in pending if not thing.done()]
        if pending and least:
            await asyncio.wait(pending, timeout=least)


async def close_resources(engine: Engine, home: Home, deadline: Deadline) -> None:
    """Close what a host's clients share; what goes wrong is kept."""
    context = engine.context_of(home)
    task = engine.loop.create_task(home.ports.resources.aclose(), context=context)
    await take(engine, task, deadline, f"closing the clients of host {home.host}")


async def take(
    engine: Engine, task: asyncio.Task[Any], deadline: Deadline, what: str
) -> None:
    """Give a task until the deadline; keep its failure, or that it took too long."""
    await deadline.wait({task}, LEAST_SECONDS)
    if not task.done():
        engine.keep(TimeoutError(f"{what} took too long and was cancelled"), what)
        task.cancel()
        await deadline.wait({task}, LEAST_SECONDS)
    if task.done() and not task.cancelled() and (error := task.exception()) is not None:
        engine.keep(error, what)


async def end_home(
    engine: Engine, home: Home, deadline: Deadline, *, resources: bool = True
) -> None:
    """End a host in order: tasks, shared clients, threads, connections.

    What would not end is told in `engine.stuck`.
    """
    me = asyncio.current_task()
    for listener in list(home.listeners):
        listener.close()
    tasks = [task for task in home.tasks if task is not me]
    _cancel_work(engine, home, me, f"host {home.host} ends")
    for timer in list(home.timers):
        timer.cancel()
    await deadline.wait(tasks, LEAST_SECONDS)
    if resources:
        await close_resources(engine, home, deadline)
    await deadline.wait([job.ending() for job in home.jobs], LEAST_SECONDS)
    for connection in list(home.connections):
        connection.close()
    await _until_lost(home, deadline)
    for connection in list(home.connections):
        connection.abort()
    home.dead = True
    engine.stuck += [
        f"{task_label(task)} of host {home.host} ignores its cancellation"
        for task in home.tasks
        if task is not me
    ]
    for job in list(home.jobs):
        engine.stuck.append(
            f"thread {job.thread!r} running {job.name} of host {home.host} never waits"
        )
        # Whoever awaits it is let go; the thread itself cannot be ended.
        job.finish(False, asyncio.CancelledError(f"{job.name} was left behind"))
    await asyncio.sleep(0)  # aborted sockets close in the next turn


async def _until_lost(home: Home, deadline: Deadline) -> None:
    lost = [connection.ending() for connection in home.connections]
    await deadline.wait(lost, LEAST_SECONDS)


def _cancel_work(
    engine: Engine, home: Home, me: asyncio.Task[Any] | None, why: str
) -> None:
    """Cancel a host's tasks, and through them or at once the threads it runs."""
    for job in list(home.jobs):
        if job.awaiter is None:
            job.interrupt(FiberKilled(why))
    for task in list(home.tasks):
        # What a thread waits for is cancelled by way of the thread: once, not twice.
        if task is not me and task not in engine.pool.waits:
            task.cancel(why)


def kill_home(engine: Engine, home: Home) -> None:
    """End a host at once, as a crash does as far as a process can do it to itself."""
    home.dead = True
    for listener in list(home.listeners):
        listener.close()
    for connection in list(home.connections):
        connection.abort()
    for timer in list(home.timers):
        timer.cancel()
    _cancel_work(engine, home, None, f"host {home.host} crashed")


async def shut_down(
    engine: Engine, hosts: list[RealHost], seconds: float, *, own_loop: bool
) -> list[str]:
    """End a run: new calls are refused, running ones end, then the rest is ended.

    Args:
        engine: The run.
        hosts: Its hosts, in order of declaration.
        seconds: How long running calls and orderly stops may take, all together.
        own_loop: Whether the loop ends too.

    Returns:
        What the block left behind, one line each.
    """
    engine.refusing = True
    deadline = Deadline(engine, seconds)
    await deadline.wait(list(engine.calls))
    for call in list(engine.calls):
        call.cancel()
    await close_resources(engine, engine.test, deadline)
    for host in reversed(hosts):
        if host.state == "running":
            await _stop(engine, host, deadline)
        else:
            host.forget_restart()
    left = await _settled(engine)
    for home in list(engine.homes.values()):
        if home is not engine.backstage:
            await end_home(engine, home, deadline, resources=False)
    for relay in list(engine.net.relays):
        relay.abort()
    await end_home(engine, engine.backstage, deadline, resources=False)
    engine.pool.close()
    if own_loop:
        await engine.loop.shutdown_asyncgens()
        await engine.loop.shutdown_default_executor()
    engine.disks.close()
    engine.kept = take_failures(engine)
    return [*left, *engine.stuck]


async def _settled(engine: Engine) -> list[str]:
    """Name what the test left behind, now that what the hosts owned has ended.

    What is closing gets a moment: the end of a stopped host's connection takes a few
    turns to come through the proxy.
    """
    for turn in range(TURNS):
        left = engine.test.lines()
        if not left or not any(line.startswith("connection") for line in left):
            break
        await asyncio.sleep(0.001 * (turn > TURNS // 2))
    return engine.test.lines()


async def _stop(engine: Engine, host: RealHost, deadline: Deadline) -> None:
    try:
        await host.stop(deadline.left)
    except Exception as error:  # noqa: BLE001 - kept, and raised at the end
        engine.keep(error, f"stop of host {host.name}")
