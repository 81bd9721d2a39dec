"""How each loop runs a program; the rest of the benchmarks does not know them apart."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tests.bench._clock import now
from tests.bench._programs import MESSAGES, PROGRAMS, Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench._programs import Program, Start
    from tests.bench._rows import Row

__all__ = ["DISTRIBUTION", "RUNNERS", "measure"]

Mark: TypeAlias = "Callable[[], None]"
# Runs a program of n operations from a fresh loop to its closing; gives how many it did.
Runner: TypeAlias = "Callable[[Program, int, Row, Mark], int]"

SEED: Final = 1
# Latency is drawn on every loop that has any: seconds, least and greatest.
LATENCY: Final = (0.001, 0.010)
PORT: Final = 7000


def _asyncio(program: Program, n: int, row: Row, mark: Mark) -> int:
    async def serve(start: Start) -> tuple[str, int, asyncio.AbstractServer]:
        server: Any = await start("127.0.0.1", 0)
        return "127.0.0.1", server.sockets[0].getsockname()[1], server

    return asyncio.run(program(n, Place(serve=serve, mark=mark)))


def _rpcsim(program: Program, n: int, row: Row, mark: Mark) -> int:
    machine = importlib.import_module("rpcsim.sim")
    sim = machine.Sim(
        seed=SEED, policy="random", trace=row.trace, steps_per_instant=10**12
    )

    async def serve(start: Start) -> tuple[str, int, asyncio.AbstractServer]:
        sim.net.link("*", "*", latency=machine.Uniform(*LATENCY))
        servers = []

        async def up() -> None:
            servers.append(await start(None, PORT))

        host = sim.host("server", up, background=True)
        await host.wait_started()
        return "server", PORT, servers[0]

    place = Place(serve=serve, mark=mark, town=_Town(sim, machine))
    with sim:
        done: int = sim.run(lambda: program(n, place))
    return done


class _Town:
    """Hosts on our machine."""

    def __init__(self, sim: Any, machine: Any) -> None:
        self.sim = sim
        self.latency = machine.Uniform(*LATENCY)
        self.fault: Any = None

    async def run(self, host: str, fn: Callable[[], Any]) -> Any:
        if not self.sim.hosts:
            self.sim.net.link("*", "*", latency=self.latency)
        done = asyncio.get_running_loop().create_future()

        async def up() -> None:
            done.set_result(await fn())

        self.sim.host(host, up, background=True)
        return await done

    def cut(self, left: Any, right: Any) -> None:
        self.fault = self.sim.net.partition(left, right)

    def heal(self) -> None:
        self.fault.undo()


def _simloop(program: Program, n: int, row: Row, mark: Mark) -> int:
    loop = importlib.import_module("simloop").SimLoop(seed=SEED)

    async def serve(start: Start) -> tuple[str, int, asyncio.AbstractServer]:
        loop.net.set_defaults(latency=LATENCY)
        server = await loop.net.host("server").create_task(start(None, PORT))
        return "server", PORT, server

    town = _SimloopTown(loop)
    try:
        done: int = loop.run_until_complete(
            program(n, Place(serve=serve, mark=mark, town=town))
        )
    finally:
        loop.close()
    return done


class _SimloopTown:
    def __init__(self, loop: Any) -> None:
        self.loop = loop

    async def run(self, host: str, fn: Callable[[], Any]) -> Any:
        self.loop.net.set_defaults(latency=LATENCY)
        return await self.loop.net.host(host).create_task(fn())

    def cut(self, left: Any, right: Any) -> None:
        self.loop.net.partition(left, right)

    def heal(self) -> None:
        self.loop.net.heal()


def _simloom(program: Program, n: int, row: Row, mark: Mark) -> int:
    simloom = importlib.import_module("simloom")

    async def main(world: Any) -> int:
        async def serve(start: Start) -> tuple[str, int, asyncio.AbstractServer]:
            world.net.set_latency(*LATENCY)
            server = await world.host("server").spawn(lambda: start("server", PORT))
            return "server", PORT, server

        town = _SimloomTown(world)
        return await program(n, Place(serve=serve, mark=mark, town=town))

    done: int = simloom.run(main, seed=SEED, max_steps_per_instant=10**12).value
    return done


class _SimloomTown:
    def __init__(self, world: Any) -> None:
        self.world = world
        world.net.set_latency(*LATENCY)

    async def run(self, host: str, fn: Callable[[], Any]) -> Any:
        return await self.world.host(host).spawn(fn)

    def cut(self, left: Any, right: Any) -> None:
        sides = ([self.world.host(name) for name in side] for side in (left, right))
        self.world.net.partition(*sides)

    def heal(self) -> None:
        self.world.net.heal()


def _seedloop(program: Program, n: int, row: Row, mark: Mark) -> int:
    """Its order is first in, first out, and its network carries messages."""
    seedloop = importlib.import_module("seedloop")
    program = MESSAGES.get(row.id, program)
    done = []

    async def serve(start: Start) -> tuple[str, int, asyncio.AbstractServer]:
        raise RuntimeError("no streams on this loop")

    async def scenario(world: Any) -> None:
        done.append(await program(n, Place(serve=serve, mark=mark, messages=world.net)))

    seedloop.replay(scenario, seed=SEED)
    return done[0]


RUNNERS: Final[dict[str, Runner]] = {
    "rpcsim": _rpcsim,
    "asyncio": _asyncio,
    "simloop": _simloop,
    "simloom": _simloom,
    "seedloop": _seedloop,
}
# What is installed for each; the oldest Python it is for.
DISTRIBUTION: Final[dict[str, tuple[str, tuple[int, int]]]] = {
    "simloop": ("simloop", (3, 12)),
    "simloom": ("simloom", (3, 12)),
    "seedloop": ("seedloop", (3, 12)),
}


def measure(peer: str, row: Row, n: int) -> tuple[int, float]:
    """Run a row's program once; give the operations done and the seconds it took."""
    run, program = RUNNERS[peer], PROGRAMS[row.program or row.id]
    begin = now()

    def mark() -> None:
        nonlocal begin
        begin = now()

    if row.whole:
        for _ in range(n):
            run(program, 1, row, _no_mark)
        done = n
    else:
        done = run(program, n, row, mark)
    return done, now() - begin


def _no_mark() -> None: ...
