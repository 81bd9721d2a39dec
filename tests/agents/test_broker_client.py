from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.agents._broker import (
    BrokerFull,
    BrokerRefused,
    NativeBroker,
    Unroutable,
    broker_for,
)
from rpcsim.errors import (
    Disconnected,
    LimitExceeded,
    LocalProtocolError,
    RemoteProtocolError,
)
from rpcsim.fakes import BrokerLimits, BrokerServer
from rpcsim.ports import MessageInfo, QueueOptions, current
from rpcsim.real import Runtime
from rpcsim.sim import Sim
from rpcsim.wire import frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpcsim.ports import Broker, Delivery, Machine, Ports, Transport

URL = "rpcsim://broker:5670"
INFO = MessageInfo(system="agent", kind="request", method="Dog.bark", call_id="1")
SHARED = QueueOptions()


@pytest.fixture
def sim() -> Iterator[Sim]:
    with Sim(seed=5) as sim:
        yield sim


@pytest.fixture
def server(sim: Sim) -> BrokerServer:
    server = BrokerServer(limits=BrokerLimits(message_bytes=1000, queue_length=3))
    sim.host("broker", lambda: server, background=True)
    return server


@pytest.fixture(params=[Sim, Runtime])
def world(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with request.param(seed=5) as world:
        yield world


@pytest.fixture
def broker(world: Machine) -> BrokerServer:
    """A broker on host `broker`, in either machine."""
    server = BrokerServer(limits=BrokerLimits(message_bytes=1000, queue_length=3))
    host = world.host("broker", lambda: server, background=True)
    world.bridge.wait(host.wait_started())
    return server


class Inbox:
    """What a consumer was handed."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.lost: list[BaseException] = []
        self._news = asyncio.Event()

    def take(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._news.set()

    def on_lost(self, error: BaseException) -> None:
        self.lost.append(error)
        self._news.set()

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]

    async def until(self, count: int) -> list[Delivery]:
        while len(self.deliveries) < count and not self.lost:
            self._news.clear()
            await self._news.wait()
        return self.deliveries


async def mine() -> Broker:
    return await broker_for(current(), URL)


# -- the port


def test_messages_go_through_a_queue_and_are_settled(
    sim: Sim, server: BrokerServer
) -> None:
    """Declare, consume, publish, acknowledge, give back: one round of everything."""

    async def main() -> None:
        broker, inbox = await mine(), Inbox()
        await broker.declare("jortel", SHARED)
        await broker.declare("jortel", SHARED)
        await broker.publish("jortel", b"a", ttl_ms=5000, info=INFO)
        await broker.publish("jortel", b"b", info=INFO)
        await current().clock.sleep(1)
        consumer = await broker.consume("jortel", inbox.take, prefetch=1)
        assert consumer.queue == "jortel"
        (first,) = await inbox.until(1)
        assert (first.queue, first.body, first.tag) == ("jortel", b"a", 1)
        assert (first.redelivered, first.ttl_ms) == (False, 4000)
        first.requeue()
        again = (await inbox.until(2))[1]
        assert (again.body, again.redelivered) == (b"a", True)
        again.ack()
        assert (await inbox.until(3))[2].body == b"b"
        await consumer.cancel()
        await consumer.cancel()
        state = server.engine.snapshot()
        assert state.queues["jortel"].ready == (b"b",)
        assert state.counters.acknowledged == 1
        await broker.delete("jortel")
        await broker.delete("jortel")
        assert server.engine.snapshot().queues == {}

    sim.run(main)


def test_refusals_name_broker_request_and_reason(
    world: Machine, broker: BrokerServer
) -> None:
    """Each refusal is an error of a class one can handle, and the connection goes on."""

    async def main() -> None:
        client = await mine()
        with pytest.raises(Unroutable) as caught:
            await client.publish("nobody", b"a", info=INFO)
        assert caught.value.code == 312
        assert isinstance(caught.value, LookupError)
        assert str(caught.value).startswith(
            "the broker at broker:5670 refused to publish to 'nobody': no queue takes"
        )
        with pytest.raises(Unroutable, match=r"no exchange 'ex'.*404"):
            await client.publish("ex/q", b"a", info=INFO)
        with pytest.raises(Unroutable, match=r"consume from queue 'nobody'.*404"):
            await client.consume("nobody", print)
        await client.declare("q", SHARED)
        with pytest.raises(BrokerRefused, match=r"declare queue 'q'.*406"):
            await client.declare("q", QueueOptions(durable=False))
        with pytest.raises(BrokerFull, match="over the limit of 1000"):
            await client.publish("q", b"x" * 1001, info=INFO)
        for _ in range(3):
            await client.publish("q", b"x", info=INFO)
        with pytest.raises(LimitExceeded, match="queue 'q' is full"):
            await client.publish("q", b"x", info=INFO)
        assert len(broker.engine.snapshot().queues["q"].ready) == 3

    world.run(main)


def test_what_cannot_be_sent_is_our_own_error(
    world: Machine, broker: BrokerServer
) -> None:
    """A bad argument never reaches the broker, which would close on everybody."""

    async def main() -> None:
        client = await mine()
        for name in ("", "x" * 256, "\ud800"):
            with pytest.raises(LocalProtocolError):
                await client.declare(name, SHARED)
        for ttl in (-1, 1 << 60, 1.5, True):
            with pytest.raises(LocalProtocolError, match="ttl_ms is a whole number"):
                await client.publish("q", b"", ttl_ms=ttl, info=INFO)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(LimitExceeded, match="over the limit of 1048576"):
            await client.publish("q", b"x" * (1 << 20), info=INFO)
        await client.declare("x" * 255, SHARED)

    world.run(main)


def test_publishes_tell_what_they_mean(sim: Sim, server: BrokerServer) -> None:
    """Only publishes are messages to rules and traces; the rest is plain bytes."""
    told: list[MessageInfo] = []

    async def main() -> None:
        broker = await NativeBroker.open(current(), ("broker", 5670))
        transport = broker._transport
        before = transport.write_message

        def write_message(frame: bytes, info: MessageInfo) -> bool:
            told.append(info)
            return before(frame, info)

        broker._transport = _Telling(transport, write_message)
        await broker.declare("q", SHARED)
        await broker.publish("q", b"a", info=INFO)
        await broker.close()

    sim.run(main)
    assert told == [INFO]


class _Telling:
    """A transport with another `write_message`."""

    def __init__(self, transport: Transport, write_message: Any) -> None:
        self._transport = transport
        self.write_message = write_message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def test_answers_find_their_callers_in_any_order(
    world: Machine, broker: BrokerServer
) -> None:
    """Requests in flight together each get their own answer."""

    async def main() -> None:
        client = await mine()
        await client.declare("q", SHARED)
        results = await asyncio.gather(
            client.publish("nobody", b"a", info=INFO),
            client.publish("q", b"b", info=INFO),
            client.declare("q", QueueOptions(auto_delete=True)),
            client.publish("q", b"c", info=INFO),
            return_exceptions=True,
        )
        kinds = [type(result).__name__ for result in results]
        assert kinds == ["Unroutable", "NoneType", "BrokerRefused", "NoneType"]
        assert broker.engine.snapshot().queues["q"].ready == (b"b", b"c")

    world.run(main)


def test_a_cancelled_consume_leaves_no_consumer_behind(
    world: Machine, broker: BrokerServer
) -> None:
    """Giving up while the request is on its way must not swallow messages."""

    async def main() -> None:
        client, inbox = await mine(), Inbox()
        await client.declare("q", SHARED)
        await client.publish("q", b"a", info=INFO)
        task = asyncio.create_task(_consume(client, "q", inbox))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.declare("q", SHARED)
        queue = broker.engine.snapshot().queues["q"]
        assert queue.consumers == ()
        assert queue.ready == (b"a",)

    world.run(main)


async def _consume(broker: Broker, queue: str, inbox: Inbox) -> None:
    await broker.consume(queue, inbox.take)


def test_a_consumer_that_raises_disturbs_nobody(sim: Sim, server: BrokerServer) -> None:
    """Its error goes to the loop's handler; its message stays unacknowledged."""
    told: list[dict[str, Any]] = []

    def bad(delivery: Delivery) -> None:
        raise ZeroDivisionError(delivery.queue)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: told.append(context))
        broker, inbox = await mine(), Inbox()
        for name in ("bad", "good"):
            await broker.declare(name, SHARED)
        await broker.consume("bad", bad)
        await broker.consume("good", inbox.take)
        await broker.publish("bad", b"a", info=INFO)
        await broker.publish("good", b"b", info=INFO)
        await inbox.until(1)
        assert len(server.engine.snapshot().queues["bad"].unacked) == 1

    sim.run(main)
    assert [str(context["exception"]) for context in told] == ["bad"]
    assert told[0]["message"] == "a consumer of queue 'bad' raised"


