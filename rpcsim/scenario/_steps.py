"""Clients, their steps, and the operations a step may do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rpcsim.scenario._expects import Expect
from rpcsim.scenario._kinds import (
    FAILED,
    Choice,
    Code,
    Data,
    Flag,
    Items,
    Kind,
    Names,
    Number,
    SpanKind,
    Table,
    Text,
    of,
    show,
)
from rpcsim.scenario._record import (
    Record,
    RecordKind,
    is_required,
    plain_record,
    table_of,
)
from rpcsim.scenario._topology import NAME, ZERO

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.scenario._problems import Node, Path, Problems
    from rpcsim.scenario._values import Span

__all__ = [
    "OPERATIONS",
    "AgentCall",
    "AgentSend",
    "Client",
    "Do",
    "HostStart",
    "HostStop",
    "Parallel",
    "Repeat",
    "Retry",
    "Sleep",
    "Step",
    "Workload",
    "split_after",
]

STEP_ID: Final = Text(
    pattern=r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}",
    told="a step id of letters, digits, _ and -",
)
# What another step may wait for; the bare id means its outcome.
PHASES: Final = ("sent", "started")
PHASES_LATER: Final = ("progress", "packet", "acked")
_AFTER: Final = re.compile(r"([^.]+)(?:\.([a-z]+)(?::\d+)?)?")


def split_after(text: str) -> tuple[str, str]:
    """Split `walk.started` into step and phase; the phase of a bare id is `done`."""
    match = _AFTER.fullmatch(text)
    return (match[1], match[2] or "done") if match else (text, "done")


@dataclass(frozen=True, slots=True)
class AfterKind(Kind):
    """A step, perhaps with the moment of it that is waited for."""

    told: str = "a step id, perhaps with .sent or .started"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Check the form; whether the step exists is checked with the whole."""
        value = node.value
        match = _AFTER.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return self.wrong(node, path, into)
        words = Choice(PHASES, PHASES_LATER, "moment of a step")
        if match[2] is not None and not words.known(match[2], path, into):
            return FAILED
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat(Record):
    """Do a step several times; each has `[i]` after its id, from 0.

    Attributes:
        times: How often.
        every: The planned distance between two beginnings. It is kept even when one
            takes longer, as far as `parallel` allows.
        parallel: How many may run at once.
    """

    noun: ClassVar[str] = "repeat"
    times: int = field(metadata=of(Number(1, 100_000)))
    every: Span = field(default=ZERO, metadata=of(SpanKind()))
    parallel: int = field(default=1, metadata=of(Number(1, 10_000)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(Record):
    """Do a step again when it fails.

    Attributes:
        times: How often at most, after the first.
        on: Names of the error classes that are worth it.
        delay: How long to wait before.
    """

    noun: ClassVar[str] = "retry"
    later: ClassVar[tuple[str, ...]] = ("key",)
    times: int = field(metadata=of(Number(1, 10_000)))
    on: tuple[str, ...] = field(
        metadata=of(
            Names(Text(pattern=r"[A-Za-z_]\w*", told="the name of an error"), 1)
        )
    )
    delay: Span = field(default=ZERO, metadata=of(SpanKind()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Record):
    """One thing a client does; its class says the operation.

    Attributes:
        id: Unique name; `""` means `<client>/<n>`, counted from 1.
        at: Not before this time of the run.
        after: Steps that must have an outcome first, or `ID.sent`, `ID.started`.
        background: Do not wait for the outcome before the next step.
        repeat: Do it several times.
        retry: Do it again when it fails.
        give_up: The client's own limit; the outcome is then unknown.
        expect: What must come of it.
    """

    noun: ClassVar[str] = "step"
    id: str = field(default="", metadata=of(STEP_ID))
    at: Span | None = field(default=None, metadata=of(SpanKind()))
    after: tuple[str, ...] = field(default=(), metadata=of(Names(AfterKind())))
    background: bool = field(default=False, metadata=of(Flag()))
    repeat: Repeat | None = field(default=None, metadata=of(RecordKind(Repeat)))
    retry: Retry | None = field(default=None, metadata=of(RecordKind(Retry)))
    give_up: Span | None = field(default=None, metadata=of(SpanKind()))
    expect: Expect | None = field(default=None, metadata=of(RecordKind(Expect)))


# The keys of a step itself; all others of a step's class belong to its operation.
STEP_KEYS: Final = frozenset(table_of(Step))


@dataclass(frozen=True, slots=True)
class TimeoutKind(Kind):
    """A duration, or `[to start, to complete]`; always a pair inside."""

    told: str = "a duration, or [to start, to complete]"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Read either form."""
        if not isinstance(node.value, list):
            span = SpanKind(told=self.told).read(node, path, into)
            return FAILED if span is FAILED else (span, span)
        if len(node.value) != 2:
            return self.wrong(node, path, into)
        return Items(SpanKind()).read(node, path, into)

    def plain(self, value: Any) -> Any:
        """Write equal limits as one."""
        if not isinstance(value, tuple) or len(value) != 2:
            return value
        start, end = (SpanKind().plain(item) for item in value)
        return start if start == end else [start, end]


METHOD: Final = Text(
    pattern=r"[A-Za-z_]\w*\.[A-Za-z_]\w*", told="a method as Class.name"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCall(Step):
    """Operation `agent.call`: call a method of an agent and wait for the answer.

    Attributes:
        to: The agent's id.
        method: `Class.name`.
        args: Positional arguments.
        kwargs: Keyword arguments.
        constructor: Positional and keyword arguments for the remote object.
        timeout: Limits to start and to complete.
    """

    tag: ClassVar[str] = "agent.call"
    later: ClassVar[tuple[str, ...]] = (
        "wait",
        "window",
        "data",
        "secret",
        "user",
        "password",
    )
    to: str = field(metadata=of(NAME))
    method: str = field(metadata=of(METHOD))
    args: tuple[Any, ...] = field(default=(), metadata=of(Data("list")))
    kwargs: dict[str, Any] = field(default_factory=dict, metadata=of(Data("mapping")))
    constructor: dict[str, Any] | None = field(
        default=None, metadata=of(Data("mapping"))
    )
    timeout: tuple[Span, Span] | None = field(default=None, metadata=of(TimeoutKind()))

    @classmethod
    def check(cls, record: Any, path: Path, into: Problems) -> None:
        """Report a constructor of another shape than `{args, kwargs}`."""
        _check_constructor(record.constructor, path, into)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSend(Step):
    """Operation `agent.send`: call a method of an agent and want no answer.

    The attributes are those of `AgentCall`; the outcome is unknown by nature.
    """

    tag: ClassVar[str] = "agent.send"
    later: ClassVar[tuple[str, ...]] = (
        "reply",
        "ttl",
        "trigger",
        "timeout",
        "window",
        "data",
        "secret",
        "user",
        "password",
    )
    to: str = field(metadata=of(NAME))
    method: str = field(metadata=of(METHOD))
    args: tuple[Any, ...] = field(default=(), metadata=of(Data("list")))
    kwargs: dict[str, Any] = field(default_factory=dict, metadata=of(Data("mapping")))
    constructor: dict[str, Any] | None = field(
        default=None, metadata=of(Data("mapping"))
    )

    @classmethod
    def check(cls, record: Any, path: Path, into: Problems) -> None:
        """Report a constructor of another shape than `{args, kwargs}`."""
        _check_constructor(record.constructor, path, into)


def _check_constructor(value: Any, path: Path, into: Problems) -> None:
    if not isinstance(value, dict):
        return
    shapes = {"args": list, "kwargs": dict}
    for name, item in value.items():
        if name not in shapes or not isinstance(item, shapes[name]):
            into.add(
                (*path, "constructor", name),
                "expected {args: [...], kwargs: {...}}",
                key=True,
            )


@dataclass(frozen=True, slots=True)
class StepKind(Kind):
    """A step: common keys, and exactly one operation with its arguments."""

    told: str = "a step (a mapping)"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Find the operation, then read its arguments and the common keys."""
        if isinstance(node.value, Step):
            return node.value
        if not isinstance(node.value, dict):
            return self.wrong(node, path, into)
        names = [name for name in node.value if name in OPERATIONS]
        later = [name for name in node.value if name in OPERATIONS_LATER]
        if len(names) + len(later) > 1:
            both = [name for name in node.value if name in (*names, *later)]
            into.add(
                (*path, both[1]),
                f'a second operation "{both[1]}" in one step, beside "{both[0]}"',
                "write two steps",
                key=True,
            )
        elif later:
            words = Choice(tuple(OPERATIONS), OPERATIONS_LATER, "operation")
            words.known(later[0], (*path, later[0]), into, key=True)
        elif not names:
            return self._no_operation(node, path, into)
        if not names:
            return FAILED
        name = names[0]
        arguments = self._arguments(name, node.value[name][1], (*path, name), into)
        return RecordKind.cls_read(
            OPERATIONS[name],
            node,
            path,
            into,
            skip=frozenset((*OPERATIONS, *OPERATIONS_LATER)),
            table=table_of(Step),
            extra=arguments,
        )

    def _no_operation(self, node: Node, path: Path, into: Problems) -> Any:
        words = Choice(tuple(OPERATIONS), OPERATIONS_LATER, "operation")
        strange = [name for name in node.value if name not in STEP_KEYS]
        if strange:
            words.known(strange[0], (*path, strange[0]), into, key=True)
        else:
            into.add(
                path, "this step has no operation", f"known: {', '.join(words.words)}"
            )
        return FAILED

    def _arguments(
        self, name: str, node: Node, path: Path, into: Problems
    ) -> dict[str, Any]:
        cls = OPERATIONS[name]
        kinds = {
            key: item.metadata["kind"]
            for key, item in table_of(cls).items()
            if key not in STEP_KEYS
        }
        if name in BARE:
            value = kinds[BARE[name]].read(node, path, into)
            return {BARE[name]: None if value is FAILED else value}
        if not isinstance(node.value, dict):
            into.add(path, f"expected a mapping of arguments, found {show(node)}")
            return dict.fromkeys(kinds)
        return _operation_arguments(cls, node, path, into, kinds)

    def coerce(self, value: Any) -> Any:
        """Take a step as it is."""
        return value if isinstance(value, Step) else Kind.coerce(self, value)

    def plain(self, value: Any) -> Any:
        """Give a mapping: id, then the operation, then the other common keys."""
        if not isinstance(value, Step):
            return value
        flat = plain_record(value)
        name = value.tag
        inner: Any
        if name in BARE:
            inner = flat.get(BARE[name])
        else:
            inner = {k: v for k, v in flat.items() if k not in STEP_KEYS}
        first = {"id": flat["id"]} if "id" in flat else {}
        common = {k: v for k, v in flat.items() if k in STEP_KEYS and k != "expect"}
        last = {"expect": flat["expect"]} if "expect" in flat else {}
        return {**first, **common, name: inner, **last}


def _operation_arguments(
    cls: type[Step], node: Node, path: Path, into: Problems, kinds: dict[str, Kind]
) -> dict[str, Any]:
    """Read the mapping below an operation's name by the table of its class."""
    values: dict[str, Any] = {}
    words = Choice(tuple(kinds), cls.later, f"argument of {cls.tag}")
    for name, (_key, value) in node.value.items():
        if name in kinds:
            found = kinds[name].read(value, (*path, name), into)
            values[name] = found if found is not FAILED else None
        else:
            words.known(name, (*path, name), into, key=True)
    table = table_of(cls)
    for name in kinds:
        if name not in values and is_required(table[name]):
            into.add(path, f'argument "{name}" is missing from {cls.tag}', key=True)
            values[name] = None
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep(Step):
    """Operation `sleep`: let time pass.

    Attributes:
        duration: How long.
    """

    tag: ClassVar[str] = "sleep"
    duration: Span = field(metadata=of(SpanKind()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel(Step):
    """Operation `parallel`: do several steps at the same time.

    Attributes:
        steps: What to do; the outcome comes when all have one.
    """

    tag: ClassVar[str] = "parallel"
    steps: tuple[Step, ...] = field(metadata=of(Items(StepKind(), 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Do(Step):
    """Operation `do`: run code of your own.

    Attributes:
        code: A coroutine function given the client's context; its return value is the
            outcome.
    """

    tag: ClassVar[str] = "do"
    code: str | Callable[..., Any] = field(metadata=of(Code()))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStop(Step):
    """Operation `host.stop`: stop a host in order.

    Attributes:
        host: Which.
    """

    tag: ClassVar[str] = "host.stop"
    host: str = field(metadata=of(NAME))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStart(Step):
    """Operation `host.start`: start a host that was stopped or crashed.

    Attributes:
        host: Which.
    """

    tag: ClassVar[str] = "host.start"
    host: str = field(metadata=of(NAME))


# Operation to class, as files name them.
OPERATIONS: Final[dict[str, type[Step]]] = {
    cls.tag: cls
    for cls in (AgentCall, AgentSend, Sleep, Parallel, Do, HostStop, HostStart)
}
OPERATIONS_LATER: Final = (
    *("agent.listen", "agent.unlisten", "agent.cancel"),
    *("job.submit", "job.result", "job.status", "job.cancel", "job.follow", "job.read"),
    *("proc.call", "api.call", "peer.close", "plugin.reload"),
    *("remote.call", "remote.create", "remote.start", "remote.join"),
    *("remote.kill", "remote.status", "kv.set", "kv.get"),
)
# Operations whose value is one thing and not a mapping of arguments: its field.
BARE: Final = {"sleep": "duration", "do": "code", "parallel": "steps"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Client(Record):
    """One program that calls: its steps run one after the other.

    Attributes:
        host: Where it runs.
        steps: What it does.
        start: When it begins.
    """

    noun: ClassVar[str] = "client"
    later: ClassVar[tuple[str, ...]] = ("count",)
    host: str = field(metadata=of(NAME))
    steps: tuple[Step, ...] = field(metadata=of(Items(StepKind(), 1)))
    start: Span = field(default=ZERO, metadata=of(SpanKind()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload(Record):
    """What is done to the system.

    Attributes:
        clients: By name; all run at the same time.
    """

    noun: ClassVar[str] = "workload"
    later: ClassVar[tuple[str, ...]] = ("generate",)
    clients: dict[str, Client] = field(
        metadata=of(Table(RecordKind(Client), key=NAME, least=1))
    )
