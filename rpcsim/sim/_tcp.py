"""TCP streams on the simulated network: two endpoints, one flow in each direction.

The laws: `connection_made` comes before data on both sides, end-of-file after the last
data, and `connection_lost` exactly once and last. What happens between a write and its
arrival is `_flow.py`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from rpcsim.ports import message_data
from rpcsim.sim._flow import ACK, FIN, RST, Flow
from rpcsim.sim._inflight import Told
from rpcsim.sim._keepalive import KeepAlive
from rpcsim.sim._opaque import CIPHERS, begins_cipher
from rpcsim.sim._strand import Strand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rpcsim.ports import Address, MessageInfo
    from rpcsim.sim._net import SimNet
    from rpcsim.sim._strand import Life
    from rpcsim.trace import Data

__all__ = ["Endpoint", "SimTransport"]

HIGH_WATER: Final = 64 * 1024
# What `SO_LINGER` is set to for a close that resets: on, for no time (`struct linger`).
NO_LINGER: Final = b"\x01\0\0\0\0\0\0\0"


class Endpoint:
    """One end of a connection: its transport's state, and what arrives."""

    __slots__ = (
        "_in_buffer",
        "_inbox",
        "_made",
        "accept",
        "closing",
        "coalesces",
        "context",
        "ended",
        "eof_sent",
        "held",
        "held_bytes",
        "high",
        "keep_alive",
        "label",
        "life",
        "local",
        "lost",
        "low",
        "net",
        "number",
        "on_lost",
        "opaque",
        "out",
        "peer",
        "protocol",
        "reading_paused",
        "remote",
        "severed",
        "socket",
        "strand",
        "told",
        "transport",
        "unread",
        "writing_paused",
    )

    def __init__(
        self, net: SimNet, life: Life, label: str, local: Address, remote: Address
    ) -> None:
        self.net = net
        self.life = life
        self.label = label
        self.told = ("connection", label)  # in every record about it
        self.local = local
        self.remote = remote
        self.number = net.loop.next_seq()
        self.strand = (
            life.strand
            if net.loop.per_host
            else Strand(f"{life.host}/{label}", life, background=life.background)
        )
        self.context: Context = copy_context()
        self.protocol: Any = None
        self.transport = SimTransport(self)
        self.out: Flow
        self.peer: Endpoint
        # Set on the accepting side until the handshake's last packet is here.
        self.accept: Callable[[Endpoint], None] | None = None
        self.on_lost: Callable[[Endpoint], None] | None = None
        self._inbox: deque[bytes | str] = deque()
        self._made = False
        self.unread = 0
        self.reading_paused = True  # until the protocol is there
        self.writing_paused = False
        self.closing = False
        self.lost = False
        self.eof_sent = False
        self.severed = False  # whether somebody else ended our direction
        self.ended = False  # whether the peer's end-of-file is here
        # How long a write counts as, where its bytes are ciphertext; see `_opaque`.
        self.opaque: Callable[[bytes], int] | None = None
        self.keep_alive: KeepAlive | None = None
        self.socket: Any = None  # the stand-in, once somebody asked for it
        # Whether what one turn writes leaves as one piece, as on the real side.
        self.coalesces = False
        self.held: list[bytes] = []
        self.held_bytes = 0
        self.high = HIGH_WATER
        self.low = HIGH_WATER // 4
        life.endpoints[self.number] = self

    def __repr__(self) -> str:
        state = "lost" if self.lost else "closing" if self.closing else "open"
        return f"<endpoint {self.label} on {self.life.host}: {state}>"

    # -- arrival -----------------------------------------------------------------------

    def arrive(self, item: bytes | str, sent_ns: int = 0) -> None:
        """Take what the network delivers, in order.

        Args:
            item: Data or a mark.
            sent_ns: When it was sent; for those who look at what is in flight.
        """
        if item.__class__ is not str:
            self.peer.out.in_flight -= len(item)
        if item is RST:
            self._reset()
            return
        if self.accept is not None:
            accept, self.accept = self.accept, None
            accept(self)
        if item is ACK:
            return
        if self.lost or (self.closing and item is not FIN):
            if item is not FIN:
                self.refuse_item(item)
            return
        if self.reading_paused or self._inbox:
            self._inbox.append(item)
            if item.__class__ is not str:
                self.unread += len(item)
            return
        self._deliver(item)

    def refuse_item(self, item: bytes | str) -> None:
        """Answer what came too late with a reset."""
        self.send_reset()

    def unread_items(self) -> list[bytes]:
        """Give the data that waits for the protocol to read again."""
        return [item for item in self._inbox if not isinstance(item, str)]

    def forget_unread(self) -> None:
        """Throw away what waits."""
        self._inbox.clear()
        self.unread = 0

    def tell_packet(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Told | None:
        """Tell what an entry of the loop brings here, if it is a packet."""
        if getattr(fn, "__func__", None) is not Endpoint.arrive:
            return None
        item, sent_ns = args
        flow = self.peer.out
        size = 0 if item.__class__ is str else len(item)
        kind = "data" if size else item
        return Told(kind, flow.link, self.label, size, sent_ns, flow)

    def _deliver(self, item: bytes | str) -> None:
        if item is FIN:
            self.ended = True
            self.trace("conn.eof")
            if self.closing:
                return
            if not self.call(self.protocol.eof_received):
                self.transport.close()
            return
        self.call(self.protocol.data_received, item)

    def _reset(self) -> None:
        if self.lost:
            return
        self.trace("conn.reset")
        self.forget_unread()
        self.fail(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))

    def send_reset(self) -> None:
        """Tell the peer that the connection is over."""
        self.out.reset()

    def call(self, callback: Callable[..., Any], *args: Any) -> Any:
        """Call the protocol in the connection's context; its failure is fatal here."""
        try:
            return self.context.run(callback, *args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as asyncio's transports do
            loop = self.net.loop
            loop.call_exception_handler(
                {
                    "message": f"{callback.__qualname__}() failed on {self.label}",
                    "exception": error,
                    "transport": self.transport,
                    "protocol": self.protocol,
                }
            )
            self.fail(error if isinstance(error, Exception) else None, reset=True)
            return None

    def trace(self, kind: str, *data: tuple[str, Any]) -> None:
        """Record something about this connection."""
        loop = self.net.loop
        host, strand = self.life.host, self.strand.label
        pairs = (self.told, *data)
        loop.cause = loop.trace.append(
            loop.now_ns, kind, host, strand, loop.cause, pairs
        )

    # -- begin and end -------------------------------------------------------------------

    def begin(self, protocol: Any) -> None:
        """Hand the transport to the protocol, then whatever arrived before."""
        self.protocol = protocol
        self.trace("conn.open")
        self.reading_paused = False
        self.call(protocol.connection_made, self.transport)
        self._made = True
        if not self.reading_paused and (self._inbox or self.peer.out.pending):
            self.net.loop.push(self.strand, self.read_on, ())

    def read_on(self) -> None:
        """Deliver what waits, until the protocol pauses again."""
        inbox, before = self._inbox, self.unread
        while inbox and not self.reading_paused and not self.lost:
            item = inbox.popleft()
            if item.__class__ is not str:
                self.unread -= len(item)
            if self.closing:
                continue
            self._deliver(item)
        opened = self.unread < before or not self.reading_paused
        if opened and self.peer.out.pending:
            self.peer.out.window_opened()

    def close(self) -> None:
        """Flush, then end; unread data makes it a reset."""
        if self.closing or self.lost:
            return
        if self.socket is not None and self._resets_on_close():
            self.fail(None, reset=True)
            return
        self.closing = True
        self.flush()
        if self.unread:
            self.forget_unread()
            self.send_reset()
            self.net.loop.push(self.strand, self.lose, (None,))
            return
        if not self.eof_sent:
            self.eof_sent = True
            self.out.send(FIN)
        self.drained()

    def option_set(self, level: int, option: int, value: Any) -> None:
        """Heed a socket option that does something here."""
        if (level, option) != (socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            return
        if self.keep_alive is not None:
            self.keep_alive.on = False
            self.keep_alive = None
        if value and not self.lost:
            self.keep_alive = KeepAlive(self, self.socket.options)

    def _resets_on_close(self) -> bool:
        linger = self.socket.options.get((socket.SOL_SOCKET, socket.SO_LINGER))
        return isinstance(linger, (bytes, bytearray)) and linger == NO_LINGER

    def shut_out(self) -> None:
        """End our direction from outside: the program learns of it when it writes."""
        if not self.eof_sent and not self.closing:
            self.flush()
            self.eof_sent = self.severed = True
            self.out.send(FIN)

    def fail(self, error: Exception | None, *, reset: bool = False) -> None:
        """End at once: nothing more is sent or delivered."""
        if self.lost:
            return
        self.closing = True
        self.forget_unread()
        self.held.clear()
        if hasattr(self, "out"):  # else the handshake is not over
            if reset:
                self.send_reset()
            self.out.drop_pending()
        self.net.loop.push(self.strand, self.lose, (error,))

    def lose(self, error: Exception | None) -> None:
        """Tell the protocol, once and last."""
        if self.lost:
            return
        self.lost = True
        self.life.endpoints.pop(self.number, None)
        self.trace("conn.lost", ("error", type(error).__name__ if error else None))
        if self._made:
            self.call(self.protocol.connection_lost, error)
        if self.on_lost is not None:
            self.on_lost(self)

    # -- writing -------------------------------------------------------------------------

    def buffered(self) -> int:
        """Bytes the system has not taken: what is beyond its send buffer."""
        held = self.held_bytes if self.held else 0
        return max(0, self.out.buffered + held - self.out.link.send_buffer)

    def buffered_bytes(self) -> int:
        """Bytes written and not sent, those in the system's buffer included."""
        return self.out.buffered + (self.held_bytes if self.held else 0)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        loop = self.net.loop
        if self.coalesces and loop.pumping:
            held = self.held
            held.append(data)
            if len(held) == 1:
                loop.turn_ends.append(self.flush)
                self.held_bytes = len(data)
                return
            self.held_bytes += len(data)
            if self.held_bytes > HIGH_WATER:
                self.flush()  # so that the writer sees the buffer fill
            return
        trace = loop.trace
        if trace.level != "off":
            # As `self.trace`, spelled out: every byte of a run passes here.
            told: Data
            if self.opaque is not None or (
                data[0] in CIPHERS and begins_cipher(self, data)
            ):
                told = (self.told, ("bytes", self.opaque(data)))  # type: ignore[misc]  # it is set by then
            else:
                size, check = ("bytes", len(data)), ("crc", crc32(data))
                told = (self.told, size, check)
            host, label = self.life.host, self.strand.label
            loop.cause = trace.append(
                loop.now_ns, "conn.data", host, label, loop.cause, told
            )
        out = self.out
        out.send(data)
        if out.buffered:
            self.maybe_pause()

    def flush(self) -> None:
        """Send what the turn wrote, as one piece."""
        held = self.held
        if not held:
            return
        data = held[0] if len(held) == 1 else b"".join(held)
        held.clear()
        if self.lost or self.life.dead:
            return
        self.coalesces = False
        self.write(data)
        self.coalesces = True

    def maybe_pause(self) -> None:
        """Have the protocol write no more when too much waits."""
        if not self.writing_paused and self.buffered() > self.high:
            self.writing_paused = True
            self.call(self.protocol.pause_writing)

    def drained(self) -> None:
        """The buffer shrank: let the protocol write on, or finish a close."""
        if self.lost:
            return
        if self.writing_paused and self.buffered() <= self.low:
            self.writing_paused = False
            self.call(self.protocol.resume_writing)
        if self.closing and not self.buffered():
            self.net.loop.push(self.strand, self.lose, (None,))


class SimTransport(asyncio.Transport):
    """asyncio's transport over an endpoint."""

    __slots__ = ("_end",)

    def __init__(self, end: Endpoint) -> None:
        self._end = end

    def __repr__(self) -> str:
        return f"<SimTransport {self._end.label} on {self._end.life.host}>"

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes in order; after a loss they are dropped."""
        end = self._end
        if data.__class__ is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(
                    "data argument must be a bytes-like object, "
                    f"not {type(data).__name__!r}"
                )
            data = bytes(data)
        if end.eof_sent:
            if end.closing:
                return
            if end.severed:
                broken = BrokenPipeError(errno.EPIPE, "Broken pipe")
                end.fail(broken, reset=True)
                return
            raise RuntimeError("Cannot call write() after write_eof()")
        if data and not end.closing:
            end.write(data)

    def writelines(
        self, list_of_data: Iterable[bytes | bytearray | memoryview]
    ) -> None:
        """Send several pieces as one write."""
        self.write(b"".join(list_of_data))

    def write_message(self, frame: bytes, info: MessageInfo) -> bool:
        """Send one frame, telling the trace what it means; rules may decide else."""
        end = self._end
        loop = end.net.loop
        if loop.trace.level != "off":
            host, strand = end.life.host, loop.strand.label
            loop.cause = loop.trace.append(
                loop.now_ns,
                f"call.{info.kind}",
                host,
                strand,
                loop.cause,
                message_data(info),
            )
        if end.net.messages is not None:
            return end.net.send_message(end, frame, info)
        self.write(frame)
        return True

    def write_eof(self) -> None:
        """Close our direction after the last byte."""
        end = self._end
        if not end.eof_sent and not end.closing:
            end.flush()
            end.eof_sent = True
            end.out.send(FIN)

    def can_write_eof(self) -> bool:
        """Always possible."""
        return True

    def close(self) -> None:
        """Flush, then close both directions."""
        self._end.close()

    def abort(self) -> None:
        """Close now; the peer sees a reset."""
        self._end.fail(None, reset=True)

    def _force_close(self, exc: Exception | None) -> None:
        """Close now, telling the protocol why; the name TLS calls it by."""
        self._end.fail(exc, reset=True)

    def is_closing(self) -> bool:
        """Whether it is closing or lost."""
        return self._end.closing

    def is_reading(self) -> bool:
        """Whether data is delivered."""
        return not self._end.reading_paused and not self._end.closing

    def pause_reading(self) -> None:
        """Deliver no data until `resume_reading`."""
        if not self._end.closing:
            self._end.reading_paused = True

    def resume_reading(self) -> None:
        """Deliver data again, beginning with what waits."""
        end = self._end
        if end.reading_paused and not end.closing:
            end.reading_paused = False
            end.net.loop.push(end.strand, end.read_on, ())

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        """Set where `pause_writing` and `resume_writing` are called, in bytes."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._end.high, self._end.low = high, low
        self._end.maybe_pause()

    def get_write_buffer_size(self) -> int:
        """Bytes written and not yet taken by the system."""
        return self._end.buffered()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Give the limits as (low, high)."""
        return self._end.low, self._end.high

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Give `peername`, `sockname`, `socket` or `connection` (the label)."""
        end = self._end
        if name == "peername":
            return end.remote
        if name == "sockname":
            return end.local
        if name == "connection":
            return end.label
        if name == "socket":
            if end.socket is None:
                end.socket = end.net.socket_of(end)
            return end.socket
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand what arrives to another protocol from now on."""
        self._end.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Give the protocol."""
        protocol: asyncio.BaseProtocol = self._end.protocol
        return protocol
