"""Links: how streams are cut, lost, slowed down and queued on their way."""

from __future__ import annotations

import asyncio
import errno
import itertools
import math
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcsim.errors import SimulationError
from rpcsim.ports import Deliver
from rpcsim.sim import Sim, Uniform, patterns
from tests.sim.programs import PORT, ask, conversation, echo_server
from tests.sim.test_tcp import Log, pair

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sim() -> Any:
    with Sim() as sim:
        sim.host("server")
        yield sim


def sizes(log: Log) -> list[int]:
    return [what[1] for what, _ in log.events if what[0] == "data"]


@given(
    writes=st.lists(st.binary(max_size=3_000), max_size=12),
    gaps=st.lists(st.integers(0, 300), min_size=12, max_size=12),
    slicer=st.sampled_from(["write", "mss", "random", "byte"]),
    loss=st.sampled_from([0, 0.2, 0.5]),
    bandwidth=st.sampled_from([math.inf, 100_000, 5_000_000]),
    queue=st.sampled_from([math.inf, 500, 20_000]),
    holds=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 500)), max_size=3),
    drops=st.lists(st.integers(0, 900), max_size=3),
    pauses=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 300)), max_size=2),
    cuts=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 300)), max_size=2),
    seed=st.integers(0, 99),
    policy=st.sampled_from(["fifo", "random"]),
)
@settings(deadline=None, max_examples=1_000, derandomize=True)
def test_any_link_delivers_the_bytes_written(
    writes: list[bytes],
    gaps: list[int],
    slicer: Any,
    loss: float,
    bandwidth: float,
    queue: float,
    holds: list[tuple[int, int]],
    drops: list[int],
    pauses: list[tuple[int, int]],
    cuts: list[tuple[int, int]],
    seed: int,
    policy: str,
) -> None:
    """Whatever the link does: the same bytes in order, one end at each side (45, 49)."""
    if len(b"".join(writes)) > 4_000 and slicer == "byte":
        slicer = "random"
    near, far = Log(), Log()
    with Sim(seed=seed, policy=policy, debug=seed % 2 == 0) as sim:
        sim.host("server")
        sim.net.link(
            "test",
            "server",
            latency=Uniform("1ms", "90ms"),
            slicer=slicer,
            bandwidth=bandwidth,
            queue=None if bandwidth == math.inf else queue,
            receive_buffer=2_000,
        )

        async def story() -> None:
            transport, server = await pair(sim, near, far)
            loop = asyncio.get_running_loop()
            sim.net.link("test", "server", loss=loss)

            def hold(length: int) -> None:
                held = sim.net.hold("test", "server")
                loop.call_later(length / 1000, held.undo)
                loop.call_later(length / 2000, sim.net.release_one)

            def cut(length: int) -> None:
                fault = sim.net.partition("test", "server")
                loop.call_later(length / 1000, fault.undo)

            def pause(length: int) -> None:
                if far.transport is not None:
                    far.transport.pause_reading()
                    loop.call_later(length / 1000, far.transport.resume_reading)

            for at, length in holds:
                loop.call_later(at / 1000, hold, length)
            for at in drops:
                loop.call_later(at / 1000, sim.net.drop_one)
            for at, length in cuts:
                loop.call_later(at / 1000, cut, length)
            for at, length in pauses:
                loop.call_later(at / 1000, pause, length)
            for data, gap in zip(writes, gaps, strict=False):
                transport.write(data)
                await asyncio.sleep(gap / 1000)
            transport.close()
            await asyncio.sleep(4_000)
            assert sim.net.inflight() == []
            server.close()
            await server.wait_closed()

        sim.run(story)
    assert far.data == b"".join(writes)
    for log in (near, far):
        assert (log.kinds.count("made"), log.kinds.count("lost")) == (1, 1)
        assert (log.kinds[0], log.kinds[-1]) == ("made", "lost")
    assert far.events[-1][0] == ("lost", None)
    assert far.kinds[-2] == "eof"


@pytest.mark.parametrize("slicer", ["write", "mss", "random", "byte"])
def test_slicers_cut_and_join(sim: Sim, slicer: Any) -> None:
    """One delivery per write, full segments, drawn pieces, single bytes (6.2)."""
    sim.net.link("*", "*", latency="1ms", slicer=slicer)
    near, far = Log(), Log()

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        await sim.net.wait_idle()
        transport.write(b"a" * 1_000)
        transport.write(b"b" * 1_000)
        await sim.net.wait_idle()
        assert far.data == b"a" * 1_000 + b"b" * 1_000
        transport.close()
        server.close()

    sim.run(story)
    cut = sizes(far)
    if slicer == "random":
        assert len(cut) > 2
        assert max(cut) <= 1_460
        assert 1_000 not in cut
    else:
        expected = {"write": [1_000] * 2, "mss": [1_460, 540], "byte": [1] * 2_000}
        assert cut == expected[slicer]


