"""The native client of the broker: the port `Broker` over frames of `rpcsim.wire`.

Laws of this file:

- Requests carry numbers; an answer with a number nobody waits for is dropped, because
  its caller may have gone, or a fault rule may have sent the request twice.
- After the end of a connection nothing is sent on it: requests raise `Disconnected`,
  settling does nothing, for the broker has given the message back already.
"""

from __future__ import annotations

import asyncio
import inspect
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from rpcsim.errors import (
    Disconnected,
    LimitExceeded,
    LocalProtocolError,
    RemoteProtocolError,
    RpcError,
)
from rpcsim.ports import Delivery, endpoint
from rpcsim.wire import frames

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rpcsim.ports import (
        Address,
        Answer,
        MessageInfo,
        Ports,
        QueueOptions,
        Transport,
    )

    OnMessage: TypeAlias = Callable[[Delivery], Any]
    OnLost: TypeAlias = Callable[[BaseException], Awaitable[None] | None]

__all__ = ["BrokerFull", "BrokerRefused", "NativeBroker", "Unroutable"]

# Seconds until a peer that accepted the connection must have said hello.
HELLO_TIMEOUT: Final = 10.0
# Seconds that `close` gives to what was written before.
CLOSE_GRACE: Final = 1.0
# Messages posted with somebody to tell of a refusal, which are remembered: a refusal
# comes one round trip later, so these are more than are ever under way.
POSTED: Final = 4096
_NAME_LIMIT: Final = 255


class BrokerRefused(RpcError):
    """The broker would not do what was asked; the connection goes on.

    Attributes:
        code: Its reply code, as of AMQP 0-9-1.
        text: Its reason.
    """

    def __init__(self, code: int, text: str, what: str = "", broker: str = "") -> None:
        told = f"the broker at {broker} refused to {what}: " if what else ""
        super().__init__(f"{told}{text} ({code})")
        self.code = code
        self.text = text


class Unroutable(BrokerRefused, LookupError):
    """No queue takes the message, or the queue or exchange named is not there."""


class BrokerFull(BrokerRefused, LimitExceeded):
    """The message is too long, or the queue is full; nothing was queued."""


_REFUSALS: Final[dict[int, type[BrokerRefused]]] = {
    frames.Code.NO_ROUTE: Unroutable,
    frames.Code.NOT_FOUND: Unroutable,
    frames.Code.CONTENT_TOO_LARGE: BrokerFull,
    frames.Code.RESOURCE_ERROR: BrokerFull,
}


class _Subscription:
    """A running consumer; the port's `Consumer`."""

    __slots__ = ("_broker", "context", "number", "on_lost", "on_message", "queue")

    def __init__(
        self,
        broker: NativeBroker,
        number: int,
        queue: str,
        on_message: OnMessage,
        on_lost: OnLost | None,
    ) -> None:
        self._broker = broker
        self.number = number
        self.queue = queue
        self.on_message = on_message
        self.on_lost = on_lost
        # Frames arrive in the context of whoever opened the shared connection, which
        # may be some other call; what a consumer does belongs to who asked for it.
        self.context = copy_context()

    def __repr__(self) -> str:
        return f"<consumer {self.number} of {self.queue!r}>"

    async def cancel(self) -> None:
        """Take no more messages; unacknowledged ones go back to the queue."""
        await self._broker._cancel(self)


