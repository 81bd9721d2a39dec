"""What the core may ask of a network: asyncio's contract, narrowed.

Protocols are asyncio's (`connection_made`, `data_received`, `eof_received`,
`connection_lost`), so that third-party protocol classes fit in either runtime.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import msgspec

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence

    from rpcsim.ports._durations import Duration
    from rpcsim.ports._tls import TLS

__all__ = ["Address", "Listener", "MessageInfo", "Network", "Transport", "endpoint"]

# (host name or numeric address, port)
Address: TypeAlias = "tuple[str, int]"
P = TypeVar("P", bound=asyncio.Protocol)


class MessageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a frame means, told beside its bytes, so that rules and traces can see it.

    A struct and not a dataclass: every message makes one, and this is ten times cheaper.

    Attributes:
        system: `agent`, `job`, `proc`, `api`, `remote` or `kv`.
        kind: Phase of the call: `request`, `start`, `ack`, `started`, `progress`,
            `packet`, `reply`, `error`, `notification`, `cancel` or `poll`.
        method: Dotted name of what is called.
        call_id: The family's own id of the call (serial number, job id).
        call_no: Counts the calls of this method in this run, from 1; 0 if unknown.
        attempt: 1 for the first sending of this message.
        src: Host that made the message.
        dst: Party it is meant for: an agent id, host or queue.
        deadline_ns: Caller's limit on the monotonic clock; `None` for none.
        connection: Label of the connection; filled in by the transport.
        labels: More (name, value) pairs, such as `queue`, `client`, `step`, `key`.
    """

    system: str
    kind: str
    method: str
    call_id: str
    call_no: int = 0
    attempt: int = 1
    src: str = ""
    dst: str = ""
    deadline_ns: int | None = None
    connection: str = ""
    labels: tuple[tuple[str, str], ...] = ()


class Transport(Protocol):
    """The sending side of one connection."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes in order; never blocks, see `set_write_buffer_limits`."""

    def writelines(self, data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send several pieces as one write."""

    def write_message(self, frame: bytes, info: MessageInfo) -> bool:
        """Send one whole frame, telling what it means.

        Returns:
            Whether it goes out, now or later: `False` if a fault rule dropped it or
            answered in its place, so that no confirm of it will come.
        """

    def write_eof(self) -> None:
        """Close our direction after what was written; the other stays open."""

    def can_write_eof(self) -> bool:
        """Whether `write_eof` is possible (not over TLS)."""

    def close(self) -> None:
        """Flush, then close both directions."""

    def abort(self) -> None:
        """Close now; the peer sees a reset."""

    def is_closing(self) -> bool:
        """Whether `close` or `abort` was called, or the connection is lost."""

    def pause_reading(self) -> None:
        """Deliver no data until `resume_reading`."""

    def resume_reading(self) -> None:
        """Deliver data again."""

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        """Set where `pause_writing` and `resume_writing` are called, in bytes."""

    def get_write_buffer_size(self) -> int:
        """Bytes written and not yet taken by the network."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Facts by asyncio's names: `peername`, `sockname`, `socket`, ..."""


class Listener(Protocol):
    """A place where connections are accepted."""

    @property
    def addresses(self) -> Sequence[Address]:
        """Bound numeric addresses, in bind order."""

    def close(self) -> None:
        """Stop accepting; open connections stay."""

    async def wait_closed(self) -> None:
        """Wait until it accepts no more."""


class Network(Protocol):
    """The network as one host sees it."""

    async def connect(
        self,
        protocol_factory: Callable[[], P],
        address: Address,
        *,
        tls: ssl.SSLContext | TLS | None = None,
        timeout: Duration | None = None,
    ) -> tuple[Transport, P]:
        """Open a connection; the protocol's `connection_made` gets the transport.

        Raises:
            OSError: Refused, unreachable, reset, or no such name (`gaierror`).
            TimeoutError: Nobody answered within `timeout`, or the system's own limit.
        """

    async def listen(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | TLS | None = None,
        backlog: int = 100,
    ) -> Listener:
        """Accept connections at an address of this host; `""` binds all, port 0 picks.

        Raises:
            OSError: `EADDRINUSE`, or `EADDRNOTAVAIL` for another host's address.
        """

    async def resolve(self, name: str) -> list[str]:
        """Give the numeric addresses of a name, in order; `gaierror` if none."""


def endpoint(address: Address) -> str:
    """Write an address as `host:port`, as error texts do."""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
