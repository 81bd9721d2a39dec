"""anyio on asyncio: task groups, limits, worker threads, streams (checks 61, 63)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from rpcsim.errors import EscapeError
from rpcsim.sim import Sim
from tests.third_party.stage import play_twice

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def server() -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100):
                if data == b"reset":
                    writer.transport.abort()
                    return
                if data != b"silence":
                    writer.write(data.upper())
        finally:
            writer.close()

    listening = await asyncio.start_server(shout, "", 9)
    await listening.serve_forever()


def test_streams_and_half_close() -> None:
    """`connect_tcp`, send, receive, end-of-file."""

    async def client(sim: Sim) -> bytes:
        async with await anyio.connect_tcp("server", 9) as stream:
            await stream.send(b"abc")
            seen = await stream.receive()
            await stream.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            return seen

    assert play_twice(server, client) == b"ABC"


def test_a_time_limit_and_a_reset() -> None:
    """`fail_after` is simulated time; a reset is `BrokenResourceError`."""

    async def client(sim: Sim) -> float:
        async with await anyio.connect_tcp("server", 9) as stream:
            await stream.send(b"silence")
            begun = anyio.current_time()
            with pytest.raises(TimeoutError), anyio.fail_after(3):
                await stream.receive()
            took = anyio.current_time() - begun
            await stream.send(b"reset")
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()
            return round(took, 6)

    assert play_twice(server, client) == 3.0


@pytest.mark.parametrize("policy", ["fifo", "random"])
def test_task_groups_cancel_their_children(policy: str) -> None:
    """One child fails, the others are cancelled; the same in both runs."""

    async def client(sim: Sim) -> list[str]:
        log: list[str] = []

        async def child(n: int) -> None:
            try:
                await anyio.sleep(1 if n == 2 else 5)
            except asyncio.CancelledError:
                log.append(f"cancelled {n}")
                raise
            raise ValueError(n)

        try:
            async with anyio.create_task_group() as group:
                for n in range(5):
                    group.start_soon(child, n)
        except* ValueError:
            log.append("failed")
        return log

    log = play_twice(server, client, policy=policy, seed=5)
    assert sorted(log[:-1]) == [f"cancelled {n}" for n in (0, 1, 3, 4)]
    assert log[-1] == "failed"


def test_worker_threads_are_fibers() -> None:
    """`to_thread.run_sync` may block in simulated time; no thread starts (check 63)."""

    async def client(sim: Sim) -> list[object]:
        log: list[object] = []

        def work(seconds: float) -> float:
            time.sleep(seconds)
            log.append(seconds)
            return seconds

        async def one(seconds: float) -> None:
            log.append(await anyio.to_thread.run_sync(work, seconds))

        async with anyio.create_task_group() as group:
            for seconds in (3, 1, 2):
                group.start_soon(one, seconds)
        with pytest.raises(ZeroDivisionError):
            await anyio.to_thread.run_sync(lambda: 1 / 0)
        return [*log, sim.loop.time()]

    assert play_twice(server, client) == [1, 1, 2, 2, 3, 3, 3.0]


def test_the_worker_is_anyios_own_after_the_run() -> None:
    """What was replaced for the run is put back."""
    from anyio._backends import _asyncio as backend

    before = backend.WorkerThread
    with Sim() as sim:
        sim.run(lambda: None)
        assert backend.WorkerThread is not before
    assert backend.WorkerThread is before


@pytest.mark.parametrize(
    ("call", "use"),
    [
        ("loop.add_reader", lambda: anyio.wait_readable(0)),
        ("loop.subprocess_exec", lambda: anyio.run_process(["true"])),
    ],
)
def test_what_cannot_work_names_the_call(
    call: str, use: Callable[[], Awaitable[object]]
) -> None:
    """A fence: `EscapeError` with call and way out (check 64)."""

    async def main() -> None:
        with pytest.raises(EscapeError, match=call):
            await use()

    with pytest.raises(EscapeError, match=call), Sim() as sim:
        sim.run(main)