def test_segments_follow_the_mtu(sim: Sim) -> None:
    """A link of 576 bytes leaves 536 to a segment (RFC 879)."""
    sim.net.link("*", "*", slicer="mss", mtu=576)
    near, far = Log(), Log()

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        transport.write(b"x" * 1_100)
        await sim.net.wait_idle()
        transport.close()
        server.close()

    sim.run(story)
    assert sizes(far) == [536, 536, 28]


def test_loss_delays_and_never_corrupts(sim: Sim) -> None:
    """A lost segment is sent again after 200 ms, doubling (check 49)."""
    sim.net.link("*", "*", latency="10ms")
    near, far = Log(), Log()

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        await sim.net.wait_idle()
        sim.net.link("test", "server", both=False, loss=1)
        begin = sim.loop.time()
        transport.write(b"lost ")
        transport.write(b"at first")
        await asyncio.sleep(0.5)
        assert sim.net.counters("test", "server").dropped == 2
        sim.net.link("test", "server", both=False, loss=0)
        await sim.net.wait_idle()
        assert far.data == b"lost at first"
        # Tries at 0, 0.2, 0.6 s.
        assert [round(at - begin, 6) for _, at in far.events[1:]] == [0.61, 0.61]
        transport.close()
        server.close()

    sim.run(story)


def test_loss_beyond_the_limit_times_out(sim: Sim) -> None:
    """After the retransmission limit: `ETIMEDOUT` at the sender (check 49)."""
    near, far = Log(), Log()

    async def story() -> float:
        transport, server = await pair(sim, near, far)
        await sim.net.wait_idle()
        sim.net.link("test", "server", both=False, loss=1, retransmit_timeout="30s")
        begin = sim.loop.time()
        transport.write(b"never")
        while near.kinds[-1] != "lost":
            await asyncio.sleep(1)
        server.close()
        far.transport.abort()
        return sim.loop.time() - begin

    assert 30 <= sim.run(story) <= 60
    assert near.events[-1][0] == ("lost", "TimeoutError")
    assert far.data == b""


def test_a_lossy_link_loses_its_share() -> None:
    """Of 4 000 packets a tenth; latencies are what they are without loss (check 49)."""

    def lost_and_arrivals(loss: float) -> tuple[int, list[float]]:
        near, far = Log(), Log()
        with Sim(seed=8) as sim:
            sim.host("server")
            sim.net.link("*", "*", latency=Uniform("1ms", "2ms"), loss=loss)

            async def story() -> None:
                transport, server = await pair(sim, near, far)
                await sim.net.wait_idle()
                for _ in range(4_000):
                    transport.write(b"x")
                    await sim.net.wait_idle()
                transport.close()
                server.close()

            sim.run(story)
            return sim.net.counters("test", "server").dropped, [
                at for what, at in far.events if what[0] == "data"
            ]

    dropped, arrivals = lost_and_arrivals(0.1)
    assert 370 <= dropped <= 520  # what was sent again may be lost again
    none, undisturbed = lost_and_arrivals(0)
    assert none == 0
    gaps = [round(b - a, 6) for a, b in itertools.pairwise(arrivals)]
    plain = [round(b - a, 6) for a, b in itertools.pairwise(undisturbed)]
    same = [a for a, b in zip(gaps, plain, strict=True) if a == b]
    assert len(same) > 3_000


def test_bandwidth_is_exact(sim: Sim) -> None:
    """1 Mbit/s carries 125 000 bytes in exactly 1 s plus latency (check 52)."""
    sim.net.link("*", "*", latency="15ms", bandwidth=1_000_000)
    near, far = Log(), Log()

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        await sim.net.wait_idle()
        begin = sim.loop.now_ns
        transport.write(b"x" * 125_000)
        transport.write(b"y" * 12_500)
        far.transport.write(b"the other way is free")
        await sim.net.wait_idle()
        assert sim.loop.now_ns - begin == 1_100_000_000 + 15_000_000
        arrived = [at for what, at in far.events if what[0] == "data"]
        assert [round(at - begin / 1e9, 9) for at in arrived] == [1.015, 1.115]
        assert round(near.events[-1][1] - begin / 1e9, 6) == 0.015168
        transport.close()
        server.close()

    sim.run(story)


