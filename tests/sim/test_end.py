"""The end of a run: what failed is told, what is left is named, nothing lingers."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
import uuid
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.errors import (
    DeadlockError,
    HostDown,
    SimulationError,
    UnhandledErrors,
)
from rpcsim.sim import Sim
from tests.sim.programs import PORT, ask, conversation, echo_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


async def fails(text: str = "lost") -> None:
    raise ValueError(text)


def test_what_is_left_is_told_by_name() -> None:
    """Tasks, fibers, timers, listeners, connections (issue 2, section 4)."""
    with Sim() as sim:
        sim.host("server", echo_server)

        async def main() -> Any:
            loop = asyncio.get_running_loop()
            kept: list[Any] = [loop.create_task(asyncio.sleep(99), name="sleeper")]
            kept.append(sim.bridge.spawn(sim.clock.advance, 50, name="diver"))
            loop.call_later(77, print)
            kept.append(await asyncio.start_server(lambda r, w: None, "", 9))
            kept.append(await asyncio.open_connection("server", PORT))
            await asyncio.sleep(1)
            return kept

        kept = sim.run(main)
    told = "\n".join(sim.leftovers)
    assert f"fiber diver of host test, at {__file__}" not in told  # it is in rpcsim
    assert "fiber diver of host test" in told
    assert "task sleeper of host test" in told
    assert "timer print of host test, due at 77 s" in told
    assert "listener <listening on 10.0.0.1:9 of test>" in told
    assert "connection test>server:7#1 of host test" in told
    assert all("server" not in line or "test>" in line for line in sim.leftovers)
    assert kept[0].cancelled()


def test_an_orderly_run_leaves_nothing() -> None:
    """Hosts are stopped, their listeners and connections closed."""
    with Sim() as sim:
        sim.host("server", echo_server)
        assert sim.run(ask("a", "b")) == ["a", "b"]
        background = sim.background()
        with background:
            kept = sim.loop.create_task(asyncio.sleep(9))
    assert sim.leftovers == ()
    assert kept.cancelled()


def test_a_failure_nobody_took_is_raised_at_the_end() -> None:
    """Tasks whose result nobody read, and callbacks, in order (3.4, 3.10)."""

    def callback() -> None:
        raise KeyError("callback")

    with pytest.raises(UnhandledErrors) as raised, Sim() as sim:

        async def main() -> Any:
            first = asyncio.create_task(fails("one"))
            asyncio.get_running_loop().call_later(1, callback)
            await asyncio.sleep(2)
            return first, asyncio.create_task(fails("two"))

        kept = sim.run(main)
        sim.clock.run_until_idle()
    assert kept
    assert [type(e).__name__ for e in raised.value.exceptions] == [
        "KeyError",
        "ValueError",
        "ValueError",
    ]
    notes = [e.__notes__ for e in raised.value.exceptions]
    assert notes[0][0].startswith("Exception in callback")
    assert notes[0][0].endswith("at 1 s of simulated time")
    assert notes[1] == ["in task test/fails-2, at 2 s of simulated time"]


def test_a_failed_task_in_a_dropped_cycle_is_told_without_a_collection() -> None:
    """A reference cycle, collection off: still reported with traceback (check 11)."""
    collections: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        collections.append(phase)

    gc.collect()
    gc.callbacks.append(note)
    try:
        with pytest.raises(UnhandledErrors) as raised, Sim() as sim:

            async def main() -> None:
                cycle: dict[str, Any] = {"task": asyncio.create_task(fails())}
                cycle["self"] = cycle
                del cycle
                await asyncio.sleep(1)

            sim.run(main)
            assert collections == []
    finally:
        gc.callbacks.remove(note)
    (error,) = raised.value.exceptions
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_frame.f_code is fails.__code__


def test_a_failed_task_that_is_gone_is_told_too() -> None:
    """Its last reference goes within the run: told at once (3.4)."""
    with pytest.raises(UnhandledErrors, match="nobody took"), Sim() as sim:

        async def main() -> None:
            asyncio.create_task(fails())  # noqa: RUF006 - that is the point
            await asyncio.sleep(1)

        sim.run(main)


def test_taken_failures_are_not_raised_again() -> None:
    """`take_failures` and a user's exception handler both take them."""
    taken: list[Any] = []
    with Sim() as sim:
        task = sim.loop.create_task(fails("mine"))
        sim.run(asyncio.sleep(1))
        assert [str(e) for e in sim.take_failures()] == ["mine"]
        sim.loop.set_exception_handler(lambda loop, told: taken.append(told))
        sim.loop.call_soon(lambda: 1 / 0)
        sim.run(asyncio.sleep(1))
        assert sim.loop.get_exception_handler() is not None
    assert task.done()
    assert isinstance(taken[0]["exception"], ZeroDivisionError)


def test_an_exception_handler_that_fails_is_told() -> None:
    """Nothing is lost when the handler itself raises."""
    with pytest.raises(UnhandledErrors) as raised, Sim() as sim:
        sim.loop.set_exception_handler(lambda loop, told: [][0])
        sim.loop.call_soon(lambda: 1 / 0)
        sim.run(asyncio.sleep(1))
    assert isinstance(raised.value.exceptions[0], IndexError)


def test_the_outcome_of_run_counts_as_seen() -> None:
    """What `run` raised is not raised again, nor the tasks it came through."""
    with Sim() as sim:
        with pytest.raises(ValueError, match="lost"):
            sim.run(fails)
        with pytest.raises(ValueError, match="through"):
            sim.run(lambda: sim.bridge.wait(fails("through")))

        async def group() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fails())

        with pytest.raises(ExceptionGroup):
            sim.run(group)


