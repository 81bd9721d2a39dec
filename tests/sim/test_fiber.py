"""The blocking bridge: blocking code in fibers, in both directions and nested."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import traceback
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
from greenlet import greenlet

from rpcsim.errors import (
    BlockingInCoroutine,
    DeadlockError,
    EscapeError,
    FiberKilled,
    HostDown,
    SimulationError,
)
from rpcsim.ports import current
from rpcsim.sim import Sim
from rpcsim.sim._fiber import IDLE, Fiber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def sim() -> Iterator[Sim]:
    with Sim() as sim:
        yield sim


async def after(seconds: float, value: Any = None) -> Any:
    await asyncio.sleep(seconds)
    return value


def test_sync_to_async_to_sync_and_back(sim: Sim) -> None:
    """Test -> client -> method -> nested call at a third host -> back (check 26)."""
    hosts = [sim.host(name) for name in ("first", "second")]

    def method(n: int) -> list[Any]:
        bridge = current().bridge
        here = [current().host, sim.loop.now_ns]
        if n == len(hosts):
            bridge.wait(after(0.5))
            return [*here, "bottom"]
        answer: list[Any] = bridge.wait(call(n))
        return [*here, *answer]

    async def call(n: int) -> Any:
        await asyncio.sleep(0.25)
        host = hosts[n]
        work = host.inside(
            sim.loop.make_task, host.ports.bridge.call_blocking(method, n + 1)
        )
        return await work

    assert method(0) == [
        *("test", 0, "first", 250_000_000, "second", 500_000_000, "bottom")
    ]
    assert sim.clock.elapsed == 1


def test_blocking_in_a_coroutine_is_refused(sim: Sim) -> None:
    """`BlockingInCoroutine` names the call and `call_blocking` (checks 27, 69)."""

    async def main() -> None:
        assert not sim.bridge.may_block()
        with pytest.raises(BlockingInCoroutine, match=r"\(after\).*call_blocking") as e:
            sim.bridge.wait(after(1))
        assert f"{__file__}:" in str(e.value)
        assert "test/main-1 on host 'test' at 0 s" in str(e.value)
        raise e.value

    with pytest.raises(BlockingInCoroutine):
        sim.run(main)

    async def sleeper() -> None:
        time.sleep(75)  # noqa: ASYNC251 - the mistake this is about

    with pytest.raises(BlockingInCoroutine, match=r"time\.sleep"):
        sim.run(sleeper)

    async def runner() -> None:
        sim.run(after(1))

    with pytest.raises(BlockingInCoroutine):
        sim.run(runner)
    assert sim.run(lambda: sim.bridge.may_block())
    assert sim.bridge.may_block()


def test_blocking_in_a_callback_is_refused() -> None:
    """A swallowed one still fails the run (section 14)."""

    def callback(sim: Sim) -> None:
        with contextlib.suppress(BlockingInCoroutine):
            sim.bridge.wait(after(1))

    with pytest.raises(BlockingInCoroutine), Sim() as sim:
        sim.loop.call_soon(callback, sim)
        sim.run(asyncio.sleep(1))


def test_blocking_code_may_wait_in_fibers_and_tests(sim: Sim) -> None:
    """`time.sleep(75)` takes exactly 75 simulated seconds (checks 27, 69)."""
    sim.run(lambda: time.sleep(75))
    assert sim.clock.elapsed == 75
    time.sleep(5)  # the test itself pumps
    assert sim.clock.elapsed == 80
    sim.run(asyncio.to_thread(time.sleep, 1))
    assert sim.clock.elapsed == 81
    with pytest.raises(ValueError, match="non-negative"):
        time.sleep(-1)


def test_exceptions_cross_unchanged(sim: Sim) -> None:
    """Raised three levels down: the same object, frames of all levels (check 28)."""

    class Odd(BaseException):
        pass

    for error in (ValueError("deep"), Odd("deeper"), StopAsyncIteration("!")):

        def bottom(error: BaseException = error) -> None:
            sim.bridge.wait(after(1))
            raise error

        async def middle(bottom: Callable[[], None] = bottom) -> None:
            await sim.bridge.call_blocking(bottom)

        def top(middle: Any = middle) -> None:
            sim.bridge.wait(middle())

        with pytest.raises(type(error)) as raised:
            sim.run(top)
        assert raised.value is error
        names = [f.name for f in traceback.extract_tb(error.__traceback__)]
        assert [n for n in names if n in ("top", "middle", "bottom")] == [
            *("top", "middle", "bottom")
        ]


def test_context_variables_read_across_and_do_not_leak(sim: Sim) -> None:
    """A fiber sees its caller's values; its own stay inside (check 29)."""
    var: ContextVar[str] = ContextVar("var", default="none")

    def blocking() -> tuple[str, str]:
        seen = var.get()
        var.set("inside")
        inner = sim.bridge.wait(read())
        return seen, inner

    async def read() -> str:
        await asyncio.sleep(0)
        return var.get()

    async def main() -> tuple[Any, ...]:
        var.set("main")
        return await sim.bridge.call_blocking(blocking), var.get()

    assert sim.run(main) == (("main", "inside"), "main")
    assert sim.run(lambda: asyncio.run_coroutine_threadsafe) is not None