def test_connections_share_a_link(sim: Sim) -> None:
    """Two streams take turns on one line: together they take twice as long (52)."""
    sim.net.link("*", "*", bandwidth=8_000)
    logs = [Log(), Log()]

    async def story() -> float:
        fars = iter(logs)
        transport, server = await pair(sim, Log(), lambda: next(fars))
        other, _ = await asyncio.get_running_loop().create_connection(
            Log, "server", PORT
        )
        await sim.net.wait_idle()
        begin = sim.loop.time()
        for _ in range(5):
            transport.write(b"x" * 100)
            other.write(b"y" * 100)
        await sim.net.wait_idle()
        transport.close()
        other.close()
        server.close()
        return sim.loop.time() - begin

    assert sim.run(story) == pytest.approx(1.0)
    arrivals = sorted((at, log.data[:1]) for log in logs for _, at in log.events[1:6])
    assert [data for _, data in arrivals] == [b"x", b"y"] * 5


def test_a_full_queue_slows_a_stream_down(sim: Sim) -> None:
    """At most so many bytes wait on the line; the rest fills the send buffer (52)."""
    sim.net.link("*", "*", bandwidth=80_000, queue=2_000, send_buffer=1_000)
    near, far = Log(), Log()

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        await sim.net.wait_idle()
        begin = sim.loop.time()
        transport.set_write_buffer_limits(high=1_500, low=0)
        for _ in range(5):
            transport.write(b"x" * 1_000)
        # Two thousand on the line, one in the system's buffer, two not taken yet.
        assert sum(p.size for p in sim.net.inflight()) == 2_000
        assert transport.get_write_buffer_size() == 2_000
        assert near.kinds[-1] == "pause"
        await asyncio.sleep(0.25)
        assert near.kinds[-1] == "resume"
        await sim.net.wait_idle()
        assert len(far.data) == 5_000
        assert sim.loop.time() - begin == pytest.approx(0.5)
        begin = sim.loop.time()
        transport.write(b"y" * 5_000)  # more than the queue ever takes at once
        await sim.net.wait_idle()
        assert len(far.data) == 10_000
        assert sim.loop.time() - begin == pytest.approx(0.5)
        transport.close()
        server.close()

    sim.run(story)


def test_buffers_may_be_set(sim: Sim) -> None:
    """A deaf reader stops the writer at the sizes the link says (check 46)."""
    sim.net.link("*", "*", latency="1ms", send_buffer=3_000, receive_buffer=2_000)
    near, far = Log(), Log(deaf=True)

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        await sim.net.wait_idle()
        transport.set_write_buffer_limits(high=1_000)
        sent = 0
        while "pause" not in near.kinds:
            transport.write(b"x" * 100)
            sent += 100
            await asyncio.sleep(0.01)
        assert sent == 2_000 + 3_000 + 1_000 + 100
        far.transport.resume_reading()
        await asyncio.sleep(1)
        assert len(far.data) == sent
        transport.close()
        server.close()

    sim.run(story)


def test_settings_are_separate_and_the_closest_wins(sim: Sim) -> None:
    """Each setting by itself: the most specific, later beats earlier (6.6)."""
    net = sim.net
    net.link("*", "*", latency="1ms", bandwidth=1_000_000, loss=0.5)
    net.link("test", "server", both=False, loss=0, slicer="mss")
    net.link("test", "*", loss=1, bandwidth=2_000_000)
    out, back = net.link_between("test", "server"), net.link_between("server", "test")
    assert repr(out) == ("<link test -> server: 1ms, bandwidth 2000000, slicer mss>")
    assert repr(back) == "<link server -> test: 1ms, bandwidth 2000000, loss 1.0>"
    net.link("*", "*", bandwidth=math.inf)
    assert out.bandwidth == 2_000_000
    net.link("test", "server", bandwidth=math.inf)
    assert out.bandwidth == 0
    assert out.special
    net.link("test", "server", slicer="write")
    assert not out.special


@pytest.mark.parametrize("name", ["lan", "wan", "mobile", "hostile"])
def test_profiles_shape_all_links(name: Any) -> None:
    """Each is a set of link settings under which a conversation still works (6.6)."""
    with Sim(seed=2) as sim:
        sim.host("server", echo_server)
        sim.net.profile(name)
        assert sim.run(ask("a" * 5_000, "b", "c")) == ["a" * 5_000, "b", "c"]
        took = sim.clock.elapsed
        assert sim.net.link_between("test", "server").bandwidth > 0
    low, high = {
        "lan": (0.0005, 0.01),
        "wan": (0.1, 1),
        "mobile": (0.2, 5),
        "hostile": (0.05, 60),
    }[name]
    assert low <= took <= high


