"""What packet rules match, and which of them contradict each other."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from rpcsim.errors import RuleError
from rpcsim.ports import Corrupt, Truncate
from rpcsim.sim._links import names_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rpcsim.ports import Rule
    from rpcsim.sim._inflight import Packet
    from rpcsim.sim._links import Side

__all__ = ["PacketMatch", "check_rule"]

STREAM_KINDS: Final = ("syn", "synack", "ack", "data", "fin", "rst")
KINDS: Final = (*STREAM_KINDS, "datagram")


@dataclass(frozen=True, slots=True)
class PacketMatch:
    """Which packets a rule is about.

    Attributes:
        kinds: Kinds of packets; empty is any.
        src: Hosts that send them.
        dst: Hosts they go to.
        connection: Glob of the connection's label.
        where: Further condition; `None` for none.
    """

    kinds: tuple[str, ...]
    src: Side
    dst: Side
    connection: str
    where: Callable[[Packet], bool] | None

    def __init__(
        self,
        kind: str | Sequence[str] | None,
        src: Side,
        dst: Side,
        connection: str,
        where: Callable[[Packet], bool] | None,
    ) -> None:
        kinds = (kind,) if isinstance(kind, str) else tuple(kind or ())
        for one in kinds:
            if one not in KINDS:
                raise RuleError(
                    f"there are no packets of kind {one!r} (known: {', '.join(KINDS)})"
                )
        for name, value in (
            ("kinds", kinds),
            ("src", src),
            ("dst", dst),
            ("connection", connection),
            ("where", where),
        ):
            object.__setattr__(self, name, value)

    def __call__(self, packet: Packet) -> bool:
        return (
            (not self.kinds or packet.kind in self.kinds)
            and names_pair(packet.src, packet.dst, self.src, self.dst)
            and (
                self.connection == "*"
                or fnmatchcase(packet.connection, self.connection)
            )
            and (self.where is None or self.where(packet))
        )

    def covers(self, other: PacketMatch) -> bool:
        """Whether all that another one matches is matched by this one, for certain."""
        return (
            (not self.kinds or (bool(other.kinds) and {*other.kinds} <= {*self.kinds}))
            and _side_covers(self.src, other.src)
            and _side_covers(self.dst, other.dst)
            and self.connection in ("*", other.connection)
            and (self.where is None or self.where is other.where)
        )


def _side_covers(side: Side, other: Side) -> bool:
    return side == ("*",) or (other != ("*",) and {*other} <= {*side})


def check_rule(
    match: PacketMatch,
    verdict: Any,
    deciding: Iterable[tuple[PacketMatch, Rule[Packet]]],
) -> None:
    """Refuse a rule that could never do what it says.

    Args:
        match: Which packets it is about.
        verdict: What it would decide.
        deciding: Rules in force that decide about all they match.

    Raises:
        RuleError: It would alter the content of a stream, or is never asked.
    """
    alters = isinstance(verdict, (Corrupt, Truncate))
    if alters and match.kinds != ("datagram",):
        raise RuleError(
            f"a rule cannot {verdict} the packets of a stream: TCP delivers what was "
            "written or nothing; use Drop() or Reset(), or say kind='datagram'"
        )
    for other, rule in deciding:
        if rule.active and other.covers(match):
            raise RuleError(
                f"the rule would never be asked: {rule.name!r} decides about all these "
                "packets before; remove that one first, or add this one before it"
            )
