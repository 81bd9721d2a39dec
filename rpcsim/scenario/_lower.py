"""A scenario into a plan of the harness: names become code, factories and actions.

What each role, operation and fault becomes is a table of functions here; the checks
are in `_judge.py`.
"""

from __future__ import annotations

import base64
import fnmatch
import inspect
from typing import TYPE_CHECKING, Any, Final

from rpcsim.agents import Agent, AgentServer
from rpcsim.errors import ScenarioError
from rpcsim.fakes import BrokerServer
from rpcsim.harness import (
    ClientPlan,
    FaultPlan,
    HostPlan,
    LinkPlan,
    Plan,
    PlanLimits,
    StepPlan,
    Trigger,
)
from rpcsim.scenario._check import client_steps, fault_ids
from rpcsim.scenario._code import find_code, find_plugin, on_path
from rpcsim.scenario._faults import (
    Crash,
    Fault,
    LastingFault,
    LatencyFault,
    Partition,
    Restart,
    Stop,
)
from rpcsim.scenario._judge import checks_of
from rpcsim.scenario._steps import (
    AgentCall,
    AgentSend,
    Do,
    HostStart,
    HostStop,
    Parallel,
    Sleep,
    Step,
    split_after,
)
from rpcsim.scenario._topology import (
    AgentHost,
    BrokerHost,
    CustomHost,
    Latency,
    Topology,
    link_sides,
)
from rpcsim.sim import Uniform

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rpcsim.harness import StepContext
    from rpcsim.ports import Machine
    from rpcsim.scenario._document import Document

__all__ = ["lower"]

Action = "Callable[[StepContext], Awaitable[Any]]"


def lower(scenario: Document, *, seed: int | None = None) -> Plan:
    """Turn a checked scenario into a plan; imports the code it names.

    Args:
        scenario: What to run.
        seed: In place of the scenario's own.

    Raises:
        ScenarioError: Code it names cannot be imported.
    """
    on_path(scenario.origin)
    topology, limits = scenario.topology, scenario.limits
    hosts = _hosts(topology)
    return Plan(
        name=scenario.name,
        hosts=hosts,
        links=tuple(_link(link, topology) for link in topology.links),
        clients=tuple(
            ClientPlan(
                name=name,
                host=client.host,
                start_ns=client.start.ns,
                steps=_steps(name, client.host, client.steps, topology),
            )
            for name, client in scenario.workload.clients.items()
        ),
        faults=tuple(
            _fault(ident, fault, topology)
            for ident, fault in zip(fault_ids(scenario), scenario.faults, strict=True)
        ),
        checks=checks_of(scenario),
        services=_services(topology),
        limits=PlanLimits(
            run_ns=limits.sim_time.ns,
            settle_ns=limits.settle.ns,
            steps=limits.steps,
            steps_per_instant=limits.steps_per_instant,
            real_seconds=limits.real_time.seconds,
        ),
        seed=scenario.seed if seed is None else seed,
        policy=scenario.schedule.policy,
        exact=scenario.requires.exact,
        off=frozenset(rule.name for rule in scenario.invariants if not rule.on),
    )


# -- Topology ------------------------------------------------------------------------


def _hosts(topology: Topology) -> tuple[HostPlan, ...]:
    """Give the hosts, brokers first: agents look for theirs when they start."""
    ordered = sorted(
        topology.hosts.items(), key=lambda item: not isinstance(item[1], BrokerHost)
    )
    return tuple(
        HostPlan(
            name=name,
            factory=_factory(name, host, topology),
            # Keep-alives and retries go on for ever and are no work.
            background=isinstance(host, (BrokerHost, AgentHost)),
        )
        for name, host in ordered
    )