# -- the end of a connection


def test_losing_the_broker_fails_what_is_pending_and_tells_consumers(
    sim: Sim,
) -> None:
    """Every request and consumer learns of it once, with the address in the text."""

    sim.host("broker", BrokerServer, background=True)

    async def main() -> None:
        broker, inbox, later = await mine(), Inbox(), []
        await broker.declare("q", SHARED)
        await broker.consume("q", inbox.take, on_lost=inbox.on_lost)

        async def on_lost(error: BaseException) -> None:
            await asyncio.sleep(0)
            later.append(error)

        await broker.consume("q", inbox.take, on_lost=on_lost)
        sim.by_name["broker"].crash("process")
        with pytest.raises(Disconnected) as caught:
            await broker.publish("q", b"a", info=INFO)
        text = str(caught.value)
        assert "host 'test' to the broker at broker:5670 is over" in text
        await inbox.until(1)
        await current().clock.sleep(1)
        assert [type(error) for error in inbox.lost + later] == [Disconnected] * 2
        with pytest.raises(Disconnected, match="could not declare queue 'q'"):
            await broker.declare("q", SHARED)
        with pytest.raises(Disconnected, match="no broker at broker:5670"):
            await mine()
        sim.by_name["broker"].restart()
        await sim.by_name["broker"].wait_started()
        assert await mine() is not broker
        assert len(inbox.lost) == 1

    sim.run(main)


