"""What any `Broker` client must do, with the broker behind it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from rpcsim.conformance._checking import araises, expect
from rpcsim.errors import RpcError
from rpcsim.ports import MessageInfo, QueueOptions, current

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rpcsim.conformance._checking import Make
    from rpcsim.ports import Broker, Delivery, Machine, Ports

    # Starts the broker on a machine, and gives what opens a connection of its own for
    # the host of some ports.
    Serve: TypeAlias = Callable[[Machine], Callable[[Ports], Awaitable[Broker]]]
    BrokerCheck: TypeAlias = Callable[[Make, Serve], None]

__all__ = ["BROKER", "check_broker"]

SHARED: Final = QueueOptions()
OWN: Final = QueueOptions(durable=False, exclusive=True)
INFO: Final = MessageInfo(
    system="agent", kind="request", method="Dog.bark", call_id="1", src="test"
)


def check_broker(make: Make, serve: Serve) -> None:
    """Check a broker and its client: queues, confirms, acknowledgements, the end.

    Args:
        make: Gives a fresh machine.
        serve: Starts the broker on a machine, and gives a function that opens a new
            connection to it for the host of some `Ports`.
    """
    for check in BROKER:
        check(make, serve)


class Inbox:
    """What a consumer was handed, in order."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.lost: list[BaseException] = []
        self._news = asyncio.Event()

    def take(self, delivery: Delivery) -> None:
        """Keep it."""
        self.deliveries.append(delivery)
        self._news.set()

    def on_lost(self, error: BaseException) -> None:
        """Keep why there will be no more."""
        self.lost.append(error)
        self._news.set()

    @property
    def bodies(self) -> list[bytes]:
        """What came so far."""
        return [delivery.body for delivery in self.deliveries]

    async def until(self, condition: Callable[[], object], told: str) -> None:
        """Wait until something came; fail after ten seconds."""
        try:
            async with asyncio.timeout(10):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(
                f"{told}; it never came (bodies: {self.bodies}, lost: {self.lost})"
            ) from None

    async def read(self, count: int) -> list[Delivery]:
        """Wait for so many messages in all; gives them."""
        await self.until(
            lambda: len(self.deliveries) >= count, f"{count} messages are due"
        )
        return self.deliveries


def _run(
    make: Make, serve: Serve, story: Callable[[Broker, Broker], Awaitable[Any]]
) -> None:
    """Run a story with two connections to a fresh broker."""
    with make() as machine:
        connect = serve(machine)

        async def main() -> None:
            one, two = await connect(current()), await connect(current())
            try:
                await story(one, two)
            finally:
                await one.close()
                await two.close()

        machine.run(main)


async def _quiet() -> None:
    """Give what must not come the time to come."""
    await current().clock.sleep("20ms")


def messages_arrive_in_order(make: Make, serve: Serve) -> None:
    """Published and posted ones alike, those from before the consumer too."""

    async def story(one: Broker, two: Broker) -> None:
        inbox = Inbox()
        await one.declare("q", SHARED)
        await one.publish("q", b"0", info=INFO)
        await one.post("q", b"1", info=INFO)
        consumer = await two.consume("q", inbox.take)
        expect(consumer.queue == "q", f"the consumer is of queue {consumer.queue!r}")
        for n in range(2, 6):
            await one.post("q", str(n).encode(), info=INFO)
        await inbox.read(6)
        expect(inbox.bodies == [b"0", b"1", b"2", b"3", b"4", b"5"], f"{inbox.bodies}")
        first = inbox.deliveries[0]
        expect(first.queue == "q", f"a delivery of queue {first.queue!r}")
        expect(not first.redelivered, "the first delivery is marked as redelivered")
        tags = [delivery.tag for delivery in inbox.deliveries]
        expect(len(set(tags)) == 6, f"two deliveries have one tag: {tags}")

    _run(make, serve, story)


def nobody_takes_it(make: Make, serve: Serve) -> None:
    """`publish` raises `LookupError`; a posted message's sender is told of it."""

    async def story(one: Broker, two: Broker) -> None:
        await araises(
            LookupError, one.publish("nobody", b"a", info=INFO), "no queue takes it"
        )
        inbox = Inbox()
        await one.post("nobody", b"a", info=INFO, on_refused=inbox.on_lost)
        await inbox.until(lambda: inbox.lost, "on_refused is due")
        expect(isinstance(inbox.lost[0], LookupError), f"it was told {inbox.lost[0]!r}")
        await one.declare("q", SHARED)
        await one.publish("q", b"fine", info=INFO)

    _run(make, serve, story)