class NativeBroker:
    """A connection to a broker's native front. Made by `open`; use it on its loop.

    Attributes:
        address: Host and port of the broker.
    """

    def __init__(self, ports: Ports, address: Address) -> None:
        self.address: Final = address
        self._ports = ports
        self._name = endpoint(address)
        self._loop = asyncio.get_running_loop()
        self._transport: Transport
        self._link = _Link(self)
        self._limit = frames.FRAME_LIMIT
        self._hello: asyncio.Future[None] = self._loop.create_future()
        self._numbers = 0
        self._pending: dict[int, asyncio.Future[None]] = {}
        self._consumers: dict[int, _Subscription] = {}
        # Whom to tell of refusals, for messages nobody waits to see confirmed.
        self._posted: dict[int, tuple[Callable[[Exception], object], str]] = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = asyncio.Event()
        self._reason: BaseException | str | None = None
        self._on_end: Callable[[], object] | None = None
        self._tasks: dict[asyncio.Future[Any], None] = {}
        # Takes the answers fault rules give in place of the far side.
        self.on_answered: Callable[[MessageInfo, Answer], object] | None = None

    def __repr__(self) -> str:
        state = "open" if self._reason is None else f"ended: {self._why()}"
        return f"<NativeBroker {self._name} {state}, {len(self._consumers)} consumers>"

    @classmethod
    async def open(cls, ports: Ports, address: Address) -> NativeBroker:
        """Connect to a broker.

        Raises:
            Disconnected: Nobody answers there, or it is no broker of ours; the cause is
                kept.
        """
        broker = cls(ports, address)
        try:
            await ports.network.connect(lambda: broker._link, address)
        except BaseException as error:
            broker._hello.cancel()  # nobody will look at it
            if isinstance(error, OSError):
                why = str(error) or type(error).__name__
                raise broker._unreachable(why) from error
            raise
        silent = (
            f"it said nothing for {HELLO_TIMEOUT:g} s, so it is no broker that speaks "
            f"{frames.PROTOCOL}"
        )
        timer = ports.clock.call_later(HELLO_TIMEOUT, broker._lose, silent)
        try:
            await broker._hello
        except BaseException:
            broker._hello.cancel()
            broker._transport.abort()
            raise
        finally:
            timer.cancel()
        return broker

    @property
    def closed(self) -> bool:
        """Whether the connection is over."""
        return self._reason is not None

    # -- the port

    async def declare(self, queue: str, options: QueueOptions) -> None:
        """Make a queue, or do nothing if it exists with the same options.

        Raises:
            BrokerRefused: 405 it is another connection's; 406 it has other options.
            Unroutable: 404 the exchange of `exchange/queue` is not there.
            Disconnected: The broker is gone.
        """
        _check_name(queue)
        number = self._number()
        frame = frames.Declare(
            number,
            queue,
            options.durable,
            options.exclusive,
            options.auto_delete,
            _check_millis("expires_ms", options.expires_ms),
        )
        await self._request(number, frame, f"declare queue '{queue}'")

    async def delete(self, queue: str) -> None:
        """Remove a queue and what is in it; one that is not there is no error.

        Consumers of this connection on it are over, and are not told.

        Raises:
            BrokerRefused: 405 it is another connection's.
            Disconnected: The broker is gone.
        """
        _check_name(queue)
        number = self._number()
        frame = frames.Delete(number, queue)
        await self._request(number, frame, f"delete queue '{queue}'")
        for consumer in list(self._consumers.values()):
            if consumer.queue == queue:
                del self._consumers[consumer.number]

    async def publish(
        self,
        address: str,
        body: bytes,
        *,
        ttl_ms: int | None = None,
        info: MessageInfo,
    ) -> None:
        """Send a persistent message and wait for the broker's confirm.

        Raises:
            Unroutable: 312 or 404, no queue takes it.
            BrokerFull: 311 it is too long, or 506 its queue is full.
            LimitExceeded: It does not fit into a frame of this connection.
            Disconnected: The broker is gone; the message may or may not be queued.
        """
        _check_name(address)
        number = self._number()
        frame = frames.Publish(number, address, body, _check_millis("ttl_ms", ttl_ms))
        await self._request(number, frame, f"publish to '{address}'", info)

    async def post(
        self,
        address: str,
        body: bytes,
        *,
        ttl_ms: int | None = None,
        info: MessageInfo,
        on_refused: Callable[[Exception], object] | None = None,
    ) -> None:
        """Hand a persistent message to the transport, and wait for no confirm.

        Raises:
            LimitExceeded: It does not fit into a frame of this connection.
            Disconnected: The broker is gone; the message was not handed over.
        """
        _check_name(address)
        number = 0
        if on_refused is not None:
            number = self._number()
            self._posted[number] = on_refused, f"publish to '{address}'"
            self._posted.pop(number - POSTED, None)
        ttl = _check_millis("ttl_ms", ttl_ms)
        frame = frames.Publish(number, address, body, ttl, quiet=True)
        await self._put(frame, f"publish to '{address}'", info)

    async def consume(
        self,
        queue: str,
        on_message: OnMessage,
        *,
        prefetch: int = 0,
        auto_ack: bool = False,
        on_lost: OnLost | None = None,
    ) -> _Subscription:
        """Have messages of a queue handed to `on_message`, one call each, in order.

        The first call may come before this returns. What `on_message` raises goes to
        the loop's exception handler; its message stays unacknowledged. `on_lost` is
        also called when somebody else removes the queue, with `Unroutable`.

        Raises:
            Unroutable: 404 no such queue.
            BrokerRefused: 405 it is another connection's.
            Disconnected: The broker is gone.
        """
        _check_name(queue)
        number = self._number()
        consumer = _Subscription(self, number, queue, on_message, on_lost)
        frame = frames.Consume(
            number, queue, number, _check_count("prefetch", prefetch), auto_ack
        )
        self._consumers[number] = consumer
        try:
            await self._request(number, frame, f"consume from queue '{queue}'")
        except BaseException as error:
            # A caller that was cancelled leaves no consumer behind which would take
            # messages for nobody; the broker's `Ok` may be on its way.
            if self._consumers.pop(number, None) and not isinstance(error, RpcError):
                self._write(frames.Cancel(0, number))
            raise
        return consumer

    async def close(self) -> None:
        """Close the connection; unacknowledged messages go back to their queues."""
        self._consumers.clear()
        self._end("it was closed at this side")
        self._transport.close()
        # What cannot be sent must not keep a host from ending.
        timer = self._ports.clock.call_later(CLOSE_GRACE, _abort, self._transport)
        try:
            await self._gone.wait()
        finally:
            timer.cancel()

    # -- requests

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    async def _request(
        self,
        number: int,
        frame: frames.Frame,
        what: str,
        info: MessageInfo | None = None,
    ) -> None:
        """Send a request and wait for its answer."""
        if not await self._put(frame, what, info):
            return  # a fault rule took it: the sender is to believe that it went
        answer: asyncio.Future[None] = self._loop.create_future()
        self._pending[number] = answer
        try:
            await answer
        except _Refused as refused:
            error = _REFUSALS.get(refused.code, BrokerRefused)
            raise error(refused.code, refused.text, what, self._name) from None
        except _Ended:
            raise self._disconnected(f"whether it did {what} is not known") from (
                self._cause()
            )
        finally:
            self._pending.pop(number, None)

    async def _put(
        self, frame: frames.Frame, what: str, info: MessageInfo | None
    ) -> bool:
        """Hand a frame to the transport when it takes more; says whether it goes out."""
        data = frames.encode_frame(frame, self._limit)
        while self._reason is None and not self._writable.is_set():
            await self._writable.wait()
        if self._reason is not None:
            raise self._disconnected(f"could not {what}")
        if info is None:
            self._transport.write(data)
            return True
        return self._transport.write_message(data, info)

    def _write(self, frame: frames.Frame) -> None:
        if self._reason is None:
            self._transport.write(frames.encode_frame(frame, self._limit))

    async def _cancel(self, consumer: _Subscription) -> None:
        if self._consumers.pop(consumer.number, None) is None or self.closed:
            return
        number = self._number()
        frame = frames.Cancel(number, consumer.number)
        what = f"cancel the consumer of queue '{consumer.queue}'"
        await self._request(number, frame, what)

    def _settle(self, tag: int, done: bool) -> None:
        # Number 0: nobody waits for the answer. If it does not arrive, the connection
        # is gone, and the broker gives the message to somebody else.
        self._write(frames.Ack(0, tag) if done else frames.Requeue(0, tag))

    # -- what comes in

    def answered(self, info: MessageInfo, answer: Answer) -> None:
        """A fault rule answers in the callee's place: tell whoever calls."""
        if self.on_answered is None:
            raise LocalProtocolError(
                f"no caller of host '{self._ports.host}' takes answers to "
                f"{info.method or info.kind}"
            )
        self.on_answered(info, answer)

    def _take(self, event: frames.Frame) -> None:
        if isinstance(event, frames.Deliver):
            self._deliver(event)
        elif isinstance(event, frames.Ok):
            answer = self._pending.get(event.request)
            if answer is not None and not answer.done():
                answer.set_result(None)
        elif isinstance(event, frames.Failed):
            self._failed(event)
        elif isinstance(event, frames.Gone):
            consumer = self._consumers.pop(event.consumer, None)
            if consumer is not None:
                code = frames.Code.NOT_FOUND
                what = f"go on with the consumer of queue '{consumer.queue}'"
                self._tell_lost(
                    consumer, Unroutable(code, event.text, what, self._name)
                )
        elif isinstance(event, frames.Ping):
            self._write(frames.Pong())
        elif isinstance(event, frames.Hello):
            self._limit = event.frame_limit
            if not self._hello.done():
                self._hello.set_result(None)

    def _deliver(self, event: frames.Deliver) -> None:
        consumer = self._consumers.get(event.consumer)
        if consumer is None:
            return  # cancelled: the broker takes it back when it learns of that
        delivery = Delivery(
            queue=consumer.queue,
            body=event.body,
            tag=event.tag,
            redelivered=event.redelivered,
            ttl_ms=event.ttl_ms,
            settle=partial(self._settle, event.tag),
        )
        try:
            consumer.context.run(consumer.on_message, delivery)
        except Exception as error:  # noqa: BLE001 - one consumer's mistake is not the others'
            self._report(f"a consumer of queue '{consumer.queue}' raised", error)

    def _failed(self, event: frames.Failed) -> None:
        answer = self._pending.get(event.request)
        if answer is not None and not answer.done():
            answer.set_exception(_Refused(event.code, event.text))
        elif event.request in self._posted:
            on_refused, what = self._posted.pop(event.request)
            refusal = _REFUSALS.get(event.code, BrokerRefused)
            on_refused(refusal(event.code, event.text, what, self._name))
        elif event.request == 0:
            self._lose(f"the broker refused the connection: {event.text}")

    # -- the end

    def _lose(self, reason: BaseException | str) -> None:
        """Give the connection up; `_end` tells everybody once it is down."""
        self._end(reason)
        self._transport.abort()

    def _end(self, reason: BaseException | str) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        if not self._hello.done():
            self._hello.set_exception(self._unreachable(self._why()))
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(_Ended())
        self._writable.set()
        consumers = list(self._consumers.values())
        self._consumers.clear()
        if self._on_end is not None:
            self._on_end()
        for consumer in consumers:
            self._tell_lost(consumer, self._disconnected("its consumer is over"))

    def _tell_lost(self, consumer: _Subscription, error: RpcError) -> None:
        if consumer.on_lost is None:
            return
        try:
            told = consumer.context.run(consumer.on_lost, error)
        except Exception as raised:  # noqa: BLE001 - the other consumers are told, too
            self._report(f"on_lost of queue '{consumer.queue}' raised", raised)
            return
        if inspect.isawaitable(told):
            # Kept until it ends, for the loop holds tasks weakly.
            task = consumer.context.run(asyncio.ensure_future, told)
            self._tasks[task] = None
            task.add_done_callback(self._tasks.pop)

    def _report(self, message: str, error: Exception) -> None:
        self._loop.call_exception_handler({"message": message, "exception": error})

    # -- telling

    def _why(self) -> str:
        reason = self._reason
        if isinstance(reason, BaseException):
            return str(reason) or type(reason).__name__
        return reason or ""

    def _cause(self) -> BaseException | None:
        return self._reason if isinstance(self._reason, BaseException) else None

    def _disconnected(self, consequence: str) -> Disconnected:
        return Disconnected(
            f"the connection of host '{self._ports.host}' to the broker at "
            f"{self._name} is over ({self._why()}); {consequence}. "
            "The next use opens another"
        )

    def _unreachable(self, why: str) -> Disconnected:
        return Disconnected(
            f"host '{self._ports.host}' has no broker at {self._name}: {why}. Start "
            "one: a world (`with rpcsim.simulate() as world: world.agent(...)`), or a "
            "broker server on that address"
        )


