from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rpcsim.core import Catalogue, Context, Ended, Marks, ProgressReport, mark, perform
from rpcsim.ports import Ports, current
from rpcsim.sim import Sim


def remote(fn: Any) -> Any:
    return mark(fn, Marks())


class Slow:
    def __init__(self) -> None:
        pause(1)


class Work:
    @remote
    def sync(self, x: int) -> int:
        pause(1)
        return x + 1

    @remote
    async def asynchronous(self, x: int) -> int:
        await current().clock.sleep(1)
        return x + 1

    @remote
    def given(self) -> Any:
        return self.asynchronous(1)

    @remote
    def stop(self) -> None:
        raise StopIteration("enough")

    @remote
    def leave(self) -> None:
        raise SystemExit(3)

    @remote
    async def cancel(self) -> None:
        raise asyncio.CancelledError

    @remote
    def who(self) -> str | None:
        running = Context.current()
        return running and running.sn

    @remote
    async def awho(self) -> Any:
        return self.who()


class Built(Slow):
    @remote
    async def done(self) -> float:
        return current().clock.time()


def pause(seconds: float) -> None:
    ports = current()
    ports.bridge.wait(ports.clock.sleep(seconds))


def run(sim: Sim, name: str, *args: Any, **kwargs: Any) -> Ended:
    owner = Built if name == "done" else Work

    async def main() -> Ended:
        procedure = Catalogue([owner]).resolve(owner.__name__, name)
        return await perform(procedure, args, kwargs, bridge=current().bridge)

    ended: Ended = sim.run(main)
    return ended


@pytest.mark.parametrize("name", ["sync", "asynchronous"])
def test_both_colours_run_and_may_wait(name: Any) -> None:
    """Blocking and asynchronous methods take their second and give their value."""
    with Sim(seed=1) as sim:
        assert run(sim, name, 1).take() == 2
        assert sim.clock.now_ns() == 1_000_000_000


def test_a_function_that_gives_a_coroutine_is_awaited() -> None:
    """What matters is what it returns, not how it was declared."""
    with Sim(seed=1) as sim:
        assert run(sim, "given").take() == 2


def test_a_blocking_constructor_of_an_async_method_may_block() -> None:
    """Constructors run where blocking is allowed."""
    with Sim(seed=1) as sim:
        assert run(sim, "done").take() == 1.0


@pytest.mark.parametrize(
    ("name", "args", "kind"),
    [
        ("sync", (), TypeError),
        ("asynchronous", (1, 2), TypeError),
        ("stop", (), StopIteration),
        ("leave", (), SystemExit),
        ("cancel", (), asyncio.CancelledError),
    ],
)
def test_whatever_it_raises_is_an_outcome(name: Any, args: Any, kind: Any) -> None:
    """Wrong arguments, StopIteration, SystemExit: values, and the run goes on."""
    with Sim(seed=1) as sim:
        ended = run(sim, name, *args)
        with pytest.raises(kind) as caught:
            ended.take()
        assert caught.value is ended.error


def test_cancelling_the_one_who_runs_it_is_no_outcome() -> None:
    """Cancellation from outside passes through."""

    async def main() -> bool:
        procedure = Catalogue([Work]).resolve("Work", "asynchronous")
        task = asyncio.ensure_future(
            perform(procedure, (1,), bridge=current().bridge),
        )
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    with Sim(seed=1) as sim:
        assert sim.run(main)


def test_the_context_is_that_of_the_running_call() -> None:
    """Inside both colours it is there, for parallel calls each its own; outside None."""

    async def one(ports: Ports, sn: str, name: str) -> Any:
        async def send(body: bytes) -> None: ...

        progress = ProgressReport(ports.bridge, None, send)
        with Context(sn, f"Work.{name}", progress):
            procedure = Catalogue([Work]).resolve("Work", name)
            ended = await perform(procedure, bridge=ports.bridge)
        assert Context.current() is None
        return ended.take()

    async def main() -> Any:
        ports = current()
        return await asyncio.gather(
            one(ports, "a", "who"), one(ports, "b", "awho"), one(ports, "c", "who")
        )

    with Sim(seed=1) as sim:
        assert sim.run(main) == ["a", "b", "c"]


def test_progress_is_sent_in_order_as_it_was_when_reported() -> None:
    """Reports keep the values of their moment, from blocking and async code."""
    sent: list[bytes] = []

    async def send(body: bytes) -> None:
        await current().clock.sleep(0.1)
        sent.append(body)

    def encode(values: Any) -> bytes:
        return repr(dict(values)).encode()

    def blocking(progress: ProgressReport) -> None:
        progress.total = 3
        progress.completed = 1
        progress.report()
        assert len(sent) == 1
        progress.details["step"] = "two"
        progress.increment()

    async def main() -> None:
        progress = ProgressReport(current().bridge, encode, send)
        await current().bridge.call_blocking(blocking, progress)
        progress.auto = True
        progress.details = {"step": "three"}
        progress.completed = 3
        progress.reset(9)
        await progress.flush()

    with Sim(seed=1) as sim:
        sim.run(main)
    assert [eval(body) for body in sent] == [
        {"total": 3, "completed": 1, "details": {}},
        {"total": 3, "completed": 2, "details": {"step": "two"}},
        {"total": 3, "completed": 2, "details": {"step": "three"}},
        {"total": 3, "completed": 3, "details": {"step": "three"}},
    ]


def test_a_report_that_cannot_be_sent_harms_nobody(caplog: Any) -> None:
    """Errors of encoding and sending are logged; later reports still go."""
    sent: list[bytes] = []

    async def send(body: bytes) -> None:
        if body == b"1":
            raise OSError("gone")
        sent.append(body)

    def encode(values: Any) -> bytes:
        if values["completed"] == 2:
            raise TypeError("not JSON")
        return b"%d" % values["completed"]

    async def main() -> None:
        progress = ProgressReport(current().bridge, encode, send)
        for _ in range(3):
            progress.increment()
        await progress.flush()

    with Sim(seed=1) as sim:
        sim.run(main)
    assert sent == [b"3"]
    assert caplog.text.count("a progress report was not sent") == 2