def test_a_failing_block_gets_the_rest_as_notes() -> None:
    """The error of the `with` block goes through; failures of the run are notes."""
    with pytest.raises(RuntimeError, match="block") as raised, Sim() as sim:
        sim.loop.call_soon(lambda: 1 / 0)
        sim.run(asyncio.sleep(1))
        raise RuntimeError("block")
    assert raised.value.__notes__ == [
        "also, in the run: ZeroDivisionError: division by zero"
    ]


def test_a_swallowed_deadlock_fails_the_run() -> None:
    """Raised out of `run` inside a fiber and swallowed there: raised at the end."""
    with pytest.raises(SimulationError, match="kept"), Sim() as sim:
        sim.keep(SimulationError("kept"))
    with Sim() as sim, pytest.raises(DeadlockError):
        sim.run(sim.loop.create_future())


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_inside_a_step_ends_the_run_in_order(
    kind: type[BaseException],
) -> None:
    """Both leave through `run`; the loop is usable for the rest and the close."""
    closed: list[str] = []

    async def server() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            closed.append("server")

    async def main() -> None:
        await asyncio.sleep(1)
        raise kind("enough")

    with Sim() as sim:
        sim.host("server", server)
        with pytest.raises(kind):
            sim.run(main)
        assert sim.run(asyncio.sleep(1, "still here")) == "still here"
        with pytest.raises(kind):
            sim.run(lambda: sim.bridge.wait(main()))
    assert closed == ["server"]
    with pytest.raises(kind) as raised, Sim() as sim:
        sim.run(main)
    assert not hasattr(raised.value, "__notes__")


def test_generators_left_open_are_closed_in_order() -> None:
    """At the end of the run, in order of creation, inside the loop (3.9)."""
    closed: list[Any] = []

    async def numbers(name: str) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(name)

    with Sim() as sim:
        kept = []

        async def main() -> None:
            for name in ("a", "b", "c"):
                generator = numbers(name)
                kept.append(generator)
                async for _ in generator:
                    break

        sim.run(main)
        assert closed == []
    assert closed == ["a", "b", "c"]


def test_closing_is_done_once() -> None:
    """`close()` is idempotent; an ended simulation says so by name."""
    sim = Sim()
    with sim:
        sim.run(asyncio.sleep(1))
    sim.close()
    uses: list[Callable[[], Any]] = [
        lambda: sim.run(asyncio.sleep(1)),
        lambda: sim.bridge.wait(asyncio.sleep(1)),
        lambda: sim.clock.advance(1),
        sim.__enter__,
    ]
    for use in uses:
        with pytest.raises(SimulationError, match=r"has ended|is over"):
            use()
    with pytest.raises((RuntimeError, HostDown)):
        sim.loop.call_soon(print)
    assert repr(sim) == "<Sim seed=0 policy=fifo at 1s>"


def test_runs_leave_no_objects_and_no_patched_name() -> None:
    """Objects do not grow with runs; module names are the originals (check 15)."""
    names = {
        (module.__name__, name): getattr(module, name)
        for module in (time, random, uuid, asyncio.tasks)
        for name in vars(module)
    }

    def one_run() -> None:
        with Sim() as sim:
            sim.host("server", echo_server)
            sim.run(ask("a"))
            sim.by_name["server"].crash()

    for _ in range(20):
        one_run()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(300):
        one_run()
    gc.collect()
    assert len(gc.get_objects()) < before * 1.01
    assert names == {
        (module.__name__, name): getattr(module, name)
        for module in (time, random, uuid, asyncio.tasks)
        for name in vars(module)
    }
    assert "set" not in vars(asyncio.tasks)


def test_a_run_is_freed_when_its_owner_lets_go() -> None:
    """No register of the process keeps a simulation, its loop or its tasks."""
    sim = conversation()
    gone: list[weakref.ref[Any]] = [weakref.ref(sim.loop), weakref.ref(sim.net)]
    del sim
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_task_names_are_equal_in_every_run() -> None:
    """Names come from the loop, per host, not from the process (check 12)."""

    def names() -> list[str]:
        with Sim() as sim:

            async def main() -> list[str]:
                tasks = [asyncio.create_task(asyncio.sleep(1)) for _ in range(3)]
                await asyncio.gather(*tasks)
                return [task.get_name() for task in tasks]

            host = sim.host("box")
            return [*sim.run(main), *host.run(main)]

    first = names()
    assert first[:3] == ["test/sleep-2", "test/sleep-3", "test/sleep-4"]
    assert first[3:] == ["box/sleep-2", "box/sleep-3", "box/sleep-4"]
    for _ in range(100):
        assert names() == first


def test_the_hosts_of_a_run_end_newest_first() -> None:
    """And a server that will not go is told, after its grace."""
    order: list[str] = []

    class Service:
        def __init__(self, host: Any) -> None:
            self.host = host

        async def start(self) -> None:
            order.append(f"start {self.host.name}")

        async def stop(self) -> None:
            order.append(f"stop {self.host.name}")
            if self.host.name == "b":
                await asyncio.sleep(1e6)

    with pytest.raises(UnhandledErrors) as raised, Sim() as sim:
        for name in "abc":
            sim.host(name, Service)
        sim.run(asyncio.sleep(1))
    assert order == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]
    (error,) = raised.value.exceptions
    assert "host b did not stop within 5 s" in error.__notes__


def test_the_collector_is_left_as_it_was() -> None:
    """Automatic collection is off during a run only (3.4)."""
    for before in (True, False):
        (gc.enable if before else gc.disable)()
        try:
            with Sim() as sim:

                async def main() -> bool:
                    return gc.isenabled()

                assert sim.run(main) is False
            assert gc.isenabled() is before
        finally:
            gc.enable()
    hooks = sys.get_asyncgen_hooks()
    assert hooks == (None, None)