def test_no_loop_counts_as_running_inside_a_fiber(sim: Sim) -> None:
    """So that code chooses its sync form as in a thread (check 29)."""

    def blocking() -> str:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        sim.bridge.wait(after(1))
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return "checked"

    async def main() -> str:
        answer = await asyncio.to_thread(blocking)
        assert asyncio.get_running_loop() is sim.loop
        return answer

    assert sim.run(main) == "checked"


@pytest.mark.parametrize("limit", [None, 50])
def test_cancelling_the_caller_reaches_the_blocking_code(
    sim: Sim, limit: float | None
) -> None:
    """`finally` runs and may wait again; what it waited for is cancelled (check 30)."""
    seen: list[Any] = []

    async def inner() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            seen.append("inner cancelled")
            raise

    def blocking() -> None:
        try:
            sim.bridge.wait(inner(), timeout=limit)
        finally:
            sim.bridge.wait(after(1))
            seen.append(sim.loop.time())

    async def main() -> None:
        task = asyncio.create_task(sim.bridge.call_blocking(blocking))
        await asyncio.sleep(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    sim.run(main)
    assert seen == ["inner cancelled", 3.0]


def test_a_wait_with_a_limit_ends_at_exactly_it(sim: Sim) -> None:
    """`wait(timeout=1)`: `TimeoutError` at 1 s; a coroutine is cancelled (check 30)."""
    seen: list[float] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            seen.append(sim.loop.time())

    def main() -> None:
        with pytest.raises(TimeoutError, match="not done within 1 s"):
            sim.bridge.wait(slow(), timeout=1)
        seen.append(sim.loop.time())

    sim.run(main)
    assert seen == [1, 1]
    mine = sim.loop.create_task(after(5, "kept"))
    with pytest.raises(TimeoutError):
        sim.bridge.wait(mine, timeout="250ms")
    assert sim.clock.elapsed == 1.25
    assert sim.bridge.wait(mine) == "kept"
    assert sim.bridge.wait(after(1, "in time"), timeout=2) == "in time"


def crashed_run(*, with_finally: bool) -> tuple[Any, list[str]]:
    """Crash a host whose fiber waits; give the digests and what ran within the run."""
    seen: list[str] = []

    def plain(sim: Sim) -> None:
        current().bridge.wait(after(100))

    def careful(sim: Sim) -> None:
        try:
            current().bridge.wait(after(100))
        finally:
            if sim.trace[-1].kind == "end":
                seen.append("after the verdict")
            else:
                seen.append("WITHIN THE RUN")
            sim.ports.trace.emit("user.cleanup")
            try:
                current().bridge.wait(after(1))
            except HostDown:
                seen.append("refused")

    with Sim(trace="steps") as sim:
        body = careful if with_finally else plain

        async def main() -> None:
            host = sim.host(
                "box", lambda host: host.ports.bridge.call_blocking(body, sim)
            )
            await asyncio.sleep(1)
            host.crash()
            gc.collect()
            await asyncio.sleep(1)

        sim.run(main)
    return (sim.trace.digest, sim.trace.schedule_digest), seen


def test_a_crash_parks_a_fiber_without_its_clean_up() -> None:
    """Digests are equal with and without a `finally` (check 31)."""
    plain, _ = crashed_run(with_finally=False)
    careful, seen = crashed_run(with_finally=True)
    assert careful == plain
    assert seen == ["after the verdict", "refused"]


def test_five_thousand_fibers_at_once(sim: Sim) -> None:
    """All wait in one instant, and nothing of them stays (check 32)."""

    async def main() -> int:
        def blocking(n: int) -> int:
            sim.bridge.wait(after(1))
            return n

        done = await asyncio.gather(
            *(sim.bridge.call_blocking(blocking, n) for n in range(5_000))
        )
        return sum(done)

    assert sim.run(main) == sum(range(5_000))
    assert sim.clock.elapsed == 1
    assert sim.fibers == 0
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Fiber)]


