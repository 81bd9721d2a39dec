"""One end of a real connection: asyncio's transport with frames, labels and batching.

All writes of one loop turn leave in one `writelines`: a frame's head and body are
never two small segments (simulation.md 12 has the measurement: 44 ms a request).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any, Final, cast

from rpcsim.ports import message_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rpcsim.ports import Address, MessageInfo
    from rpcsim.real._directory import Dial, Directory
    from rpcsim.real._engine import Engine
    from rpcsim.real._home import Home
    from rpcsim.real._network import RealListener

__all__ = ["StreamTransport", "Wire", "reset"]

FLUSH_AT: Final = 64 * 1024
LINGER_RESET: Final = struct.pack("ii", 1, 0)


def reset(transport: asyncio.BaseTransport) -> None:
    """Close a socket now and have the peer see a reset.

    asyncio's `abort` alone sends a plain FIN unless unread data waits; a linger time
    of zero makes the system send RST (socket(7), RFC 9293 section 3.10.5).
    """
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    abort = getattr(transport, "abort", transport.close)
    abort()


class StreamTransport(asyncio.Transport):
    """What a protocol of ours writes to."""

    __slots__ = (
        "_closing",
        "_ended",
        "_engine",
        "_flushing",
        "_home",
        "_inner",
        "_pieces",
        "_place",
        "_size",
        "label",
    )

    def __init__(
        self,
        engine: Engine,
        home: Home,
        inner: asyncio.Transport,
        label: str,
        place: Address | None,
    ) -> None:
        super().__init__()
        self._place = place  # whom we dialled, rather than a proxy before it
        self.label: Final = label
        self._engine = engine
        self._home = home
        self._inner = inner
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._size = 0
        self._flushing = False
        self._closing = False
        self._ended: asyncio.Future[None] | None = None
        inner.set_write_buffer_limits(high=engine.limits.write_buffer)

    def __repr__(self) -> str:
        state = "closing" if self.is_closing() else "open"
        return f"<connection {self.label} on {self._home.host}: {state}>"

    # -- writing -----------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes in order, with whatever else this turn writes."""
        if self._closing:
            return
        if type(data) is not bytes:
            data = bytes(data)  # the caller may change it before the turn ends
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= FLUSH_AT:
            self._flush()
        elif not self._flushing:
            self._flushing = True
            self._engine.loop.call_soon(self._flush_turn)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Send several pieces as one write."""
        for data in list_of_data:
            self.write(data)

    def write_message(self, frame: bytes, info: MessageInfo) -> bool:
        """Send one whole frame, and record what it means; rules may decide else."""
        self._home.ports.trace.emit(f"call.{info.kind}", message_data(info))
        messages = self._engine.net.messages
        if messages is not None:
            return messages.send(self, frame, info)
        self.write(frame)
        return True

    def _flush_turn(self) -> None:
        self._flushing = False
        self._flush()

    def _flush(self) -> None:
        pieces = self._pieces
        if not pieces:
            return
        self._pieces = []
        self._size = 0
        if len(pieces) == 1:
            self._inner.write(pieces[0])
        else:
            self._inner.writelines(pieces)

    # -- ending --------------------------------------------------------------------------

    def write_eof(self) -> None:
        """Close our direction after what was written."""
        self._flush()
        self._inner.write_eof()

    def can_write_eof(self) -> bool:
        """Whether `write_eof` is possible."""
        return self._inner.can_write_eof()

    def close(self) -> None:
        """Flush, then close both directions."""
        if not self._closing:
            self._flush()
            self._closing = True
            self._inner.close()

    def abort(self) -> None:
        """Close now; the peer sees a reset."""
        self._closing = True
        self._pieces.clear()
        reset(self._inner)

    def is_closing(self) -> bool:
        """Whether it is closing or closed."""
        return self._closing or self._inner.is_closing()

    def ending(self) -> asyncio.Future[None]:
        """Give a future that is done when the connection is lost."""
        if self._ended is None:
            self._ended = self._engine.loop.create_future()
        return self._ended

    def gone(self) -> None:
        """It is lost: off the books."""
        self._closing = True
        self._home.connections.pop(self, None)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    # -- the rest is the inner transport's ------------------------------------------------

    def is_reading(self) -> bool:
        """Whether data is delivered."""
        return self._inner.is_reading()

    def pause_reading(self) -> None:
        """Deliver no data until `resume_reading`."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Deliver data again."""
        self._inner.resume_reading()

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        """Set where `pause_writing` and `resume_writing` are called, in bytes."""
        self._inner.set_write_buffer_limits(high=high, low=low)

    def get_write_buffer_size(self) -> int:
        """Bytes written and not yet taken by the system."""
        return self._size + self._inner.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Give the low and high limits, in bytes."""
        return self._inner.get_write_buffer_limits()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Give facts by asyncio's names, and our own label as `connection`."""
        if name == "connection":
            return self.label
        if name == "peername" and self._place is not None:
            return self._place
        return self._inner.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to another protocol."""
        wire = self._inner.get_protocol()
        assert isinstance(wire, Wire)
        wire.serve(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Give the protocol that is served."""
        wire = self._inner.get_protocol()
        assert isinstance(wire, Wire)
        return wire.protocol


