"""The native client against the broker of `fakes`, on both machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rpcsim import conformance
from rpcsim.agents._broker import NativeBroker
from rpcsim.fakes import BrokerServer
from rpcsim.real import Runtime
from rpcsim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rpcsim.ports import Broker, Machine, Ports


def native(machine: Machine) -> Callable[[Ports], Awaitable[Broker]]:
    """Start the engine behind its native front, on a host of its own."""
    host = machine.host("broker", BrokerServer, background=True)
    machine.bridge.wait(host.wait_started())
    return lambda ports: NativeBroker.open(ports, ("broker", BrokerServer.DEFAULT_PORT))


def simulated() -> Machine:
    return Sim(seed=3)


def real() -> Machine:
    return Runtime(seed=3, faults=True)


@pytest.mark.parametrize("make", [simulated, real], ids=["sim", "real"])
@pytest.mark.parametrize("check", conformance.BROKER, ids=lambda check: check.__name__)
def test_the_native_client_passes(
    check: Callable[..., None], make: Callable[[], Machine]
) -> None:
    """One body on both machines, through real frames either way."""
    check(make, native)


def test_a_suite_runs_as_one() -> None:
    """A third party calls one function with its own client and broker."""
    conformance.check_broker(simulated, native)
