from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import warnings
from functools import partial
from typing import Any

import pytest

from rpcsim.errors import (
    BlockingInCoroutine,
    Disconnected,
    HostStateError,
    SimulationError,
    UnhandledErrors,
)
from rpcsim.ports import Machine, current, current_or_none
from rpcsim.real import Runtime
from rpcsim.real._waiting import Waiter
from tests.real.parts import LOOPS, EchoProtocol, EchoServer, dial, hang_up, until

CALLS = 10_000


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("rpcsim")]


def test_runtime_is_a_machine() -> None:
    """The runtime has the shape `harness` builds worlds on."""
    machine: Machine = Runtime(seed=3)
    assert (machine.mode, machine.seed, machine.leftovers) == ("real", 3, ())
    assert [host.name for host in machine.hosts] == []


@pytest.mark.parametrize("loop", LOOPS)
def test_ten_thousand_calls_then_nothing_is_left(loop: Any) -> None:
    """After many calls, async and sync, no thread, task or socket outlives the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with Runtime(loop=loop) as runtime:
            server = runtime.host("server", EchoServer)
            runtime.bridge.wait(server.wait_started())

            async def many() -> int:
                transport, caller = await dial("server")
                for _ in range(CALLS):
                    assert await caller.call(b"x") == b"x"
                transport.close()
                return CALLS

            assert runtime.run(many) == CALLS
            transport, caller = runtime.bridge.wait(dial("server"))
            for _ in range(CALLS // 5):
                assert runtime.bridge.wait(caller.call(b"y")) == b"y"
            hang_up(runtime, transport)
        gc.collect()
    assert runtime.leftovers == ()
    assert threads() == []


def test_closing_under_load_ends_running_calls() -> None:
    """Calls in other threads get their answer or the shutting-down error, no hang."""
    outcomes: list[str] = []

    def keep_calling(runtime: Runtime) -> None:
        try:
            _, caller = runtime.bridge.wait(dial("server"))
            while runtime.bridge.wait(caller.call(b"x")):
                answered.release()
            outcomes.append("lost")
        except Disconnected as error:
            outcomes.append(str(error))

    answered = threading.Semaphore(0)
    with Runtime(grace="50ms") as runtime:
        runtime.bridge.wait(runtime.host("server", EchoServer).wait_started())
        callers = [
            threading.Thread(target=keep_calling, args=(runtime,)) for _ in range(4)
        ]
        for thread in callers:
            thread.start()
        for _ in range(100):
            assert answered.acquire(timeout=10)
    for thread in callers:
        thread.join(10)
    assert len(outcomes) == 4
    assert all(told == "lost" or "shutting down" in told for told in outcomes)
    assert threads() == []


def test_a_call_that_never_ends_is_let_go_after_the_grace() -> None:
    """A thread blocked in `wait` when the runtime ends is woken with an error."""
    failures: list[BaseException] = []
    began = threading.Event()

    async def for_ever() -> None:
        began.set()
        await asyncio.Event().wait()

    def blocked(runtime: Runtime) -> None:
        try:
            runtime.bridge.wait(for_ever())
        except Disconnected as error:
            failures.append(error)

    with Runtime(grace=0) as runtime:
        thread = threading.Thread(target=blocked, args=(runtime,))
        thread.start()
        assert began.wait(10)
    thread.join(10)
    assert "for_ever: the runtime is shutting down" in str(failures[0])
    with pytest.raises(Disconnected, match="make calls inside its `with` block"):
        runtime.bridge.wait(asyncio.sleep(0))


def test_run_takes_every_kind_of_main() -> None:
    """An awaitable, a coroutine function, a function that blocks, and partials."""

    async def add(a: int = 1, b: int = 2) -> int:
        return a + b

    def blocking() -> int:
        return current().bridge.wait(add(3, 4))

    with Runtime() as runtime:
        assert runtime.run(add()) == 3
        assert runtime.run(add) == 3
        assert runtime.run(blocking) == 7
        assert runtime.run(partial(add, 5)) == 7
        assert runtime.run(lambda: add(6)) == 8
        assert runtime.run(lambda: threading.current_thread().name) == "rpcsim-pool-1"


def test_run_in_a_coroutine_is_refused() -> None:
    """`run` blocks, so a coroutine of the loop cannot call it."""

    async def inner() -> None:
        raise AssertionError("never runs")

    async def outer() -> None:
        runtime.run(inner)

    with (
        Runtime() as runtime,
        pytest.raises(BlockingInCoroutine, match="call_blocking"),
    ):
        runtime.run(outer)


def test_current_ports_follow_the_block() -> None:
    """Inside the block, its loop and foreign threads, the world is found by itself."""
    seen: list[str] = []
    with Runtime() as runtime:
        assert current() is runtime.ports
        assert runtime.run(lambda: current()) is runtime.ports
        thread = threading.Thread(target=lambda: seen.append(current().host))
        thread.start()
        thread.join()
    assert seen == ["test"]
    assert current_or_none() is None


def test_side_by_side() -> None:
    """Two runtimes live in one process, with one host name and port each."""
    with Runtime() as one, Runtime() as other:
        for runtime in (one, other):
            runtime.bridge.wait(runtime.host("server", EchoServer).wait_started())
        for runtime in (one, other):
            transport, caller = runtime.bridge.wait(dial("server"))
            assert runtime.bridge.wait(caller.call(b"hi")) == b"hi"
            hang_up(runtime, transport)
            assert runtime.bridge.wait(_host_name()) == "test"
    assert one.leftovers == other.leftovers == ()
    assert threads() == []


async def _host_name() -> str:
    return current().host


def test_it_can_be_entered_again() -> None:
    """Each time it begins with no hosts and an empty trace."""
    runtime = Runtime()
    for _ in range(2):
        with runtime:
            runtime.host("a")
            assert [host.name for host in runtime.hosts] == ["a"]
        assert [record.kind for record in runtime.trace] == ["host.start", "host.stop"]
        assert runtime.trace.digest is not None


def test_it_cannot_be_entered_twice_at_once() -> None:
    """The same object holds one run at a time."""
    with Runtime() as runtime:
        with pytest.raises(SimulationError, match="in use already"), runtime:
            pass
        assert runtime.run(_host_name) == "test"


def test_outside_its_block_it_says_so() -> None:
    """Hosts and calls before the block get an error that names the way."""
    runtime = Runtime()
    with pytest.raises(SimulationError, match="inside `with runtime:`"):
        runtime.host("a")
    with pytest.raises(Disconnected, match="`with` block"):
        runtime.run(_host_name)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"loop": "twisted"}, "asyncio"), ({"max_threads": 0}, "max_threads")],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    """An option with a value it cannot have is refused at once."""
    with pytest.raises(ValueError, match=match):
        Runtime(**options)


def test_uvloop_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is missing, the error names what to install."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(ImportError, match=r"rpcsim\[fast\]"):
        Runtime(loop="uvloop")


def test_leftovers_are_told_by_name() -> None:
    """What the test left behind is listed, one line each, and then really ended."""
    timers: list[object] = []

    async def linger() -> None:
        await asyncio.Event().wait()

    async def leave_things() -> None:
        ports = current()
        tasks.append(asyncio.create_task(linger(), name="lingerer"))
        timers.append(ports.clock.call_later("1h", print))
        listener = await ports.network.listen(EchoProtocol, ("", 0))
        await dial("test", listener.addresses[0][1])

    tasks: list[asyncio.Task[None]] = []
    with Runtime() as runtime:
        runtime.run(leave_things)
        runtime.bridge.spawn(lambda: current().bridge.wait(linger()), name="stuck")
        until(lambda: len(_tasks(runtime)) == 2)
    kinds = [line.split()[0] for line in runtime.leftovers]
    assert kinds == ["task", "task", "listener", *["connection"] * 2, "timer", "thread"]
    assert "task 'lingerer'" in runtime.leftovers[0]
    assert "running stuck of host test" in runtime.leftovers[-1]
    assert tasks[0].cancelled()
    assert threads() == []


def _tasks(runtime: Runtime) -> list[str]:
    async def names() -> list[str]:
        me = asyncio.current_task()
        return [t.get_name() for t in asyncio.all_tasks() if t is not me]

    return runtime.bridge.wait(names())


def test_a_task_that_refuses_to_end_is_named() -> None:
    """Cancelled and still there: the block ends all the same, and the list says it."""

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if let_go:
                    raise

    async def begin() -> None:
        tasks.append(asyncio.create_task(stubborn(), name="mule"))
        await asyncio.sleep(0)

    let_go: list[bool] = []
    tasks: list[asyncio.Task[None]] = []

    async def main() -> Runtime:
        async with Runtime(grace=0) as runtime:
            await begin()
        let_go.append(True)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        return runtime

    runtime = asyncio.run(main())
    assert any("'mule'" in line and "ignores" in line for line in runtime.leftovers)


def test_failures_nobody_took_are_raised_at_the_end() -> None:
    """A task, a timer and a thread that failed unobserved: all told, in order."""
    failed = threading.Event()

    async def fail() -> None:
        raise LookupError("in a task")

    def refuse(word: str) -> None:
        failed.set()
        raise ValueError(word)

    async def begin() -> None:
        tasks.append(asyncio.create_task(fail()))
        current().clock.call_later(0, refuse, "in a timer")

    def in_thread() -> None:
        raise KeyError("in a thread")

    tasks: list[asyncio.Task[None]] = []

    def use() -> None:
        with Runtime() as runtime:
            runtime.run(begin)
            assert failed.wait(10)
            handle = runtime.bridge.spawn(in_thread)
            until(handle.done)

    with pytest.raises(UnhandledErrors) as caught:
        use()
    assert [type(error) for error in caught.value.exceptions] == [
        ValueError,
        LookupError,
        KeyError,
    ]


def test_kept_failures_are_notes_on_what_the_block_raises() -> None:
    """An exception leaving the block keeps its place; the rest is noted on it."""

    def refuse(_: object) -> None:
        failed.set()
        raise ValueError("in a timer")

    def use() -> None:
        with Runtime() as runtime:
            runtime.clock.call_later(0, refuse)
            assert failed.wait(10)
            raise LookupError("the test's own")

    failed = threading.Event()
    with pytest.raises(LookupError) as caught:
        use()
    assert any("in a timer" in note for note in caught.value.__notes__)


def test_system_exit_in_a_task_ends_the_run() -> None:
    """It reaches the caller of `run`, and again the end of the block."""

    async def leave() -> None:
        raise SystemExit(3)

    def use() -> None:
        with Runtime() as runtime, pytest.raises(SystemExit):
            runtime.run(leave)

    with pytest.raises(SystemExit) as caught:
        use()
    assert caught.value.code == 3
    assert threads() == []


def test_async_with_uses_the_running_loop() -> None:
    """No loop thread; strangers' tasks on the loop are neither ours nor cancelled."""

    async def stranger() -> str:
        await go_on.wait()
        return "well"

    async def main() -> tuple[Runtime, str]:
        other = asyncio.create_task(stranger())
        factory = asyncio.get_running_loop().get_task_factory()
        async with Runtime() as runtime:
            server = runtime.host("server", EchoServer)
            await server.wait_started()
            transport, caller = await dial("server")
            assert await caller.call(b"hi") == b"hi"
            transport.close()
            with pytest.raises(BlockingInCoroutine):
                runtime.run(_host_name)
            value = await runtime.bridge.call_blocking(
                lambda: current().bridge.wait(_host_name())
            )
            assert value == "test"
            assert "rpcsim-loop" not in threads()
        assert asyncio.get_running_loop().get_task_factory() is factory
        go_on.set()
        return runtime, await other

    go_on = asyncio.Event()
    runtime, said = asyncio.run(main())
    assert (runtime.leftovers, said) == ((), "well")
    assert threads() == []


