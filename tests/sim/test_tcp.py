"""TCP streams: order, backpressure, closing, resets, retransmission."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcsim.errors import UnhandledErrors
from rpcsim.sim import Sim, Uniform
from tests.sim.programs import PORT, ask, echo_server

if TYPE_CHECKING:
    from collections.abc import Callable


class Log(asyncio.Protocol):
    """Notes everything that happens to it, with the time."""

    transport: Any = None

    def __init__(self, *, keep_open: bool = False, deaf: bool = False) -> None:
        self.events: list[Any] = []
        self.data = b""
        self.keep_open = keep_open
        self.deaf = deaf

    def note(self, *what: Any) -> None:
        now = asyncio.get_running_loop().time()
        self.events.append((what[0] if len(what) == 1 else what, round(now, 6)))

    @property
    def kinds(self) -> list[Any]:
        return [what if isinstance(what, str) else what[0] for what, _ in self.events]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")
        if self.deaf:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.note("data", len(data))

    def eof_received(self) -> bool:
        self.note("eof")
        return self.keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.note("lost", type(exc).__name__ if exc else None)

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")


async def pair(
    sim: Sim, near: Log, far: Log | Callable[[], Log], *, server: str = "server"
) -> tuple[Any, Any]:
    """Connect two protocols; give (near transport, listening server)."""
    loop = asyncio.get_running_loop()
    factory = far if callable(far) else lambda: far
    host = sim.by_name[server]

    async def listen() -> Any:
        return await loop.create_server(factory, "", PORT)

    listening = await host.inside(loop.create_task, listen())
    transport, _ = await loop.create_connection(lambda: near, server, PORT)
    return transport, listening


@pytest.fixture
def sim() -> Any:
    with Sim() as sim:
        sim.host("server")
        sim.net.link("*", "*", latency="10ms")
        yield sim


@given(
    writes=st.lists(st.binary(max_size=40), max_size=30),
    gaps=st.lists(st.integers(0, 400), min_size=30, max_size=30),
    pauses=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 300)), max_size=4),
    cuts=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 300)), max_size=3),
    seed=st.integers(0, 99),
    policy=st.sampled_from(["fifo", "random"]),
)
@settings(deadline=None, max_examples=1_000, derandomize=True)
def test_bytes_arrive_in_order_whatever_happens(
    writes: list[bytes],
    gaps: list[int],
    pauses: list[tuple[int, int]],
    cuts: list[tuple[int, int]],
    seed: int,
    policy: str,
) -> None:
    """Any writes, latencies, pauses and partitions: one stream, one end (check 45)."""
    near, far = Log(), Log()
    with Sim(seed=seed, policy=policy) as sim:
        sim.host("server")
        sim.net.link("*", "*", latency=Uniform("1ms", "200ms"))

        async def story() -> None:
            transport, server = await pair(sim, near, far)
            loop = asyncio.get_running_loop()

            def cut(length: int) -> None:
                fault = sim.net.partition("test", "server")
                loop.call_later(length / 1000, fault.undo)

            def pause(length: int) -> None:
                if far.transport is not None:
                    far.transport.pause_reading()
                    loop.call_later(length / 1000, far.transport.resume_reading)

            for at, length in cuts:
                loop.call_later(at / 1000, cut, length)
            for at, length in pauses:
                loop.call_later(at / 1000, pause, length)
            for data, gap in zip(writes, gaps, strict=False):
                transport.write(data)
                await asyncio.sleep(gap / 1000)
            transport.close()
            await asyncio.sleep(900)
            server.close()
            await server.wait_closed()

        sim.run(story)
    assert far.data == b"".join(writes)
    for log in (near, far):
        counts = Counter(log.kinds)
        assert (counts["made"], counts["lost"]) == (1, 1)
        assert log.kinds[0] == "made"
        assert log.kinds[-1] == "lost"
    assert far.events[-1][0] == ("lost", None)
    assert far.kinds[-2] == "eof"


def test_a_reader_that_pauses_stops_the_writer(sim: Sim) -> None:
    """At 64 KiB of receive buffer, send buffer and high water each (check 46)."""
    near, far = Log(), Log(deaf=True)

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        await asyncio.sleep(1)
        sent = 0
        while "pause" not in near.kinds:
            transport.write(b"x" * 1024)
            sent += 1024
            await asyncio.sleep(0.1)
        assert sent == 3 * 65_536 + 1024
        assert transport.get_write_buffer_size() == 65_536 + 1024
        assert far.data == b""
        far.transport.resume_reading()
        await asyncio.sleep(1)
        assert near.kinds[-1] == "resume"
        assert len(far.data) == sent
        transport.close()
        server.close()

    sim.run(story)


def test_one_big_write_is_stopped_like_many_small_ones(sim: Sim) -> None:
    """A single megabyte does not fit the receive buffer either (check 46)."""
    near, far = Log(), Log(deaf=True)

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        await asyncio.sleep(1)
        transport.write(bytes(range(256)) * 4096)
        assert near.kinds == ["made", "pause"]
        assert transport.get_write_buffer_size() == 2**20 - 2 * 65_536
        transport.write_eof()
        await asyncio.sleep(1)
        far.transport.resume_reading()
        await asyncio.sleep(1)
        assert far.data == bytes(range(256)) * 4096
        assert near.kinds == ["made", "pause", "resume", "eof", "lost"]
        server.close()

    sim.run(story)


def test_a_burst_before_the_server_accepted_is_not_stuck(sim: Sim) -> None:
    """The window opens when the connection is accepted, not by reading alone."""
    near, far = Log(), Log()

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        for _ in range(5):
            transport.write(b"y" * 100_000)
        await asyncio.sleep(1)
        assert len(far.data) == 500_000
        transport.close()
        server.close()

    sim.run(story)


def test_limits_of_the_write_buffer(sim: Sim) -> None:
    """They may be set, are checked, and 0 pauses at the first byte kept."""
    near, far = Log(), Log(deaf=True)

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        assert transport.get_write_buffer_limits() == (16_384, 65_536)
        transport.set_write_buffer_limits(low=10)
        assert transport.get_write_buffer_limits() == (10, 40)
        with pytest.raises(ValueError, match="must be >= low"):
            transport.set_write_buffer_limits(high=1, low=2)
        await asyncio.sleep(1)
        transport.write(b"z" * (2 * 65_536 + 30))
        assert near.kinds == ["made"]
        transport.set_write_buffer_limits(0)
        assert near.kinds == ["made", "pause"]
        transport.abort()
        server.close()

    sim.run(story)


@pytest.mark.parametrize("first", ["near", "far"])
def test_half_close_leaves_the_other_direction_open(sim: Sim, first: str) -> None:
    """`write_eof` ends one direction, data still comes the other way (check 47)."""
    near, far = Log(keep_open=True), Log(keep_open=True)

    async def story() -> None:
        _, server = await pair(sim, near, far)
        await asyncio.sleep(1)
        one, other = (near, far) if first == "near" else (far, near)
        assert one.transport.can_write_eof()
        one.transport.write(b"question")
        one.transport.write_eof()
        one.transport.write_eof()  # twice is once
        with pytest.raises(RuntimeError, match="after write_eof"):
            one.transport.write(b"more")
        await asyncio.sleep(1)
        assert (other.data, other.kinds[-1]) == (b"question", "eof")
        other.transport.write(b"answer")
        other.transport.close()
        await asyncio.sleep(1)
        assert one.data == b"answer"
        assert one.kinds[-1] == "eof"
        one.transport.close()
        await asyncio.sleep(1)
        assert one.kinds.count("lost") == other.kinds.count("lost") == 1
        server.close()

    sim.run(story)


def test_abort_is_a_reset_for_the_peer(sim: Sim) -> None:
    """`ConnectionResetError`; what was not delivered is gone (check 47)."""
    near, far = Log(), Log()

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        await asyncio.sleep(1)
        transport.abort()
        assert transport.is_closing()
        transport.write(b"ignored")
        await asyncio.sleep(1)
        server.close()

    sim.run(story)
    assert near.events[-1] == (("lost", None), 1.02)
    assert far.events[-1] == (("lost", "ConnectionResetError"), 1.03)
    assert far.data == b""


def test_closing_with_unread_data_is_a_reset(sim: Sim) -> None:
    """As the system does; and data for a closed end is answered with one (6.2)."""
    near, far = Log(), Log(deaf=True)

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        transport.write(b"unread")
        await asyncio.sleep(1)
        far.transport.close()
        await asyncio.sleep(1)
        assert near.events[-1][0] == ("lost", "ConnectionResetError")
        server.close()
        again, deaf = Log(keep_open=True), Log()
        transport, server = await pair(sim, again, lambda: deaf)
        await asyncio.sleep(1)
        deaf.transport.close()
        await asyncio.sleep(1)
        assert again.kinds == ["made", "eof"]
        transport.write(b"anyone?")
        await asyncio.sleep(1)
        assert again.events[-1][0] == ("lost", "ConnectionResetError")
        server.close()

    sim.run(story)


def test_close_flushes_even_through_a_partition(sim: Sim) -> None:
    """The system goes on sending what a closed program wrote (check 47)."""
    near, far = Log(), Log()

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        await asyncio.sleep(1)
        with sim.net.partition("test", "server"):
            transport.write(b"last words")
            transport.close()
            await asyncio.sleep(1)
            assert near.kinds[-1] == "lost"
            assert far.data == b""
        await asyncio.sleep(10)
        server.close()

    sim.run(story)
    assert far.data == b"last words"
    assert far.kinds == ["made", "data", "eof", "lost"]


def test_one_way_partition_stalls_replies_by_the_retransmission_rule(sim: Sim) -> None:
    """Requests arrive, replies do not; sent again after 0.2, 0.6, 1.4, ... (check 48)."""
    near, far = Log(), Log()

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        await asyncio.sleep(1)
        cut = sim.net.partition("server", "test", direction="a->b")
        begin = sim.loop.time()
        transport.write(b"request")
        await asyncio.sleep(0.5)
        assert far.data == b"request"
        far.transport.write(b"reply 1")
        far.transport.write(b"reply 2")
        sent = sim.loop.time()
        await asyncio.sleep(1)
        assert near.data == b""
        cut.undo()
        await asyncio.sleep(10)
        # Tries at +0.2, +0.6, +1.4 s; the repair was at +1.0.
        assert near.data == b"reply 1reply 2"
        arrived = [at for what, at in near.events if what[0] == "data"]
        assert arrived == [pytest.approx(sent + 1.4 + 0.01)] * 2
        assert sent - begin == pytest.approx(0.5)
        transport.close()
        server.close()

    sim.run(story)


def test_a_partition_that_never_heals_times_the_writer_out(sim: Sim) -> None:
    """After 924 s of retransmission: `ETIMEDOUT`; a silent peer alone: nothing."""
    near, far = Log(), Log()

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        sim.net.partition("*", "*")
        await asyncio.sleep(5_000)
        assert near.kinds == ["made"]
        transport.write(b"into the void")
        begin = sim.loop.time()
        while near.kinds[-1] != "lost":
            await asyncio.sleep(1)
        assert near.events[-1][0] == ("lost", "TimeoutError")
        assert 924 <= sim.loop.time() - begin <= 924 + 120
        sim.net.repair_all()
        far.transport.abort()
        server.close()

    sim.run(story)


def test_a_protocol_that_fails_loses_its_connection() -> None:
    """Its exception is told, its peer sees a reset, nobody else notices."""

    class Broken(Log):
        def data_received(self, data: bytes) -> None:
            raise ValueError(f"cannot read {data!r}")

    near = Log()
    with pytest.raises(UnhandledErrors) as raised, Sim() as sim:
        sim.host("server")

        async def story() -> None:
            transport, server = await pair(sim, near, Broken)
            transport.write(b"x")
            await asyncio.sleep(1)
            server.close()

        sim.run(story)
    assert near.events[-1][0] == ("lost", "ConnectionResetError")
    (error,) = raised.value.exceptions
    assert str(error) == "cannot read b'x'"
    assert "data_received() failed on test>server:7#1" in error.__notes__[0]


def test_what_a_transport_tells(sim: Sim) -> None:
    """Names, buffers and odd kinds of bytes as asyncio's transports (7)."""
    near, far = Log(), Log()

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        assert transport.get_extra_info("peername") == ("10.0.0.2", PORT)
        assert transport.get_extra_info("sockname") == ("10.0.0.1", 49_152)
        assert transport.get_extra_info("connection") == "test>server:7#1"
        assert transport.get_extra_info("cipher", "none") == "none"
        stand_in = transport.get_extra_info("socket")
        stand_in.setsockopt(6, 1, 1)
        assert stand_in.getpeername() == ("10.0.0.2", PORT)
        assert server.sockets[0].getsockname() == ("10.0.0.2", PORT)
        with pytest.raises(OSError, match="not connected"):
            server.sockets[0].getpeername()
        transport.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
        transport.write(b"")
        with pytest.raises(TypeError, match="not 'str'"):
            transport.write("text")
        assert transport.is_reading()
        assert transport.get_protocol() is near
        other = Log()
        transport.set_protocol(other)
        await asyncio.sleep(1)
        far.transport.write(b"to another")
        await asyncio.sleep(1)
        assert (far.data, other.data) == (b"abc", b"to another")
        transport.close()
        server.close()
        assert server.sockets == ()
        assert repr(transport) == "<SimTransport test>server:7#1 on test>"

    sim.run(story)


