"""Names on the simulated network: a table, and the faults of looking them up.

Hosts resolve by their names without an entry. An entry adds a name or replaces the
answer for one; faults decide before it. The machine's own resolver is never asked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from rpcsim.ports import NANOS, Duration, to_ns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rpcsim.sim._net import SimNet

__all__ = ["Dns", "DnsFault", "DnsKind", "is_numeric"]

DnsKind = Literal[
    "unknown", "temporary", "timeout", "slow", "wrong", "rotate", "ipv4", "ipv6"
]
KINDS: Final = (
    "unknown",
    "temporary",
    "timeout",
    "slow",
    "wrong",
    "rotate",
    "ipv4",
    "ipv6",
)
# resolv.conf(5): five seconds a try, two tries.
TIMEOUT_NS: Final = 10 * NANOS


@dataclass(frozen=True, slots=True)
class _Entry:
    addresses: tuple[str, ...]
    ttl_ns: int | None
    latency_ns: int


@dataclass(slots=True, eq=False)
class DnsFault:
    """A fault of lookups in force; leaving its block, or `undo`, lifts it.

    Attributes:
        kind: As of `Dns.fail`.
        name: The name it is about; `*` for all.
        left: How many more lookups it hits; `None` for all.
        begin_ns: From when.
        end_ns: Until when; `None` for ever.
        delay_ns: How long an answer takes, for `slow` and `timeout`.
        addresses: What is answered, for `wrong`.
        hits: How many lookups it hit.
    """

    kind: DnsKind
    name: str
    left: int | None
    begin_ns: int
    end_ns: int | None
    delay_ns: int
    addresses: tuple[str, ...]
    hits: int = 0

    def undo(self) -> None:
        """Lift it."""
        self.left = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()

    def is_about(self, name: str, now_ns: int) -> bool:
        """Whether it decides about a lookup now."""
        return (
            self.left != 0
            and self.name in ("*", name)
            and self.begin_ns <= now_ns
            and (self.end_ns is None or now_ns < self.end_ns)
        )


class Dns:
    """The table of names of one simulation.

    Lookups by code (`getaddrinfo`, `Network.resolve`) are always recorded as `dns`;
    those a connect makes, once an entry or a fault is set.
    """

    __slots__ = ("_cache", "_entries", "_faults", "_net", "_turns", "used")

    def __init__(self, net: SimNet) -> None:
        self._net = net
        self._entries: dict[str, _Entry] = {}
        self._faults: list[DnsFault] = []
        # What each host remembers: (host, name) -> (until, addresses).
        self._cache: dict[tuple[str, str], tuple[int, tuple[str, ...]]] = {}
        self._turns: dict[str, int] = {}
        # Whether connects by name ask the table.
        self.used = False

    def __repr__(self) -> str:
        return f"<DNS: {len(self._entries)} entries, {len(self._faults)} faults>"

    def set(
        self,
        name: str,
        addresses: str | Sequence[str],
        *,
        ttl: Duration | None = None,
        latency: Duration = 0,
    ) -> None:
        """Have a name answer with addresses, in order.

        Args:
            name: The name; an entry for it is replaced.
            addresses: Numeric addresses, or names of hosts, which stand for theirs.
            ttl: How long a host that asked remembers the answer; `None` not at all.
            latency: How long an answer takes.
        """
        given = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        told: list[str] = []
        for one in given:
            if is_numeric(one):
                told.append(one)
            else:
                self._net.check_names(one)
                told += self._net.host_for(one, one).addresses
        if not told:
            raise ValueError(f"{name!r} needs at least one address; use `remove`")
        ttl_ns = None if ttl is None else to_ns(ttl)
        latency_ns = to_ns(latency)
        if latency_ns < 0 or (ttl_ns is not None and ttl_ns < 0):
            raise ValueError("latency and ttl cannot be negative")
        self._entries[name] = _Entry(tuple(told), ttl_ns, latency_ns)
        self.used = True

    def remove(self, name: str) -> None:
        """Forget an entry; a host's own name then answers as before."""
        self._entries.pop(name, None)

    def fail(
        self,
        kind: DnsKind,
        name: str = "*",
        *,
        count: int | None = None,
        during: tuple[Duration, Duration] | None = None,
        after: Duration | None = None,
        addresses: str | Sequence[str] = (),
    ) -> DnsFault:
        """Have lookups fail or mislead until the returned fault is undone.

        Args:
            kind: `unknown` (no such name), `temporary` (failure), `timeout` (failure
                after `after`, 10 s by default), `slow` (the answer takes `after`),
                `wrong` (answers `addresses`), `rotate` (each answer begins with the
                next address), `ipv4` or `ipv6` (one family only).
            name: The name; `*` for all.
            count: How many lookups; `None` for all.
            during: From when to when, in simulated time.
            after: For `slow` and `timeout`.
            addresses: For `wrong`: a stale address, another host's.
        """
        if kind not in KINDS:
            raise ValueError(f"a DNS fault is one of {', '.join(KINDS)}, not {kind!r}")
        if count is not None and count < 1:
            raise ValueError(f"a fault hits at least once, not {count} times")
        if (kind == "wrong") != bool(addresses):
            raise ValueError("`addresses` are for the kind 'wrong', which needs them")
        if after is not None and kind not in ("slow", "timeout"):
            raise ValueError(f"`after` is for 'slow' and 'timeout', not for {kind!r}")
        if kind == "slow" and after is None:
            raise ValueError("a slow answer needs `after`: how long it takes")
        given = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        for one in given:
            if not is_numeric(one):
                raise ValueError(f"{one!r} is no numeric address")
        begin, end = (0, None) if during is None else map(to_ns, during)
        if end is not None and end <= begin:
            raise ValueError(f"during={during!r} ends before it begins")
        delay = TIMEOUT_NS if after is None else to_ns(after)
        if delay <= 0:
            raise ValueError(f"`after` is a positive time, not {after!r}")
        fault = DnsFault(kind, name, count, begin, end, delay, given)
        self._faults.append(fault)
        self.used = True
        return fault

    async def lookup(self, name: Any, asking: str) -> list[str]:
        """Give the addresses of a name, as one host sees it.

        Raises:
            socket.gaierror: No such name, or a temporary failure.
        """
        net = self._net
        if is_numeric(name):
            return [str(name)]  # numeric hosts skip the table
        if name in (None, "", "localhost"):
            return net.addresses_of(name, asking)
        loop = net.loop
        key = (asking, name)
        known = self._cache.get(key)
        if known is not None and loop.now_ns < known[0]:
            self._tell(asking, name, "remembered", known[1])
            return list(known[1])
        fault = self._fault_for(name)
        entry = self._entries.get(name)
        try:
            if entry is not None and entry.latency_ns:
                await asyncio.sleep(entry.latency_ns / NANOS)
            found = await self._answer(name, asking, entry, fault)
        except socket.gaierror as error:
            self._tell(asking, name, "failed", (), error.errno)
            raise
        self._tell(asking, name, fault.kind if fault else "answered", found)
        if entry is not None and entry.ttl_ns:
            self._cache[key] = (loop.now_ns + entry.ttl_ns, found)
        return list(found)

    def _fault_for(self, name: str) -> DnsFault | None:
        for fault in self._faults:
            if fault.is_about(name, self._net.loop.now_ns):
                if fault.left is not None:
                    fault.left -= 1
                fault.hits += 1
                return fault
        return None

    async def _answer(
        self, name: str, asking: str, entry: _Entry | None, fault: DnsFault | None
    ) -> tuple[str, ...]:
        kind = fault.kind if fault is not None else ""
        if fault is not None and kind in ("slow", "timeout"):
            await asyncio.sleep(fault.delay_ns / NANOS)
        if kind == "unknown":
            raise socket.gaierror(
                socket.EAI_NONAME, f"Name or service not known: {name!r}, by a fault"
            )
        if kind in ("temporary", "timeout"):
            raise socket.gaierror(
                socket.EAI_AGAIN,
                f"Temporary failure in name resolution: {name!r}, by a fault",
            )
        if fault is not None and kind == "wrong":
            return fault.addresses
        if entry is not None:
            found = entry.addresses
        else:
            found = tuple(self._net.addresses_of(name, asking))
        if kind == "rotate":
            turn = self._turns.get(name, 0) + 1
            self._turns[name] = turn
            turn %= len(found)
            return found[turn:] + found[:turn]
        if kind in ("ipv4", "ipv6"):
            found = tuple(a for a in found if (":" in a) == (kind == "ipv6"))
            if not found:
                raise socket.gaierror(
                    socket.EAI_NONAME, f"{name!r} has no address of {kind}, by a fault"
                )
        return found

    def _tell(
        self,
        asking: str,
        name: str,
        how: str,
        found: Sequence[str],
        error: int | None = None,
    ) -> None:
        told: tuple[tuple[str, Any], ...] = (("name", name), ("how", how))
        if error is not None:
            told += (("error", error),)
        else:
            told += (("addresses", " ".join(found)),)
        self._net.loop.sim.record_on(asking, "dns", told)


def is_numeric(name: object) -> bool:
    """Whether it is an address and no name."""
    try:
        ipaddress.ip_address(str(name))
    except ValueError:
        return False
    return True
