"""The broker's native front: the engine behind frames on a listening socket.

One `asyncio.Protocol` per connection translates frames into requests to the engine.
A client that does not read is given nothing more: while its transport is paused, the
engine leaves its messages in their queues, and its own requests wait unread. A client
that holds messages is asked now and then whether it is there: a machine without power
says nothing, and what it held must go to another.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from rpcsim.errors import RemoteProtocolError
from rpcsim.fakes._engine import BrokerEngine
from rpcsim.fakes._state import BrokerLimits, Refusal
from rpcsim.ports import QueueOptions, current, endpoint, to_ns
from rpcsim.wire import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rpcsim.fakes._engine import BrokerMemory
    from rpcsim.fakes._queue import ConsumerKey, Session
    from rpcsim.ports import Address, Clock, Duration, Listener, Timer, Transport

__all__ = ["BrokerServer"]

# Seconds that closing connections have to send what was written to them.
STOP_GRACE: Final = 1.0
# What agents of the documented system agree on (gofer.md 8.1, `messaging.heartbeat`).
HEARTBEAT: Final = 10.0
# Characters of an error text; at four bytes each it fits the smallest frame limit.
TEXT_LIMIT: Final = 900
FRAME_LIMIT_MIN: Final = 4096


class BrokerServer:
    """A broker on a port of this host; a factory of a host, or started by hand.

    The engine lives from `start` to the next `start`, so that it can be looked at
    after the end; what survives is in `memory`.

    Args:
        port: Where it listens, on all addresses of the host; 0 picks one.
        limits: What the engine takes at most.
        frame_limit: Longest frame, in bytes; messages need `MESSAGE_ROOM` less.
        exchanges: Names of direct exchanges beside `amq.direct`.
        heartbeat: Seconds between asking a client that holds messages for a sign of
            life; without one until the next time, its connection is over. `None`
            never asks.
        memory: Keeps durable queues over restarts; `None` to begin empty each time.
    """

    DEFAULT_PORT: Final = frames.PORT

    def __init__(
        self,
        *,
        port: int = frames.PORT,
        limits: BrokerLimits | None = None,
        frame_limit: int = frames.FRAME_LIMIT,
        exchanges: Iterable[str] = (),
        heartbeat: Duration | None = HEARTBEAT,
        memory: BrokerMemory | None = None,
    ) -> None:
        if not FRAME_LIMIT_MIN <= frame_limit <= frames.FRAME_LIMIT_MAX:
            raise ValueError(
                f"frame_limit={frame_limit} is not between {FRAME_LIMIT_MIN} and "
                f"{frames.FRAME_LIMIT_MAX} bytes"
            )
        room = frame_limit - frames.MESSAGE_ROOM
        self.limits = limits or BrokerLimits(message_bytes=room)
        if not 0 < self.limits.message_bytes <= room:
            raise ValueError(
                f"message_bytes={self.limits.message_bytes} does not fit into frames "
                f"of {frame_limit} bytes: at most {room}; raise frame_limit"
            )
        self.port = port
        self.frame_limit = frame_limit
        self.heartbeat_ns = None if heartbeat is None else to_ns(heartbeat)
        self._exchanges = tuple(exchanges)
        self._memory = memory
        self.clock: Clock
        self._engine: BrokerEngine | None = None
        self._listener: Listener | None = None
        self._connections: dict[_Connection, None] = {}
        self._count = 0
        self._empty: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        if self._listener is None:
            return f"<BrokerServer on port {self.port}, not running>"
        where = ", ".join(endpoint(address) for address in self.addresses)
        return f"<BrokerServer on {where}, {len(self._connections)} connections>"

    @property
    def engine(self) -> BrokerEngine:
        """The engine of this start.

        Raises:
            RuntimeError: It was never started.
        """
        if self._engine is None:
            raise RuntimeError(f"{self!r} has no engine yet: `await start()` first")
        return self._engine

    @property
    def addresses(self) -> Sequence[Address]:
        """Where it listens, in bind order; empty when it does not."""
        return () if self._listener is None else tuple(self._listener.addresses)

    async def start(self) -> None:
        """Listen on the current host.

        Raises:
            OSError: The port is taken.
            RuntimeError: It runs already.
        """
        if self._listener is not None:
            raise RuntimeError(f"{self!r} runs already: `await stop()` first")
        ports = current()
        memory = self._memory
        self.clock = ports.clock
        self._engine = BrokerEngine(
            ports.clock,
            limits=self.limits,
            exchanges=self._exchanges,
            kept=memory.kept() if memory is not None else (),
        )
        if memory is not None:
            memory.engine = self._engine
        self._listener = await ports.network.listen(self._accept, ("", self.port))

    async def stop(self) -> None:
        """Close the listener and every connection; stopping twice does nothing."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.close()
        if self._connections:
            self._empty = asyncio.get_running_loop().create_future()
            for connection in list(self._connections):
                connection.close()
            # A client that reads nothing must not keep the host from stopping.
            timer = self.clock.call_later(STOP_GRACE, self._abort)
            try:
                await self._empty
            finally:
                timer.cancel()
                self._empty = None
        self.engine.close()
        await listener.wait_closed()

    def _accept(self) -> _Connection:
        return _Connection(self)

    def _abort(self, _: object) -> None:
        for connection in list(self._connections):
            connection.transport.abort()

    def _opened(self, connection: _Connection) -> str:
        self._count += 1
        self._connections[connection] = None
        return f"connection {self._count}"

    def _lost(self, connection: _Connection) -> None:
        self._connections.pop(connection, None)
        done = self._empty
        if done is not None and not done.done() and not self._connections:
            done.set_result(None)