def test_asyncio_streams_run_unmodified(sim: Sim) -> None:
    """`start_server`, `open_connection`, drain, wait_closed, several clients."""
    sim.host("echo", echo_server)

    async def story() -> list[list[str]]:
        return await asyncio.gather(*(ask(f"{n}", host="echo") for n in range(5)))

    assert sim.run(story) == [[f"{n}"] for n in range(5)]


def test_debug_mode_accounts_for_every_byte() -> None:
    """Written is delivered, in flight, waiting or discarded; else it says so (6.7)."""
    near, far = Log(), Log()

    async def story(sim: Sim) -> None:
        transport, server = await pair(sim, near, far)
        transport.write(b"abc")
        await sim.net.wait_idle()
        out: Any = next(sim.net.ends()).out
        assert (out.written, out.delivered, out.discarded) == (3, 3, 0)
        far.transport.pause_reading()
        transport.write(b"unread")
        await sim.net.wait_idle()
        far.transport.abort()
        await sim.net.wait_idle()
        assert (out.written, out.delivered, out.discarded) == (9, 3, 6)
        server.close()

    digests = []
    for debug in (True, False):
        near, far = Log(), Log()
        with Sim(debug=debug) as sim:
            sim.host("server")
            sim.net.link("*", "*", latency="1ms")
            if debug:
                sim.run(story(sim))
        with Sim(debug=debug, seed=2) as sim:
            sim.host("server", echo_server)
            sim.net.profile("hostile")
            sim.run(ask("a" * 9_000, "b"))
        digests.append(sim.trace.digest)
    assert digests[0] == digests[1]

    with Sim(debug=True) as sim:
        sim.host("server", echo_server)

        async def forge() -> None:
            _, writer = await asyncio.open_connection("server", PORT)
            await sim.net.wait_idle()
            out: Any = next(sim.net.ends()).out
            out.delivered += 1
            with pytest.raises(AssertionError, match="0 bytes written, but 1 deliv"):
                out.check()
            out.delivered -= 1
            writer.close()
            await writer.wait_closed()

        sim.run(forge)
