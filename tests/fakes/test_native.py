from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.fakes import BrokerLimits, BrokerMemory, BrokerServer
from rpcsim.ports import current
from rpcsim.sim import Sim
from rpcsim.wire import frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpcsim.ports import Transport

HELLO = frames.Hello(frames.PROTOCOL, frames.VERSION, frames.FRAME_LIMIT_MAX)


class Peer(asyncio.Protocol):
    """A scripted client: sends frames, keeps what comes."""

    def __init__(self) -> None:
        self.events: list[frames.Frame] = []
        self.lost: BaseException | bool | None = False
        self.eof = False
        self.transport: Transport
        self._decoder = frames.FrameDecoder("client", frames.FRAME_LIMIT_MAX)
        self._news = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._decoder.receive(data)
        while (event := self._decoder.next_event()) is not None:
            self.events.append(event)
        self._news.set()

    def eof_received(self) -> bool:
        self.eof = True
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = exc
        self._news.set()

    def send(self, *sent: frames.Frame) -> None:
        self.transport.write(b"".join(map(frames.encode_frame, sent)))

    async def until(self, count: int) -> list[frames.Frame]:
        """Wait for that many events, or the end of the connection."""
        while len(self.events) < count and self.lost is False:
            self._news.clear()
            await self._news.wait()
        return self.events

    async def ended(self) -> None:
        while self.lost is False:
            self._news.clear()
            await self._news.wait()


@pytest.fixture
def sim() -> Iterator[Sim]:
    with Sim(seed=5) as sim:
        yield sim


async def connect(*sent: frames.Frame, port: int = frames.PORT) -> Peer:
    _, peer = await current().network.connect(Peer, ("broker", port))
    if sent:
        peer.send(*sent)
    return peer


def serve(sim: Sim, server: BrokerServer) -> BrokerServer:
    sim.host("broker", lambda: server, background=True)
    return server


def test_hello_then_requests_are_answered_by_number(sim: Sim) -> None:
    """A client says hello, asks, and gets an answer for every number it gave."""
    server = serve(sim, BrokerServer())

    async def main() -> None:
        peer = await connect(
            HELLO,
            frames.Declare(1, "q"),
            frames.Publish(2, "q", b"a"),
            frames.Publish(0, "q", b"b"),
            frames.Publish(3, "nobody", b"c"),
            frames.Consume(4, "q", 9, 1),
        )
        events = await peer.until(6)
        assert events[:3] == [
            frames.Hello(frames.PROTOCOL, frames.VERSION, frames.FRAME_LIMIT),
            frames.Ok(1),
            frames.Ok(2),
        ]
        assert isinstance(events[3], frames.Failed)
        assert (events[3].request, events[3].code) == (3, 312)
        assert events[4:] == [frames.Deliver(9, 1, b"a"), frames.Ok(4)]
        peer.send(frames.Requeue(0, 1), frames.Ack(5, 1), frames.Ack(6, 2))
        events = (await peer.until(10))[6:]
        assert events[0] == frames.Deliver(9, 2, b"a", True)
        assert isinstance(events[1], frames.Failed)
        assert (events[1].request, events[1].code) == (5, 406)
        assert events[2:] == [frames.Deliver(9, 3, b"b"), frames.Ok(6)]
        peer.send(frames.Cancel(7, 9), frames.Delete(8, "q"), frames.Ack(0, 3))
        assert (await peer.until(12))[10:] == [frames.Ok(7), frames.Ok(8)]
        peer.transport.close()

    sim.run(main)
    assert server.engine.snapshot().counters.dropped == 1


