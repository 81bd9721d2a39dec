"""The end of a run, in its order (simulation.md 3.9)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from rpcsim.errors import SimulationError
from rpcsim.sim._ambient import stepping
from rpcsim.sim._compat import mark_read, quiet, set_running_loop
from rpcsim.sim._fiber import close_carriers, close_fiber
from rpcsim.sim._loop import CLOSING_TURNS
from rpcsim.sim._task import SimTask, callback_name
from rpcsim.sim._waits import place_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpcsim.sim._sim import Sim
    from rpcsim.sim._strand import Life

__all__ = ["end_of_run", "tell_leftovers"]

GRACE: Final = 5


def end_of_run(sim: Sim, *, orderly: bool) -> list[str]:
    """Stop, cancel, count, seal and close; gives what was left behind."""
    loop = sim.loop
    if orderly and not loop.is_closed():
        _stop_hosts(sim)
    left = list(tell_leftovers(sim))
    _collect(sim)
    for line in sim.unreached():
        sim.record("plan.unreached", (("what", line),))
    sim.record("end", (("sim_time_ns", loop.now_ns), ("left", len(left))))
    sim.trace.seal()
    if not loop.is_closed():
        _cancel_rest(sim)
    loop.collect_failures()
    tasks = loop.all_tasks()
    loop.close()
    _close_parked(sim, tasks)
    return left


def _collect(sim: Sim) -> None:
    """Keep what failed and nobody took: tasks first, then starts of hosts."""
    sim.loop.collect_failures()
    for host in sim.hosts:
        error = host.start_failure()
        if error is not None:
            sim.loop.keep_failure(error, f"starting host {host.name}")


def _stop_hosts(sim: Sim) -> None:
    """Stop what runs in the world, newest host first, then the clients of the test."""
    loop = sim.loop
    resources = sim.test.ports.resources
    for host in sim.hosts:
        if host.state == "paused":
            host.resume()  # a test that ends is no reason to end it out of order
    if not resources and not any(host.state == "running" for host in sim.hosts):
        return

    async def stop() -> None:
        for host in reversed(sim.hosts):
            if host.state == "running":
                await host.stop(GRACE)
        async with asyncio.timeout(GRACE):
            await resources.aclose()

    task: SimTask = sim.test.inside(loop.make_task, stop())
    task.background = True
    # A host that cannot stop in order (its peer is cut off for ever) is told of as a
    # failure by `stop`; a deadlock here would only hide what the run was about.
    with contextlib.suppress(SimulationError), stepping(sim):
        loop.run_pump(task.done)
        loop.run_pump(None, deadline_ns=loop.now_ns)
    if task.done() and not task.cancelled() and task.exception() is not None:
        loop.keep_failure(task.exception(), "ending the run")  # type: ignore[arg-type]  # checked


def tell_leftovers(sim: Sim) -> Iterator[str]:
    """Tell of tasks, fibers, timers, listeners and connections, one line each."""
    loop = sim.loop
    for task in loop.tasks():
        if task.life.dead or task.background:
            continue
        kind = "fiber" if task.fiber is not None else "task"
        yield f"{kind} {task.get_name()} of host {task.life.host}, at {place_of(task)}"
    for timer in loop.pending_timers():
        strand = timer.strand
        if strand.life.dead or strand.background or timer.background:
            continue
        if isinstance(strand, SimTask) and not strand.done():
            continue  # its sleep: the task is told of
        due = timer.when_ns / 1e9
        name = callback_name(timer.run)
        yield f"timer {name} of host {strand.life.host}, due at {due:.9g} s"
    for listening in loop.net.listeners():
        if not listening.life.dead:
            yield f"listener {listening!r}"
    for host in (sim.test, *sim.hosts):
        for end in host.life.endpoints.values():
            if not end.closing:
                yield f"connection {end.label} of host {host.name}"


def _cancel_rest(sim: Sim) -> None:
    loop = sim.loop
    for listening in loop.net.listeners():
        loop.net.unlisten(listening)
    for task in loop.tasks():
        if not task.life.shut:
            task.cancel()
    with contextlib.suppress(SimulationError), stepping(sim):
        loop.run_pump(None, turns=CLOSING_TURNS, jump=False)
        if loop.has_asyncgens():
            closing = loop.make_task(loop.shutdown_asyncgens())
            loop.run_pump(closing.done, turns=CLOSING_TURNS, jump=False)
    # Connections end now, without their packets: nobody is left to see them.
    for host in (sim.test, *sim.hosts):
        for end in list(host.life.endpoints.values()):
            end.fail(None)
    with contextlib.suppress(SimulationError), stepping(sim):
        loop.run_pump(None, turns=CLOSING_TURNS, jump=False)


def _close_parked(sim: Sim, tasks: list[SimTask]) -> None:
    """Release what dead hosts held, oldest first, behind a fence.

    The loop is closed and refuses everything by now, and what the dead code raises is
    dropped: it cannot influence the verdict any more.
    """
    sim.loop.fenced = True
    lives: list[Life] = [*sim.graves, sim.graveyard]
    parked = [t for life in lives for t in life.parked if isinstance(t, SimTask)]
    for task in dict.fromkeys([*parked, *tasks]):
        quiet(task)
        if task.done():
            mark_read(task)
            continue
        fiber = task.fiber
        if fiber is not None:
            with contextlib.suppress(BaseException):
                close_fiber(fiber)
        _close(task.get_coro())
    close_carriers(sim)
    # A coroutine closed in the middle of driving a fiber puts the loop back as the
    # running one on its way out.
    set_running_loop(None)
    for life in lives:
        life.parked.clear()
        life.shelf.clear()


def _close(coro: Any) -> None:
    with contextlib.suppress(BaseException):
        coro.close()
