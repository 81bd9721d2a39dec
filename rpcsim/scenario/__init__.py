"""Scenarios: whole stories about an RPC system, as files or as frozen values.

Here live the data model, the strict readers of YAML and JSON, the validator and the
lowering of a scenario to a plan of `harness`, which runs it. No protocol, no machine,
no report. Read `_scenario.py` for the value, `_record.py` for how its classes read
themselves, and `_lower.py` for what becomes of them. `hosts`, `ops` and `faults` are
the Python form: `ops.agent_call(...)` is `agent.call: {...}` of a file.
"""

from rpcsim.scenario import faults, hosts, ops
from rpcsim.scenario._expects import Allowed, Count, Expect
from rpcsim.scenario._faults import Fault
from rpcsim.scenario._model import Invariant, Limits, Requires, Schedule
from rpcsim.scenario._problems import Problem, did_you_mean
from rpcsim.scenario._run import run
from rpcsim.scenario._scenario import Scenario
from rpcsim.scenario._steps import Client, Repeat, Retry, Step, Workload
from rpcsim.scenario._topology import Host, Latency, Link, Topology
from rpcsim.scenario._values import UNSET, Span, draw, ref

__all__ = [
    "UNSET",
    "Allowed",
    "Client",
    "Count",
    "Expect",
    "Fault",
    "Host",
    "Invariant",
    "Latency",
    "Limits",
    "Link",
    "Problem",
    "Repeat",
    "Requires",
    "Retry",
    "Scenario",
    "Schedule",
    "Span",
    "Step",
    "Topology",
    "Workload",
    "did_you_mean",
    "draw",
    "faults",
    "hosts",
    "link",
    "ops",
    "ref",
    "run",
]


def link(between: str, *, latency: object = None) -> Link:
    """Shape the links between hosts: `link("a <-> b", latency="5ms")`."""
    return Link(between=between, latency=latency)  # type: ignore[arg-type]  # normalised by the class
