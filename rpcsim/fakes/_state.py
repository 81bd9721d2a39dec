"""The broker engine's values: its limits, its refusals, and pictures of its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rpcsim.errors import RpcSimError
from rpcsim.wire import frames

if TYPE_CHECKING:
    from rpcsim.fakes._queue import ConsumerKey, Counters
    from rpcsim.ports import QueueOptions

__all__ = [
    "BrokerLimits",
    "BrokerState",
    "KeptMessage",
    "KeptQueue",
    "QueueState",
    "Refusal",
]


class Refusal(RpcSimError):
    """The engine will not do what was asked.

    Attributes:
        code: The reply code of AMQP that says why.
        text: The same for a person, naming the queue and the next thing to try.
    """

    def __init__(self, code: frames.Code, text: str) -> None:
        super().__init__(f"{int(code)} {text}")
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLimits:
    """What the broker takes at most; more is refused, nothing accepted is lost.

    Attributes:
        message_bytes: Longest body.
        queue_length: Most messages in one queue, unacknowledged ones included.
        queues: Most queues.
    """

    message_bytes: int = frames.FRAME_LIMIT - frames.MESSAGE_ROOM
    queue_length: int = 100_000
    queues: int = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """One queue as `snapshot` saw it.

    Attributes:
        name: Its name.
        options: As declared.
        owner: Name of the session it belongs to; `None` if it is not exclusive.
        ready: Bodies of the waiting messages, head first.
        unacked: Bodies of the delivered ones, by the order of publishing.
        consumers: (session name, consumer key, its unacknowledged count) triples in
            consume order.
        counters: What became of its messages.
    """

    name: str
    options: QueueOptions
    owner: str | None
    ready: tuple[bytes, ...]
    unacked: tuple[bytes, ...]
    consumers: tuple[tuple[str, ConsumerKey, int], ...]
    counters: Counters


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerState:
    """The whole engine as `snapshot` saw it.

    Attributes:
        queues: Name to queue, in declare order.
        sessions: Names of the open sessions, in connect order.
        bindings: (exchange, key, queue) triples of the named exchanges.
        counters: What became of all messages, those of removed queues included.
        refused: Requests that were refused, publishes included.
    """

    queues: dict[str, QueueState]
    sessions: tuple[str, ...]
    bindings: tuple[tuple[str, str, str], ...]
    counters: Counters
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptMessage:
    """A message that survives a restart.

    Attributes:
        body: The message.
        expires_ns: When its time to live ends, on the clock's monotonic time.
        redelivered: Whether it may have been seen by a consumer.
    """

    body: bytes
    expires_ns: int | None = None
    redelivered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptQueue:
    """A durable queue that survives a restart.

    Attributes:
        name: Its name.
        options: As declared.
        bindings: (exchange, key) pairs that lead to it.
        messages: What it holds, head first.
    """

    name: str
    options: QueueOptions
    bindings: tuple[tuple[str, str], ...]
    messages: tuple[KeptMessage, ...]
