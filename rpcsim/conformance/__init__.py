"""Checks that any implementation of a port must pass, free of any test framework.

A check is a function that takes a factory, tries one law, and raises `AssertionError`
with a telling text where it does not hold. `check_clock(make)` and its kin run all of a
suite; the tuples `CLOCK`, ... hold the single checks, for a test framework to run one
by one. `make` gives a fresh `Machine` (`Sim`, `Runtime`, or one of your own) that was
not entered yet. Read `_checking.py` first, then the suite you need.
"""

from rpcsim.conformance._bridge import BRIDGE, check_bridge
from rpcsim.conformance._broker import BROKER, check_broker
from rpcsim.conformance._checking import Check, Recorder
from rpcsim.conformance._clock import CLOCK, check_clock
from rpcsim.conformance._disk import DISK, check_disk
from rpcsim.conformance._entropy import ENTROPY, check_entropy
from rpcsim.conformance._machine import MACHINE, check_machine
from rpcsim.conformance._network import NETWORK, check_network
from rpcsim.conformance._trace import TRACE_SINK, check_trace_sink

__all__ = [
    "BRIDGE",
    "BROKER",
    "CLOCK",
    "DISK",
    "ENTROPY",
    "MACHINE",
    "NETWORK",
    "TRACE_SINK",
    "Check",
    "Recorder",
    "check_bridge",
    "check_broker",
    "check_clock",
    "check_disk",
    "check_entropy",
    "check_machine",
    "check_network",
    "check_trace_sink",
]
