from __future__ import annotations

import asyncio
import contextvars
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.errors import (
    BlockingInCoroutine,
    DeadlockError,
    FiberKilled,
    PoolExhausted,
    SimulationError,
)
from rpcsim.ports import current
from rpcsim.real import Runtime
from tests.real.parts import LOOPS, notes, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpcsim.ports import Worker


@pytest.fixture(params=LOOPS)
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    with Runtime(loop=request.param) as made:
        yield made
    assert made.leftovers == ()


async def ready(value: object = None) -> object:
    await asyncio.sleep(0)
    return value


def test_sync_async_sync_nesting(runtime: Runtime) -> None:
    """Blocking code waits for a coroutine that runs blocking code, and so on."""

    def down(depth: int) -> int:
        return depth if depth == 0 else current().bridge.wait(over(depth))

    async def over(depth: int) -> int:
        return 1 + await current().bridge.call_blocking(down, depth - 1)

    assert down(20) == 20


def test_wait_in_a_coroutine_names_the_way_out(runtime: Runtime) -> None:
    """It could never return; the error names the call and `call_blocking`."""

    async def careless() -> None:
        assert not current().bridge.may_block()
        current().bridge.wait(ready())

    with pytest.raises(BlockingInCoroutine, match=r"ready would block.*call_blocking"):
        runtime.run(careless)
    assert runtime.bridge.may_block()


def test_wait_in_a_callback_is_refused_too(runtime: Runtime) -> None:
    """A timer's function runs on the loop as well."""
    caught: list[BaseException] = []

    def ring(_: object) -> None:
        try:
            current().bridge.wait(ready())
        except BlockingInCoroutine as error:
            caught.append(error)

    runtime.clock.call_later(0, ring)
    until(lambda: bool(caught))
    assert "of host 'test'" in str(caught[0])


def test_exceptions_cross_as_the_same_object(runtime: Runtime) -> None:
    """Three levels down and back: one object, with the frames of every level."""

    class Odd(BaseException):
        pass

    for error in (LookupError("deep"), Odd("deeper")):

        def innermost(error: BaseException = error) -> None:
            raise error

        async def middle(fn: Any = innermost) -> None:
            await current().bridge.call_blocking(fn)

        def outer(coro: Any = middle) -> None:
            current().bridge.wait(coro())

        with pytest.raises(type(error)) as caught:
            runtime.run(outer)
        assert caught.value is error
        frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert [n for n in frames if n in ("outer", "middle", "innermost")] == [
            "outer",
            "middle",
            "innermost",
        ]


def test_context_variables_are_copied(runtime: Runtime) -> None:
    """Reads see the caller's values, writes stay inside, no loop counts as running."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    def blocking() -> str:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        seen = variable.get()
        variable.set("inner")
        return seen

    async def calling() -> str:
        seen = await current().bridge.call_blocking(blocking)
        assert variable.get() == "outer"
        variable.set("coroutine")
        return seen

    variable.set("outer")
    assert runtime.run(calling) == "outer"
    assert variable.get() == "outer"


def test_cancelling_the_caller_ends_the_threads_wait(runtime: Runtime) -> None:
    """`CancelledError` comes out of `wait`; `finally` runs, and may wait again."""
    seen: list[object] = []
    waiting = threading.Event()

    async def for_ever() -> None:
        waiting.set()
        await asyncio.Event().wait()

    def blocking() -> None:
        try:
            current().bridge.wait(for_ever())
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append(current().bridge.wait(ready("tidied")))

    async def main() -> None:
        bridge = current().bridge
        task = asyncio.create_task(bridge.call_blocking(blocking))
        await bridge.spawn(waiting.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    runtime.run(main)
    assert seen == ["cancelled", "tidied"]


def test_cancelled_between_waits_it_is_seen_at_the_next(runtime: Runtime) -> None:
    """A thread that computes runs on, until it waits."""
    computing, go_on = threading.Event(), threading.Event()
    seen: list[str] = []

    def blocking() -> None:
        computing.set()
        assert go_on.wait(10)
        seen.append("ran on")
        current().bridge.wait(ready())
        seen.append("never")

    async def main() -> None:
        bridge = current().bridge
        task = asyncio.create_task(bridge.call_blocking(blocking))
        await bridge.spawn(computing.wait)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    runtime.run(main)
    assert seen == ["ran on"]


def test_a_time_limit_cancels_the_coroutine_it_was_given(runtime: Runtime) -> None:
    """`TimeoutError` naming the call and the limit; a future given stays as it is."""
    ended = threading.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(TimeoutError, match=r"slow did not end within 5ms"):
        runtime.bridge.wait(slow(), timeout="5ms")
    assert ended.wait(10)

    async def make() -> asyncio.Future[str]:
        return asyncio.get_running_loop().create_future()

    future = runtime.run(make)
    with pytest.raises(TimeoutError):
        runtime.bridge.wait(future, timeout=0)
    runtime.bridge.wait(_set(future, "kept"))
    assert runtime.bridge.wait(future) == "kept"


async def _set(future: asyncio.Future[str], value: str) -> None:
    future.set_result(value)


def test_300_nested_blocking_calls_exhaust_the_pool() -> None:
    """No hang: an error that shows the chain of waits and what to change."""

    def down(depth: int) -> int:
        return depth if depth == 0 else current().bridge.wait(over(depth))

    async def over(depth: int) -> int:
        return await current().bridge.call_blocking(down, depth - 1)

    with Runtime(max_threads=64) as runtime:
        with pytest.raises(PoolExhausted) as caught:
            runtime.run(lambda: down(300))
        assert runtime.run(lambda: down(40)) == 0
    text = str(caught.value)
    assert "all 64 run blocking calls" in text
    assert "down on host test waits for" in text
    assert "max_threads" in text
    assert runtime.leftovers == ()


def test_wait_refuses_what_belongs_to_another_loop(runtime: Runtime) -> None:
    """A future of a foreign loop would never be seen done here."""
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(SimulationError, match="another event loop"):
            runtime.bridge.wait(loop.create_future())
    finally:
        loop.close()


def test_call_blocking_on_another_loop_is_refused(runtime: Runtime) -> None:
    """Awaited on a loop that is not the runtime's, it says so instead of hanging."""
    with pytest.raises(SimulationError, match="another event loop"):
        asyncio.run(_call_on(runtime))