def declaring_again_is_nothing_new(make: Make, serve: Serve) -> None:
    """With equal options; others are refused, and the connection goes on."""

    async def story(one: Broker, two: Broker) -> None:
        await one.declare("q", SHARED)
        await two.declare("q", SHARED)
        await araises(
            RpcError,
            two.declare("q", QueueOptions(auto_delete=True)),
            "the queue has other options",
        )
        await two.publish("q", b"a", info=INFO)

    _run(make, serve, story)


def acknowledged_messages_are_done(make: Make, serve: Serve) -> None:
    """What was not acknowledged comes again, marked, when its connection ends."""

    async def story(one: Broker, two: Broker) -> None:
        first, second = Inbox(), Inbox()
        await one.declare("q", SHARED)
        for body in (b"a", b"b", b"c"):
            await one.publish("q", body, info=INFO)
        await two.consume("q", first.take)
        deliveries = await first.read(3)
        deliveries[1].ack()
        # The acknowledgement is on its way before the end of the connection is.
        await two.close()
        await one.consume("q", second.take)
        again = await second.read(2)
        await _quiet()
        expect(second.bodies == [b"a", b"c"], f"after the end came {second.bodies}")
        expect(all(d.redelivered for d in again), "they are not marked as redelivered")

    _run(make, serve, story)


def given_back_it_comes_first(make: Make, serve: Serve) -> None:
    """`requeue` puts it at the head of its queue, marked as redelivered."""

    async def story(one: Broker, two: Broker) -> None:
        inbox = Inbox()
        await one.declare("q", SHARED)
        await one.publish("q", b"a", info=INFO)
        await one.publish("q", b"b", info=INFO)
        await two.consume("q", inbox.take, prefetch=1)
        (await inbox.read(1))[0].requeue()
        again = (await inbox.read(2))[1]
        expect(again.body == b"a", f"after requeue() came {again.body!r}")
        expect(again.redelivered, "it is not marked as redelivered")
        again.ack()
        expect((await inbox.read(3))[2].body == b"b", f"then came {inbox.bodies}")

    _run(make, serve, story)


def prefetch_is_kept(make: Make, serve: Serve) -> None:
    """No more than so many are delivered and not acknowledged."""

    async def story(one: Broker, two: Broker) -> None:
        inbox = Inbox()
        await one.declare("q", SHARED)
        for n in range(5):
            await one.publish("q", str(n).encode(), info=INFO)
        await two.consume("q", inbox.take, prefetch=2)
        await inbox.read(2)
        await _quiet()
        expect(len(inbox.deliveries) == 2, f"prefetch=2, and there came {inbox.bodies}")
        inbox.deliveries[0].ack()
        await inbox.read(3)
        await _quiet()
        expect(len(inbox.deliveries) == 3, f"one was done, and now came {inbox.bodies}")

    _run(make, serve, story)


def delivered_counts_as_done(make: Make, serve: Serve) -> None:
    """With `auto_ack` nothing comes again."""

    async def story(one: Broker, two: Broker) -> None:
        first, second = Inbox(), Inbox()
        await one.declare("q", SHARED)
        await one.publish("q", b"a", info=INFO)
        await two.consume("q", first.take, auto_ack=True)
        await first.read(1)
        await two.close()
        await one.consume("q", second.take)
        await _quiet()
        expect(second.bodies == [], f"delivered before, and again: {second.bodies}")

    _run(make, serve, story)


def time_to_live_is_kept(make: Make, serve: Serve) -> None:
    """A message that waited too long is gone; one in time tells what is left."""

    async def story(one: Broker, two: Broker) -> None:
        inbox = Inbox()
        await one.declare("q", SHARED)
        await one.publish("q", b"short", ttl_ms=10, info=INFO)
        await one.publish("q", b"long", ttl_ms=60_000, info=INFO)
        await one.publish("q", b"for ever", info=INFO)
        await current().clock.sleep("50ms")
        await two.consume("q", inbox.take)
        await inbox.read(2)
        expect(inbox.bodies == [b"long", b"for ever"], f"there came {inbox.bodies}")
        left = inbox.deliveries[0].ttl_ms
        expect(left is not None and 0 < left < 60_000, f"of 60 s are left {left} ms")
        expect(inbox.deliveries[1].ttl_ms is None, "no limit became one")

    _run(make, serve, story)


def a_cancelled_consumer_gets_nothing(make: Make, serve: Serve) -> None:
    """What it had not acknowledged goes to others; cancelling twice is nothing."""

    async def story(one: Broker, two: Broker) -> None:
        first, second = Inbox(), Inbox()
        await one.declare("q", SHARED)
        consumer = await two.consume("q", first.take)
        await consumer.cancel()
        await consumer.cancel()
        await one.publish("q", b"a", info=INFO)
        await _quiet()
        expect(first.bodies == [], f"a cancelled consumer was handed {first.bodies}")
        await one.consume("q", second.take)
        await second.read(1)

    _run(make, serve, story)


