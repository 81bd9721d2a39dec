"""Faults by kind, for scenarios written in Python: `faults.crash(on=("web01",))`."""

from rpcsim.scenario._faults import (
    Crash,
    LatencyFault,
    Partition,
    Restart,
    Stop,
    When,
)

__all__ = ["crash", "latency", "partition", "restart", "stop", "when"]

crash = Crash
latency = LatencyFault
partition = Partition
restart = Restart
stop = Stop
when = When
