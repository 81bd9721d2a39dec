"""The two machines, and agents on them, for tests written once for both."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from rpcsim.agents import AgentServer
from rpcsim.fakes import BrokerMemory, BrokerServer
from rpcsim.real import Runtime
from rpcsim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpcsim.ports import Host, Machine

MODES = ("sim", "real")
URL = "rpcsim://broker:5670"


@contextlib.contextmanager
def machine(mode: str) -> Iterator[Machine]:
    """Give a started machine of that kind, with a broker on it that keeps its queues."""
    made: Machine = Sim(seed=1) if mode == "sim" else Runtime(seed=1)
    with made as world:
        memory = BrokerMemory()
        world.services["broker"] = URL
        wait_started(world, world.host("broker", lambda: BrokerServer(memory=memory)))
        yield world


def serve(world: Machine, name: str, *plugins: Any, **options: Any) -> Host:
    """Start an agent on a host of its own and wait until it is attached."""
    host = world.host(name, lambda: AgentServer(name, *plugins, **options))
    wait_started(world, host)
    return host


def wait_started(world: Machine, host: Host) -> None:
    """Block until what the host's factory gave is up."""
    world.bridge.wait(host.wait_started())


def pause(world: Machine, seconds: float) -> None:
    """Block for a while of the world's time."""
    world.bridge.wait(world.clock.sleep(seconds))