def consumers_share_a_queue(make: Make, serve: Serve) -> None:
    """Each message goes to one of them, and with `prefetch` none starves."""

    async def story(one: Broker, two: Broker) -> None:
        left, right = Inbox(), Inbox()
        await one.declare("q", SHARED)
        await one.consume("q", left.take, prefetch=2)
        await two.consume("q", right.take, prefetch=2)
        for n in range(4):
            await one.publish("q", str(n).encode(), info=INFO)
        await left.read(2)
        await right.read(2)
        bodies = sorted(left.bodies + right.bodies)
        expect(bodies == [b"0", b"1", b"2", b"3"], f"there came {bodies}")

    _run(make, serve, story)


def an_exclusive_queue_is_its_connections(make: Make, serve: Serve) -> None:
    """Nobody else may use it, and it is gone with its connection."""

    async def story(one: Broker, two: Broker) -> None:
        await one.declare("mine", OWN)
        await araises(
            RpcError, two.consume("mine", Inbox().take), "the queue is another's"
        )
        await two.publish("mine", b"anybody may send", info=INFO)
        await one.close()
        await araises(
            LookupError,
            two.publish("mine", b"a", info=INFO),
            "the queue went with its connection",
        )

    _run(make, serve, story)


def a_deleted_queue_tells_its_consumers(make: Make, serve: Serve) -> None:
    """`on_lost` with a `LookupError`; deleting what is not there is no error."""

    async def story(one: Broker, two: Broker) -> None:
        inbox = Inbox()
        await one.declare("q", SHARED)
        await two.consume("q", inbox.take, on_lost=inbox.on_lost)
        await one.delete("q")
        await one.delete("q")
        await inbox.until(lambda: inbox.lost, "on_lost is due")
        error = inbox.lost[0]
        expect(isinstance(error, LookupError), f"it was told {error!r}")

    _run(make, serve, story)


def a_closed_connection_sends_nothing(make: Make, serve: Serve) -> None:
    """Requests raise `Disconnected`; settling late, and closing twice, do nothing."""

    async def story(one: Broker, two: Broker) -> None:
        inbox = Inbox()
        await one.declare("q", SHARED)
        await one.publish("q", b"a", info=INFO)
        await two.consume("q", inbox.take)
        (delivery,) = await inbox.read(1)
        await two.close()
        await two.close()
        delivery.ack()
        delivery.requeue()
        for request in (
            two.declare("q", SHARED),
            two.publish("q", b"b", info=INFO),
            two.post("q", b"b", info=INFO),
            two.consume("q", inbox.take),
            two.delete("q"),
        ):
            await araises(ConnectionError, request, "the connection is closed")

    _run(make, serve, story)


def a_crashed_broker_is_a_lost_connection(make: Make, serve: Serve) -> None:
    """Every consumer is told once; requests raise `Disconnected`."""
    with make() as machine:
        connect = serve(machine)
        host = machine.hosts[0]

        async def main() -> None:
            broker, inbox = await connect(current()), Inbox()
            await broker.declare("q", SHARED)
            await broker.consume("q", inbox.take, on_lost=inbox.on_lost)
            host.crash("process")
            await inbox.until(lambda: inbox.lost, "on_lost is due")
            await araises(
                ConnectionError,
                broker.publish("q", b"a", info=INFO),
                "the broker is down",
            )
            await _quiet()
            expect(len(inbox.lost) == 1, f"on_lost was called with {inbox.lost}")
            error = inbox.lost[0]
            expect(isinstance(error, ConnectionError), f"it was told {error!r}")
            await broker.close()

        machine.run(main)


def messages_tell_what_they_mean(make: Make, serve: Serve) -> None:
    """A publish is one message to rules and traces, under the host that made it."""
    with make() as machine:
        connect = serve(machine)

        async def main() -> None:
            broker = await connect(current())
            await broker.declare("q", SHARED)
            await broker.publish("q", b"a", info=INFO)
            await broker.close()

        machine.run(main)
        records = machine.trace.of_kind("call.request")
        told = [(record.host, record.get("method")) for record in records]
        expect(told == [("test", "Dog.bark")], f"the trace has {told}")


BROKER: Final[tuple[BrokerCheck, ...]] = (
    messages_arrive_in_order,
    nobody_takes_it,
    declaring_again_is_nothing_new,
    acknowledged_messages_are_done,
    given_back_it_comes_first,
    prefetch_is_kept,
    delivered_counts_as_done,
    time_to_live_is_kept,
    a_cancelled_consumer_gets_nothing,
    consumers_share_a_queue,
    an_exclusive_queue_is_its_connections,
    a_deleted_queue_tells_its_consumers,
    a_closed_connection_sends_nothing,
    a_crashed_broker_is_a_lost_connection,
    messages_tell_what_they_mean,
)
