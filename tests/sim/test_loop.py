"""asyncio's interface: the standard library's primitives run unmodified."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.errors import EscapeError, ForeignTaskWarning, SimulationError
from rpcsim.sim import Sim
from rpcsim.sim._task import SimFuture, SimTask
from tests.sim.programs import conversation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
def sim() -> Any:
    with Sim() as sim:
        yield sim


def test_locks_queues_and_their_kin(sim: Sim) -> None:
    """Every primitive does what it does on any loop, in simulated time."""

    async def story() -> list[Any]:
        log: list[Any] = []
        queue = asyncio.Queue[int](2)
        lock, event, gate = asyncio.Lock(), asyncio.Event(), asyncio.Barrier(3)
        slots, changed = asyncio.BoundedSemaphore(2), asyncio.Condition()
        loop = asyncio.get_running_loop()

        async def produce() -> None:
            for n in range(5):
                await queue.put(n)
            await queue.join()
            log.append("joined")

        async def consume() -> None:
            while True:
                n = await queue.get()
                await asyncio.sleep(1)
                log.append(n)
                queue.task_done()

        async def worker(n: int) -> None:
            async with slots, lock:
                await asyncio.sleep(1)
            await gate.wait()
            async with changed:
                await changed.wait_for(event.is_set)
            log.append(f"worker {n} at {loop.time():g}")

        async with asyncio.TaskGroup() as group:
            consumer = group.create_task(consume())
            group.create_task(produce())
            for n in range(3):
                group.create_task(worker(n))
            await asyncio.sleep(6)
            event.set()
            async with changed:
                changed.notify_all()
            consumer.cancel()
        return log

    log = sim.run(story)
    assert log[:6] == [0, 1, 2, 3, 4, "joined"]
    assert sorted(log[6:]) == [f"worker {n} at 6" for n in range(3)]


def test_time_limits(sim: Sim) -> None:
    """`timeout`, `timeout_at`, `wait_for`, `wait`, `shield`, at exact times."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await asyncio.sleep(10)
        assert loop.time() == 1.5
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(2):
                await asyncio.Event().wait()
        assert loop.time() == 2
        inner = asyncio.ensure_future(asyncio.sleep(5, "slow"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(inner), 1)
        assert loop.time() == 3
        done, pending = await asyncio.wait([inner], timeout=1)
        assert (done, pending, loop.time()) == (set(), {inner}, 4)
        assert await asyncio.wait_for(inner, 5) == "slow"
        assert loop.time() == 7
        async with asyncio.timeout(None) as limit:
            limit.reschedule(loop.time() + 1)
            await asyncio.sleep(0.5)
        assert not limit.expired()

    sim.run(story)


def test_results_of_wait_come_in_argument_order(sim: Sim) -> None:
    """Whatever completed first, and whatever the objects' addresses (3.3)."""

    async def story() -> None:
        tasks = [asyncio.create_task(asyncio.sleep(9 - n, n)) for n in range(9)]
        done, _ = await asyncio.wait(tasks)
        assert [task.result() for task in done] == list(range(9))

    sim.run(story)


def test_tasks_and_futures_are_ours_by_class(sim: Sim) -> None:
    """Hashed by a number of the loop; equality stays identity (3.3)."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        future, task = loop.create_future(), loop.create_task(asyncio.sleep(0))
        assert type(future) is SimFuture
        assert type(task) is SimTask
        assert hash(task) == 2
        assert hash(future) == hash(future)
        assert future != loop.create_future()
        await task

    sim.run(story)
    assert hash(sim.loop) == 0


def test_task_factories(sim: Sim) -> None:
    """Ours pass in silence; a foreign class is accepted with one warning (3.3.5)."""

    class Foreign(asyncio.Task[Any]):
        pass

    def ours(loop: Any, coro: Any, **options: Any) -> Any:
        return loop.make_task(coro, **options)

    def foreign(loop: Any, coro: Any, **options: Any) -> Any:
        return Foreign(coro, loop=loop, **options)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(ours)
        assert loop.get_task_factory() is ours
        with warnings.catch_warnings(record=True) as told:
            await asyncio.create_task(asyncio.sleep(1))
        assert told == []
        loop.set_task_factory(foreign)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(3):
                task = asyncio.create_task(asyncio.sleep(1, "done"), name="mine")
                assert await task == "done"
                assert (type(task), task.get_name()) == (Foreign, "mine")
        (warning,) = told
        assert warning.category is ForeignTaskWarning
        assert "Foreign objects" in str(warning.message)
        loop.set_task_factory(None)
        with pytest.raises(TypeError, match="must be a callable"):
            loop.set_task_factory(3)  # type: ignore[arg-type]

    sim.run(story)


def test_async_generators_that_are_dropped_are_closed(sim: Sim) -> None:
    """Within the run, when their last reference goes; exhausted ones are forgotten."""
    log: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(1)
            log.append("closed")

    async def story() -> None:
        async for _ in numbers():
            break
        await asyncio.sleep(2)
        assert log == ["closed"]
        assert [n async for n in numbers()] == [1, 2]
        assert sim.loop._asyncgens == {}

    sim.run(story)


def test_run_forever_and_stop(sim: Sim) -> None:
    """As asyncio: until `stop`; a stop before runs what is ready once."""
    loop = sim.loop
    log: list[str] = []
    loop.call_later(3, loop.stop)
    loop.call_later(2, log.append, "two")
    loop.call_later(4, log.append, "four")
    loop.run_forever()
    assert (log, loop.time(), loop.is_running()) == (["two"], 3, False)
    loop.stop()
    loop.call_soon(log.append, "soon")
    loop.run_forever()
    assert log == ["two", "soon"]
    assert loop.run_until_complete(asyncio.sleep(1, "value")) == "value"
    assert loop.time() == 4
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())


def test_a_runner_accepts_the_loop() -> None:
    """`asyncio.Runner(loop_factory=sim.loop_factory)`, and its closing (3.11)."""
    with Sim() as sim:
        sim.host("box")

        async def story() -> float:
            asyncio.create_task(asyncio.sleep(99))  # noqa: RUF006 - the runner ends it
            await asyncio.sleep(5)
            return asyncio.get_running_loop().time()

        with asyncio.Runner(loop_factory=sim.loop_factory) as runner:
            assert runner.get_loop() is sim.loop
            assert runner.run(story()) == 5
        assert sim.loop.is_closed()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            sim.loop.call_soon(print)
    assert sim.leftovers == ()
    assert sim.trace.digest is not None


def test_executors_run_inline(sim: Sim) -> None:
    """`to_thread` and `run_in_executor` may block and start no thread (check 63)."""

    def blocking(n: int) -> float:
        sim.bridge.wait(asyncio.sleep(n))
        return sim.loop.time()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(object())  # type: ignore[arg-type]  # ignored
        assert await asyncio.to_thread(blocking, 2) == 2
        both: Any = await asyncio.gather(
            loop.run_in_executor(None, blocking, 3),
            loop.run_in_executor(object(), blocking, 1),  # type: ignore[arg-type]
        )
        assert list(both) == [5, 3]

    sim.run(story)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("add_reader", lambda loop: loop.add_reader(0, print)),
        ("add_writer", lambda loop: loop.add_writer(0, print)),
        ("connect_read_pipe", lambda loop: loop.connect_read_pipe(None, None)),
        ("connect_write_pipe", lambda loop: loop.connect_write_pipe(None, None)),
        (
            "connect_accepted_socket",
            lambda loop: loop.connect_accepted_socket(None, None),
        ),
        ("subprocess_exec", lambda _: asyncio.create_subprocess_exec("true")),
        ("subprocess_shell", lambda _: asyncio.create_subprocess_shell("true")),
        ("sock_recv", lambda loop: loop.sock_recv(None, 1)),
        (
            "create_connection(sock=...)",
            lambda loop: loop.create_connection(None, sock=3),
        ),
        ("create_server(sock=...)", lambda loop: loop.create_server(None, sock=3)),
    ],
)
def test_fenced_calls(name: str, use: Callable[[Any], Any]) -> None:
    """Call, place, host, time, alternative; swallowing still fails (check 64)."""
    told: list[EscapeError] = []

    async def story(sim: Sim) -> None:
        await asyncio.sleep(2)
        try:
            result = use(asyncio.get_running_loop())
            if result is not None:
                await result
        except EscapeError as error:
            told.append(error)

    with pytest.raises(EscapeError) as raised, Sim() as sim:
        box = sim.host("box")
        box.run(story(sim))
    (error,) = told
    assert raised.value is error
    assert isinstance(error, RuntimeError)
    text = str(error)
    assert name in text
    assert f"at {__file__}:" in text
    assert "(host 'box', box/story-1, 2 s)" in text
    assert text.split("; ", 1)[1]


def test_debug_mode_changes_no_digest() -> None:
    """It records where things were made, and checks threads, not the run (check 13)."""
    plain = conversation(trace="steps", policy="random", seed=3)
    debug = conversation(trace="steps", policy="random", seed=3, debug=True)
    assert debug.trace.schedule_digest == plain.trace.schedule_digest
    assert debug.trace.digest == plain.trace.digest

    with Sim(debug=True) as sim:
        assert sim.loop.get_debug()
        handle = sim.loop.call_later(1, print)
        assert f"created at {__file__}" in repr(handle)
        handle.cancel()


def test_another_loop_in_this_thread_is_told(sim: Sim) -> None:
    """Driving the simulation inside it would block it (issue 2, section 4)."""

    other: Any = object()
    asyncio._set_running_loop(other)
    try:
        uses: list[Callable[[], Any]] = [
            lambda: sim.run(asyncio.sleep(1)),
            lambda: sim.bridge.wait(asyncio.sleep(1)),
            lambda: sim.clock.advance(1),
        ]
        for use in uses:
            with pytest.raises(SimulationError, match="another event loop"):
                use()
    finally:
        asyncio._set_running_loop(None)


def test_a_second_simulation_inside_one_is_told(sim: Sim) -> None:
    """One runs per thread at a time; an async block is told what to write."""
    active = r"a simulation is active .*<Sim seed=0"
    with pytest.raises(SimulationError, match=active), Sim(seed=2):
        pass

    async def story() -> None:
        with pytest.raises(SimulationError, match="use `with Sim"):
            async with Sim():
                pass

    sim.run(story)


def test_bad_options_are_told() -> None:
    """With what is known, and a guess (issue 2, section 4)."""
    make: Any = Sim
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"policy": "radnom"}, "unknown policy 'radnom'; did you mean 'random'"),
        ({"scope": "hosts"}, "did you mean 'host'"),
        ({"trace": "all"}, r"known: protocol, steps, off"),
        ({"max_time": "5 s"}, "not a duration"),
        ({"stall_limit": float("nan")}, "must be finite"),
        ({"ambient": {"tme"}}, "unknown ambient part 'tme'"),
    )
    for options, told in wrong:
        with pytest.raises(ValueError, match=told):
            make(**options)
    for options in ({"seed": "7"}, {"seed": True}, {"max_time": [1]}):
        with pytest.raises(TypeError):
            make(**options)
    with pytest.raises(TypeError, match="unexpected keyword"):
        make(sede=3)


def test_stop_ends_what_waits_for_a_future(sim: Sim) -> None:
    """As in asyncio: `run_until_complete` raises then, and the future can go on."""

    async def count() -> int:
        for n in range(5):
            await asyncio.sleep(1)
            if n == 1:
                sim.loop.stop()
        return n

    task = sim.loop.create_task(count())
    with pytest.raises(RuntimeError, match="stopped before Future completed"):
        sim.loop.run_until_complete(task)
    assert sim.clock.elapsed == 2
    assert sim.loop.run_until_complete(task) == 4


def test_what_is_awaited_is_made_by_the_factory_that_is_set(sim: Sim) -> None:
    """`run_until_complete(coroutine)` makes its task as everybody does."""
    made: list[str] = []

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        made.append(coro.__name__)
        return sim.loop.make_task(coro)

    sim.loop.set_task_factory(factory)
    assert sim.loop.run_until_complete(asyncio.sleep(1, "done")) == "done"
    assert made == ["sleep"]
