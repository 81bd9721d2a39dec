"""What a crash parks is released after the run, and leaves no mark on the thread."""

import asyncio

from rpcsim.ports import current
from rpcsim.sim import Sim


class Sleeper:
    """Holds a fiber that waits for ever."""

    async def start(self) -> None:
        ports = current()

        def block() -> None:
            ports.bridge.wait(ports.clock.sleep(100))

        self.task = asyncio.ensure_future(ports.bridge.call_blocking(block))

    async def stop(self) -> None:
        self.task.cancel()


def test_a_parked_fiber_does_not_stop_the_next_simulation() -> None:
    """Closing parked blocking code leaves no event loop running in the thread."""
    for _ in range(2):
        with Sim() as sim:
            host = sim.host("sleeper", Sleeper)
            sim.run(asyncio.sleep(1))
            host.crash("power")
            sim.run(asyncio.sleep(1))
            assert sim.clock.elapsed == 2
