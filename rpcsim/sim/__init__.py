"""The simulated machine: one loop, one clock, one network, all from one seed.

`Sim` puts it together: an event loop of its own (`_scheduler.py` has its laws), fibers
for blocking code, hosts that crash and restart, TCP streams over links that can be cut,
and the standard library's ambient clocks and chance during a run. Nothing here knows a
protocol or a family; the core meets it through `rpcsim.ports` only. Read `_sim.py`
first, then `_scheduler.py`.
"""

from rpcsim.sim import _patterns as patterns
from rpcsim.sim._audit import Finding
from rpcsim.sim._certs import Authority, Certificate
from rpcsim.sim._clock import ClockModel, SimClock
from rpcsim.sim._control import Attempt, Connection
from rpcsim.sim._datagram import Burst, Datagrams
from rpcsim.sim._disk import DiskModel, DiskSnapshot
from rpcsim.sim._distributions import (
    Constant,
    Exponential,
    LogNormal,
    Normal,
    Pareto,
    Samples,
    Uniform,
)
from rpcsim.sim._inflight import Packet
from rpcsim.sim._links import LinkCounters
from rpcsim.sim._points import Armed, Passing, crash, delay, pause, raise_
from rpcsim.sim._policy import Policy, owned, pct, policy_of, portfolio, replay
from rpcsim.sim._sim import Sim
from rpcsim.sim._tape import Tape, Track
from rpcsim.sim._taping import Choices, TapePlayer

__all__ = [
    "Armed",
    "Attempt",
    "Authority",
    "Burst",
    "Certificate",
    "Choices",
    "ClockModel",
    "Connection",
    "Constant",
    "Datagrams",
    "DiskModel",
    "DiskSnapshot",
    "Exponential",
    "Finding",
    "LinkCounters",
    "LogNormal",
    "Normal",
    "Packet",
    "Pareto",
    "Passing",
    "Policy",
    "Samples",
    "Sim",
    "SimClock",
    "Tape",
    "TapePlayer",
    "Track",
    "Uniform",
    "crash",
    "delay",
    "owned",
    "patterns",
    "pause",
    "pct",
    "policy_of",
    "portfolio",
    "raise_",
    "replay",
]
