"""The fault proxy: what goes between two hosts on real sockets, held or delayed here.

There is one before each listener, on the listener's own address. A connection through
it is two sockets and two lanes, one per direction. A lane is a queue of pieces, an
end-of-file or a reset among them, so that all of them keep their order whatever holds
them. Towards the listener it connects from the client's own address: the accepting
side sees the host that dialled.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from rpcsim.ports import NANOS
from rpcsim.real._network import dialling_socket
from rpcsim.real._shapes import FIRST_RETRY_NS
from rpcsim.real._transport import reset

if TYPE_CHECKING:
    from rpcsim.ports import Address
    from rpcsim.real._directory import Dial
    from rpcsim.real._engine import Engine
    from rpcsim.real._flight import Flight

__all__ = ["Lane", "Relay", "open_proxy"]

# Bytes a lane takes before it stops reading, as kernel buffers of a stalled
# connection do (simulation.md 6.2: 64 KiB at each side).
HOLDS: Final = 128 * 1024
END: Final = None  # the sender closed its direction
Piece: TypeAlias = "bytes | ConnectionError | None"


async def open_proxy(
    engine: Engine, host: str, place: Address, real: Address
) -> asyncio.Server:
    """Begin to accept for a listener.

    Args:
        engine: The run.
        host: Host that listens.
        place: Where it listens, as its clients know it.
        real: Where its socket is bound.
    """

    def make() -> End:
        relay = Relay(engine, host, place, real)
        return relay.near

    return await engine.loop.create_server(make, real[0], 0)


class Relay:
    """One connection between two hosts, through the proxy."""

    def __init__(
        self, engine: Engine, host: str, place: Address, real: Address
    ) -> None:
        self._engine = engine
        self._host = host
        self._place = place
        self._real = real
        self.near = End(self)
        self.far = End(self)
        self.out = Lane(engine, self, self.near, self.far)
        self.back = Lane(engine, self, self.far, self.near)
        self.near.lane, self.far.lane = self.out, self.back
        self.label = ""  # of the connection, known when we know who dialled
        self.silent = False  # nothing arrives any more, and nobody is told
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<relay {self.out.src}>{self._host}:{self._place[1]}>"

    def begin(self) -> None:
        """Find out who dialled, and dial on in its name."""
        engine = self._engine
        engine.net.relays[self] = None
        assert self.near.transport is not None
        peer = self.near.transport.get_extra_info("peername")
        dial = engine.directory.dialled(peer, self._host, self._place[1])
        self.label = dial.label
        self.out.src = self.back.dst = dial.host
        self.out.dst = self.back.src = self._host
        self._task = engine.backstage_task(self._dial(dial), f"relay {dial.label}")

    async def _dial(self, dial: Dial) -> None:
        from_address = self._engine.directory.by_name.get(dial.host, "127.0.0.1")
        directory, loop = self._engine.directory, self._engine.loop
        if from_address in directory.virtual:
            from_address = "127.0.0.1"
        sock, local = dialling_socket(from_address)
        directory.dials[local] = dial
        try:
            await loop.sock_connect(sock, self._real)
            await loop.create_connection(lambda: self.far, sock=sock)
        except BaseException as error:
            directory.dials.pop(local, None)
            sock.close()
            gone = ConnectionAbortedError(f"{dial.label}: the run ended")
            failure = error if isinstance(error, OSError) else gone
            self._engine.net.arrived(dial.label, failure)
            if not isinstance(error, OSError):
                raise
            # The listener went away in between.
            self.back.put(ConnectionResetError("the listener closed"))
        else:
            self._engine.net.arrived(dial.label, None)

    def held(self) -> tuple[int, int]:
        """Give the bytes held: on the way to the listener, and back."""
        return self.out.size, self.back.size

    def pump(self) -> None:
        """Let both lanes deliver what may pass now."""
        self.out.pump()
        self.back.pump()

    def lane_from(self, host: str) -> Lane:
        """Give the direction a host sends in."""
        for lane in (self.out, self.back):
            if lane.src == host:
                return lane
        raise ValueError(
            f"{host!r} is at no side of {self.label}: say {self.out.src!r} or "
            f"{self.out.dst!r}"
        )

    def reset(self) -> None:
        """Have both ends see a reset, whatever is on its way."""
        for end in (self.near, self.far):
            if end.transport is not None and not end.lost:
                reset(end.transport)
        self.close()

    def silence(self, silent: bool) -> None:
        """Let nothing arrive any more, ends included; or let all of it go on."""
        self.silent = silent
        self.pump()

    def check_done(self) -> None:
        """End when both directions are through, or nobody is left to talk to."""
        if self.out.over and self.back.over:
            self.close()

    def close(self) -> None:
        """Close both sockets and forget the connection."""
        self._engine.net.relays.pop(self, None)
        self.out.stop()
        self.back.stop()
        if self._task is not None:
            self._task.cancel()
        for end in (self.near, self.far):
            if end.transport is not None and not end.transport.is_closing():
                end.transport.close()

    def abort(self) -> None:
        """Close both sockets without waiting for what they hold."""
        self.close()
        for end in (self.near, self.far):
            if end.transport is not None:
                end.transport.abort()


class End(asyncio.Protocol):
    """One of the two sockets of a relay; feeds the lane that starts here."""

    lane: Lane

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.transport: asyncio.Transport | None = None
        self.full = False  # the system takes no more for now
        self.lost = False

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        """Start: the near end dials on, the far end delivers what has come so far."""
        self.transport = cast("asyncio.Transport", made)  # uvloop's only look like it
        if self is self._relay.near:
            self._relay.begin()
        self._relay.pump()

    def data_received(self, data: bytes) -> None:
        """Put data on its way."""
        self.lane.put(data)

    def eof_received(self) -> bool:
        """Put the end of this direction on its way; the other stays open."""
        self.lane.put(END)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """Put a reset on its way, if that is what it was."""
        self.lost = True
        if isinstance(error, OSError):
            self.lane.put(ConnectionResetError(str(error)))
        elif not self.lane.ended:
            self.lane.put(END)
        self._relay.pump()

    def pause_writing(self) -> None:
        """Hold pieces here while the receiver is slow."""
        self.full = True

    def resume_writing(self) -> None:
        """Deliver again."""
        self.full = False
        self._relay.pump()


class Lane:
    """One direction: pieces in order, each with the moment it may leave at."""

    def __init__(self, engine: Engine, relay: Relay, source: End, sink: End) -> None:
        self.relay: Final = relay
        self.src = self.dst = ""
        self.ended = False  # end-of-file or a reset was put
        self.over = False  # ... and delivered
        self.size = 0
        self._engine = engine
        self._source = source
        self._sink = sink
        self._pieces: deque[Flight] = deque()
        self._last_due = 0
        self._left: int | None = None  # bytes that may still come, if it is cut off
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False

    def put(self, piece: Piece) -> None:
        """Take the next piece."""
        if self.over:
            return
        if self._left is not None and isinstance(piece, bytes | None):
            self._put_rest(piece)
            return
        self._put(piece)

    def _put_rest(self, piece: bytes | None) -> None:
        """Take what a cut leaves of a piece, then the end; more is swallowed."""
        if self.ended:
            return
        rest = b"" if piece is None else piece[: self._left]
        self._left = 0 if piece is None else (self._left or 0) - len(rest)
        if rest:
            self._put(rest)
        if not self._left:
            self._put(END)

    def cut_off(self, size: int) -> None:
        """End this direction after so many bytes more."""
        if not self.ended:
            self._left = size
            if not size:
                self._put(END)

    def _put(self, piece: Piece) -> None:
        sink, net = self._sink, self._engine.net
        if (
            net.quiet
            and not self.relay.silent
            and not self._pieces
            and isinstance(piece, bytes)
            and sink.transport is not None
            and not sink.full
        ):
            if not sink.lost:
                sink.transport.write(piece)
            return
        flight = net.flights.add(
            _kind(piece), self.src, self.dst, self.relay.label, piece
        )
        way = net.shapes.way(self.src, self.dst)
        due = 0
        if way is not None:
            due = way.due_ns(flight.size, flight.sent_ns)
            flight.faults = way.faults
        if due or self._last_due:
            # Pieces keep their order even when a later one draws a shorter delay.
            due = self._last_due = max(due, self._last_due)
        flight.due_ns = due
        if not isinstance(piece, bytes):
            self.ended = True
        self.size += flight.size
        self._pieces.append(flight)
        self.pump()
        self._press()

    def _press(self) -> None:
        """Stop the sender when we hold enough, and let it go on later."""
        transport = self._source.transport
        if transport is None or self._source.lost or transport.is_closing():
            return
        if self.size > HOLDS and not self._paused:
            self._paused = True
            transport.pause_reading()
        elif self._paused and self.size <= HOLDS // 4:
            self._paused = False
            transport.resume_reading()

    def pump(self) -> None:
        """Deliver every piece that may leave now."""
        sink, net = self._sink, self._engine.net
        while self._pieces and not self.over:
            flight = self._pieces[0]
            piece = flight.data
            now = time.monotonic_ns()
            if flight.held or self.relay.silent or net.is_cut(self.src, self.dst):
                break
            if sink.full and piece is not END:
                break
            if flight.dropped:
                # Sent again by the sender's system, which is what a loss looks like.
                flight.dropped = False
                flight.due_ns = self._last_due = now + FIRST_RETRY_NS
                flight.faults = ("loss",)
            if flight.due_ns > now:
                self._wake_at(flight.due_ns)
                break
            if sink.transport is None and not isinstance(piece, ConnectionError):
                break  # still dialling
            for fault in flight.faults:
                self._engine.ledger.late(fault, now - flight.due_ns)
            self._pieces.popleft()
            net.flights.landed(flight)
            self._deliver(piece)
        self._press()

    def _deliver(self, piece: Piece) -> None:
        transport = self._sink.transport
        if isinstance(piece, bytes):
            self.size -= len(piece)
            if transport is not None and not self._sink.lost:
                transport.write(piece)
            return
        self.over = True
        if isinstance(piece, ConnectionError):
            if transport is not None and not self._sink.lost:
                reset(transport)
            self.relay.close()
            return
        if transport is not None and not self._sink.lost and not transport.is_closing():
            transport.write_eof()
        self.relay.check_done()

    def _wake_at(self, due: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._engine.loop.call_at(due / NANOS, self.pump)

    def forget(self) -> None:
        """Drop everything that is on its way."""
        for flight in self._pieces:
            self._engine.net.flights.landed(flight)
        self._pieces.clear()
        self.size = 0
        self._press()

    def stop(self) -> None:
        """Deliver nothing more."""
        self.over = True
        self.forget()
        if self._timer is not None:
            self._timer.cancel()


def _kind(piece: Piece) -> str:
    if isinstance(piece, bytes):
        return "data"
    return "fin" if piece is END else "rst"