class _Refused(Exception):
    """The broker's answer to a request, on its way to who asked."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class _Ended(Exception):
    """No answer will come."""


class _Link(asyncio.Protocol):
    """The connection's protocol: bytes to events for its broker."""

    __slots__ = ("_broker", "_decoder")

    def __init__(self, broker: NativeBroker) -> None:
        self._broker = broker
        self._decoder = frames.FrameDecoder("client", frames.FRAME_LIMIT_MAX)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._broker._transport = cast("Transport", transport)
        hello = frames.Hello(frames.PROTOCOL, frames.VERSION, frames.FRAME_LIMIT_MAX)
        self._broker._write(hello)

    def data_received(self, data: bytes) -> None:
        self._decoder.receive(data)
        try:
            while (event := self._decoder.next_event()) is not None:
                self._broker._take(event)
        except RemoteProtocolError as error:
            self._broker._lose(error)

    def eof_received(self) -> bool:
        try:
            self._decoder.check_eof()
        except RemoteProtocolError as error:
            self._broker._lose(error)
        return False

    def message_answered(self, info: MessageInfo, answer: Answer) -> None:
        self._broker.answered(info, answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._broker._end(exc or "the broker closed it")
        self._broker._gone.set()

    def pause_writing(self) -> None:
        self._broker._writable.clear()

    def resume_writing(self) -> None:
        self._broker._writable.set()


def _abort(transport: Transport) -> None:
    transport.abort()


def _check_name(name: str) -> None:
    if not 0 < len(name) <= _NAME_LIMIT:
        raise LocalProtocolError(
            f"an address has 1 to {_NAME_LIMIT} characters, not {len(name)}: "
            f"{name[:40]!r}"
        )


def _check_millis(what: str, value: int | None) -> int | None:
    return value if value is None else _check_count(what, value)


def _check_count(what: str, value: Any) -> int:
    # The broker would take anything else for a broken client, and close on everybody.
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise LocalProtocolError(f"{what} is a whole number from 0, not {value!r}")
    return value
