"""Programs that are not deterministic, each for one reason, and some that are."""

from __future__ import annotations

import asyncio
import gc
import threading
from os import urandom  # noqa: TID251 - one of the mistakes
from time import time  # noqa: TID251 - another
from typing import TYPE_CHECKING, Any

from tests.sim.programs import RACES, ask, echo_server

if TYPE_CHECKING:
    from rpcsim.sim import Sim

real_urandom = urandom
# Kept in the process: what the planted programs get wrong.
calls: list[int] = []
kept: list[Any] = []


def note(sim: Sim, told: object) -> None:
    sim.record("mock", (("told", str(told)),))


async def races(sim: Sim) -> list[Any]:
    """Sets of tasks in every shape; deterministic."""
    log: list[Any] = []
    for race in RACES:
        await race(log)
        note(sim, len(log))
    return log


def talk(sim: Sim) -> Any:
    """Blocking code, a server, drawn latencies and ids; deterministic."""
    sim.host("server", echo_server)
    sim.net.link("*", "*", latency="3ms")
    stream = sim.entropy.stream("user/a")

    def program() -> list[Any]:
        told: list[Any] = []
        for _ in range(3):
            told += sim.bridge.wait(ask(str(stream.below(1_000))))
            told.append(str(sim.entropy.uuid4()))
        return told

    return sim.run(program)


async def set_of_texts(sim: Sim) -> None:
    """Iterates over a set of strings."""
    for word in {f"word {n}" for n in range(20)}:
        note(sim, word)


class Thing:
    """Has no order and no name, so that only its address tells it from others."""

    def __init__(self, n: int) -> None:
        self.n = n


async def order_by_id(sim: Sim) -> None:
    """Sorts objects by their address."""
    things = [Thing(n) for n in range(200)]
    for thing in sorted(things, key=id):
        note(sim, thing.n)


async def default_repr(sim: Sim) -> None:
    """Tells an object by its address."""
    kept.append(Thing(1))
    note(sim, kept[-1])


async def counter(sim: Sim) -> int:
    """Counts its calls in the module."""
    calls.append(1)
    note(sim, f"call {len(calls)}")
    return len(calls)


async def early_time(sim: Sim) -> None:
    """Asks a clock that was bound before the run."""
    await asyncio.sleep(1)
    note(sim, time())


def early_time_in_a_fiber(sim: Sim) -> None:
    """The same from blocking code."""
    sim.run(lambda: note(sim, time()))


async def held_urandom(sim: Sim) -> None:
    """Draws real entropy by a reference of its own."""
    await asyncio.sleep(1)
    note(sim, real_urandom(8).hex())


async def real_file(sim: Sim) -> None:
    """Reads from a file of the machine."""
    with open("/dev/urandom", "rb") as file:  # noqa: ASYNC230 - the mistake
        note(sim, file.read(8).hex())


class Sender:
    """Tells the world when the collector finds it."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.me = self

    def __del__(self) -> None:
        note(self.sim, "gone")


async def finaliser(sim: Sim) -> None:
    """Switches the collector on: when it runs depends on what was made before."""
    for generation in (0, 1, 2):
        gc.collect(generation)
    # As much garbage as came before this run; a counter of the process decides.
    held: list[Any] = [[] for _ in range(len(calls) * 37 % 500)]
    calls.append(1)
    Sender(sim)
    gc.enable()
    try:
        for n in range(300):
            held += [[] for _ in range(20)]
            note(sim, n)
            await asyncio.sleep(0)
    finally:
        gc.disable()
        gc.collect()


async def extra_draw(sim: Sim) -> None:
    """Draws as often as something says that nobody watches."""
    stream = sim.entropy.stream("user/a")
    for _ in range(threading.get_native_id() * 7919 % 1_000):
        stream.below(6)
    note(sim, stream.draws)


async def outcome_only(sim: Sim) -> int:
    """Records nothing that differs, but returns it."""
    calls.append(1)
    return len(calls)