class Wire(asyncio.Protocol):
    """Stands between asyncio's transport and a user's protocol, only where needed.

    Data goes to the user's method directly: it is an attribute of this object, so the
    hot path has no frame of ours.

    Args:
        engine: The run.
        home: Whose end this is.
        factory: Makes the user's protocol.
        dial: Which connection it is; `None` on the accepting side, which finds out.
        listener: Where it came in, on the accepting side.
    """

    data_received: Callable[[bytes], None]  # type: ignore[assignment]  # see above
    pause_writing: Callable[[], None]
    resume_writing: Callable[[], None]

    def __init__(
        self,
        engine: Engine,
        home: Home,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        dial: Dial | None = None,
        listener: RealListener | None = None,
    ) -> None:
        self._engine = engine
        self._home = home
        self._dial = dial
        self._listener = listener
        self.transport: StreamTransport | None = None
        self.serve(factory())

    def serve(self, protocol: Any) -> None:
        """Send everything to `protocol` from now on."""
        self.protocol: asyncio.Protocol = protocol
        self.data_received = protocol.data_received
        self.pause_writing = protocol.pause_writing
        self.resume_writing = protocol.resume_writing

    @property
    def _directory(self) -> Directory:
        return self._engine.directory

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        """Name the connection, register it, and tell the user's protocol."""
        inner = cast("asyncio.Transport", made)  # uvloop's only look like it
        dial = self._dial
        if dial is None:
            assert self._listener is not None
            peer = inner.get_extra_info("peername")
            port = self._listener.port
            dial = self._directory.dialled(peer, self._home.host, port)
        place = self._dial.place if self._dial is not None else None
        transport = StreamTransport(self._engine, self._home, inner, dial.label, place)
        if self._home.dead:
            transport.abort()
            return
        if self._listener is not None:
            if self._listener.accepted >= self._engine.limits.connections:
                self._turn_away(transport)
                return
            self._listener.accepted += 1
        self.transport = transport
        self._home.connections[transport] = None
        self._emit("conn.open")
        self.protocol.connection_made(transport)

    def _turn_away(self, transport: StreamTransport) -> None:
        """Close what is one too many; our protocol never hears of it."""
        told = ("why", f"over {self._engine.limits.connections} connections")
        pairs = (("connection", transport.label), told)
        self._home.ports.trace.emit("conn.refused", pairs)
        transport.abort()

    def eof_received(self) -> bool | None:
        """Pass the end of the peer's direction on."""
        if self.transport is None:
            return False
        self._emit("conn.eof")
        keep: bool | None = self.protocol.eof_received()
        return keep

    def connection_lost(self, error: Exception | None) -> None:
        """Take it off the books, and tell the user's protocol once and last."""
        transport = self.transport
        if transport is None:
            return
        if isinstance(error, ConnectionError):
            self._emit("conn.reset")
        self._emit("conn.lost", ("error", type(error).__name__ if error else None))
        transport.gone()
        if self._listener is not None:
            self._listener.accepted -= 1
        if not self._home.dead:
            self.protocol.connection_lost(error)

    def _emit(self, kind: str, *data: tuple[str, Any]) -> None:
        assert self.transport is not None
        pairs = (("connection", self.transport.label), *data)
        self._home.ports.trace.emit(kind, pairs)
