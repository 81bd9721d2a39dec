"""One run put together: `World`, over the simulated machine or the real one.

`simulate` and `world` make one; its verbs (`agent`, `broker`, ...) start the parts of a
system on hosts of their own. `Plan` and `run_plan` drive a whole story, which the room
`scenario` reads from files. Nothing here implements a protocol or a machine. Read
`_world.py` first.
"""

from rpcsim.harness._case import Case
from rpcsim.harness._context import StepContext
from rpcsim.harness._modes import derive_seed, simulate, world
from rpcsim.harness._plan import (
    CheckPlan,
    ClientPlan,
    FaultPlan,
    HostPlan,
    LinkPlan,
    Plan,
    PlanLimits,
    StepPlan,
    Trigger,
)
from rpcsim.harness._result import RunResult, StepOutcome, Verdict
from rpcsim.harness._runner import run_plan
from rpcsim.harness._world import SimWorld, World

__all__ = [
    "Case",
    "CheckPlan",
    "ClientPlan",
    "FaultPlan",
    "HostPlan",
    "LinkPlan",
    "Plan",
    "PlanLimits",
    "RunResult",
    "SimWorld",
    "StepContext",
    "StepOutcome",
    "StepPlan",
    "Trigger",
    "Verdict",
    "World",
    "derive_seed",
    "run_plan",
    "simulate",
    "world",
]