def test_settling_after_the_end_is_harmless(
    world: Machine, broker: BrokerServer
) -> None:
    """The message went back with the connection; a late ack has nothing to say."""

    async def main() -> None:
        client = await NativeBroker.open(current(), ("broker", 5670))
        inbox = Inbox()
        await client.declare("q", SHARED)
        await client.publish("q", b"a", info=INFO)
        await client.consume("q", inbox.take, on_lost=inbox.on_lost)
        (delivery,) = await inbox.until(1)
        await client.close()
        await client.close()
        delivery.ack()
        again = Inbox()
        await (await mine()).consume("q", again.take)
        (delivery,) = await again.until(1)
        assert (delivery.body, delivery.redelivered) == (b"a", True)
        assert inbox.lost == []
        assert client.closed
        assert repr(client) == (
            "<NativeBroker broker:5670 ended: it was closed at this side, 0 consumers>"
        )

    world.run(main)


def test_a_queue_removed_by_another_ends_its_consumers(
    world: Machine, broker: BrokerServer
) -> None:
    """Nobody waits for ever on a queue that is gone."""

    async def main() -> None:
        client, inbox = await mine(), Inbox()
        await client.declare("q", SHARED)
        consumer = await client.consume("q", inbox.take, on_lost=inbox.on_lost)
        other = await NativeBroker.open(current(), ("broker", 5670))
        await other.delete("q")
        await inbox.until(1)
        assert isinstance(inbox.lost[0], Unroutable)
        assert "queue 'q' was deleted" in str(inbox.lost[0])
        await consumer.cancel()
        await other.close()

    world.run(main)