def test_two_hundred_levels_deep(sim: Sim) -> None:
    """Nesting sync in async in sync; no references are left over (check 32)."""

    def down(n: int) -> int:
        return 0 if n == 0 else 1 + sim.bridge.wait(level(n - 1))

    async def level(n: int) -> int:
        await asyncio.sleep(0.001)
        return await sim.bridge.call_blocking(down, n)

    assert sim.run(lambda: down(200)) == 200
    sim.loop._sweep()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(3):
        assert sim.run(lambda: down(200)) == 200
    sim.loop._sweep()
    gc.collect()
    assert abs(len(gc.get_objects()) - before) < 100
    alive = [t for t in gc.get_objects() if isinstance(t, greenlet) and not t.dead]
    assert len(alive) <= 1 + len(sim.carriers) <= 1 + IDLE


def test_a_worker_runs_items_in_order_one_at_a_time(sim: Sim) -> None:
    """First in first out; identity inside is the worker's (check 34)."""
    log: list[Any] = []
    worker = sim.bridge.worker("receiver")

    def item(n: int) -> int:
        log.append(("begin", n, current().bridge.current().worker is worker))
        sim.bridge.wait(after(3 - n))
        log.append(("end", n, sim.loop.time()))
        if n == 1:
            raise ValueError("one")
        return n

    async def main() -> None:
        handles = [worker.submit(item, n) for n in range(3)]
        results = await asyncio.gather(*handles, return_exceptions=True)
        assert repr(results) == "[0, ValueError('one'), 2]"
        await worker.stop()
        with pytest.raises(RuntimeError, match="'receiver' is stopped"):
            worker.submit(item, 3)

    sim.run(main)
    assert log == [
        ("begin", 0, True),
        ("end", 0, 3.0),
        ("begin", 1, True),
        ("end", 1, 5.0),
        ("begin", 2, True),
        ("end", 2, 6.0),
    ]


def test_a_worker_waiting_for_itself_is_told(sim: Sim) -> None:
    """Waiting on one's own worker would never end (check 34)."""
    worker = sim.bridge.worker("selfish")

    def item() -> None:
        sim.bridge.wait(worker.submit(print))

    async def main() -> None:
        with pytest.raises(SimulationError, match="'selfish' waits for its own queue"):
            await worker.submit(item)
        await worker.stop()

    sim.run(main)