def test_bad_settings_are_refused_when_given(sim: Sim) -> None:
    """Each with its name and what it takes; nothing is half set."""
    net: Any = sim.net
    for settings_, told in (
        ({"loss": 1.5}, "loss is a probability, 0 to 1, not 1.5"),
        ({"bandwidth": 0}, "bandwidth is a number of at least 1"),
        ({"queue": -1}, "queue is a number of at least 1"),
        ({"mtu": 40}, "mtu is a number of bytes"),
        ({"slicer": "bits"}, "slicer is one of write, mss, random, byte, not 'bits'"),
        ({"unreachable": "maybe"}, "unreachable is one of silent, icmp"),
        ({"syn_timeout": 0}, "syn_timeout is a time above 0"),
        ({"bandwidth": math.inf, "queue": 5}, "a queue forms only where"),
        ({"latency": "1ms", "loss": -1}, "loss is a probability"),
    ):
        with pytest.raises(ValueError, match=told):
            net.link("*", "*", **settings_)
    with pytest.raises(ValueError, match=r"no profile 'wam'; did you mean 'wan'\?"):
        net.profile("wam")
    assert repr(net.link_between("test", "server")) == "<link test -> server: 0s>"


def test_lossy_conversations_replay() -> None:
    """Two runs of one seed give one digest, another seed another (determinism)."""

    def digest(seed: int) -> str | None:
        with Sim(seed=seed) as sim:
            sim.host("server", echo_server)
            sim.net.profile("hostile")
            sim.run(ask("a" * 3_000, "b"))
        return sim.trace.digest

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


def troubled(seed: int) -> str | None:
    """Run clients through loss, cuts, rules, holds and a pattern; give the digest."""
    with Sim(seed=seed, policy="random") as sim:
        for name in ("server", "left", "right"):
            sim.host(name, echo_server)
        sim.net.profile("hostile")
        sim.net.rule(Deliver("40ms"), kind="data", probability=0.2)
        draws = sim.entropy.stream("pattern")
        hosts = ["server", "left", "right"]
        sim.net.play(patterns.swizzle_clog(hosts, draws, gap="200ms"))

        async def story() -> None:
            loop = asyncio.get_running_loop()
            asking = [
                sim.by_name[name].inside(loop.create_task, ask("a" * 4_000, "b"))
                for name in ("left", "right")
            ]
            await asyncio.sleep(0.3)
            with sim.net.hold("*", "server"):
                await asyncio.sleep(0.3)
                sim.net.drop_one()
            await asyncio.gather(*asking)

        sim.run(story)
    return sim.trace.digest


def test_trouble_is_the_same_in_another_process() -> None:
    """Under another hash seed too: one digest for one seed (determinism)."""
    script = "from tests.sim.test_links import troubled; print(troubled(4))"
    told = {troubled(4), troubled(4)}
    for hash_seed in ("1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        told.add(done.stdout.strip())
    assert len(told) == 1
    assert troubled(5) not in told


def test_plain_runs_draw_nothing_new() -> None:
    """What is not used draws nothing: the streams are those of plain latencies."""
    sim = conversation(seed=1)
    assert [label for label in sim.entropy.draws() if label.startswith("net/")] == [
        f"net/{a}>{b}"
        for a, b in (
            *(("left", "server"), ("server", "left")),
            *(("right", "server"), ("server", "right")),
        )
    ]


def test_a_linger_of_nothing_resets(sim: Sim) -> None:
    """`SO_LINGER` on with 0 s: close is an abort (6.2)."""
    near, far = Log(), Log()

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        await sim.net.wait_idle()
        linger = struct.pack("ii", 1, 0)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.write(b"x")
        transport.close()
        await sim.net.wait_idle()
        server.close()

    sim.run(story)
    assert far.events[-1][0] == ("lost", "ConnectionResetError")


@pytest.mark.parametrize("how", ["cut", "crashed", "restarted", "off", "well"])
def test_keep_alive_finds_a_peer_that_is_gone(sim: Sim, how: str) -> None:
    """After the idle time, so many probes at their interval; else nothing (6.2)."""
    near, far = Log(), Log()
    host = sim.by_name["server"]

    async def story() -> None:
        transport, server = await pair(sim, near, far)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, 60),
            (socket.TCP_KEEPINTVL, 10),
            (socket.TCP_KEEPCNT, 3),
        ):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        if how == "off":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
        await asyncio.sleep(7_300)  # the idle time was the usual one at first
        assert near.kinds == ["made"]
        far.transport.write(b"x")
        begin = sim.loop.time()
        if how in ("cut", "off"):
            sim.net.partition("test", "server")
        elif how != "well":
            host.crash()
            if how == "restarted":
                host.restart()
        await asyncio.sleep(1_000)
        if how in ("cut", "crashed"):
            assert near.events[-1][0] == ("lost", "TimeoutError")
            # Its time runs from the last probe that was answered.
            assert 30 <= near.events[-1][1] - begin <= 60 + 3 * 10
        elif how == "restarted":
            assert near.events[-1][0] == ("lost", "ConnectionResetError")
        else:
            assert "lost" not in near.kinds
            transport.abort()
        sim.net.repair_all()
        await asyncio.sleep(1)
        server.close()

    sim.run(story)


