"""Names, addresses and labels of one run: who is at which loopback address."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rpcsim.ports import endpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rpcsim.ports import Address
    from rpcsim.real._network import RealListener

__all__ = ["Dial", "Directory", "can_bind"]

OUTSIDE: Final = "outside"
FIRST: Final = ipaddress.IPv4Address("127.0.0.1")
ANY: Final = ("", "0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Dial:
    """One connection being made, found again at the far side by its source address.

    Attributes:
        label: Such as `client>server:80#3`.
        host: Host that connects.
        place: Where it goes in a run's own terms; `None`: outside the run.
    """

    label: str
    host: str
    place: Address | None = None


class Directory:
    """The address book of a run.

    Args:
        whole_machine: The program is no host of a run: every name and address is the
            system's.
    """

    def __init__(self, *, whole_machine: bool = False) -> None:
        self.whole_machine: Final = whole_machine
        self.by_name: dict[str, str] = {}
        self.by_address: dict[str, str] = {}
        self.listeners: dict[Address, RealListener] = {}
        # Where connections to a listener really go: to its proxy, or to the port it
        # got when its own was taken.
        self.routes: dict[Address, Address] = {}
        self.dials: dict[Address, Dial] = {}
        # Addresses this machine does not have (one loopback address only): listeners
        # there are bound elsewhere and found through `routes`.
        self.virtual: set[str] = set()
        self._counts: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<directory of {len(self.by_name)} hosts>"

    def add(self, host: str, address: str, aliases: Sequence[str] = ()) -> None:
        """Make a host known by its loopback address and what else it is reached by."""
        self.by_name[host] = address
        for known in (address, *aliases):
            self.by_address[known] = host

    def free_address(self) -> str:
        """Give the next loopback address: host number k, from 0, gets 127.0.0.(k+1)."""
        number = len(self.by_name)
        while (address := str(FIRST + number)) in self.by_address:
            number += 1
        return address

    def lookup(self, name: str, asking: str) -> str | None:
        """Give a host's address for a name as seen from another; `None`: not a host's.

        `localhost` and its kin mean the asking host itself.
        """
        if self.whole_machine:
            return None
        if name in self.by_name:
            return self.by_name[name]
        if name in self.by_address:
            return self.by_name[self.by_address[name]]
        if name == "localhost" or name in ANY or name == "::1":
            return self.by_name[asking]
        return None

    def target(self, address: Address, asking: str) -> Address | None:
        """Give the place a connection of a run goes to; `None`: outside the run.

        127.0.0.1 is host `test`; code written for one machine means itself by it. So
        it is the asking host's own when only that one listens at the port.
        """
        found = self.lookup(address[0], asking)
        if found is None:
            return None
        place = (found, address[1])
        if address[0] == "127.0.0.1" and place not in self.listeners:
            own = (self.by_name[asking], address[1])
            if own in self.listeners:
                return own
        return place

    def host_at(self, address: str) -> str:
        """Name the host at a numeric address."""
        return self.by_address.get(address, OUTSIDE)

    def bindable(self, name: str, host: str) -> str:
        """Give the address to bind for a name a host listens at.

        Raises:
            OSError: `EADDRNOTAVAIL`: the name or address is another host's.
        """
        if self.whole_machine:
            return name
        own = self.by_name[host]
        if name in ANY or name in (host, "localhost", "127.0.0.1", "::1"):
            return own
        if self.by_address.get(name) == host:
            return own
        raise OSError(
            errno.EADDRNOTAVAIL,
            f"host {host!r} cannot listen at {name!r}: the address is not its own; "
            f"use '' or {own!r}",
        )

    def dial(self, src: str, dst: str, port: int, place: Address | None = None) -> Dial:
        """Name the next connection of a pair, counted from 1."""
        pair = f"{src}>{dst}:{port}"
        number = self._counts[pair] = self._counts.get(pair, 0) + 1
        return Dial(f"{pair}#{number}", src, place)

    def dialled(self, peer: Address | None, listening: str, port: int) -> Dial:
        """Take the connection that comes from a source address, or name a new one."""
        if peer is not None:
            known = self.dials.pop((peer[0], peer[1]), None)
            if known is not None:
                return known
        return self.dial(OUTSIDE, listening, port)

    def check_free(self, place: Address, host: str) -> None:
        """Refuse a second listener at one place of a run."""
        if place[1] and place in self.listeners:
            raise OSError(
                errno.EADDRINUSE,
                f"address {endpoint(place)} of host {host!r} is in use",
            )


def can_bind(address: str) -> bool:
    """Whether this machine has the address (some have one loopback address only)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
