"""Real work outside the simulation, while its clock stands still."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest

from rpcsim.errors import EscapeError, ExternalWorkWarning
from rpcsim.sim import Sim

pytestmark = pytest.mark.usefixtures("a_real_thread")
WARNED = pytest.warns(ExternalWorkWarning, match="not promised to replay")


def test_a_call_runs_in_a_real_thread_and_the_clock_stands() -> None:
    """Others go on meanwhile, at the same instant (3.8)."""
    seen: list[Any] = []

    def work(a: int) -> tuple[int, bool, bool]:
        real = time.time() > 1_600_000_000
        return a + 1, threading.get_ident() != sim.thread, real

    async def other() -> None:
        await asyncio.sleep(0)
        seen.append(sim.clock.elapsed)
        await asyncio.sleep(1)
        seen.append(sim.clock.elapsed)

    async def story() -> Any:
        await asyncio.sleep(5)
        ticking = asyncio.ensure_future(other())
        value = await sim.external(work, 1)
        assert sim.clock.elapsed == 5
        await ticking
        return value

    with WARNED, Sim() as sim:
        assert sim.run(story) == (2, True, True)
    assert seen == [5, 6]
    assert [r.data for r in sim.trace if r.kind == "external"] == [
        (("form", "thread"),)
    ]


def test_other_threads_may_hand_calls_in() -> None:
    """A thread that needs the loop meanwhile gets it; errors come back (3.8)."""
    seen: list[Any] = []

    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    def work() -> int:
        loop: Any = sim.loop
        loop.call_soon_threadsafe(seen.append, "posted")
        asyncio.run_coroutine_threadsafe(double(4), loop).result(timeout=30)
        raise ZeroDivisionError("from the thread")

    async def story() -> None:
        with pytest.raises(ZeroDivisionError, match="from the thread"):
            await sim.external(work)
        with pytest.raises(EscapeError, match="a thread the simulation does not own"):
            await sim.external(sim.step)

    with WARNED, Sim() as sim:
        sim.run(story)
        sim._kept.clear()  # the escape was the point
    assert seen == ["posted"]


def test_a_block_has_the_real_clock_and_chance() -> None:
    """And what its threads hand in runs behind it (3.8)."""
    seen: list[Any] = []

    def story() -> None:
        before = random.getstate()
        with sim.external():
            assert time.time() > 1_600_000_000
            thread = threading.Thread(
                target=sim.loop.call_soon_threadsafe, args=(seen.append, "posted")
            )
            thread.start()
            thread.join()
            assert seen == []
        assert random.getstate() == before
        time.sleep(1)
        assert seen == ["posted"]
        assert time.time() == 946_684_801

    with WARNED, Sim() as sim:
        sim.run(story)


def test_without_it_other_threads_are_an_escape(a_real_thread: Any) -> None:
    """Also after a block has ended."""
    sim = Sim()
    with pytest.raises(EscapeError, match="call_soon_threadsafe"), sim:
        with WARNED, sim.external():
            pass
        raised = a_real_thread(lambda: sim.loop.call_soon_threadsafe(print))
        assert isinstance(raised, EscapeError)


def test_a_cancelled_call_is_seen_through() -> None:
    """A thread cannot be stopped: the cancellation arrives when it is over."""
    go = threading.Event()
    seen: list[str] = []

    def work() -> None:
        go.wait(30)
        seen.append("worked")

    async def story() -> None:
        task = asyncio.ensure_future(_call(sim, work))
        await asyncio.sleep(0)
        task.cancel()
        sim.loop.call_soon(go.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["worked"]

    with WARNED, Sim() as sim:
        sim.run(story)


async def _call(sim: Sim, fn: Any) -> None:
    await sim.external(fn)


def test_the_two_forms_are_not_mixed() -> None:
    """A block takes no function; an awaited call needs one."""
    with Sim() as sim:
        with pytest.raises(TypeError, match="takes no fn"), sim.external(print):
            pass

        async def story() -> None:
            with pytest.raises(TypeError, match="give the function"):
                await sim.external()

        sim.run(story)
    assert not [r for r in sim.trace if r.kind == "external"]