def test_a_connect_may_learn_that_a_host_is_unreachable(sim: Sim) -> None:
    """`icmp`: `EHOSTUNREACH` after one round trip, down or cut off (check 44)."""
    sim.net.link("*", "*", latency="20ms", unreachable="icmp")
    sim.host("down").crash()

    async def story() -> None:
        for host in ("down", "server"):
            begin = sim.loop.time()
            with (
                sim.net.partition("test", "server"),
                pytest.raises(OSError, match=f"no route to host {host!r}") as raised,
            ):
                await asyncio.open_connection(host, PORT)
            assert raised.value.errno == errno.EHOSTUNREACH
            assert sim.loop.time() - begin == pytest.approx(0.04)

    sim.run(story)


def test_the_syn_timeout_may_be_set(sim: Sim) -> None:
    """`ETIMEDOUT` after as long as the link says (check 44)."""
    sim.net.link("*", "*", syn_timeout="5s")
    sim.by_name["server"].crash()

    async def story() -> float:
        with pytest.raises(TimeoutError):
            await asyncio.open_connection("server", PORT)
        return sim.loop.time()

    assert sim.run(story) == 5


def test_lost_packets_of_a_handshake_are_sent_again(sim: Sim) -> None:
    """SYN or its answer lost: the next SYN a second later gets one (check 49)."""

    async def story() -> None:
        async def serve(reader: Any, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(serve, "", PORT)
        for src, dst in (("client", "test"), ("test", "client")):
            sim.net.link(src, dst, both=False, loss=1)
            begin = sim.loop.time()
            loop = asyncio.get_running_loop()
            loop.call_later(0.5, lambda: sim.net.link("*", "*", loss=0))
            loop.call_later(0.5, lambda: sim.net.link("test", "client", loss=0))
            opening = sim.by_name["client"].inside(
                loop.create_task, asyncio.open_connection("test", PORT)
            )
            _, writer = await opening
            assert sim.loop.time() - begin == 1
            writer.close()
            await asyncio.sleep(1)
        server.close()

    sim.host("client")
    sim.run(story)


@pytest.mark.parametrize("full", ["drop", "refuse"])
def test_a_full_backlog(sim: Sim, full: Any) -> None:
    """Connects beyond it are tried again, or refused, as the link says (check 44)."""
    sim.net.link("*", "*", backlog_full=full)
    accepted: list[Any] = []

    async def story() -> list[str]:
        loop = asyncio.get_running_loop()
        host = sim.by_name["server"]

        async def listen() -> Any:
            def factory() -> Log:
                accepted.append(Log())
                return accepted[-1]  # type: ignore[no-any-return]  # it is a Log

            return await loop.create_server(factory, "", PORT, backlog=2)

        server = await host.inside(loop.create_task, listen())
        host.pause()
        connects = [
            asyncio.ensure_future(loop.create_connection(Log, "server", PORT))
            for _ in range(4)
        ]
        await asyncio.sleep(0.5)
        told = [
            type(task.exception()).__name__
            if task.done() and task.exception()
            else ("open" if task.done() else "waits")
            for task in connects
        ]
        host.resume()
        done = await asyncio.gather(*connects, return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, tuple):
                outcome[0].abort()
        await asyncio.sleep(1)
        server.close()
        return told

    told = sim.run(story)
    if full == "drop":
        assert told == ["open", "open", "waits", "waits"]
        assert len(accepted) == 4
    else:
        assert told == ["open", "open", *["ConnectionRefusedError"] * 2]
        assert len(accepted) == 2


def test_an_unknown_connection_is_told(sim: Sim) -> None:
    """With what is open instead."""
    with pytest.raises(SimulationError, match=r"no connection 'x' .* \(open: none\)"):
        sim.net.reset("x")