class _Connection(asyncio.Protocol):
    """One client's connection: hello, then requests until either side ends it."""

    def __init__(self, server: BrokerServer) -> None:
        self._server = server
        self._engine = server.engine
        self._decoder = frames.FrameDecoder("broker", server.frame_limit)
        self._session: Session | None = None
        self._paused = False
        self._ended = False
        self._name = "connection"
        self._linger: Timer | None = None
        self._beat: Timer | None = None
        self._heard = False

    def __repr__(self) -> str:
        return f"<broker {self._name}, session {self._session!r}>"

    # -- asyncio's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("Transport", transport)
        self._name = self._server._opened(self)
        peer = self.transport.get_extra_info("peername")
        if peer is not None:
            self._name += f" from {endpoint(peer)}"
        # Said at once, so that a foreign client sees what it has reached.
        self._send(
            frames.Hello(frames.PROTOCOL, frames.VERSION, self._server.frame_limit)
        )

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if not self._ended:
            self._decoder.receive(data)
            self._work()

    def eof_received(self) -> bool:
        self._end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        for timer in (self._linger, self._beat):
            if timer is not None:
                timer.cancel()
        self._server._lost(self)

    def pause_writing(self) -> None:
        self._paused = True
        if self._session is not None:
            self._engine.pause(self._session)
        if not self.transport.is_closing():
            # Its requests would be answered into the same full buffer.
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._session is not None:
            self._engine.resume(self._session)
        self._work()
        if not self._paused and not self.transport.is_closing():
            self.transport.resume_reading()

    # -- requests

    def close(self) -> None:
        """End the session and close after what was written."""
        self._end()
        self.transport.close()

    def _work(self) -> None:
        try:
            while not self._paused and not self._ended:
                event = self._decoder.next_event()
                if event is None:
                    return
                if isinstance(event, frames.Hello):
                    self._greet(event)
                elif not isinstance(event, frames.Pong):
                    self._carry_out(event)
        except RemoteProtocolError as error:
            self._violated(str(error))

    def _greet(self, hello: frames.Hello) -> None:
        if hello.frame_limit < self._server.frame_limit:
            self._violated(
                f"this broker sends frames of up to {self._server.frame_limit} bytes, "
                f"the client takes {hello.frame_limit}; raise the client's limit, or "
                "lower the broker's frame_limit"
            )
            return
        self._session = self._engine.connect(
            self._name, self._deliver, on_gone=self._gone
        )

    def _carry_out(self, event: Any) -> None:
        request: int = event.request
        kind = type(event)
        try:
            if kind is frames.Publish:  # by far the most
                self._engine.publish(event.address, event.body, ttl_ms=event.ttl_ms)
            else:
                _HANDLERS[kind](self, event)
        except Refusal as refusal:
            # Without a number nobody waits. That is how deliveries are settled, where
            # a refusal is no news: the message went back before the client knew.
            if request:
                self._fail(request, refusal.code, refusal.text)
            return
        if request and not (kind is frames.Publish and event.quiet):
            self._send(frames.Ok(request))

    def _declare(self, event: frames.Declare) -> None:
        options = QueueOptions(
            durable=event.durable,
            exclusive=event.exclusive,
            auto_delete=event.auto_delete,
            expires_ms=event.expires_ms,
        )
        self._engine.declare(self._known, event.queue, options)

    def _delete(self, event: frames.Delete) -> None:
        self._engine.delete(self._known, event.queue)

    def _consume(self, event: frames.Consume) -> None:
        self._engine.consume(
            self._known,
            event.queue,
            event.consumer,
            prefetch=event.prefetch,
            auto_ack=event.auto_ack,
        )

    def _cancel(self, event: frames.Cancel) -> None:
        self._engine.cancel(self._known, event.consumer)

    def _ack(self, event: frames.Ack) -> None:
        self._engine.ack(self._known, event.tag)

    def _requeue(self, event: frames.Requeue) -> None:
        self._engine.requeue(self._known, event.tag)

    @property
    def _known(self) -> Session:
        # The decoder lets no request through before the hello.
        assert self._session is not None
        return self._session

    # -- answers

    def _deliver(
        self,
        key: ConsumerKey,
        tag: int,
        body: bytes,
        redelivered: bool,
        ttl_ms: int | None,
    ) -> None:
        self._send(frames.Deliver(cast("int", key), tag, body, redelivered, ttl_ms))
        if self._beat is None and self._known.tags:
            self._heard = True
            self._wait_for_sign()

    def _wait_for_sign(self) -> None:
        interval = self._server.heartbeat_ns
        if interval is not None and not self._ended:
            clock = self._server.clock
            self._beat = clock.call_at_ns(clock.now_ns() + interval, self._check_sign)

    def _check_sign(self, _: object) -> None:
        self._beat = None
        if self._ended or not self._known.tags:
            return  # nothing to lose; the next delivery begins again
        if not self._heard:
            self._end()
            self.transport.abort()
            return
        # While it is paused we do not read, so its silence would say nothing.
        if not self._paused:
            self._heard = False
            self._send(frames.Ping())
        self._wait_for_sign()

    def _gone(self, key: ConsumerKey, why: str) -> None:
        self._send(frames.Gone(cast("int", key), why))

    def _send(self, frame: frames.Frame) -> None:
        if not self._ended:
            self.transport.write(frames.encode_frame(frame, self._server.frame_limit))

    def _fail(self, request: int, code: int, text: str) -> None:
        self._send(frames.Failed(request, code, text[:TEXT_LIMIT]))

    def _violated(self, problem: str) -> None:
        self._fail(0, frames.Code.FRAME_ERROR, problem)
        self._end()
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        # To close with unread data would reset the connection and take the text with
        # it; so what still comes is read and dropped, for a while.
        self.transport.write_eof()
        self._linger = self._server.clock.call_later(STOP_GRACE, self._abort)

    def _abort(self, _: object) -> None:
        self.transport.abort()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            if self._session is not None:
                self._engine.disconnect(self._session)


_HANDLERS: Final[dict[type[frames.Frame], Callable[[_Connection, Any], None]]] = {
    frames.Declare: _Connection._declare,
    frames.Delete: _Connection._delete,
    frames.Consume: _Connection._consume,
    frames.Cancel: _Connection._cancel,
    frames.Ack: _Connection._ack,
    frames.Requeue: _Connection._requeue,
}
