"""TLS: the standard library's SSL protocol over simulated bytes, and its faults.

Contexts, ALPN, client certificates, alerts and time limits are the real ones. Only what
OpenSSL draws for itself is not the seed's: `_opaque` keeps that out of the digest.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from rpcsim.ports import message_data
from rpcsim.sim._compat import SslProtocol, SslTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.ports import MessageInfo
    from rpcsim.sim._loop import SimLoop

__all__ = [
    "TlsFault",
    "TlsFaults",
    "TlsKind",
    "TlsProtocol",
    "TlsTransport",
    "start_tls",
]

TlsKind = Literal["stall", "alert", "truncate"]
KINDS: Final = ("stall", "alert", "truncate")
# A fatal `handshake_failure`, in the clear (RFC 8446, 6: level 2, description 40).
ALERT: Final = bytes((21, 3, 3, 0, 2, 2, 40))


@dataclass(slots=True, eq=False)
class TlsFault:
    """A fault of TLS in force; leaving its block, or `undo`, lifts it.

    Attributes:
        kind: `stall`: the handshake is not answered. `alert`: it is answered with a
            fatal alert. `truncate`: the stream ends without the closing alert.
        host: Host whose side misbehaves; `*` for any.
        side: `server` or `client`.
        left: How many more connections it hits; `None` for all.
        after: For `truncate`: bytes of plaintext let through first.
        hits: How many it hit.
    """

    kind: TlsKind
    host: str
    side: Literal["server", "client"]
    left: int | None
    after: int
    faults: TlsFaults
    hits: int = 0

    def undo(self) -> None:
        """Lift it; connections already hit stay so."""
        self.left = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()


class TlsFaults:
    """The faults of TLS handshakes and streams in one simulation."""

    __slots__ = ("_faults", "_loop")

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._faults: list[TlsFault] = []

    def __repr__(self) -> str:
        return f"<TLS faults: {self._faults}>"

    def fail(
        self,
        kind: TlsKind,
        host: str = "*",
        *,
        side: Literal["server", "client"] = "server",
        count: int | None = 1,
        after: int = 0,
    ) -> TlsFault:
        """Have one side of coming TLS connections misbehave.

        Args:
            kind: `stall`, `alert` or `truncate`.
            host: Host whose side it is.
            side: Which side of the connection misbehaves.
            count: How many connections; `None` for all until undone.
            after: For `truncate`: bytes of plaintext it sends before it cuts.
        """
        if kind not in KINDS:
            raise ValueError(f"a TLS fault is one of {', '.join(KINDS)}, not {kind!r}")
        if side not in ("server", "client"):
            raise ValueError(f"a side is 'server' or 'client', not {side!r}")
        if count is not None and count < 1:
            raise ValueError(f"a fault hits at least once, not {count} times")
        if after and kind != "truncate":
            raise ValueError(f"after={after} is for 'truncate', not for {kind!r}")
        self._loop.net.check_names(host)
        fault = TlsFault(kind, host, side, count, after, self)
        self._faults.append(fault)
        return fault

    def take(self, host: str, side: str, place: str) -> TlsFault | None:
        """Give the fault for a connection that begins, counting it."""
        for fault in self._faults:
            if fault.left == 0 or fault.side != side or fault.host not in ("*", host):
                continue
            if fault.left is not None:
                fault.left -= 1
            fault.hits += 1
            told = (("kind", f"tls.{fault.kind}"), ("connection", place))
            self._loop.sim.record_on(host, "fault", told)
            return fault
        return None


@dataclass(frozen=True, slots=True)
class _Over:
    """What the RPC rules need of a connection: above TLS, not below."""

    transport: TlsTransport
    protocol: Any
    strand: Any


class TlsTransport(SslTransport):  # type: ignore[misc]  # untyped: private
    """What the application's protocol writes to."""

    def write_message(self, frame: bytes, info: MessageInfo) -> bool:
        """Send one frame, telling the trace what it means; rules may decide else."""
        loop: SimLoop = self._loop
        wire: Any = self._ssl_protocol._transport
        while isinstance(wire, TlsTransport):  # TLS in TLS
            wire = wire._ssl_protocol._transport
        if loop.trace.level != "off":
            host = loop.life_of().host if wire is None else wire._end.life.host
            loop.cause = loop.trace.append(
                loop.now_ns,
                f"call.{info.kind}",
                host,
                loop.strand.label,
                loop.cause,
                message_data(info),
            )
        if loop.net.messages is not None and wire is not None:
            over: Any = _Over(self, self._ssl_protocol._app_protocol, wire._end.strand)
            return loop.net.send_message(over, frame, info)
        self.write(frame)
        return True

    def __del__(self) -> None:
        """Do nothing: what a crash left open is no leak of the program."""


