"""The broker engine: a state machine of queues, without I/O (gofer.md section 17).

It is told who asks by a `Session`, answers by returning or by raising `Refusal`, and
hands messages over through the session's `deliver`. Time comes from the clock it is
given, so the same engine runs on the simulated and on the real one, behind each front.
A publish that returned is kept: limits refuse new messages, they never drop old ones.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final

from rpcsim.fakes._queue import Counters, Message, MessageQueue, Session, Subscriber
from rpcsim.fakes._state import (
    BrokerLimits,
    BrokerState,
    KeptMessage,
    KeptQueue,
    QueueState,
    Refusal,
)
from rpcsim.ports import NANOS
from rpcsim.wire import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rpcsim.fakes._queue import ConsumerKey
    from rpcsim.ports import Clock, QueueOptions

__all__ = ["BrokerEngine", "BrokerMemory"]

_MS: Final = NANOS // 1000
# The direct exchange every AMQP broker has from the start (AMQP 0-9-1, 3.1.3.1).
DIRECT: Final = "amq.direct"


class BrokerMemory:
    """Keeps the durable part of a broker over its restarts, as a disk would.

    Hand the same one to every `BrokerServer` of a host; it needs no orderly end, for
    every confirmed message is in it by the time the confirm is sent.
    """

    __slots__ = ("engine",)

    def __init__(self) -> None:
        self.engine: BrokerEngine | None = None

    def __repr__(self) -> str:
        return f"<BrokerMemory {len(self.kept())} durable queues>"

    def kept(self) -> tuple[KeptQueue, ...]:
        """Give what the broker that ran last would find after a restart."""
        return () if self.engine is None else self.engine.kept()


class BrokerEngine:
    """Queues, exchanges and sessions of one broker.

    Args:
        clock: Where expiry asks the time and sets its timers.
        limits: What is taken at most.
        exchanges: Names of direct exchanges beside the default one and `amq.direct`.
        kept: Durable queues of an earlier life, as `kept()` gave them.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        limits: BrokerLimits | None = None,
        exchanges: Iterable[str] = (),
        kept: Sequence[KeptQueue] = (),
    ) -> None:
        self.limits = limits or BrokerLimits()
        self._clock = clock
        self._queues: dict[str, MessageQueue] = {}
        self._sessions: dict[Session, None] = {}
        # exchange -> routing key -> names of bound queues, in bind order
        self._exchanges: dict[str, dict[str, list[str]]] = {
            name: {} for name in (DIRECT, *exchanges)
        }
        self._sequence = 0
        self._refused = 0
        self._past = Counters()
        for queue in kept:
            self._restore(queue)

    def __repr__(self) -> str:
        ready = sum(len(queue.ready) for queue in self._queues.values())
        unacked = sum(len(queue.unacked) for queue in self._queues.values())
        return (
            f"<BrokerEngine {len(self._queues)} queues, {len(self._sessions)} "
            f"sessions, {ready} ready, {unacked} unacknowledged>"
        )

    # -- sessions

    def connect(
        self,
        name: str,
        deliver: Callable[[ConsumerKey, int, bytes, bool, int | None], object],
        *,
        on_gone: Callable[[ConsumerKey, str], object] = lambda _key, _text: None,
    ) -> Session:
        """Begin a session.

        Args:
            name: What reports call it.
            deliver: Takes a message: consumer, delivery tag, body, whether it is
                redelivered, what is left to live in milliseconds. Must not raise.
            on_gone: Told that a consumer ended because its queue was removed, and why.
        """
        session = Session(name, deliver, on_gone)
        self._sessions[session] = None
        return session

    def disconnect(self, session: Session) -> None:
        """End a session: what it did not settle is redelivered; twice does nothing."""
        if session.closed:
            return
        session.closed = True
        session.flowing = False
        del self._sessions[session]
        subscribers = list(session.subscribers.values())
        session.subscribers.clear()
        self._remove_subscribers(subscribers)
        for queue in [q for q in self._queues.values() if q.owner is session]:
            self._remove(queue, f"the connection that owned queue '{queue.name}' ended")

    def pause(self, session: Session) -> None:
        """Hand nothing over to a session that cannot take more."""
        session.flowing = False

    def resume(self, session: Session) -> None:
        """Hand messages over again."""
        if session.closed or session.flowing:
            return
        session.flowing = True
        for subscriber in list(session.subscribers.values()):
            subscriber.queue.pump()

    def close(self) -> None:
        """Stop all timers and end all sessions; only `kept` and `snapshot` remain."""
        for session in self._sessions:
            session.closed = True
            session.flowing = False
        self._sessions.clear()
        for queue in self._queues.values():
            queue.stop_timers()

    # -- queues

    def declare(self, session: Session, address: str, options: QueueOptions) -> None:
        """Make a queue, bound if `address` is `exchange/queue`.

        Raises:
            Refusal: 404 no such exchange; 405 it is another connection's; 406 it
                exists with other options; 506 there are too many queues.
        """
        exchange, name = self._split(address)
        if exchange:
            self._exchange(exchange)
        queue = self._queues.get(name)
        if queue is None:
            if len(self._queues) >= self.limits.queues:
                raise self._refuse(
                    frames.Code.RESOURCE_ERROR,
                    f"queue '{name}' would be one over the limit of "
                    f"{self.limits.queues}; delete queues that are not needed",
                )
            self._make(name, options, session if options.exclusive else None)
        else:
            self._check_owner(queue, session)
            self._check_options(queue, options)
            queue.touch()
        if exchange:
            self.bind(exchange, name, name)

    def delete(self, session: Session, address: str) -> int:
        """Remove a queue; how many messages went with it, 0 if there is none.

        Raises:
            Refusal: 405 it is another connection's.
        """
        queue = self._queues.get(self._split(address)[1])
        if queue is None:
            return 0
        self._check_owner(queue, session)
        count = len(queue)
        self._remove(queue, f"queue '{queue.name}' was deleted", by=session)
        return count

    def purge(self, session: Session, address: str) -> int:
        """Drop what is ready in a queue; how many messages those were.

        Raises:
            Refusal: 404 no such queue; 405 it is another connection's.
        """
        return self._queue(session, address).purge()

    def declare_exchange(self, name: str) -> None:
        """Make a direct exchange, or do nothing if it is there."""
        self._exchanges.setdefault(name, {})

    def bind(self, exchange: str, key: str, queue: str) -> None:
        """Have messages for `key` at an exchange go to a queue, too.

        Raises:
            Refusal: 404 no such exchange or queue.
        """
        bound = self._exchange(exchange).setdefault(key, [])
        if queue not in self._queues:
            raise self._refuse(frames.Code.NOT_FOUND, _no_queue(queue))
        if queue not in bound:
            bound.append(queue)

    # -- messages

    def publish(self, address: str, body: bytes, *, ttl_ms: int | None = None) -> None:
        """Put a message into every queue its address leads to, or into none.

        Raises:
            Refusal: 311 it is too long; 312 no queue takes it; 404 no such exchange;
                506 a queue is full.
        """
        if len(body) > self.limits.message_bytes:
            raise self._refuse(
                frames.Code.CONTENT_TOO_LARGE,
                f"a message of {len(body)} bytes for '{address}' is over the limit of "
                f"{self.limits.message_bytes}; send less, or raise message_bytes",
            )
        direct = self._queues.get(address)  # no name of a queue has a slash
        queues = [direct] if direct is not None else self._route(address)
        for queue in queues:
            if len(queue) >= self.limits.queue_length:
                raise self._refuse(
                    frames.Code.RESOURCE_ERROR,
                    f"queue '{queue.name}' is full: it holds {len(queue)} messages, "
                    f"{len(queue.subscribers)} consumers take from it; try again when "
                    "they have caught up, or raise queue_length",
                )
        expires_at = None
        if ttl_ms is not None:
            # 0 is "now or never": a waiting consumer still gets it.
            expires_at = self._clock.now_ns() + max(1, ttl_ms * _MS)
        for queue in queues:
            self._sequence += 1
            queue.enter(Message(self._sequence, body, expires_at))

    def consume(
        self,
        session: Session,
        address: str,
        key: ConsumerKey,
        *,
        prefetch: int = 0,
        auto_ack: bool = False,
    ) -> None:
        """Have a queue's messages handed to a session, as its consumer `key`.

        Args:
            session: Who consumes.
            address: The queue.
            key: Told with each delivery; new within the session.
            prefetch: Most deliveries unsettled at a time; 0 for no limit.
            auto_ack: Whether a delivery is settled as it is made.

        Raises:
            Refusal: 404 no such queue; 405 it is another connection's; 530 the key is
                in use.
        """
        queue = self._queue(session, address)
        if key in session.subscribers:
            raise self._refuse(
                frames.Code.NOT_ALLOWED,
                f"consumer {key} is running on queue "
                f"'{session.subscribers[key].queue.name}'; take another number",
            )
        subscriber = Subscriber(session, key, queue, prefetch, auto_ack=auto_ack)
        session.subscribers[key] = subscriber
        queue.join(subscriber)

    def cancel(self, session: Session, key: ConsumerKey) -> None:
        """End a consumer; what it did not settle goes back. One that is not is none."""
        subscriber = session.subscribers.pop(key, None)
        if subscriber is not None:
            self._remove_subscribers([subscriber])

    def ack(self, session: Session, tag: int) -> None:
        """Settle a delivery as done.

        Raises:
            Refusal: 406 the session has no such delivery.
        """
        subscriber, message = self._settled(session, tag)
        subscriber.queue.acknowledge(message)

    def requeue(self, session: Session, tag: int) -> None:
        """Give a delivery back; it is ready again, at its old place.

        Raises:
            Refusal: 406 the session has no such delivery.
        """
        subscriber, message = self._settled(session, tag)
        subscriber.queue.put_back([message])

    # -- what tests and reports see

    def snapshot(self) -> BrokerState:
        """Give a copy of the whole state."""
        total = replace(self._past)
        for queue in self._queues.values():
            total.add(queue.counters)
        return BrokerState(
            queues={queue.name: _state(queue) for queue in self._queues.values()},
            sessions=tuple(session.name for session in self._sessions),
            bindings=tuple(
                (exchange, key, queue)
                for exchange, keys in self._exchanges.items()
                for key, bound in keys.items()
                for queue in bound
            ),
            counters=total,
            refused=self._refused,
        )

    def kept(self) -> tuple[KeptQueue, ...]:
        """Give what a restart leaves: durable queues nobody owns, and their messages.

        What was delivered and not acknowledged is back in place, marked redelivered.
        """
        return tuple(
            self._keep(queue)
            for queue in self._queues.values()
            if queue.options.durable and queue.owner is None
        )

    # -- inside

    def _refuse(self, code: frames.Code, text: str) -> Refusal:
        self._refused += 1
        return Refusal(code, text)

    def _split(self, address: str) -> tuple[str, str]:
        exchange, slash, name = address.partition("/")
        if not slash:
            return "", address
        if not name:
            raise self._refuse(
                frames.Code.PRECONDITION_FAILED,
                f"address '{address}' names no queue; write 'exchange/queue'",
            )
        return exchange, name

    def _exchange(self, name: str) -> dict[str, list[str]]:
        try:
            return self._exchanges[name]
        except KeyError:
            known = ", ".join(sorted(self._exchanges))
            raise self._refuse(
                frames.Code.NOT_FOUND, f"no exchange '{name}'; there are: {known}"
            ) from None

    def _queue(self, session: Session, address: str) -> MessageQueue:
        name = self._split(address)[1]
        queue = self._queues.get(name)
        if queue is None:
            raise self._refuse(frames.Code.NOT_FOUND, _no_queue(name))
        self._check_owner(queue, session)
        return queue

    def _route(self, address: str) -> list[MessageQueue]:
        exchange, key = self._split(address)
        if exchange:
            bound = self._exchange(exchange).get(key, [])
        else:
            bound = [key] if key in self._queues else []
        if not bound:
            raise self._refuse(
                frames.Code.NO_ROUTE,
                f"no queue takes messages for '{address}': nothing that reads it was "
                "ever started on this broker, or its queue is gone",
            )
        return [self._queues[name] for name in bound]

    def _check_owner(self, queue: MessageQueue, session: Session) -> None:
        if queue.owner is not None and queue.owner is not session:
            raise self._refuse(
                frames.Code.LOCKED,
                f"queue '{queue.name}' is exclusive to {queue.owner.name}; "
                "use a queue of your own",
            )

    def _check_options(self, queue: MessageQueue, options: QueueOptions) -> None:
        different = [
            f"{item.name}={getattr(queue.options, item.name)} "
            f"(asked for {getattr(options, item.name)})"
            for item in fields(options)
            if getattr(options, item.name) != getattr(queue.options, item.name)
        ]
        if different:
            raise self._refuse(
                frames.Code.PRECONDITION_FAILED,
                f"queue '{queue.name}' exists with {', '.join(different)}; declare it "
                "alike everywhere, or delete it first",
            )

    def _make(
        self, name: str, options: QueueOptions, owner: Session | None
    ) -> MessageQueue:
        queue = MessageQueue(name, options, owner, self._clock, self._expire_queue)
        self._queues[name] = queue
        return queue

    def _remove(self, queue: MessageQueue, why: str, by: Session | None = None) -> None:
        del self._queues[queue.name]
        for keys in self._exchanges.values():
            for key, bound in list(keys.items()):
                if queue.name in bound:
                    bound.remove(queue.name)
                if not bound:
                    del keys[key]
        subscribers = list(queue.subscribers)
        queue.close()
        self._past.add(queue.counters)
        for subscriber in subscribers:
            session = subscriber.session
            del session.subscribers[subscriber.key]
            if session is not by:
                session.on_gone(subscriber.key, why)

    def _expire_queue(self, queue: MessageQueue) -> None:
        # The timer belongs to the queue and is cancelled with it, so it is still there.
        self._remove(queue, f"queue '{queue.name}' was not used for its expiry time")

    def _remove_subscribers(self, subscribers: Iterable[Subscriber]) -> None:
        # First all consumers leave, then their messages go back: none of them may be
        # handed to another consumer that is leaving as well.
        back: dict[MessageQueue, list[Message]] = {}
        for subscriber in subscribers:
            subscriber.queue.part(subscriber)
            back.setdefault(subscriber.queue, []).extend(subscriber.release())
        for queue, messages in back.items():
            queue.put_back(messages)
            if queue.options.auto_delete and not queue.subscribers:
                self._remove(queue, f"the last consumer of '{queue.name}' left")

    def _settled(self, session: Session, tag: int) -> tuple[Subscriber, Message]:
        subscriber = session.tags.pop(tag, None)
        if subscriber is None:
            raise self._refuse(
                frames.Code.PRECONDITION_FAILED,
                f"{session.name} has no delivery {tag}: it is settled already, or its "
                "consumer is over",
            )
        return subscriber, subscriber.unacked.pop(tag)

    def _keep(self, queue: MessageQueue) -> KeptQueue:
        messages = sorted(
            [*queue.ready.values(), *queue.unacked.values()],
            key=lambda message: message.sequence,
        )
        return KeptQueue(
            name=queue.name,
            options=queue.options,
            bindings=tuple(
                (exchange, key)
                for exchange, keys in self._exchanges.items()
                for key, bound in keys.items()
                if queue.name in bound
            ),
            messages=tuple(
                KeptMessage(
                    body=message.body,
                    expires_ns=message.expires_at,
                    redelivered=message.redelivered
                    or message.sequence in queue.unacked,
                )
                for message in messages
            ),
        )

    def _restore(self, kept: KeptQueue) -> None:
        queue = self._make(kept.name, kept.options, None)
        for exchange, key in kept.bindings:
            self.declare_exchange(exchange)
            self.bind(exchange, key, kept.name)
        messages = []
        for item in kept.messages:
            self._sequence += 1
            messages.append(
                Message(
                    self._sequence,
                    item.body,
                    item.expires_ns,
                    redelivered=item.redelivered,
                )
            )
        queue.restore(messages)


def _no_queue(name: str) -> str:
    return f"no queue '{name}'; declare it first, or start what declares it"


def _state(queue: MessageQueue) -> QueueState:
    return QueueState(
        name=queue.name,
        options=queue.options,
        owner=None if queue.owner is None else queue.owner.name,
        ready=tuple(message.body for message in queue.ready.values()),
        unacked=tuple(queue.unacked[seq].body for seq in sorted(queue.unacked)),
        consumers=tuple(
            (one.session.name, one.key, len(one.unacked)) for one in queue.subscribers
        ),
        counters=replace(queue.counters),
    )
