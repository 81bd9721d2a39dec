"""Rows about what other loops do not have: fibers, agents, imports, the trace."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from tests.bench._clock import now
from tests.bench._peers import measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench._rows import Row

__all__ = ["OWN", "THREADS"]

IMPORTS: Final = {
    "import": "import rpcsim",
    "import_world": "from rpcsim import Agent, simulate",
}


def _blocking(row: Row, n: int) -> tuple[int, float]:
    from rpcsim.sim import Sim

    with Sim(seed=1) as sim:
        bridge = sim.bridge

        def wait() -> None:
            bridge.wait(asyncio.sleep(0.001))

        async def hop() -> None:
            await bridge.call_blocking(wait)

        def main() -> None:
            for _ in range(n):
                if row.id == "nested":
                    bridge.wait(hop())
                else:
                    wait()

        begin = now()
        sim.run(main)
        return n, now() - begin


def _agent(row: Row, n: int) -> tuple[int, float]:
    import rpcsim

    class Dog:
        @rpcsim.remote
        def bark(self, words: str) -> str:
            return words

    with rpcsim.simulate(seed=1) as world:
        world.agent("kennel", Dog)
        dog = rpcsim.Agent("kennel").Dog()
        dog.bark("once, to connect")
        begin = now()
        for _ in range(n):
            dog.bark("hello")
        return n, now() - begin


def _import(row: Row, n: int) -> tuple[int, float]:
    code = f"from time import perf_counter as now; b = now(); {IMPORTS[row.id]}; print(now() - b)"
    told = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return 1, float(told.stdout)


def _memory(row: Row, n: int) -> tuple[int, float]:
    """Give the growth of the process's greatest size, in MiB, as the second number."""
    import resource

    def peak() -> float:
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size / (2**20 if sys.platform == "darwin" else 2**10)

    measure("rpcsim", row, 1_000)
    before = peak()
    measure("rpcsim", row, n)
    return 1, peak() - before


def _threads(row: Row, n: int) -> tuple[int, float]:
    """Asyncio's way to block on a coroutine: a thread per blocking caller."""

    async def main() -> float:
        loop = asyncio.get_running_loop()

        def wait() -> None:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(1e-6), loop).result()

        async def hop() -> None:
            await asyncio.to_thread(wait)

        def caller() -> None:
            for _ in range(n):
                if row.id == "nested":
                    asyncio.run_coroutine_threadsafe(hop(), loop).result()
                else:
                    wait()

        begin = now()
        await asyncio.to_thread(caller)
        return now() - begin

    return n, asyncio.run(main())


OWN: Final[dict[str, Callable[[Row, int], tuple[int, float]]]] = {
    "blocking": _blocking,
    "nested": _blocking,
    "agent": _agent,
    "import": _import,
    "import_world": _import,
    "memory": _memory,
}
# What asyncio does instead.
THREADS: Final[dict[str, Callable[[Row, int], tuple[int, float]]]] = {
    "blocking": _threads,
    "nested": _threads,
}
