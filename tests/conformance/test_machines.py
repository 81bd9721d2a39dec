"""Every suite of checks, once on the simulated machine and once on the real one."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from rpcsim import conformance
from rpcsim.real import Runtime
from rpcsim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.conformance import Check
    from rpcsim.ports import Machine


def simulated() -> Machine:
    return Sim(seed=3)


def chaotic() -> Machine:
    return Sim(seed=3, policy="random")


def real() -> Machine:
    return Runtime(seed=3, faults=True)


def real_without_proxy() -> Machine:
    return Runtime(seed=3)


def real_on_uvloop() -> Machine:
    return Runtime(seed=3, faults=True, loop="uvloop")


MACHINES = [simulated, chaotic, real]
if importlib.util.find_spec("uvloop") is not None:
    MACHINES.append(real_on_uvloop)

CHECKS = [
    *conformance.CLOCK,
    *conformance.ENTROPY,
    *conformance.BRIDGE,
    *conformance.NETWORK,
    *conformance.TRACE_SINK,
    *conformance.DISK,
    *conformance.MACHINE,
]


@pytest.mark.parametrize("make", MACHINES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_machine_passes(check: Check, make: Callable[[], Machine]) -> None:
    """Each law holds on each machine: they can stand in for each other."""
    check(make)


@pytest.mark.parametrize(
    "check",
    [c for c in conformance.NETWORK if "partition" not in c.__name__],
    ids=lambda check: check.__name__,
)
def test_the_direct_network_passes_too(check: Check) -> None:
    """Without the proxy between hosts, nothing but partitions is missing."""
    check(real_without_proxy)


def test_a_suite_runs_as_one() -> None:
    """A third party calls one function for each port."""
    for suite in (
        conformance.check_clock,
        conformance.check_entropy,
        conformance.check_trace_sink,
        conformance.check_disk,
        conformance.check_bridge,
        conformance.check_network,
        conformance.check_machine,
    ):
        suite(simulated)
