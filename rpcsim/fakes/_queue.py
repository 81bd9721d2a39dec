"""One queue of the broker engine: its messages in order, its consumers in turn.

Laws of this file:

- A message is in exactly one place: ready, unacknowledged, or gone for one counted
  reason (acknowledged, expired, dropped with the queue). `Counters` can prove it.
- `ready` is sorted by the order of publishing, always. A message given back finds its
  old place, which makes "requeue to the head in the original order" no special case.
- Consumers take turns in the order they came; one that may not take more is passed by.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, TypeAlias

from rpcsim.ports import NANOS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rpcsim.ports import Clock, QueueOptions, Timer

__all__ = [
    "ConsumerKey",
    "Counters",
    "Message",
    "MessageQueue",
    "Session",
    "Subscriber",
]

# Chosen by the front: a number in native frames, a text in AMQP.
ConsumerKey: TypeAlias = "int | str"

_MS: Final = NANOS // 1000


@dataclass(slots=True)
class Counters:
    """What became of messages so far; nothing is counted twice.

    `published == ready + unacknowledged + acknowledged + expired + dropped` at any time.

    Attributes:
        published: Messages that entered a queue.
        delivered: Deliveries to consumers, repeated ones included.
        redelivered: Those that were repeated.
        requeued: Times a message went back to its queue.
        acknowledged: Messages that were done.
        expired: Messages whose time to live passed in the queue.
        dropped: Messages that went with their queue, or were purged.
    """

    published: int = 0
    delivered: int = 0
    redelivered: int = 0
    requeued: int = 0
    acknowledged: int = 0
    expired: int = 0
    dropped: int = 0

    def add(self, other: Counters) -> None:
        """Count what `other` counted, too."""
        for item in fields(self):
            total = getattr(self, item.name) + getattr(other, item.name)
            setattr(self, item.name, total)


class Message:
    """A message in a queue; it lives from publishing until it is gone."""

    __slots__ = ("body", "expires_at", "redelivered", "sequence")

    def __init__(
        self,
        sequence: int,
        body: bytes,
        expires_at: int | None,
        *,
        redelivered: bool = False,
    ) -> None:
        self.sequence = sequence
        self.body = body
        self.expires_at = expires_at
        self.redelivered = redelivered


class Session:
    """One client's connection, as the engine knows it.

    Made by `BrokerEngine.connect`; give it back to the engine with every request.

    Attributes:
        name: What reports call it.
        flowing: Whether it takes deliveries now.
        subscribers: Its running consumers, in consume order.
        tags: Whose every unacknowledged delivery is, in delivery order.
    """

    __slots__ = (
        "closed",
        "deliver",
        "flowing",
        "name",
        "on_gone",
        "subscribers",
        "tag",
        "tags",
    )

    def __init__(
        self,
        name: str,
        deliver: Callable[[ConsumerKey, int, bytes, bool, int | None], object],
        on_gone: Callable[[ConsumerKey, str], object],
    ) -> None:
        self.name = name
        self.deliver = deliver
        self.on_gone = on_gone
        self.flowing = True
        self.closed = False
        self.tag = 0
        self.subscribers: dict[ConsumerKey, Subscriber] = {}
        self.tags: dict[int, Subscriber] = {}

    def __repr__(self) -> str:
        state = "closed" if self.closed else "flowing" if self.flowing else "paused"
        return (
            f"<Session {self.name!r} {state}, {len(self.subscribers)} consumers, "
            f"{len(self.tags)} unacknowledged>"
        )


class Subscriber:
    """One consumer of one queue, with the deliveries it has not settled."""

    __slots__ = ("auto_ack", "key", "prefetch", "queue", "session", "unacked")

    def __init__(
        self,
        session: Session,
        key: ConsumerKey,
        queue: MessageQueue,
        prefetch: int,
        *,
        auto_ack: bool = False,
    ) -> None:
        self.auto_ack = auto_ack
        self.session = session
        self.key = key
        self.queue = queue
        self.prefetch = prefetch
        self.unacked: dict[int, Message] = {}

    def __repr__(self) -> str:
        return (
            f"<Subscriber {self.key} of {self.session.name!r} on {self.queue.name!r}, "
            f"{len(self.unacked)} unacknowledged>"
        )

    def may_take(self) -> bool:
        """Whether it takes one more delivery now."""
        if not self.session.flowing:
            return False
        return not self.prefetch or len(self.unacked) < self.prefetch

    def take(self, message: Message, ttl_ms: int | None) -> None:
        """Hand a message over."""
        session = self.session
        session.tag = tag = session.tag + 1
        if not self.auto_ack:
            session.tags[tag] = self
            self.unacked[tag] = message
        session.deliver(self.key, tag, message.body, message.redelivered, ttl_ms)

    def release(self) -> list[Message]:
        """Forget what is not settled; the messages, in delivery order."""
        messages = list(self.unacked.values())
        for tag in self.unacked:
            del self.session.tags[tag]
        self.unacked.clear()
        return messages


class MessageQueue:
    """A named queue.

    Attributes:
        name: Its name, and its key on the default exchange.
        options: As declared.
        owner: The only session that may use it, if exclusive.
        ready: Waiting messages, by the order of publishing.
        unacked: Delivered ones that nobody settled yet, likewise keyed.
        subscribers: Consumers, the next in turn first.
        counters: What became of its messages.
    """

    __slots__ = (
        "_clock",
        "_deadlines",
        "_expiry",
        "_idle",
        "_on_unused",
        "_pumping",
        "counters",
        "name",
        "options",
        "owner",
        "ready",
        "subscribers",
        "unacked",
    )

    def __init__(
        self,
        name: str,
        options: QueueOptions,
        owner: Session | None,
        clock: Clock,
        on_unused: Callable[[MessageQueue], object],
    ) -> None:
        self.name = name
        self.options = options
        self.owner = owner
        self.ready: OrderedDict[int, Message] = OrderedDict()
        self.unacked: dict[int, Message] = {}
        self.subscribers: deque[Subscriber] = deque()
        self.counters = Counters()
        self._clock = clock
        self._on_unused = on_unused
        self._pumping = False
        # (moment, sequence) of messages that waited when they came; entries of those
        # that left meanwhile are skipped when they come up.
        self._deadlines: list[tuple[int, int]] = []
        self._expiry: Timer | None = None
        self._idle: Timer | None = None
        self.touch()

    def __repr__(self) -> str:
        return (
            f"<MessageQueue {self.name!r} {len(self.ready)} ready, "
            f"{len(self.unacked)} unacknowledged, {len(self.subscribers)} consumers>"
        )

    def __len__(self) -> int:
        """Messages it holds, ready or unacknowledged."""
        return len(self.ready) + len(self.unacked)

    # -- messages

    def enter(self, message: Message) -> None:
        """Take a newly published message."""
        self.counters.published += 1
        if not self.ready and not self._pumping:
            # Nobody is before it, so it goes straight to who is next, if anybody.
            subscriber = self._next()
            if subscriber is not None:
                ttl_ms = None
                if message.expires_at is not None:
                    ttl_ms = -(-(message.expires_at - self._clock.now_ns()) // _MS)
                self._pumping = True
                try:
                    self._hand(message, subscriber, ttl_ms)
                finally:
                    self._pumping = False
                if self.ready:
                    self.pump()
                return
        self.ready[message.sequence] = message
        self.pump()
        if message.expires_at is not None and message.sequence in self.ready:
            self._watch([message])

    def pump(self) -> None:
        """Hand out what can be handed out."""
        # A consumer may publish or settle from inside its delivery; the loop that is
        # running sees to that, so order holds and nothing recurses.
        if self._pumping:
            return
        self._pumping = True
        try:
            while self.ready and self.subscribers:
                message = next(iter(self.ready.values()))
                ttl_ms = None
                if message.expires_at is not None:
                    left = message.expires_at - self._clock.now_ns()
                    if left <= 0:
                        del self.ready[message.sequence]
                        self.counters.expired += 1
                        continue
                    ttl_ms = -(-left // _MS)
                subscriber = self._next()
                if subscriber is None:
                    break
                del self.ready[message.sequence]
                self._hand(message, subscriber, ttl_ms)
        finally:
            self._pumping = False
        self._relax()

    def _hand(
        self, message: Message, subscriber: Subscriber, ttl_ms: int | None
    ) -> None:
        counters = self.counters
        if subscriber.auto_ack:
            counters.acknowledged += 1
        else:
            self.unacked[message.sequence] = message
        counters.delivered += 1
        counters.redelivered += message.redelivered
        subscriber.take(message, ttl_ms)

    def acknowledge(self, message: Message) -> None:
        """Forget a delivered message for good."""
        del self.unacked[message.sequence]
        self.counters.acknowledged += 1
        self.pump()

    def put_back(self, messages: Iterable[Message]) -> None:
        """Make delivered messages ready again, each in its old place."""
        # Newest first: each then goes straight to the head.
        back = sorted(messages, key=_sequence, reverse=True)
        now = self._clock.now_ns() if back else 0
        for message in back:
            del self.unacked[message.sequence]
            message.redelivered = True
            self.counters.requeued += 1
            if message.expires_at is not None and message.expires_at <= now:
                self.counters.expired += 1
            else:
                self._place(message)
        self.pump()
        self._watch(back)

    def restore(self, messages: Iterable[Message]) -> None:
        """Take messages kept from an earlier life, in order."""
        kept = list(messages)
        self.counters.published += len(kept)
        self.ready.update((message.sequence, message) for message in kept)
        self._watch(kept)

    def purge(self) -> int:
        """Drop what is ready; how many those were."""
        count = len(self.ready)
        self.counters.dropped += count
        self.ready.clear()
        self._relax()
        return count

    def close(self) -> None:
        """Drop everything and stop all timers; the queue is over."""
        self.purge()
        self.counters.dropped += len(self.unacked)
        self.unacked.clear()
        for subscriber in self.subscribers:
            subscriber.release()
        self.subscribers.clear()
        self.stop_timers()

    def stop_timers(self) -> None:
        """Let nothing expire any more."""
        for timer in (self._expiry, self._idle):
            if timer is not None:
                timer.cancel()
        self._expiry = self._idle = None

    # -- consumers

    def join(self, subscriber: Subscriber) -> None:
        """Add a consumer, last in turn."""
        self.subscribers.append(subscriber)
        self.touch()
        self.pump()

    def part(self, subscriber: Subscriber) -> None:
        """Remove a consumer."""
        self.subscribers.remove(subscriber)
        self.touch()

    def touch(self) -> None:
        """Count the time without use from now, if nobody consumes."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self.options.expires_ms is not None and not self.subscribers:
            due = self._clock.now_ns() + self.options.expires_ms * _MS
            self._idle = self._clock.call_at_ns(due, self._on_unused, self)

    def _next(self) -> Subscriber | None:
        subscribers = self.subscribers
        if len(subscribers) == 1:
            return subscribers[0] if subscribers[0].may_take() else None
        for _ in range(len(subscribers)):
            subscriber = subscribers[0]
            subscribers.rotate(-1)
            if subscriber.may_take():
                return subscriber
        return None

    # -- order and time

    def _place(self, message: Message) -> None:
        ready, sequence = self.ready, message.sequence
        older: list[Message] = []
        while ready and next(iter(ready)) < sequence:
            older.append(ready.popitem(last=False)[1])
        older.append(message)
        for item in reversed(older):
            ready[item.sequence] = item
            ready.move_to_end(item.sequence, last=False)

    def _watch(self, messages: Iterable[Message]) -> None:
        # Only messages that have to wait cost a deadline: most never do.
        for message in messages:
            if message.expires_at is not None and message.sequence in self.ready:
                entry = (message.expires_at, message.sequence)
                heapq.heappush(self._deadlines, entry)
        if len(self._deadlines) > 2 * len(self.ready) + 64:
            self._deadlines = [
                (message.expires_at, message.sequence)
                for message in self.ready.values()
                if message.expires_at is not None
            ]
            heapq.heapify(self._deadlines)
        self._arm()

    def _arm(self) -> None:
        if not self._deadlines:
            return
        due = self._deadlines[0][0]
        if self._expiry is not None:
            if self._expiry.when_ns <= due:
                return
            self._expiry.cancel()
        self._expiry = self._clock.call_at_ns(due, self._expire)

    def _expire(self, _: object) -> None:
        self._expiry = None
        now = self._clock.now_ns()
        while self._deadlines and self._deadlines[0][0] <= now:
            _due, sequence = heapq.heappop(self._deadlines)
            if self.ready.pop(sequence, None) is not None:
                self.counters.expired += 1
        while self._deadlines and self._deadlines[0][1] not in self.ready:
            heapq.heappop(self._deadlines)
        self._arm()

    def _relax(self) -> None:
        # A run whose queues are empty must not be kept awake by their timers.
        if self._expiry is not None and not self.ready:
            self._expiry.cancel()
            self._expiry = None
            self._deadlines.clear()


def _sequence(message: Message) -> int:
    return message.sequence
