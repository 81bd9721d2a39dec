"""Operations, for scenarios written in Python: `ops.agent_call(to="web01", ...)`.

Each takes the keys of a step (`id`, `at`, `after`, ...) beside its own arguments.
"""

from rpcsim.scenario._steps import (
    AgentCall,
    AgentSend,
    Do,
    HostStart,
    HostStop,
    Parallel,
    Sleep,
)

__all__ = [
    "agent_call",
    "agent_send",
    "do",
    "host_start",
    "host_stop",
    "parallel",
    "sleep",
]

agent_call = AgentCall
agent_send = AgentSend
do = Do
host_start = HostStart
host_stop = HostStop
parallel = Parallel
sleep = Sleep