def test_host_names_are_checked() -> None:
    """Unique, and of letters that can stand in a trace and an address."""
    with Runtime() as runtime:
        runtime.host("a")
        with pytest.raises(HostStateError, match="declared already"):
            runtime.host("a")
        with pytest.raises(HostStateError, match="declared already"):
            runtime.host("test")
        with pytest.raises(ValueError, match="not a host name"):
            runtime.host("a b")


def test_an_interrupt_as_the_end_is_done_is_no_second_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Raised between the last answer and its taking, it ends the block all the same."""

    class Late(Waiter):
        """Interrupted once it has what it waited for."""

        def block(self, seconds: float = -1) -> bool:
            super().block(10)
            raise KeyboardInterrupt

    runtime = Runtime()
    runtime.__enter__()
    monkeypatch.setattr("rpcsim.real._thread.Waiter", Late)
    before = len(threads())
    with pytest.raises(KeyboardInterrupt):
        runtime.__exit__(None, None, None)
    assert (before, threads()) == (1, [])


def test_a_second_interrupt_ends_the_grace() -> None:
    """The end waits for running calls; the user's next interrupt makes it now."""
    outcomes: list[BaseException] = []
    began = threading.Event()

    async def for_ever() -> None:
        began.set()
        await asyncio.Event().wait()

    def call(runtime: Runtime) -> None:
        try:
            runtime.bridge.wait(for_ever())
        except Disconnected as error:
            outcomes.append(error)

    def interrupt(runtime: Runtime) -> None:
        # Not before the end has begun: one that comes in the block is the first, after
        # which the running call still has its hour.
        until(lambda: runtime._engine.refusing)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def whole_run() -> None:
        with Runtime(grace="1h") as runtime:
            caller = threading.Thread(target=call, args=(runtime,))
            caller.start()
            assert began.wait(10)
            threading.Thread(target=interrupt, args=(runtime,)).start()

    with pytest.raises(KeyboardInterrupt):
        whole_run()
    until(lambda: bool(outcomes))
    assert "shutting down" in str(outcomes[0])
    until(lambda: threads() == [])
