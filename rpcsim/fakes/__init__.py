"""Small working parts to test against: the message broker, its engine and its front.

A fake works; a mock (another room) is told what to say. What lives here runs in either
runtime, for it asks only the ports. Read `_engine.py` first for what the broker does,
then `_native.py` for how it is reached over a network.
"""

from rpcsim.fakes._engine import BrokerEngine, BrokerMemory
from rpcsim.fakes._native import BrokerServer
from rpcsim.fakes._queue import Counters, Session
from rpcsim.fakes._state import (
    BrokerLimits,
    BrokerState,
    KeptMessage,
    KeptQueue,
    QueueState,
    Refusal,
)

__all__ = [
    "BrokerEngine",
    "BrokerLimits",
    "BrokerMemory",
    "BrokerServer",
    "BrokerState",
    "Counters",
    "KeptMessage",
    "KeptQueue",
    "QueueState",
    "Refusal",
    "Session",
]
