"""What agents and proxies may ask of a message broker (gofer.md section 17)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rpcsim.ports._network import MessageInfo

__all__ = ["Broker", "Consumer", "Delivery", "QueueOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """How a queue is declared; declaring it again otherwise is refused.

    Attributes:
        durable: Survives a restart of the broker, with its persistent messages.
        exclusive: Usable by the declaring connection only; gone with it.
        auto_delete: Gone when its last consumer leaves.
        expires_ms: Gone after this long without use; `None` for never.
    """

    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    expires_ms: int | None = None


class Delivery(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One message handed to a consumer; a struct, as every message makes one.

    Attributes:
        queue: Where it came from.
        body: The message.
        tag: Number of this delivery on its connection.
        redelivered: Whether it was delivered before and not acknowledged.
        ttl_ms: What is left of its time to live; `None` for no limit.
        settle: How it is acknowledged (`True`) or given back (`False`).
    """

    queue: str
    body: bytes
    tag: int
    redelivered: bool = False
    ttl_ms: int | None = None
    settle: Callable[[bool], None]

    def ack(self) -> None:
        """Say that it is done; the broker forgets it."""
        self.settle(True)

    def requeue(self) -> None:
        """Give it back: it goes to the head of its queue, marked redelivered."""
        self.settle(False)


class Consumer(Protocol):
    """A running subscription to one queue."""

    @property
    def queue(self) -> str:
        """The queue's name."""

    async def cancel(self) -> None:
        """Take no more messages; unacknowledged ones go back to the queue."""


class Broker(Protocol):
    """A connection to a broker. Addresses are `queue` or `exchange/queue`."""

    async def declare(self, queue: str, options: QueueOptions) -> None:
        """Make a queue, or do nothing if it exists with the same options."""

    async def delete(self, queue: str) -> None:
        """Remove a queue and what is in it; one that is not there is no error."""

    async def publish(
        self,
        address: str,
        body: bytes,
        *,
        ttl_ms: int | None = None,
        info: MessageInfo,
    ) -> None:
        """Send a persistent message and wait for the broker's confirm.

        Args:
            address: Where to.
            body: The message.
            ttl_ms: How long it may wait to be delivered; `None` for ever.
            info: What it means, for rules and traces.

        Raises:
            LookupError: No queue takes it (`agents` shows this as `NotFound`).
            Disconnected: The broker is gone; the message may or may not be queued.
        """

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

        For messages whose answer is the confirm, or that the receiver can do without.

        Args:
            address: Where to.
            body: The message.
            ttl_ms: How long it may wait to be delivered; `None` for ever.
            info: What it means, for rules and traces.
            on_refused: Called with what `publish` would have raised, if the broker
                does not take it.

        Raises:
            Disconnected: The broker is gone; the message was not handed over.
        """

    async def consume(
        self,
        queue: str,
        on_message: Callable[[Delivery], Any],
        *,
        prefetch: int = 0,
        auto_ack: bool = False,
        on_lost: Callable[[BaseException], Awaitable[None] | None] | None = None,
    ) -> Consumer:
        """Have messages of a queue handed to `on_message`, one call each, in order.

        Args:
            queue: An existing queue.
            on_message: Called from the connection; must not block.
            prefetch: Most messages delivered and unacknowledged; 0 for no limit.
            auto_ack: Whether a message counts as done when it is delivered; for
                queues that end with their reader anyway.
            on_lost: Called once when the connection is lost with this running.
        """

    async def close(self) -> None:
        """Close the connection; unacknowledged messages go back to their queues."""
