"""The real machine: asyncio or uvloop, sockets, threads and the system's clocks.

`Runtime` is the counterpart of `rpcsim.sim.Sim` and implements the same ports; each of
its hosts has a loopback address of its own, and with `faults=True` a proxy between
hosts holds and delays what passes. `process_ports` serves programs outside every
world. Nothing here knows a protocol or a family. Read `_runtime.py` first, then
`_engine.py`, which keeps the books, and `_bridge.py`.
"""

from rpcsim.real._limits import Limits
from rpcsim.real._process import process_ports
from rpcsim.real._runtime import Runtime

__all__ = ["Limits", "Runtime", "process_ports"]
