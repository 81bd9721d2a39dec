"""Deadlock reports: who waits, where, for what, and in which circle."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from rpcsim.errors import DeadlockError
from rpcsim.ports import Call
from rpcsim.sim import Sim
from tests.sim.programs import PORT, echo_server


def report(main: Any, **options: Any) -> str:
    """Run a program that cannot end; give the text of its deadlock."""
    with pytest.raises(DeadlockError) as raised, Sim(**options) as sim:
        sim.run(main)
    return str(raised.value)


@pytest.mark.parametrize("debug", [False, True])
def test_two_tasks_on_two_locks(debug: bool) -> None:
    """Both tasks, both locks, file and line, the holders and the cycle (check 6)."""

    async def transfer(source: asyncio.Lock, target: asyncio.Lock) -> None:
        async with source:
            await asyncio.sleep(1)
            async with target:
                pass

    async def main() -> None:
        red, blue = asyncio.Lock(), asyncio.Lock()
        await asyncio.gather(transfer(red, blue), transfer(blue, red))

    text = report(main, debug=debug)
    assert "nothing is due at 1 s of simulated time, but task test/main-1" in text
    line = transfer.__code__.co_firstlineno + 3
    place = re.escape(f"{__file__}:{line}")
    assert re.search(
        "test/transfer-2 waits for lock `target`, which test/transfer-3 holds, "
        f"at {place}",
        text,
    )
    assert re.search(
        r"test/transfer-3 waits for lock `target` \(#2 of that name\), which "
        f"test/transfer-2 holds, at {place}",
        text,
    )
    assert "cycle: test/transfer-2 -> test/transfer-3 -> test/transfer-2" in text


def test_what_is_waited_for_is_named_by_kind() -> None:
    """Events, queues, conditions, semaphores, barriers, tasks, groups, futures."""
    lock = asyncio.Lock()

    async def main() -> None:
        ready, jobs = asyncio.Event(), asyncio.Queue[int]()
        full = asyncio.Queue[int](1)
        full.put_nowait(1)
        changed, slots = asyncio.Condition(), asyncio.Semaphore(0)
        gate = asyncio.Barrier(2)
        await lock.acquire()

        async def wait_changed() -> None:
            async with changed:
                await changed.wait()

        async def nested(task: asyncio.Task[Any]) -> None:
            await task

        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            event = group.create_task(_use(ready.wait, ready=ready), name="eventful")
            group.create_task(_use(jobs.get, jobs=jobs))
            group.create_task(_use(lambda: full.put(2), full=full))
            group.create_task(wait_changed())
            group.create_task(_use(slots.acquire, slots=slots))
            group.create_task(_use(gate.wait, gate=gate))
            group.create_task(_use(lock.acquire))
            group.create_task(nested(event))
            group.create_task(_use(loop.create_future))

    text = report(main)
    for told in (
        "test/main-1 waits for the tasks of its group",
        "eventful waits for event `things['ready']`",
        "waits for queue `things['jobs']` to get (it holds 0)",
        "waits for queue `things['full']` to put (it holds 1)",
        "waits for condition `changed`",
        "waits for semaphore `things['slots']`",
        "waits for barrier `things['gate']`",
        "waits for lock, at",
        "test/nested-9 waits for task eventful",
        "waits for a future nobody completed",
    ):
        assert told in text, told
    assert text.endswith("or restart the host that should answer.")


async def _use(wait: Any, **things: Any) -> None:
    await wait()


def test_blocking_code_is_told_with_its_fiber() -> None:
    """The stack of a fiber belongs to the task that owns it (5.3.8)."""
    sim = Sim()

    def blocking() -> None:
        sim.bridge.wait(asyncio.Event().wait())

    async def main() -> None:
        await asyncio.to_thread(blocking)

    with pytest.raises(DeadlockError) as raised, sim:
        sim.run(main)
    text = str(raised.value)
    line = blocking.__code__.co_firstlineno + 1
    assert f"(blocking code) waits for task test/wait-3, at {__file__}:{line}" in text


def test_data_that_never_comes_names_the_connection() -> None:
    """A reader of a silent peer waits for data on a connection by name (3.6)."""

    silent: list[Any] = []

    async def mute() -> None:
        server = await asyncio.start_server(lambda *pair: silent.append(pair), "", PORT)
        await server.serve_forever()

    with pytest.raises(DeadlockError) as raised, Sim() as sim:
        sim.host("server", mute)

        async def main() -> None:
            reader, writer = await asyncio.open_connection("server", PORT)
            await reader.read()
            writer.close()

        sim.run(main)
    assert "test/main-1 waits for data on connection test>server:7#1" in str(
        raised.value
    )


def test_the_reply_of_a_crashed_host_is_named_by_call() -> None:
    """Method, call number and host of an answer that cannot come (check 7)."""

    class Exchange:
        def __init__(self, call: Call) -> None:
            self.call = call
            self.reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def result(self) -> Any:
            return await self.reply

    with pytest.raises(DeadlockError) as raised, Sim() as sim:
        kennel = sim.host("kennel", echo_server)

        async def main() -> None:
            await asyncio.sleep(1)
            call = Call(
                family="agent", caller="test", target="kennel", path="Dog.bark", id="s1"
            )
            sim.ports.trace.emit("call.request", (("id", "s1"), ("no", 4)))
            exchange = Exchange(call)
            kennel.crash()
            await exchange.result()

        sim.run(main)
    text = str(raised.value)
    assert "waits for the reply to call 4 of Dog.bark() from kennel" in text
    assert "1 tasks of crashed host kennel (incarnation 1) will never run" in text


def test_a_lock_held_by_a_crashed_host_is_told() -> None:
    """If a crashed host holds a lock, the text says so (3.6)."""
    shared = asyncio.Lock()

    async def holder() -> None:
        async with shared:
            await asyncio.sleep(100)

    async def main(sim: Sim) -> None:
        await asyncio.sleep(1)
        sim.by_name["greedy"].crash()
        async with shared:
            pass

    with pytest.raises(DeadlockError) as raised, Sim() as sim:
        sim.host("greedy", holder)
        sim.run(main(sim))
    assert (
        "waits for lock `shared`, which greedy/holder-1 of crashed host greedy holds"
        in str(raised.value)
    )


def test_waiting_from_plain_code_is_a_deadlock_too() -> None:
    """A blocking wait in the test for a bare future names that it is one."""
    told = "the future waited for is not done"
    with pytest.raises(DeadlockError, match=told), Sim() as sim:
        sim.bridge.wait(sim.loop.create_future())


def test_a_program_that_is_stuck_is_told_once() -> None:
    """What the deadlock names has ended by then, and is not also left behind."""
    with Sim() as sim, pytest.raises(DeadlockError):
        sim.run(asyncio.Event().wait())
    assert sim.leftovers == ()