def _factory(name: str, host: Any, topology: Topology) -> Callable[..., Any] | None:
    if isinstance(host, BrokerHost):
        return lambda: BrokerServer()
    if isinstance(host, CustomHost):
        factory: Callable[..., Any] = find_code(host.factory)
        return factory
    if not isinstance(host, AgentHost):
        return None
    plugins = [find_plugin(plugin.module) for plugin in host.plugins]
    threads = sum(plugin.threads for plugin in host.plugins) or 1
    ident, url = host.id or name, _broker_url(host.broker, topology)
    try:
        AgentServer(ident, *plugins, broker=url, threads=threads)
    except (TypeError, ValueError) as error:
        raise ScenarioError(f'host "{name}": {error}') from error
    return lambda: AgentServer(ident, *plugins, broker=url, threads=threads)


def _brokers(topology: Topology) -> list[str]:
    return [n for n, host in topology.hosts.items() if isinstance(host, BrokerHost)]


def _broker_url(name: str, topology: Topology) -> str:
    brokers = _brokers(topology)
    if not name and not brokers:
        return ""
    return f"rpcsim://{name or brokers[0]}:{BrokerServer.DEFAULT_PORT}"


def _services(topology: Topology) -> dict[str, str]:
    url = _broker_url("", topology)
    return {"broker": url} if url else {}


def _latency(latency: Latency | None) -> Any:
    if latency is None:
        return None
    if latency.jitter.ns == 0:
        return str(latency.base)
    return Uniform(str(latency.base), f"{latency.base.ns + latency.jitter.ns}ns")


def _matching(glob: str, topology: Topology) -> tuple[str, ...]:
    return tuple(n for n in topology.hosts if fnmatch.fnmatchcase(n, glob))


def _link(link: Any, topology: Topology) -> LinkPlan:
    left, right, both = link_sides(link.between)
    return LinkPlan(
        a=_matching(left, topology),
        b=_matching(right, topology),
        both=both,
        latency=_latency(link.latency),
    )


# -- Workload ------------------------------------------------------------------------


def _steps(
    client: str, host: str, steps: tuple[Step, ...], topology: Topology
) -> tuple[StepPlan, ...]:
    ids = {id(step): ident for ident, step, _path in client_steps(client, steps)}

    def plan(step: Step) -> StepPlan:
        members = step.steps if isinstance(step, Parallel) else ()
        return StepPlan(
            id=ids[id(step)],
            told=_told(step),
            action=None if members else _action(step, host, topology),
            system="agent" if isinstance(step, (AgentCall, AgentSend)) else "",
            sure=not isinstance(step, AgentSend),
            members=tuple(plan(member) for member in members),
            at_ns=None if step.at is None else step.at.ns,
            after=tuple(split_after(after) for after in step.after),
            background=step.background,
            times=None if step.repeat is None else step.repeat.times,
            every_ns=0 if step.repeat is None else step.repeat.every.ns,
            parallel=1 if step.repeat is None else step.repeat.parallel,
            retries=0 if step.retry is None else step.retry.times,
            retry_on=() if step.retry is None else step.retry.on,
            retry_delay_ns=0 if step.retry is None else step.retry.delay.ns,
            give_up_ns=None if step.give_up is None else step.give_up.ns,
        )

    return tuple(plan(step) for step in steps)


def _told(step: Step) -> str:
    if isinstance(step, AgentCall):
        return f"calls {step.method} of {step.to}"
    if isinstance(step, AgentSend):
        return f"sends {step.method} to {step.to}"
    if isinstance(step, Sleep):
        return f"sleeps {step.duration}"
    if isinstance(step, HostStop):
        return f"stops host {step.host}"
    if isinstance(step, HostStart):
        return f"starts host {step.host}"
    if isinstance(step, Do):
        named = getattr(step.code, "__name__", step.code)
        return f"does {named}"
    return "does several things at once"


