"""What the core leans on: clock, network, chance, the blocking bridge, brokers.

Protocols and frozen values only; `rpcsim.sim` and `rpcsim.real` implement them, and
`core` and the families receive them in one `Ports` object. Nothing here knows which
machine is below. Read `Ports` and `current` in `_runtime.py` first, then the port you
need; `_calls.py` is the seam every family's client and the mock registry meet at.
"""

from rpcsim.ports._bridge import Bridge, Running, Spawned, Worker
from rpcsim.ports._broker import Broker, Consumer, Delivery, QueueOptions
from rpcsim.ports._calls import (
    Accepted,
    Activations,
    Call,
    CallPort,
    Cancelled,
    Event,
    Exchange,
    Failed,
    Lost,
    Part,
    Progress,
    Raised,
    Rejected,
    Returned,
    Started,
    activations,
)
from rpcsim.ports._clock import Clock, Timer, WorldClock
from rpcsim.ports._durations import NANOS, Duration, duration_text, to_ns
from rpcsim.ports._entropy import Entropy, Stream
from rpcsim.ports._machine import Fault, Host, Inexact, Machine, Main, Mode, Net
from rpcsim.ports._network import (
    Address,
    Listener,
    MessageInfo,
    Network,
    Transport,
    endpoint,
)
from rpcsim.ports._runtime import (
    Ports,
    Resources,
    current,
    current_or_none,
    enter,
    leave,
    use,
)
from rpcsim.ports._tracing import Points, TraceSink, message_data

__all__ = [
    "NANOS",
    "Accepted",
    "Activations",
    "Address",
    "Bridge",
    "Broker",
    "Call",
    "CallPort",
    "Cancelled",
    "Clock",
    "Consumer",
    "Delivery",
    "Duration",
    "Entropy",
    "Event",
    "Exchange",
    "Failed",
    "Fault",
    "Host",
    "Inexact",
    "Listener",
    "Lost",
    "Machine",
    "Main",
    "MessageInfo",
    "Mode",
    "Net",
    "Network",
    "Part",
    "Points",
    "Ports",
    "Progress",
    "QueueOptions",
    "Raised",
    "Rejected",
    "Resources",
    "Returned",
    "Running",
    "Spawned",
    "Started",
    "Stream",
    "Timer",
    "TraceSink",
    "Transport",
    "Worker",
    "WorldClock",
    "activations",
    "current",
    "current_or_none",
    "duration_text",
    "endpoint",
    "enter",
    "leave",
    "message_data",
    "to_ns",
    "use",
]
