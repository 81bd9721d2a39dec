"""One run put together: `World`, over the simulated machine or the real one.

`simulate` and `world` make one; its verbs (`agent`, `broker`, ...) start the parts of a
system on hosts of their own. `Plan` and `run_plan` drive a whole story, which the room
`scenario` reads from files. Nothing here implements a protocol or a machine. Read
`_world.py` first.
"""

from rpcsim.harness._modes import derive_seed, simulate, world
from rpcsim.harness._world import World

__all__ = ["World", "derive_seed", "simulate", "world"]