def test_a_foreign_client_is_told_and_closed(sim: Sim) -> None:
    """Whatever else speaks to the port learns what is spoken here."""
    server = serve(sim, BrokerServer())

    async def main() -> None:
        good = await connect(HELLO, frames.Declare(1, "q"))
        await good.until(2)
        foreign = await connect()
        foreign.transport.write(b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n")
        _, failed = await foreign.until(2)
        assert isinstance(failed, frames.Failed)
        assert (failed.request, failed.code) == (0, 501)
        assert "expected a hello of rpcsim-broker version 1" in failed.text
        assert "GET / HTTP" in failed.text
        await foreign.ended()
        good.send(frames.Publish(2, "q", b"a"))
        assert (await good.until(3))[2] == frames.Ok(2)
        good.transport.close()

    sim.run(main)
    assert server.engine.snapshot().queues["q"].ready == (b"a",)


@pytest.mark.parametrize(
    ("noise", "text"),
    [
        (b"\xff\xff\xff\xff", "over the limit of 1048576"),
        (frames.pack_length(b"\xc1"), "is not a request"),
        (frames.encode_frame(frames.Ok(1)), "is not a request"),
        (frames.encode_frame(HELLO), "is not a request"),
    ],
)
def test_a_violation_closes_that_connection_after_telling(
    sim: Sim, noise: bytes, text: str
) -> None:
    """What came before counts, what comes behind is read and dropped."""
    server = serve(sim, BrokerServer())

    async def main() -> None:
        peer = await connect(HELLO, frames.Declare(1, "q"))
        peer.transport.write(noise)
        peer.transport.write(b"x" * 100_000)
        events = await peer.until(3)
        assert events[1] == frames.Ok(1)
        assert isinstance(events[2], frames.Failed)
        assert text in events[2].text
        await peer.ended()
        assert peer.eof

    sim.run(main)
    assert server.engine.snapshot().sessions == ()


def test_a_client_with_too_small_a_limit_is_refused(sim: Sim) -> None:
    """A client that could not take every message is told so at once."""
    serve(sim, BrokerServer())

    async def main() -> None:
        peer = await connect(frames.Hello(frames.PROTOCOL, frames.VERSION, 5000))
        failed = (await peer.until(2))[1]
        assert isinstance(failed, frames.Failed)
        assert "frames of up to 1048576 bytes, the client takes 5000" in failed.text
        await peer.ended()

    sim.run(main)


def test_the_longest_message_fits_the_frames(sim: Sim) -> None:
    """What a broker accepts it can deliver, whatever the limits."""
    server = serve(sim, BrokerServer(frame_limit=4096))
    longest = b"x" * server.limits.message_bytes
    name = "\N{ROCKET}" * 255

    async def main() -> None:
        peer = await connect(
            HELLO,
            frames.Declare(1, name),
            frames.Publish(2, name, longest, 1 << 53),
            frames.Publish(3, name, longest + b"x"),
            frames.Consume((1 << 63) - 1, name, (1 << 63) - 1),
        )
        events = await peer.until(6)
        assert events[2] == frames.Ok(2)
        assert isinstance(events[3], frames.Failed)
        assert events[3].code == 311
        assert isinstance(events[4], frames.Deliver)
        assert events[4].body == longest
        peer.transport.close()

    sim.run(main)


def test_a_client_that_does_not_read_costs_bounded_memory(sim: Sim) -> None:
    """Messages for a paused connection wait in their queue; none is lost."""
    server = serve(sim, BrokerServer())
    body = b"x" * 10_000

    async def main() -> None:
        slow = await connect(HELLO, frames.Declare(1, "q"), frames.Consume(2, "q", 1))
        await slow.until(3)
        slow.transport.pause_reading()
        busy = await connect(HELLO)
        for number in range(1, 201):
            busy.send(frames.Publish(number, "q", body))
        await busy.until(201)
        state = server.engine.snapshot().queues["q"]
        # send and receive buffers and the transport's own take some 200 KiB
        assert len(state.unacked) < 40
        assert len(state.ready) + len(state.unacked) == 200
        # its own requests wait, too
        slow.send(*(frames.Publish(number, "nobody", b"") for number in range(1, 50)))
        await current().clock.sleep(1)
        refused = server.engine.snapshot().refused
        assert refused == 0
        slow.transport.resume_reading()
        events = await slow.until(3 + 200 + 49)
        delivered = [one for one in events if isinstance(one, frames.Deliver)]
        assert [one.tag for one in delivered] == list(range(1, 201))
        busy.transport.close()
        slow.transport.close()

    sim.run(main)
    assert server.engine.snapshot().refused == 49


def test_a_silent_client_loses_what_it_held(sim: Sim) -> None:
    """A machine without power says nothing; its messages go to another in time."""
    server = serve(sim, BrokerServer(heartbeat=10))

    async def agent() -> None:
        peer = await connect(
            HELLO, frames.Declare(1, "q"), frames.Consume(2, "q", 1, 1)
        )
        await peer.until(9)

    sim.host("agent", agent, background=True)

    async def main() -> None:
        peer = await connect(
            HELLO, frames.Declare(1, "q"), frames.Publish(2, "q", b"a")
        )
        await peer.until(3)
        await current().clock.sleep(1)
        assert len(server.engine.snapshot().queues["q"].unacked) == 1
        sim.by_name["agent"].crash()
        peer.send(frames.Consume(3, "q", 1))
        assert (await peer.until(5))[4] == frames.Deliver(1, 1, b"a", True)
        assert 10 < current().clock.time() < 30
        # one that answers keeps what it holds
        for _ in range(5):
            await current().clock.sleep(10)
            peer.send(frames.Pong())
        assert len(server.engine.snapshot().queues["q"].unacked) == 1
        assert peer.lost is False
        assert frames.Ping() in peer.events
        peer.transport.close()

    sim.run(main)


def test_stopping_closes_every_connection(sim: Sim) -> None:
    """After `stop` nothing listens, nobody is connected, and it can start again."""
    memory = BrokerMemory()
    server = BrokerServer(port=0, memory=memory)

    async def main() -> None:
        with pytest.raises(RuntimeError, match="no engine yet"):
            _ = server.engine
        assert repr(server) == "<BrokerServer on port 0, not running>"
        await server.start()
        with pytest.raises(RuntimeError, match="runs already"):
            await server.start()
        port = server.addresses[0][1]
        _, peer = await current().network.connect(Peer, ("test", port))
        peer.send(HELLO, frames.Declare(1, "q"), frames.Publish(2, "q", b"a"))
        await peer.until(3)
        assert repr(server).endswith(f":{port}, 1 connections>")
        await server.stop()
        await server.stop()
        await peer.ended()
        assert server.addresses == ()
        assert server.engine.snapshot().sessions == ()
        await server.start()
        assert server.engine.snapshot().queues["q"].ready == (b"a",)
        await server.stop()

    sim.run(main)


def test_a_client_that_reads_nothing_does_not_keep_it_from_stopping(sim: Sim) -> None:
    """Unsent bytes are given up after a second."""
    server = BrokerServer()

    async def main() -> None:
        await server.start()
        _, peer = await current().network.connect(Peer, ("test", frames.PORT))
        peer.send(HELLO, frames.Declare(1, "q"), frames.Consume(2, "q", 1))
        await peer.until(3)
        peer.transport.pause_reading()
        for number in range(3, 53):
            server.engine.publish("q", b"x" * 10_000)
            assert number
        before = current().clock.time()
        await server.stop()
        assert 0.9 < current().clock.time() - before < 1.1
        peer.transport.abort()

    sim.run(main)


def test_a_broker_host_keeps_durable_queues_over_a_power_cut(sim: Sim) -> None:
    """Confirmed messages are there when the host is up again."""
    memory = BrokerMemory()
    host = sim.host("broker", lambda: BrokerServer(memory=memory), background=True)

    async def main() -> None:
        peer = await connect(
            HELLO, frames.Declare(1, "q"), frames.Publish(2, "q", b"a")
        )
        await peer.until(3)
        host.crash()
        host.restart()
        await host.wait_started()
        again = await connect(HELLO, frames.Consume(1, "q", 1))
        assert (await again.until(3))[1] == frames.Deliver(1, 1, b"a")
        again.transport.close()
        peer.transport.abort()

    sim.run(main)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"frame_limit": 100}, "not between 4096"),
        ({"frame_limit": 1 << 40}, "not between 4096"),
        ({"limits": BrokerLimits(message_bytes=1 << 20)}, "does not fit into frames"),
        ({"limits": BrokerLimits(message_bytes=0)}, "does not fit into frames"),
    ],
)
def test_limits_that_contradict_are_refused(options: dict[str, Any], text: str) -> None:
    """A broker that could not deliver what it takes is not made."""
    with pytest.raises(ValueError, match=text):
        BrokerServer(**options)
