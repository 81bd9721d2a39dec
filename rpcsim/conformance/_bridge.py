"""What any `Bridge` between blocking and asynchronous code must do."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import traceback
from typing import TYPE_CHECKING, Any, Final

from rpcsim.conformance._checking import Check, araises, expect, raises, run_all
from rpcsim.errors import BlockingInCoroutine, DeadlockError, FiberKilled
from rpcsim.ports import current

if TYPE_CHECKING:
    from rpcsim.conformance._checking import Make
    from rpcsim.ports import Worker

__all__ = ["BRIDGE", "check_bridge"]


def check_bridge(make: Make) -> None:
    """Check a machine's bridge: waiting, nesting, cancelling, workers.

    Args:
        make: Gives a fresh machine.
    """
    run_all(BRIDGE, make)


async def _later(value: Any = None) -> Any:
    await current().clock.sleep("1ms")
    return value


def wait_gives_the_outcome(make: Make) -> None:
    """From a test function, for coroutines, tasks and futures alike."""
    with make() as machine:
        bridge = machine.bridge
        expect(bridge.may_block(), "a test function may block")
        expect(bridge.wait(_later(7)) == 7, "wait() lost the value")

        async def main() -> None:
            task = asyncio.ensure_future(_later("task"))
            waited = await current().bridge.call_blocking(
                lambda: current().bridge.wait(task)
            )
            expect(waited == "task", f"waiting for a task gave {waited!r}")

        machine.run(main)


def blocking_and_async_code_nest(make: Make) -> None:
    """Sync, async, sync, async, ... to any depth, back with the value."""
    with make() as machine:

        def down(depth: int) -> int:
            if depth == 0:
                return 0
            return int(current().bridge.wait(over(depth)))

        async def over(depth: int) -> int:
            return 1 + await current().bridge.call_blocking(down, depth - 1)

        got = machine.run(lambda: down(12))
        expect(got == 12, f"12 levels down and back gave {got}")


def a_step_may_not_block(make: Make) -> None:
    """`wait` in a coroutine is refused, and the text names the way out."""
    texts: list[str] = []
    # A machine may keep the error and raise it again at the end of the run.
    with contextlib.suppress(BlockingInCoroutine), make() as machine:

        async def careless() -> None:
            expect(not current().bridge.may_block(), "a coroutine step may not block")
            error = raises(
                BlockingInCoroutine,
                lambda: current().bridge.wait(_later()),
                "wait in a coroutine could never return",
            )
            texts.append(str(error))

        machine.run(careless)
    expect(texts, "wait in a coroutine ended the run")
    [told] = texts
    expect("call_blocking" in told, f"the way out is not named: {told}")
    expect("_later" in told, f"the call is not named: {told}")


def a_fiber_may_block(make: Make) -> None:
    """In blocking code no loop counts as running, and `wait` works."""
    with make() as machine:

        def blocking() -> Any:
            raises(
                RuntimeError, asyncio.get_running_loop, "no loop runs in blocking code"
            )
            expect(current().bridge.may_block(), "blocking code may block")
            return current().bridge.wait(_later("waited"))

        expect(machine.run(blocking) == "waited", "wait() lost the value")


def exceptions_cross_unchanged(make: Make) -> None:
    """The same object, with the frames of every level; base exceptions too."""

    class Odd(BaseException):
        pass

    for error in (LookupError("deep"), Odd("deeper")):

        def innermost(error: BaseException = error) -> None:
            raise error

        async def middle() -> None:
            await current().bridge.call_blocking(innermost)

        def outer() -> None:
            current().bridge.wait(middle())

        with make() as machine:
            caught = raises(type(error), lambda: machine.run(outer), "it was raised")
        expect(caught is error, f"another object arrived: {caught!r}")
        frames = [f.name for f in traceback.extract_tb(caught.__traceback__)]
        for name in ("outer", "middle", "innermost"):
            expect(name in frames, f"the frames of {name} are lost: {frames}")


def context_is_copied_in_and_stays_in(make: Make) -> None:
    """Reads see the caller's values; writes do not leak back."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    with make() as machine:

        def blocking() -> str:
            seen = variable.get()
            variable.set("inner")
            return seen

        async def main() -> None:
            variable.set("outer")
            seen = await current().bridge.call_blocking(blocking)
            expect(seen == "outer", f"blocking code read {seen!r}")
            expect(variable.get() == "outer", "a write leaked out of blocking code")

        machine.run(main)


def code_stays_on_its_host(make: Make) -> None:
    """`current()` inside blocking code is the host's that called it."""
    with make() as machine:
        host = machine.host("server")
        seen = host.run(lambda: current().host)
        expect(seen == "server", f"blocking code of host server runs on {seen!r}")
        name = host.run(lambda: current().bridge.current().host)
        expect(name == "server", f"bridge.current() says host {name!r}")