async def _call_on(runtime: Runtime) -> None:
    await runtime.bridge.call_blocking(print)


def test_spawned_work_is_awaited_or_killed(runtime: Runtime) -> None:
    """A handle gives the outcome; `kill` raises `FiberKilled` at the next wait."""
    began = threading.Event()
    seen: list[str] = []

    async def for_ever() -> None:
        began.set()
        await asyncio.Event().wait()

    def blocking() -> None:
        try:
            current().bridge.wait(for_ever())
        except FiberKilled:
            seen.append("killed")
            raise

    doubled = runtime.bridge.spawn(lambda n: n * 2, 21, name="doubling")
    assert doubled.name == "doubling"
    assert runtime.bridge.wait(doubled) == 42
    assert doubled.done()
    handle = runtime.bridge.spawn(blocking)
    assert began.wait(10)
    handle.kill(hard=True)
    with pytest.raises(FiberKilled, match="was killed"):
        runtime.bridge.wait(handle)
    assert seen == ["killed"]
    assert notes(runtime) == ["kill"]


def test_swallowing_a_kill_does_not_escape_it(runtime: Runtime) -> None:
    """A coroutine that eats the cancellation only puts it off to the next wait."""
    began = threading.Event()

    async def deaf() -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "not me"
        raise AssertionError("unreachable")

    def blocking() -> None:
        assert current().bridge.wait(deaf()) == "not me"
        current().bridge.wait(ready())

    handle = runtime.bridge.spawn(blocking)
    assert began.wait(10)
    handle.kill()
    with pytest.raises(FiberKilled):
        runtime.bridge.wait(handle)


def test_a_worker_runs_its_items_in_order(runtime: Runtime) -> None:
    """First in, first out, one at a time; inside, `current().worker` is the worker."""
    worker = runtime.bridge.worker("receiver")
    seen: list[int] = []
    inside: list[Worker | None] = []
    busy = threading.Lock()

    def item(n: int) -> int:
        assert busy.acquire(blocking=False)
        current().bridge.wait(ready())
        seen.append(n)
        inside.append(current().bridge.current().worker)
        busy.release()
        return -n

    items = [worker.submit(item, n) for n in range(20)]
    assert [runtime.bridge.wait(one) for one in items] == [-n for n in range(20)]
    assert seen == list(range(20))
    assert all(one is worker for one in inside)
    runtime.bridge.wait(worker.stop())
    with pytest.raises(SimulationError, match=r"'receiver'.*was stopped"):
        worker.submit(item, 1)


def test_a_worker_goes_on_after_a_failing_item(runtime: Runtime) -> None:
    """The failure is its submitter's; the next item runs."""
    worker = runtime.bridge.worker("receiver")

    def fail() -> None:
        raise LookupError("mine")

    bad, good = worker.submit(fail), worker.submit(lambda: "fine")
    with pytest.raises(LookupError, match="mine"):
        runtime.bridge.wait(bad)
    assert runtime.bridge.wait(good) == "fine"


def test_waiting_on_ones_own_worker_is_detected(runtime: Runtime) -> None:
    """Directly, and through a second thread: an error naming the worker, no hang."""
    worker = runtime.bridge.worker("receiver")

    async def submit() -> object:
        return await worker.submit(print)

    def direct() -> None:
        current().bridge.wait(worker.submit(print))

    def far() -> None:
        current().bridge.wait(hop())

    async def hop() -> None:
        await current().bridge.call_blocking(lambda: current().bridge.wait(submit()))

    def stopping() -> None:
        current().bridge.wait(worker.stop())

    for item in (direct, far, stopping):
        with pytest.raises(DeadlockError, match="'receiver' of host 'test'"):
            runtime.bridge.wait(worker.submit(item))


def test_current_tells_what_runs(runtime: Runtime) -> None:
    """A thread of ours, a task, and the test's own thread have a name and a host."""
    host = runtime.host("client")

    async def in_task() -> tuple[str, str]:
        running = current().bridge.current()
        return running.name, running.host

    def in_thread() -> tuple[str, str]:
        running = current().bridge.current()
        return running.name, running.host

    assert host.run(in_thread)[0].endswith("in_thread")
    assert host.run(in_thread)[1] == "client"
    assert host.run(in_task)[1] == "client"
    assert runtime.bridge.current().host == "test"
    assert runtime.bridge.current().name == threading.current_thread().name


def test_a_user_thread_may_wait(runtime: Runtime) -> None:
    """Any thread that runs no loop may use the bridge."""
    seen: list[object] = []
    thread = threading.Thread(
        target=lambda: seen.append(current().bridge.wait(ready("from afar")))
    )
    thread.start()
    thread.join()
    assert seen == ["from afar"]