# -- connecting


def test_nobody_there_says_how_to_start_one(sim: Sim) -> None:
    """The text names host, address and the next step; the cause is kept."""
    sim.host("broker")

    async def main() -> None:
        with pytest.raises(Disconnected) as caught:
            await mine()
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)
        assert "host 'test' has no broker at broker:5670: " in str(caught.value)
        assert "rpcsim.simulate() as world: world.agent(...)" in str(caught.value)
        with pytest.raises(Disconnected, match="no broker at nowhere:5670"):
            await broker_for(current(), "rpcsim://nowhere")

    sim.run(main)
    assert sim.ports.resources._things == {}


class Stranger(asyncio.Protocol):
    """A server that is no broker: says something, or nothing."""

    def __init__(self, greeting: bytes, *, then_close: bool = False) -> None:
        self._greeting = greeting
        self._then_close = then_close

    def connection_made(self, transport: Any) -> None:
        transport.write(self._greeting)
        if self._then_close:
            transport.close()


@pytest.mark.parametrize(
    ("greeting", "then_close", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "expected a hello.*HTTP/1.1 400"),
        (b"", False, "it said nothing for 10 s"),
        (b"", True, "the broker closed it"),
        (b"\x00\x00\x00\x20", True, "ended inside frame 1, after 4 bytes"),
        (
            frames.encode_frame(frames.Hello(frames.PROTOCOL, 2, 1)),
            False,
            "the peer speaks 'rpcsim-broker' version 2",
        ),
    ],
)
def test_a_server_that_is_no_broker_is_told_apart(
    sim: Sim, greeting: bytes, then_close: bool, text: str
) -> None:
    """No hang and no riddle: the error says what was expected and what came."""

    async def stranger() -> None:
        await current().network.listen(
            lambda: Stranger(greeting, then_close=then_close), ("", 5670)
        )

    sim.host("broker", stranger, background=True)

    async def main() -> None:
        with pytest.raises(Disconnected, match=text):
            await mine()

    sim.run(main)


