"""Small programs that several tests run: an echo server, sets of racing tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from rpcsim.sim import Sim, Uniform

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 7


async def echo_server() -> None:
    """Serve lines back until cancelled."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        except ConnectionError:
            pass  # the peer is gone
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "", PORT)
    await server.serve_forever()


async def ask(*lines: str, host: str = "server") -> list[str]:
    """Send lines to an echo server, one after another; give the answers."""
    reader, writer = await asyncio.open_connection(host, PORT)
    try:
        answers = []
        for line in lines:
            writer.write(line.encode() + b"\n")
            answers.append((await reader.readline()).decode().rstrip("\n"))
        return answers
    finally:
        writer.close()
        await writer.wait_closed()


async def fail_after(seconds: float, log: list[Any], n: int) -> int:
    """Wait, note, and fail if the number is 7."""
    await asyncio.sleep(seconds)
    log.append(n)
    if n == 7:
        raise ValueError("seven")
    return n


async def group_with_a_failing_child(log: list[Any]) -> None:
    """Of 16 children one fails; the others are cancelled, each noting so."""

    async def child(n: int) -> None:
        try:
            await fail_after(1 if n == 7 else 2, log, n)
        except asyncio.CancelledError:
            log.append(f"cancelled {n}")
            raise

    try:
        async with asyncio.TaskGroup() as group:
            for n in range(16):
                group.create_task(child(n))
    except* ValueError:
        log.append("failed")


async def wait_for_the_first(log: list[Any]) -> None:
    """`wait(FIRST_COMPLETED)` over tasks that end in one instant, and over gathers."""
    left: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(fail_after(1, log, n)) for n in range(6)
    ]
    left += [asyncio.gather(asyncio.sleep(1, n), asyncio.sleep(1)) for n in range(6)]
    while left:
        done, pending = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        log.extend(repr(future.result()) for future in done)
        left = [future for future in left if future in pending]


async def as_they_complete(log: list[Any]) -> None:
    """`as_completed` over bare coroutines and gathers that end in one instant."""
    bare = [fail_after(1, log, n) for n in range(7)]
    gathers = [asyncio.gather(fail_after(1, log, n)) for n in range(10, 16)]
    log += [repr(await future) for future in asyncio.as_completed([*bare, *gathers])]


async def cancel_everything(log: list[Any]) -> None:
    """Cancel in the order `all_tasks` gives."""

    async def child(n: int) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            log.append(n)

    children = {asyncio.ensure_future(child(n)): n for n in range(40)}
    await asyncio.sleep(0)
    found = asyncio.all_tasks()
    log.append([children[task] for task in found if task in children])
    for task in found:
        if task in children:
            task.cancel()
    await asyncio.gather(*children, return_exceptions=True)


RACES = (
    group_with_a_failing_child,
    wait_for_the_first,
    as_they_complete,
    cancel_everything,
)


def race_outcome(*, seed: int = 0, policy: str = "fifo") -> list[Any]:
    """Run all races in one simulation and give what they noted."""
    log: list[Any] = []
    with Sim(seed=seed, policy=policy) as sim:
        for race in RACES:
            sim.run(race(log))
        log.append(sim.trace.digest)
    return log


def conversation(**options: Any) -> Sim:
    """Run two clients against an echo server over drawn latencies; give the run."""
    with Sim(**options) as sim:
        sim.host("server", echo_server)
        sim.net.link("*", "*", latency=Uniform("1ms", "9ms"))
        for name in ("left", "right"):
            sim.host(name)

        async def both() -> Any:
            loop = asyncio.get_running_loop()
            work = [
                sim.by_name[name].inside(loop.create_task, ask(*"abc"))
                for name in ("left", "right")
            ]
            return await asyncio.gather(*work)

        assert sim.run(both) == [["a", "b", "c"]] * 2
    return sim


def perturbations() -> Iterator[list[Any]]:
    """Give differently sized heaps to hold while a run is repeated."""
    for n in range(12):
        yield [object() for _ in range(n * 37)] + [[i] for i in range(n * 11)]
