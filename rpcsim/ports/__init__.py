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
from rpcsim.ports._disk import Disk, FileStat, disk_path
from rpcsim.ports._durations import NANOS, Duration, duration_text, to_ns
from rpcsim.ports._entropy import Entropy, Stream
from rpcsim.ports._machine import Fault, Host, Inexact, Machine, Main, Mode, Net
from rpcsim.ports._messages import Answering, MessageRule, MessageRules, RpcMatch
from rpcsim.ports._network import (
    Address,
    Listener,
    MessageInfo,
    Network,
    Transport,
    endpoint,
)
from rpcsim.ports._packets import Packet
from rpcsim.ports._rules import Rule, RuleBook
from rpcsim.ports._runtime import (
    Ports,
    Resources,
    current,
    current_or_none,
    enter,
    leave,
    use,
)
from rpcsim.ports._tls import TLS, ssl_context
from rpcsim.ports._tracing import Points, TraceSink, message_data
from rpcsim.ports._verdicts import (
    AfterDeadline,
    Answer,
    Copies,
    Corrupt,
    Deliver,
    Drop,
    Hold,
    Pass,
    Reset,
    Truncate,
    Verdict,
)

__all__ = [
    "NANOS",
    "TLS",
    "Accepted",
    "Activations",
    "Address",
    "AfterDeadline",
    "Answer",
    "Answering",
    "Bridge",
    "Broker",
    "Call",
    "CallPort",
    "Cancelled",
    "Clock",
    "Consumer",
    "Copies",
    "Corrupt",
    "Deliver",
    "Delivery",
    "Disk",
    "Drop",
    "Duration",
    "Entropy",
    "Event",
    "Exchange",
    "Failed",
    "Fault",
    "FileStat",
    "Hold",
    "Host",
    "Inexact",
    "Listener",
    "Lost",
    "Machine",
    "Main",
    "MessageInfo",
    "MessageRule",
    "MessageRules",
    "Mode",
    "Net",
    "Network",
    "Packet",
    "Part",
    "Pass",
    "Points",
    "Ports",
    "Progress",
    "QueueOptions",
    "Raised",
    "Rejected",
    "Reset",
    "Resources",
    "Returned",
    "RpcMatch",
    "Rule",
    "RuleBook",
    "Running",
    "Spawned",
    "Started",
    "Stream",
    "Timer",
    "TraceSink",
    "Transport",
    "Truncate",
    "Verdict",
    "Worker",
    "WorldClock",
    "activations",
    "current",
    "current_or_none",
    "disk_path",
    "duration_text",
    "endpoint",
    "enter",
    "leave",
    "message_data",
    "ssl_context",
    "to_ns",
    "use",
]
