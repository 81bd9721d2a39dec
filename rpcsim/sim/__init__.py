"""The simulated machine: one loop, one clock, one network, all from one seed.

`Sim` puts it together: an event loop of its own (`_scheduler.py` has its laws), fibers
for blocking code, hosts that crash and restart, TCP streams over links that can be cut,
and the standard library's ambient clocks and chance during a run. Nothing here knows a
protocol or a family; the core meets it through `rpcsim.ports` only. Read `_sim.py`
first, then `_scheduler.py`.
"""

from rpcsim.sim._clock import SimClock
from rpcsim.sim._links import Constant, Uniform
from rpcsim.sim._sim import Sim

__all__ = ["Constant", "Sim", "SimClock", "Uniform"]