def _action(
    step: Step, host: str, topology: Topology
) -> Callable[[StepContext], Awaitable[Any]]:
    if isinstance(step, (AgentCall, AgentSend)):
        broker = getattr(topology.hosts[host], "broker", "")
        return _agent_action(step, _broker_url(broker, topology))
    if isinstance(step, Sleep):
        seconds = step.duration.seconds
        return lambda context: context.sleep(seconds)
    if isinstance(step, Do):
        return _do_action(find_code(step.code))
    if isinstance(step, HostStop):
        name = step.host

        async def stop(context: StepContext) -> None:
            await _host(context.machine, name).stop()

        return stop
    assert isinstance(step, HostStart)  # the only one left
    started = step.host

    async def start(context: StepContext) -> None:
        _host(context.machine, started).restart()
        await _host(context.machine, started).wait_started()

    return start


def _host(machine: Machine, name: str) -> Any:
    return next(host for host in machine.hosts if host.name == name)


def _agent_action(
    step: AgentCall | AgentSend, url: str
) -> Callable[[StepContext], Awaitable[Any]]:
    """Call as users do: the documented blocking API, on the client's host."""
    options: dict[str, Any] = {"url": url} if url else {}
    if isinstance(step, AgentSend):
        options["async_"] = True
    elif step.timeout is not None:
        options["timeout"] = tuple(limit.seconds for limit in step.timeout)
    class_name, method_name = step.method.split(".")

    async def action(context: StepContext) -> Any:
        args = _data(list(step.args), context)
        kwargs = _data(step.kwargs, context)
        constructor = _data(step.constructor, context)

        def call() -> Any:
            stub = Agent(step.to, **options)[class_name]
            if constructor is not None:
                # The first call of a stub takes options, later ones the arguments.
                stub()(*constructor.get("args", ()), **constructor.get("kwargs", {}))
            return stub[method_name](*args, **kwargs)

        return await context.blocking(call)

    return action


def _do_action(code: Callable[..., Any]) -> Callable[[StepContext], Awaitable[Any]]:
    async def action(context: StepContext) -> Any:
        if inspect.iscoroutinefunction(code):
            return await code(context)
        return await context.blocking(code, context)

    return action


