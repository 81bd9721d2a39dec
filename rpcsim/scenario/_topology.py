"""Hosts by role, links, and the topology they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rpcsim.scenario._kinds import (
    Choice,
    Code,
    Items,
    Kind,
    Number,
    SpanKind,
    Table,
    Text,
    module_or_class,
    of,
)
from rpcsim.scenario._record import Record, RecordKind, VariantKind
from rpcsim.scenario._values import Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.scenario._problems import Node, Path, Problems

__all__ = [
    "LINK",
    "ROLES",
    "AgentHost",
    "BrokerHost",
    "ClientHost",
    "CustomHost",
    "Host",
    "Latency",
    "Link",
    "Plugin",
    "Topology",
    "link_sides",
]

NAME: Final = Text(pattern=r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", told="a name")
ZERO: Final = Span(0)
# Keys every host may have one day.
HOST_LATER: Final = ("clock", "start", "count", "buggify", "external", "workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(Record):
    """A machine of the story; its class says the role."""

    noun: ClassVar[str] = "host"
    later: ClassVar[tuple[str, ...]] = HOST_LATER


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerHost(Host):
    """Role `broker`: takes messages for agents and hands them on.

    Attributes:
        kind: `embedded`, our own engine.
    """

    tag: ClassVar[str] = "broker"
    kind: str = field(
        default="embedded", metadata=of(Choice(("embedded",), noun="broker kind"))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin(Record):
    """A module or class with remote methods.

    Attributes:
        module: `package.module`, or `package.module:Class` for one class of it; in
            the Python form also the module or class itself.
        threads: How many calls it runs at once.
    """

    noun: ClassVar[str] = "plugin"
    later: ClassVar[tuple[str, ...]] = (
        "name",
        "latency",
        "requires",
        "accept",
        "forward",
        "extends",
        "url",
        "uuid",
        "queue",
        "enabled",
    )
    module: str | type | Callable[..., Any] = field(metadata=of(module_or_class()))
    threads: int = field(default=1, metadata=of(Number(1, 1_000)))


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentHost(Host):
    """Role `agent`: hosts plugins and answers calls.

    Attributes:
        id: What callers name; `""` means the host's own name.
        broker: Host of its broker; `""` means the only one there is.
        plugins: What it offers.
    """

    tag: ClassVar[str] = "agent"
    later: ClassVar[tuple[str, ...]] = (
        *HOST_LATER,
        "era",
        "secret",
        "users",
        "store",
    )
    id: str = field(default="", metadata=of(NAME))
    broker: str = field(default="", metadata=of(NAME))
    plugins: tuple[Plugin, ...] = field(
        default=(), metadata=of(Items(RecordKind(Plugin)))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHost(Host):
    """Role `client`: clients of the workload run here.

    Attributes:
        broker: Host of the broker they use; `""` means the only one there is.
    """

    tag: ClassVar[str] = "client"
    broker: str = field(default="", metadata=of(NAME))


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomHost(Host):
    """Role `custom`: software of your own.

    Attributes:
        factory: Called anew at each start; gives an object with `async start()` and
            `async stop()`, an awaitable, or `None`.
        speaks: Systems whose operations it takes.
        id: What callers of agents name it, when it speaks `agent`.
    """

    tag: ClassVar[str] = "custom"
    factory: str | Callable[..., Any] = field(metadata=of(Code()))
    speaks: tuple[str, ...] = field(
        default=(),
        metadata=of(
            Items(
                Choice(
                    ("agent",), ("job", "proc", "api", "remote", "kv"), noun="system"
                )
            )
        ),
    )
    id: str = field(default="", metadata=of(NAME))


# Role to class, as files name them.
ROLES: Final[dict[str, type[Host]]] = {
    cls.tag: cls for cls in (BrokerHost, AgentHost, ClientHost, CustomHost)
}
ROLES_LATER: Final = ("dispatcher", "harpd", "job_server", "peer", "kv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(Record):
    """How long messages travel.

    Attributes:
        base: The least.
        jitter: What is added at most, drawn for each message.
    """

    noun: ClassVar[str] = "latency"
    later: ClassVar[tuple[str, ...]] = ("dist", "max")
    base: Span = field(default=ZERO, metadata=of(SpanKind()))
    jitter: Span = field(default=ZERO, metadata=of(SpanKind()))


@dataclass(frozen=True, slots=True)
class LatencyKind(Kind):
    """A duration, or a mapping of `base` and `jitter`; always a `Latency` inside."""

    told: str = "a duration such as 5ms, or a mapping with base and jitter"

    def read(self, node: Node, path: Path, into: Problems) -> Any:
        """Read either form."""
        if isinstance(node.value, (dict, Latency)):
            return RecordKind(Latency).read(node, path, into)
        span = SpanKind(told=self.told).read(node, path, into)
        return Latency(base=span) if isinstance(span, Span) else span

    def coerce(self, value: Any) -> Any:
        """Take a `Latency` as it is."""
        return value if isinstance(value, Latency) else Kind.coerce(self, value)

    def plain(self, value: Any) -> Any:
        """Write a constant as a duration."""
        if isinstance(value, Latency) and value.jitter == ZERO:
            return str(value.base)
        return RecordKind(Latency).plain(value)


_SIDE: Final = r"[A-Za-z0-9_*?][A-Za-z0-9._*?-]*"
# `a -> b` or `a <-> b`; names may be globs.
LINK: Final = Text(
    pattern=rf"{_SIDE} *<?-> *{_SIDE}", told='a link such as "a -> b" or "a <-> b"'
)


def link_sides(link: str) -> tuple[str, str, bool]:
    """Split `a <-> b` into its sides and whether it holds both ways."""
    both = "<->" in link
    left, right = link.split("<->" if both else "->")
    return left.strip(), right.strip(), both


@dataclass(frozen=True, slots=True, kw_only=True)
class Link(Record):
    """The shape of the network between hosts; later entries win.

    Attributes:
        between: `a -> b` or `a <-> b`, globs allowed.
        latency: How long messages travel.
    """

    noun: ClassVar[str] = "link"
    later: ClassVar[tuple[str, ...]] = (
        "bandwidth",
        "buffer",
        "mtu",
        "loss",
        "transport",
    )
    between: str = field(metadata=of(LINK))
    latency: Latency | None = field(default=None, metadata=of(LatencyKind()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology(Record):
    """Which machines there are, and what is between them.

    Attributes:
        hosts: By name, in the order they start (brokers first).
        links: How the network between them is shaped.
    """

    noun: ClassVar[str] = "topology"
    later: ClassVar[tuple[str, ...]] = ("defaults",)
    hosts: dict[str, Host] = field(
        metadata=of(
            Table(VariantKind("role", "role", ROLES, ROLES_LATER), key=NAME, least=1)
        )
    )
    links: tuple[Link, ...] = field(default=(), metadata=of(Items(RecordKind(Link))))