def test_a_broker_that_turns_to_noise_is_left(sim: Sim) -> None:
    """A protocol error ends the connection and is the cause of what callers see."""

    class Mad(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            hello = frames.Hello(frames.PROTOCOL, frames.VERSION, 5000)
            transport.write(frames.encode_frame(hello))
            self.heard = 0

        def data_received(self, data: bytes) -> None:
            self.heard += len(data)
            if self.heard > 60:
                self.transport.write(b"\x00\x00\x20\x00")

    async def mad() -> None:
        await current().network.listen(Mad, ("", 5670))

    sim.host("broker", mad, background=True)

    async def main() -> None:
        broker = await mine()
        with pytest.raises(LimitExceeded, match="over the limit of 5000"):
            await broker.publish("q", b"x" * 5000, info=INFO)
        with pytest.raises(Disconnected, match="over the limit of 5000") as caught:
            await broker.publish("q", b"x" * 50, info=INFO)
        assert isinstance(caught.value.__cause__, RemoteProtocolError)

    sim.run(main)


# -- one connection per host and URL


def test_everybody_on_a_host_shares_one_connection(
    sim: Sim, server: BrokerServer
) -> None:
    """First users at the same time share one connect, later ones the connection."""

    async def main() -> None:
        brokers = await asyncio.gather(
            mine(), broker_for(current(), "rpcsim://broker"), mine()
        )
        assert {id(one) for one in brokers} == {id(await mine())}
        assert server.engine.snapshot().sessions == (
            "connection 1 from 10.0.0.1:49152",
        )

    sim.run(main)


def test_a_failed_connect_is_everybodys_and_forgotten(sim: Sim) -> None:
    """Each waiter gets an error of its own; the next one tries again."""
    host = sim.host("broker")

    async def main() -> None:
        errors = await asyncio.gather(mine(), mine(), return_exceptions=True)
        assert [type(error) for error in errors] == [Disconnected] * 2
        assert errors[0] is not errors[1]
        server = BrokerServer()
        assert host.ports.host == "broker"
        with pytest.raises(Disconnected):
            await mine()
        await server.start()
        await broker_for(current(), "rpcsim://test")
        await server.stop()

    sim.run(main)


def test_whoever_leaves_early_takes_nothing_from_the_others(
    sim: Sim, server: BrokerServer
) -> None:
    """The first user's cancelling leaves the connect to those who still wait."""
    sim.net.link("test", "broker", latency="10ms")

    async def main() -> None:
        first, second = (asyncio.create_task(_get()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert not (await second).closed
        assert first.cancelled()

    async def _get() -> NativeBroker:
        broker = await mine()
        assert isinstance(broker, NativeBroker)
        return broker

    sim.run(main)


def test_when_all_leave_the_connect_is_given_up(sim: Sim, server: BrokerServer) -> None:
    """A connect nobody waits for does not stay behind; the next one starts afresh."""
    cut = sim.net.partition("test", "broker")

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await mine()
        assert current().resources._things == {}
        await asyncio.sleep(0)
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert not any("open broker" in name for name in names)
        cut.undo()
        await mine()

    sim.run(main)


def test_the_end_of_the_host_closes_the_connection(
    sim: Sim, server: BrokerServer
) -> None:
    """What broke or is on its way when the host ends leaves nothing behind."""

    async def main() -> None:
        broker = await mine()
        await current().resources.aclose()
        assert isinstance(broker, NativeBroker)
        assert broker.closed
        sim.net.partition("test", "broker")
        waiting = asyncio.create_task(mine())
        await asyncio.sleep(0)
        await current().resources.aclose()
        with pytest.raises(Disconnected, match="its host is ending"):
            await waiting

    sim.run(main)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("amqp://guest@broker", "AMQP client is not part of this version"),
        ("rabbitmq+amqps://broker", "AMQP client is not part of this version"),
        ("http://broker", "unknown scheme; known: rpcsim://, sim://"),
        ("broker", "unknown scheme; known: rpcsim://, sim://"),
        ("rpcsim://", "write rpcsim://host or host:port"),
        ("rpcsim://broker/vhost", "write rpcsim://host or host:port"),
        ("rpcsim://user@broker", "write rpcsim://host or host:port"),
        ("rpcsim://broker:port", "broker URL 'rpcsim://broker:port'"),
        ("rpcsim://broker:99999", "broker URL 'rpcsim://broker:99999'"),
        ("rpcsim://[::1", "broker URL 'rpcsim://\\[::1'"),
    ],
)
def test_urls_that_name_no_broker(sim: Sim, url: str, text: str) -> None:
    """A wrong URL is told with itself and what would be right."""

    async def main() -> None:
        with pytest.raises(ValueError, match=text):
            await broker_for(current(), url)

    sim.run(main)


def test_the_other_name_of_the_same_front(sim: Sim, server: BrokerServer) -> None:
    """`sim://name` reaches a world's broker by the name of its host."""

    async def main() -> None:
        ports: Ports = current()
        assert await broker_for(ports, "sim://broker") is await mine()

    sim.run(main)


def test_the_same_run_twice_is_the_same_run() -> None:
    """Client and server draw nothing and order nothing by chance."""

    def run() -> str | None:
        with Sim(seed=3) as sim:
            sim.host("broker", BrokerServer, background=True)

            async def main() -> None:
                broker, inbox = await mine(), Inbox()
                await broker.declare("q", SHARED)
                await broker.consume("q", inbox.take, prefetch=2)
                await asyncio.gather(
                    *(broker.publish("q", b"%d" % n, info=INFO) for n in range(9))
                )
                for _ in range(9):
                    (await inbox.until(1)).pop(0).ack()

            sim.run(main)
        return sim.trace.digest

    digest = run()
    assert digest is not None
    assert run() == digest