def test_killing_a_fiber(sim: Sim) -> None:
    """`FiberKilled` at the next blocking point, also when swallowed once (5.3.7)."""
    seen: list[Any] = []

    def stubborn() -> None:
        try:
            sim.bridge.wait(after(100))
        except FiberKilled:
            seen.append(sim.loop.time())
        sim.bridge.wait(after(100))
        seen.append("went on")

    async def main() -> None:
        handle = sim.bridge.spawn(stubborn, name="stubborn")
        await asyncio.sleep(1)
        handle.kill()
        with pytest.raises(FiberKilled, match="stubborn was killed"):
            await handle
        assert handle.done()
        handle.kill()  # too late: nothing happens
        assert repr(handle) == "<spawned stubborn: done>"

    sim.run(main)
    assert seen == [1.0]


@pytest.mark.parametrize("scope", ["task", "host"])
def test_a_hard_kill_parks_a_fiber(scope: Any) -> None:
    """It never runs again, nor does time pass for it; like a crash (5.3.7)."""
    seen: list[str] = []

    def careful(sim: Sim) -> None:
        try:
            sim.bridge.wait(after(100))
        finally:
            seen.append("finally" if sim.loop.fenced else "WITHIN THE RUN")

    with Sim(scope=scope) as sim:

        async def main() -> None:
            handle = sim.bridge.spawn(careful, sim)
            await asyncio.sleep(1)
            handle.kill(hard=True)
            del handle
            gc.collect()
            await asyncio.sleep(1)

        sim.run(main)
        if scope == "task":  # else its timers are its host's, and fire for nobody
            sim.clock.run_until_idle()
            assert sim.clock.elapsed == 2
    assert seen == ["finally"]
    assert not any("careful" in line for line in sim.leftovers)


def test_who_is_running(sim: Sim) -> None:
    """`current()` tells name, host and worker of what runs."""
    box = sim.host("box")

    def told() -> tuple[Any, ...]:
        running = current().bridge.current()
        return running.name, running.host, running.worker

    async def main() -> tuple[Any, ...]:
        return told()

    assert told() == ("world", "test", None)
    assert sim.run(main) == ("test/main-1", "test", None)
    assert box.run(told) == ("box/told-1", "box", None)
    assert repr(sim.bridge) == "<bridge of test>"


def test_a_foreign_thread_is_an_escape(a_real_thread: Any) -> None:
    """Blocking, running and scheduling from another thread are refused (5.2)."""
    with pytest.raises(EscapeError), Sim() as sim:
        uses = (
            lambda: sim.bridge.wait(after(1)),
            lambda: sim.run(after(1)),
            lambda: sim.clock.advance(1),
            lambda: sim.loop.call_soon_threadsafe(print),
        )
        for use in uses:
            error = a_real_thread(use)
            assert isinstance(error, EscapeError)
            assert "thread the simulation does not own, at 0 s" in str(error)
            assert "call_blocking" in str(error)
        # In debug mode the loop looks at every call, as asyncio's does.
        sim.loop.set_debug(True)
        assert isinstance(a_real_thread(lambda: sim.loop.call_soon(print)), EscapeError)
        sim.loop.set_debug(False)


def test_a_deadlock_in_a_pump_is_raised_from_wait(sim: Sim) -> None:
    """And the simulation goes on after it."""
    with pytest.raises(DeadlockError):
        sim.bridge.wait(asyncio.Event().wait())
    assert sim.bridge.wait(after(1, "on")) == "on"


def test_any_awaitable_may_be_waited_for(sim: Sim) -> None:
    """Futures, tasks, coroutines and objects with `__await__`, with and without fiber."""

    class Later:
        def __await__(self) -> Any:
            yield from asyncio.sleep(1).__await__()
            return "later"

    future = sim.loop.create_future()
    sim.loop.call_later(1, future.set_result, "future")
    for wait in (
        sim.bridge.wait,
        lambda thing: sim.run(lambda: sim.bridge.wait(thing)),
    ):
        assert wait(Later()) == "later"
        assert wait(future) == "future"
        assert wait(sim.loop.create_task(after(1, "task"))) == "task"
    nothing: Any = 3
    with pytest.raises(TypeError):
        sim.run(lambda: sim.bridge.wait(nothing))