def cancelling_runs_finally(make: Make) -> None:
    """`CancelledError` comes out of the current wait; `finally` may wait again."""
    with make() as machine:
        seen: list[Any] = []
        began = asyncio.Event()

        async def for_ever() -> None:
            began.set()
            await asyncio.Event().wait()

        def blocking() -> None:
            try:
                current().bridge.wait(for_ever())
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise
            finally:
                seen.append(current().bridge.wait(_later("tidied")))

        async def main() -> None:
            task = asyncio.ensure_future(current().bridge.call_blocking(blocking))
            await began.wait()
            task.cancel()
            await araises(asyncio.CancelledError, task, "the caller was cancelled")

        machine.run(main)
        expect(seen == ["cancelled", "tidied"], f"the blocking code saw {seen}")


def a_time_limit_ends_a_wait(make: Make) -> None:
    """`TimeoutError` not before the limit; a coroutine given is cancelled."""
    with make() as machine:
        ended: list[str] = []

        async def slow() -> None:
            try:
                await current().clock.sleep("1h")
            finally:
                ended.append("cancelled")

        def blocking() -> None:
            clock = current().clock
            start = clock.now_ns()
            raises(
                TimeoutError,
                lambda: current().bridge.wait(slow(), timeout="20ms"),
                "the limit passed",
            )
            took = clock.now_ns() - start
            expect(took >= 19_000_000, f"a limit of 20 ms passed in {took} ns")
            current().bridge.wait(_later())
            expect(ended == ["cancelled"], "the coroutine given goes on")

        machine.run(blocking)


def spawned_work_is_awaited_or_killed(make: Make) -> None:
    """Awaiting gives the outcome; `kill` ends it at its next blocking point."""
    with make() as machine:
        seen: list[str] = []
        began = asyncio.Event()

        async def for_ever() -> None:
            began.set()
            await asyncio.Event().wait()

        def victim() -> None:
            try:
                current().bridge.wait(for_ever())
            except FiberKilled:
                seen.append("killed")
                raise

        async def main() -> None:
            bridge = current().bridge
            handle = bridge.spawn(lambda: bridge.wait(_later(5)), name="adder")
            expect(handle.name == "adder", f"its name is {handle.name!r}")
            expect(await handle == 5, "the outcome is lost")
            expect(handle.done(), "it has ended, and is not done")
            handle = bridge.spawn(victim)
            await began.wait()
            handle.kill()
            await araises(FiberKilled, handle, "it was killed")
            expect(seen == ["killed"], f"the victim saw {seen}")

        machine.run(main)


def a_worker_is_one_at_a_time(make: Make) -> None:
    """First in first out, under its own identity; a failing item harms no other."""
    with make() as machine:
        seen: list[Any] = []

        def item(n: int) -> Worker | None:
            seen.append(("begin", n))
            current().bridge.wait(_later())
            seen.append(("end", n))
            if n == 1:
                raise LookupError("item 1")
            return current().bridge.current().worker

        async def main() -> None:
            worker = current().bridge.worker("receiver")
            expect(worker.name == "receiver", f"its name is {worker.name!r}")
            items = [asyncio.ensure_future(_take(worker, item, n)) for n in range(3)]
            expect(await items[0] is worker, "inside, another worker is current")
            await araises(LookupError, items[1], "item 1 fails")
            await items[2]
            expected = [(what, n) for n in range(3) for what in ("begin", "end")]
            expect(seen == expected, f"items ran as {seen}")
            await worker.stop()

        machine.run(main)


async def _take(worker: Worker, fn: Any, *args: Any) -> Any:
    return await worker.submit(fn, *args)


def waiting_on_ones_own_worker_is_detected(make: Make) -> None:
    """It could never end; the error says so at once."""
    texts: list[str] = []
    with contextlib.suppress(DeadlockError), make() as machine:

        async def main() -> None:
            worker = current().bridge.worker("receiver")

            def inner() -> None: ...

            def outer() -> None:
                current().bridge.wait(worker.submit(inner))

            error = await araises(
                DeadlockError, worker.submit(outer), "an item waits for its own worker"
            )
            texts.append(str(error))

        machine.run(main)
    expect(texts, "waiting for one's own worker ended the run")
    expect("receiver" in texts[0], f"the worker is not named: {texts[0]}")


BRIDGE: Final[tuple[Check, ...]] = (
    wait_gives_the_outcome,
    blocking_and_async_code_nest,
    a_step_may_not_block,
    a_fiber_may_block,
    exceptions_cross_unchanged,
    context_is_copied_in_and_stays_in,
    code_stays_on_its_host,
    cancelling_runs_finally,
    a_time_limit_ends_a_wait,
    spawned_work_is_awaited_or_killed,
    a_worker_is_one_at_a_time,
    waiting_on_ones_own_worker_is_detected,
)
