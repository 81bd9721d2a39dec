"""A run as data: what is put on the machine, what clients do, what goes wrong.

`scenario` lowers its files to this; anything else that wants a run driven and judged
can write a `Plan` itself. Times are whole nanoseconds from the beginning of the run,
which is the moment when all hosts have started.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from rpcsim.harness._context import StepContext
    from rpcsim.harness._result import RunResult
    from rpcsim.ports import Machine
    from rpcsim.sim import Policy

__all__ = [
    "CheckPlan",
    "ClientPlan",
    "FaultPlan",
    "HostPlan",
    "LinkPlan",
    "Plan",
    "PlanLimits",
    "StepPlan",
    "Trigger",
]

SECOND: Final = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """A machine of the run.

    Attributes:
        name: Its name.
        factory: Its software, as `Machine.host` takes it; `None` for none.
        background: Whether its timers are expected to go on for ever (a server).
    """

    name: str
    factory: Callable[..., Any] | None = None
    background: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPlan:
    """The shape of links between hosts, as `Net.link` takes it."""

    a: tuple[str, ...]
    b: tuple[str, ...]
    both: bool = True
    latency: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One thing a client does.

    Attributes:
        id: Unique name.
        told: What it does, in words for the timeline.
        action: Does it and gives its value; `None` with `members`.
        system: Whose errors it raises, for `check.outcome_of`; `""` for own code.
        sure: Whether an end without an error means that it was done; if not (fire
            and forget), the outcome is `maybe`.
        members: Steps done at the same time instead of an action.
        at_ns: Not before this time of the run.
        after: (step id, `sent` | `started` | `done`) pairs that must have happened.
        background: The next step does not wait for this one.
        times: How often; each but a single one has `[i]` after its id.
        every_ns: Planned distance between two beginnings.
        parallel: How many of the repeats may run at once.
        retries: How often it is done again after an error of `retry_on`.
        retry_on: Names of error classes; bases count.
        retry_delay_ns: How long to wait before.
        give_up_ns: The client's own limit; `None` for none.
    """

    id: str
    told: str
    action: Callable[[StepContext], Awaitable[Any]] | None = None
    system: str = ""
    sure: bool = True
    members: tuple[StepPlan, ...] = ()
    at_ns: int | None = None
    after: tuple[tuple[str, str], ...] = ()
    background: bool = False
    times: int | None = None
    every_ns: int = 0
    parallel: int = 1
    retries: int = 0
    retry_on: tuple[str, ...] = ()
    retry_delay_ns: int = 0
    give_up_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPlan:
    """A program of steps on a host."""

    name: str
    host: str
    steps: tuple[StepPlan, ...]
    start_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """The event of history a fault is tied to.

    Attributes:
        event: Kind of the record, such as `call.exec_start`.
        method: Glob of the method's dotted name.
        host: Glob of the host.
        nth: Which of the matching records, from 1.
    """

    event: str
    method: str = "*"
    host: str = "*"
    nth: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """Something that goes wrong.

    Attributes:
        id: Unique name.
        told: What it is, in words for the timeline.
        begin: Brings it about and gives what lifts it, or `None` if nothing does.
        at_ns: When; 0 with a trigger.
        when: The event it waits for instead.
        delay_ns: How long after the event.
        until_ns: When it ends; `None` for the end of the fault phase.
        lasts_ns: How long after its beginning it ends.
    """

    id: str
    told: str
    begin: Callable[[Machine], Awaitable[Callable[[], Awaitable[None]] | None]]
    at_ns: int = 0
    when: Trigger | None = None
    delay_ns: int = 0
    until_ns: int | None = None
    lasts_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPlan:
    """Something that must hold of the run.

    Attributes:
        check: Gives one line for each thing that does not hold.
    """

    check: Callable[[RunResult], Iterable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLimits:
    """When a run is given up.

    Attributes:
        run_ns: Longest fault phase.
        settle_ns: Longest settle phase.
        steps: Most turns of the simulated loop.
        steps_per_instant: Most turns without simulated time moving.
        real_seconds: Longest run by the machine's own clock.
    """

    run_ns: int = 600 * SECOND
    settle_ns: int = 60 * SECOND
    steps: int = 5_000_000
    steps_per_instant: int = 100_000
    real_seconds: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything one run needs.

    Attributes:
        name: What reports call it.
        hosts: In the order they are started.
        links: Applied in order, before any host starts.
        clients: All run at the same time.
        faults: In the order they begin when due at the same moment.
        checks: What must hold, checked in order at the end.
        services: What clients are told, service name to URL.
        limits: When the run is given up.
        seed: What all draws derive from.
        policy: Schedule policy of the simulation.
        record: Whether a simulated run writes its choices down (`RunResult.tape`).
        exact: A real run with an inexact fault is not ok.
        off: Names of always-on checks that are switched off.
    """

    name: str
    hosts: tuple[HostPlan, ...] = ()
    links: tuple[LinkPlan, ...] = ()
    clients: tuple[ClientPlan, ...] = ()
    faults: tuple[FaultPlan, ...] = ()
    checks: tuple[CheckPlan, ...] = ()
    services: Mapping[str, str] = field(default_factory=dict)
    limits: PlanLimits = PlanLimits()
    seed: int = 0
    policy: str | Policy = "fifo"
    record: bool = False
    exact: bool = False
    off: frozenset[str] = frozenset()