class TlsProtocol(SslProtocol):  # type: ignore[misc]  # untyped: private
    """The standard library's SSL protocol, fed by transports that push bytes."""

    _app_transport: Any
    _app_transport_created: bool
    _fault: TlsFault | None = None
    _passed = 0

    def _get_app_transport(self) -> Any:
        if self._app_transport is None:
            if self._app_transport_created:
                raise RuntimeError("the TLS connection is over")
            self._app_transport = TlsTransport(self._loop, self)
            self._app_transport_created = True
        return self._app_transport

    def connection_made(self, transport: Any) -> None:
        """Begin the handshake."""
        loop: SimLoop = self._loop
        if loop.tls_faults is not None:
            side = "server" if self._server_side else "client"
            place = str(transport.get_extra_info("connection", ""))
            host = loop.life_of().host
            self._fault = loop.tls_faults.take(host, side, place)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what the network delivers."""
        fault = self._fault
        if fault is not None and fault.kind != "truncate":
            self._misbehave(fault)
            return
        left = memoryview(data)
        while left and self._transport is not None:
            room = self.get_buffer(len(left))
            size = min(len(room), len(left))
            room[:size] = left[:size]
            left = left[size:]
            self.buffer_updated(size)

    def _misbehave(self, fault: TlsFault) -> None:
        """Answer the other side's flight with an alert, or not at all."""
        if fault.kind == "alert" and not self._passed:
            self._passed = 1
            self._transport.write(ALERT)
            self._transport.close()
            self._wakeup_waiter(
                ssl.SSLError(1, "handshake ended with an alert by a fault of the run")
            )

    def _write_appdata(self, list_of_data: Any) -> None:
        fault = self._fault
        if fault is None or fault.kind != "truncate":
            super()._write_appdata(list_of_data)
            return
        data = b"".join(list_of_data)
        room = fault.after - self._passed
        self._passed += len(data)
        if room > 0:
            super()._write_appdata([data[:room]])
        if len(data) >= room and self._transport is not None:
            self._transport.close()  # no closing alert: the stream is cut


def server_factory(
    loop: SimLoop, factory: Callable[[], Any], context: ssl.SSLContext, **limits: Any
) -> Callable[[], Any]:
    """Give a factory of protocols that do TLS before the given ones see data."""
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"a server needs an SSLContext, not {context!r}")

    def make() -> Any:
        return TlsProtocol(loop, factory(), context, None, server_side=True, **limits)

    return make


async def over_tls(
    loop: SimLoop,
    transport: Any,
    protocol: Any,
    context: Any,
    begin: Callable[[Any], object],
    **options: Any,
) -> Any:
    """Shake hands over an open connection; give the application's transport.

    Args:
        loop: The loop.
        transport: What the bytes go over.
        protocol: The application's.
        context: An `SSLContext`, or `True` for the default one.
        begin: Hands the TLS protocol to the transport.
        **options: Those of the standard library's SSL protocol.
    """
    waiter = loop.create_future()
    tls = TlsProtocol(
        loop, protocol, None if context is True else context, waiter, **options
    )
    begin(tls)
    try:
        await waiter
    except BaseException:
        transport.close()
        raise
    if tls._app_transport is None:
        raise ConnectionAbortedError("the connection ended during the TLS handshake")
    return tls._app_transport


async def start_tls(
    loop: SimLoop, transport: Any, protocol: Any, context: Any, **options: Any
) -> Any:
    """Put TLS on a connection in use; the caller's protocol keeps its role."""
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(
            "sslcontext is expected to be an instance of ssl.SSLContext, "
            f"got {context!r}"
        )
    if not isinstance(transport, asyncio.Transport):
        raise TypeError(f"transport {transport!r} is not supported by start_tls()")

    def begin(tls: TlsProtocol) -> None:
        transport.pause_reading()
        transport.set_protocol(tls)
        tls.connection_made(transport)
        transport.resume_reading()

    return await over_tls(
        loop, transport, protocol, context, begin, call_connection_made=False, **options
    )
