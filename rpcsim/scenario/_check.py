"""What must hold between the parts of a scenario: names, references, times.

Each check reports by path; a part that could not be read is `None` or left out, so
that one file's problems of both sorts are told in one go.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rpcsim.scenario._expects import Expect
from rpcsim.scenario._faults import Crash, LatencyFault, Partition, Restart, Stop
from rpcsim.scenario._problems import did_you_mean
from rpcsim.scenario._steps import (
    AgentCall,
    AgentSend,
    HostStart,
    HostStop,
    Parallel,
    Step,
    split_after,
)
from rpcsim.scenario._topology import (
    AgentHost,
    BrokerHost,
    ClientHost,
    CustomHost,
    link_sides,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rpcsim.scenario._document import Document
    from rpcsim.scenario._problems import Path, Problems

__all__ = ["agents_of", "check_whole", "client_steps", "fault_ids", "warn_about"]


@dataclass(slots=True)
class _Placed:
    """A step with its final id, its path, and what comes before it."""

    id: str
    step: Step
    path: Path
    client: str
    before: tuple[str, ...]
    needs: set[str] = field(default_factory=set)


def client_steps(name: str, steps: Iterable[Step]) -> Iterator[tuple[str, Step, Path]]:
    """Give each step of a client with its id and its path below `steps`.

    Members of `parallel` come after it, as `<id of parallel>/<n>`.
    """
    yield from _numbered(f"{name}/", steps, ())


def _numbered(
    prefix: str, steps: Iterable[Step], path: Path
) -> Iterator[tuple[str, Step, Path]]:
    for index, step in enumerate(steps):
        ident = step.id or f"{prefix}{index + 1}"
        yield ident, step, (*path, index)
        if isinstance(step, Parallel) and isinstance(step.steps, tuple):
            yield from _numbered(f"{ident}/", step.steps, (*path, index, "parallel"))


def agents_of(scenario: Document) -> dict[str, str]:
    """Give agent id to host name."""
    found: dict[str, str] = {}
    for name, host in scenario.topology.hosts.items():
        if isinstance(host, AgentHost) or (
            isinstance(host, CustomHost) and "agent" in host.speaks
        ):
            found.setdefault(host.id or name, name)
    return found


def fault_ids(scenario: Document) -> list[str]:
    """Give the ids of the faults, in order."""
    return [fault.id or f"f{n}" for n, fault in enumerate(scenario.faults, 1)]


def check_whole(scenario: Document, into: Problems) -> None:
    """Report everything that does not hold between the parts."""
    # Required parts that could not be read are `None` here, whatever their type says.
    topology: Any = scenario.topology
    workload: Any = scenario.workload
    if topology is None or topology.hosts is None:
        return
    _check_topology(scenario, into)
    if workload is not None and workload.clients is not None:
        steps = _place(scenario, into)
        _check_steps(scenario, steps, into)
        _check_order(steps, into)
        _check_expects(scenario, steps, into)
    _check_faults(scenario, into)


def warn_about(scenario: Document, into: Problems) -> None:
    """Note what is suspicious and harmless."""
    inline = any(
        step.expect is not None
        for name, client in scenario.workload.clients.items()
        for _id, step, _path in client_steps(name, client.steps)
    )
    if not (scenario.expect or scenario.invariants or inline):
        into.warn((), "nothing is checked", "add expect or invariants")


# -- Topology ------------------------------------------------------------------------


def _check_topology(scenario: Document, into: Problems) -> None:
    hosts = scenario.topology.hosts
    brokers = [name for name, host in hosts.items() if isinstance(host, BrokerHost)]
    seen: dict[str, str] = {}
    for name, host in hosts.items():
        path: Path = ("topology", "hosts", name)
        if isinstance(host, (AgentHost, ClientHost)):
            _check_broker(host.broker, brokers, path, into, host=host)
        ident = _agent_id(name, host)
        if ident and ident in seen:
            into.add(
                (*path, "id"), f'agent "{ident}" is on host "{seen[ident]}" already'
            )
        seen.setdefault(ident, name)
    for index, link in enumerate(scenario.topology.links):
        if link.between is not None:
            _check_link(
                link.between, hosts, ("topology", "links", index, "between"), into
            )


def _agent_id(name: str, host: object) -> str:
    if isinstance(host, AgentHost):
        return host.id or name
    if isinstance(host, CustomHost) and "agent" in host.speaks:
        return host.id or name
    return ""


def _check_broker(
    broker: str, brokers: list[str], path: Path, into: Problems, *, host: object
) -> None:
    if broker and broker not in brokers:
        into.add(
            (*path, "broker"),
            f'no host "{broker}" with role broker',
            did_you_mean(broker, brokers),
        )
    elif not broker and isinstance(host, AgentHost) and not brokers:
        into.add(path, "an agent needs a broker", "add a host with role broker")
    elif not broker and len(brokers) > 1:
        into.add(
            path,
            "which broker is not said",
            f"give broker: one of {', '.join(brokers)}",
        )


def _check_link(link: str, hosts: Iterable[str], path: Path, into: Problems) -> None:
    left, right, _both = link_sides(link)
    for side in (left, right):
        _check_glob(side, hosts, path, into)


def _check_glob(glob: str, hosts: Iterable[str], path: Path, into: Problems) -> None:
    names = list(hosts)
    if any(fnmatch.fnmatchcase(name, glob) for name in names):
        return
    if "*" in glob or "?" in glob:
        into.add(path, f'"{glob}" matches no host', f"hosts: {', '.join(names)}")
    else:
        into.add(
            path,
            f'no host "{glob}"',
            did_you_mean(glob, names) or f"hosts: {', '.join(names)}",
        )


# -- Workload ------------------------------------------------------------------------


def _place(scenario: Document, into: Problems) -> dict[str, _Placed]:
    placed: dict[str, _Placed] = {}
    for name, client in scenario.workload.clients.items():
        top: Path = ("workload", "clients", name)
        _check_client_host(scenario, client.host, top, into)
        before: list[str] = []
        for ident, step, below in client_steps(name, client.steps or ()):
            path = (*top, "steps", *below)
            if ident in placed:
                first = placed[ident].client
                into.add(
                    (*path, "id"),
                    f'step "{ident}" is there already, in client "{first}"',
                )
                continue
            inside = len(below) > 1
            placed[ident] = _Placed(ident, step, path, name, tuple(before))
            if not inside:
                before.append(ident)
    return placed


def _check_client_host(
    scenario: Document, host: str | None, top: Path, into: Problems
) -> None:
    hosts = scenario.topology.hosts
    if host is None:
        return
    if host not in hosts:
        # A host that is there and could not be read is told elsewhere.
        listed = into.root.at(("topology", "hosts")).value
        if not (isinstance(listed, dict) and host in listed):
            into.add(
                (*top, "host"),
                f'no host "{host}"',
                did_you_mean(host, hosts) or f"hosts: {', '.join(hosts)}",
            )
    elif isinstance(hosts[host], BrokerHost):
        into.add((*top, "host"), f'host "{host}" is a broker and runs no clients')


def _check_steps(scenario: Document, steps: dict[str, _Placed], into: Problems) -> None:
    agents = agents_of(scenario)
    hosts = scenario.topology.hosts
    for placed in steps.values():
        step, path = placed.step, placed.path
        if isinstance(step, (AgentCall, AgentSend)) and step.to is not None:
            _check_target(step.to, agents, hosts, (*path, step.tag, "to"), into)
        if isinstance(step, (HostStop, HostStart)) and step.host is not None:
            _check_glob(step.host, hosts, (*path, step.tag, "host"), into)
        for index, after in enumerate(step.after):
            ident, _phase = split_after(after)
            base = ident.split("[")[0]
            if base in steps and base != placed.id:
                placed.needs.add(base)
                _check_repeat(ident, steps[base].step, (*path, "after", index), into)
                continue
            into.add(
                (*path, "after", index),
                f'no step "{ident}"' if base != placed.id else "a step after itself",
                did_you_mean(base, steps) if base != placed.id else "",
            )
    for placed in steps.values():
        for where, text in _refs(placed):
            _check_ref(placed, text, where, steps, into)


def _check_repeat(ident: str, step: Step, path: Path, into: Problems) -> None:
    _base, bracket, index = ident.partition("[")
    if not bracket:
        return
    times = step.repeat.times if step.repeat is not None else None
    number = index[:-1] if index.endswith("]") else ""
    if times is None:
        into.add(path, f'"{ident}": this step has no repeat')
    elif not number.isdecimal() or int(number) >= times:
        into.add(path, f'"{ident}": repeats are [0] to [{times - 1}]')


def _check_target(
    to: str, agents: dict[str, str], hosts: dict[str, Any], path: Path, into: Problems
) -> None:
    if to in agents:
        return
    if to in hosts:
        role = hosts[to].tag
        into.add(path, f'host "{to}" has role {role} and takes no agent calls')
        return
    into.add(
        path,
        f'no agent "{to}"',
        did_you_mean(to, agents) or f"agents: {', '.join(agents) or 'none'}",
    )


def _refs(placed: _Placed) -> Iterator[tuple[Path, str]]:
    step = placed.step
    if not isinstance(step, (AgentCall, AgentSend)):
        return
    for name in ("args", "kwargs", "constructor"):
        base = (*placed.path, step.tag, name)
        yield from _refs_in(getattr(step, name), base)


def _refs_in(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield (*path, "$ref"), value["$ref"]
            return
        for name, item in value.items():
            yield from _refs_in(item, (*path, name))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _refs_in(item, (*path, index))


def _check_ref(
    placed: _Placed, text: str, path: Path, steps: dict[str, _Placed], into: Problems
) -> None:
    ident = text.split(".")[0]
    base = ident.split("[")[0]
    if base not in steps:
        into.add(path, f'no step "{base}"', did_you_mean(base, steps))
        return
    _check_repeat(ident, steps[base].step, path, into)
    if base in _done_before(placed, steps):
        return
    if steps[base].client == placed.client:
        into.add(path, f'step "{base}" is not earlier than this one')
    else:
        into.add(path, f'step "{base}" may have no outcome yet', f"add after: {base}")


def _done_before(placed: _Placed, steps: dict[str, _Placed]) -> set[str]:
    """Ids of steps that surely have an outcome when this one begins."""
    done: set[str] = set()
    todo = [placed]
    while todo:
        item = todo.pop()
        finished = [ident for ident in item.before if not steps[ident].step.background]
        for after in item.step.after:
            ident, phase = split_after(after)
            if phase == "done":
                finished.append(ident.split("[")[0])
        for ident in finished:
            if ident in steps and ident not in done:
                done.add(ident)
                todo.append(steps[ident])
    return done


def _check_order(steps: dict[str, _Placed], into: Problems) -> None:
    """Report cycles: a step that waits, by way of others, for itself."""
    state: dict[str, int] = {}
    for start in steps:
        trail: list[tuple[str, Iterator[str]]] = []
        if start not in state:
            state[start] = 1
            trail.append((start, iter(_waits(start, steps))))
        while trail:
            ident, rest = trail[-1]
            below = next(rest, None)
            if below is None:
                state[ident] = 2
                trail.pop()
            elif below not in state:
                state[below] = 1
                trail.append((below, iter(_waits(below, steps))))
            elif state[below] == 1:
                names = [name for name, _ in trail]
                cycle = [*names[names.index(below) :], below]
                into.add(
                    (*steps[ident].path, "after"),
                    f"steps wait for each other: {' -> '.join(cycle)}",
                    key=True,
                )


def _waits(ident: str, steps: dict[str, _Placed]) -> list[str]:
    placed = steps[ident]
    former = [placed.before[-1]] if placed.before else []
    return [*former, *sorted(placed.needs)]


def _check_expects(
    scenario: Document, steps: dict[str, _Placed], into: Problems
) -> None:
    for index, expect in enumerate(scenario.expect):
        path: Path = ("expect", index)
        subjects = [
            name
            for name in ("step", "count", "call")
            if getattr(expect, name) is not None
        ]
        if len(subjects) > 1:
            into.add(
                (*path, subjects[1]),
                f"one expectation is about {subjects[0]} or {subjects[1]}, not both",
                key=True,
            )
        elif not subjects and not _names_subject(path, into):
            into.add(path, "what is expected is missing", "give step, count or call")
        if expect.step is not None:
            base = expect.step.split("[")[0]
            if base not in steps:
                into.add(
                    (*path, "step"), f'no step "{base}"', did_you_mean(base, steps)
                )
            else:
                _check_repeat(expect.step, steps[base].step, (*path, "step"), into)
            if not expect.about_outcome:
                into.add(path, "nothing is said of the step", "give value or outcome")
    for placed in steps.values():
        if isinstance(placed.step.expect, Expect):
            _check_inline(placed.step.expect, (*placed.path, "expect"), into)


def _names_subject(path: Path, into: Problems) -> bool:
    node = into.root.at(path)
    return isinstance(node.value, dict) and any(
        name in node.value for name in ("step", "count", "call", "state")
    )


def _check_inline(expect: Expect, path: Path, into: Problems) -> None:
    for name in ("step", "count", "call"):
        if getattr(expect, name) is not None:
            into.add(
                (*path, name),
                f'"{name}" has no place in the expectation of a step',
                "write it under expect at the top",
                key=True,
            )


# -- Faults --------------------------------------------------------------------------


def _check_faults(scenario: Document, into: Problems) -> None:
    hosts = scenario.topology.hosts
    seen: set[str] = set()
    for index, fault in enumerate(scenario.faults):
        path: Path = ("faults", index)
        ident = fault.id or f"f{index + 1}"
        if ident in seen:
            into.add((*path, "id"), f'fault "{ident}" is there already')
        seen.add(ident)
        if fault.when is not None:
            _check_glob(fault.when.host, hosts, (*path, "when", "host"), into)
        if isinstance(fault, (Crash, Stop, Restart)):
            for n, glob in enumerate(fault.on or ()):
                _check_glob(glob, hosts, (*path, "on", n), into)
        elif isinstance(fault, Partition):
            _check_partition(fault, hosts, path, into)
        elif isinstance(fault, LatencyFault) and fault.link is not None:
            _check_link(fault.link, hosts, (*path, "link"), into)
        if fault.at is not None and fault.at >= scenario.limits.sim_time:
            into.add(
                (*path, "at"),
                f"{fault.at} is not before the end of the run, "
                f"limits.sim_time {scenario.limits.sim_time}",
            )


def _check_partition(
    fault: Partition, hosts: Iterable[str], path: Path, into: Problems
) -> None:
    where: dict[str, int] = {}
    for n, group in enumerate(fault.groups):
        for m, glob in enumerate(group):
            _check_glob(glob, hosts, (*path, "groups", n, m), into)
            for name in hosts:
                if fnmatch.fnmatchcase(name, glob) and where.setdefault(name, n) != n:
                    into.add((*path, "groups", n, m), f'host "{name}" is in two groups')
    if fault.isolate is not None:
        _check_glob(fault.isolate, hosts, (*path, "isolate"), into)
    if fault.one_way is not None:
        _check_link(fault.one_way, hosts, (*path, "one_way"), into)