def _data(value: Any, context: StepContext) -> Any:
    """Give data with its marked values filled in."""
    if isinstance(value, list):
        return [_data(item, context) for item in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    if "$ref" in value:
        return _referred(value["$ref"], context)
    if "$draw" in value:
        return _drawn(value["$draw"], context)
    return {
        name.removeprefix("$") if name.startswith("$$") else name: _data(item, context)
        for name, item in value.items()
    }


def _drawn(wanted: dict[str, Any], context: StepContext) -> Any:
    if "int" in wanted:
        low, high = wanted["int"]
        return low + context.draws.below(high - low + 1)
    return _data(context.draws.choice(wanted["one_of"]), context)


def _referred(path: str, context: StepContext) -> Any:
    step, what, *rest = path.split(".")
    outcome = context.outcomes.get(step)
    if outcome is None:
        raise LookupError(f"{path}: step {step} has no outcome yet")
    found: Any = outcome.value
    if what == "error":
        found = "" if outcome.error is None else type(outcome.error).__name__
    for part in rest:
        try:
            found = found[int(part)] if isinstance(found, list) else found[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise LookupError(f"{path}: there is no {part!r} in its value") from None
    return found


# -- Faults --------------------------------------------------------------------------

Begin = "Callable[[Machine], Awaitable[Callable[[], Awaitable[None]] | None]]"


def _fault(ident: str, fault: Fault, topology: Topology) -> FaultPlan:
    told, begin = _FAULTS[type(fault)](fault, topology)
    lasting = fault if isinstance(fault, LastingFault) else None
    when = fault.when
    return FaultPlan(
        id=ident,
        told=told,
        begin=begin,
        at_ns=0 if fault.at is None else fault.at.ns,
        when=None
        if when is None
        else Trigger(
            event=f"call.{when.event}", method=when.method, host=when.host, nth=when.nth
        ),
        delay_ns=fault.delay.ns,
        until_ns=lasting.until.ns if lasting and lasting.until else None,
        lasts_ns=lasting.lasts.ns if lasting and lasting.lasts else None,
    )


def _partition(fault: Partition, topology: Topology) -> tuple[str, Any]:
    cuts: list[tuple[tuple[str, ...], tuple[str, ...], Any]] = []
    if fault.isolate is not None:
        inside = _matching(fault.isolate, topology)
        outside = tuple(name for name in topology.hosts if name not in inside)
        cuts.append((inside, outside, "both"))
        told = f"{fault.isolate} is cut off from all others"
    elif fault.one_way is not None:
        left, right, _both = link_sides(fault.one_way)
        cuts.append((_matching(left, topology), _matching(right, topology), "a->b"))
        told = f"nothing passes {left} -> {right}"
    else:
        groups = [
            tuple(name for glob in group for name in _matching(glob, topology))
            for group in fault.groups
        ]
        for index, group in enumerate(groups):
            cuts += [(group, other, "both") for other in groups[index + 1 :]]
        told = "cut between " + " | ".join(", ".join(group) for group in groups)

    async def begin(machine: Machine) -> Callable[[], Awaitable[None]]:
        made = [machine.net.partition(a, b, direction=way) for a, b, way in cuts]

        async def lift() -> None:
            for cut in made:
                cut.undo()

        return lift

    return told, begin


def _slow(fault: LatencyFault, topology: Topology) -> tuple[str, Any]:
    left, right, both = link_sides(fault.link)
    a, b = _matching(left, topology), _matching(right, topology)

    async def begin(machine: Machine) -> Callable[[], Awaitable[None]]:
        machine.net.link(a, b, both=both, latency=_latency(fault.latency))

        async def lift() -> None:
            machine.net.link(a, b, both=both, latency="0s")
            for link in topology.links:
                shape = _link(link, topology)
                machine.net.link(
                    shape.a, shape.b, both=shape.both, latency=shape.latency
                )

        return lift

    jitter = "" if fault.latency.jitter.ns == 0 else f" + up to {fault.latency.jitter}"
    return f"{fault.link} takes {fault.latency.base}{jitter}", begin


def _named(globs: tuple[str, ...], topology: Topology) -> list[str]:
    return [
        name
        for name in topology.hosts
        if any(fnmatch.fnmatchcase(name, glob) for glob in globs)
    ]


def _crash(fault: Crash, topology: Topology) -> tuple[str, Any]:
    names = _named(fault.on, topology)

    async def begin(machine: Machine) -> None:
        for name in names:
            host = _host(machine, name)
            if host.state == "running":
                host.crash("power" if fault.power else "process")
                if fault.restart_after is not None:
                    host.restart(str(fault.restart_after))

    how = "loses power" if fault.power else "has its process killed"
    back = f", back after {fault.restart_after}" if fault.restart_after else ""
    return f"{', '.join(names)} {how}{back}", begin


def _stop(fault: Stop, topology: Topology) -> tuple[str, Any]:
    names = _named(fault.on, topology)

    async def begin(machine: Machine) -> Callable[[], Awaitable[None]]:
        hosts = [_host(machine, name) for name in names]
        for host in hosts:
            if host.state == "running":
                await host.stop()

        async def lift() -> None:
            for host in hosts:
                if host.state == "stopped":
                    host.restart()

        return lift

    return f"{', '.join(names)} is stopped", begin


def _restart(fault: Restart, topology: Topology) -> tuple[str, Any]:
    names = _named(fault.on, topology)

    async def begin(machine: Machine) -> None:
        for name in names:
            host = _host(machine, name)
            if host.state == "running":
                await host.stop()
                host.restart()

    return f"{', '.join(names)} is restarted", begin


_FAULTS: Final[dict[type[Fault], Callable[[Any, Topology], tuple[str, Any]]]] = {
    Partition: _partition,
    LatencyFault: _slow,
    Crash: _crash,
    Stop: _stop,
    Restart: _restart,
}
