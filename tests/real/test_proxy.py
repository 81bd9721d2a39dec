"""Faults of links, packets and single connections, in the proxy on real sockets."""

from __future__ import annotations

import asyncio
import errno
import math
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.errors import InexactFault, PlanError, SimulationError
from rpcsim.ports import Packet, current
from rpcsim.real import Runtime
from tests.real.parts import LOOPS, Caller, EchoServer, dial, notes

if TYPE_CHECKING:
    from collections.abc import Iterator

PAUSE = 0.01  # seconds in which held bytes must not come
LABEL = "test>server:7007#1"


@pytest.fixture(params=LOOPS)
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    with Runtime(faults=True, grace=1, loop=request.param, seed=5) as made:
        made.bridge.wait(made.host("server", EchoServer).wait_started())
        yield made


async def still_waits(task: asyncio.Task[Any]) -> bool:
    await asyncio.wait({task}, timeout=PAUSE)
    return not task.done()


async def flying(runtime: Runtime, n: int) -> None:
    while len(runtime.net.inflight()) < n:  # noqa: ASYNC110 - the proxy tells nobody
        await asyncio.sleep(0)


async def end(caller: Caller) -> Exception | None:
    caller.transport.close()
    return await caller.lost


def elapsed(since_ns: int) -> float:
    return (current().clock.now_ns() - since_ns) / 1e9


def test_bandwidth_is_a_lower_bound(runtime: Runtime) -> None:
    """8 kB at 1 Mbit/s take at least 64 ms, all connections of a direction together."""

    async def story() -> float:
        _, first = await dial("server")
        _, second = await dial("server")
        runtime.net.link("test", "server", both=False, bandwidth=1e6)
        start = current().clock.now_ns()
        await asyncio.gather(first.call(b"x" * 4000), second.call(b"y" * 4000))
        took = elapsed(start)
        await end(first)
        await end(second)
        return took

    assert runtime.run(story) >= 0.064
    assert notes(runtime) == ["bandwidth"]
    assert runtime.inexact[-1].measured.endswith("late")


def test_a_lost_piece_stalls_its_stream(runtime: Runtime) -> None:
    """Nothing is lost or altered: the bytes come 200 ms later, and it is told."""

    async def story() -> float:
        _, caller = await dial("server")
        runtime.net.link("test", "server", both=False, loss=0.5)
        # The stream of the seed decides: these draws tell which piece is lost first.
        runtime.net.link("server", "test", both=False, latency="1ms")
        start = current().clock.now_ns()
        data = b"0123456789"
        for i in range(4):
            assert await caller.call(data[i:]) == data[i:]
        await end(caller)
        return elapsed(start)

    assert runtime.run(story) >= 0.2
    assert "loss" in notes(runtime)


def test_unshaping_a_link(runtime: Runtime) -> None:
    """Infinite bandwidth is none; of equally close settings the latest counts."""

    async def story() -> float:
        runtime.net.link("*", "*", bandwidth=1)
        runtime.net.link("*", "*", bandwidth=math.inf)
        _, caller = await dial("server")
        start = current().clock.now_ns()
        await caller.call(b"quick")
        await end(caller)
        return elapsed(start)

    assert runtime.run(story) < 5


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"bandwidth": 0}, ValueError, "at least 1"),
        ({"bandwidth": True}, ValueError, "at least 1"),
        ({"loss": 2}, ValueError, "0 to 1"),
        ({"latncy": 1}, TypeError, "did you mean 'latency'"),
    ],
)
def test_bad_settings(runtime: Runtime, given: Any, error: Any, text: str) -> None:
    """They are refused when they are set."""
    with pytest.raises(error, match=text):
        runtime.net.link("test", "server", **given)


def test_what_is_not_offered_is_told(runtime: Runtime) -> None:
    """A setting only the simulation has is no error, and stands in the report."""
    runtime.net.link("test", "server", slicer="byte", mtu=576)
    assert notes(runtime) == ["slicer", "mtu"]
    assert [n.reason for n in runtime.inexact if n.fault == "mtu"] == [
        "not offered on real sockets"
    ]


def test_a_strict_run_refuses_what_is_not_exact() -> None:
    """Before it takes effect; what is exact goes on working."""
    with Runtime(faults=True, strict=True) as runtime:
        runtime.bridge.wait(runtime.host("server", EchoServer).wait_started())
        for setting in ("latency", "bandwidth", "loss", "slicer"):
            value: Any = {"latency": "1h", "slicer": "byte"}.get(setting, 1)
            with pytest.raises(InexactFault, match=f"{setting}: .*strict=True"):
                runtime.net.link("test", "server", **{setting: value})
        with pytest.raises(InexactFault):
            runtime.net.drop_one()

        async def story() -> None:
            _, caller = await dial("server")
            with runtime.net.partition("test", "server"):
                caller.transport.write(b"held")
            assert await caller.read(4) == b"held"
            await end(caller)

        runtime.run(story)
    assert notes(runtime) == []


def test_hold_and_release(runtime: Runtime) -> None:
    """Held pieces are listed, keep their order, and go on one by one or all."""

    async def story() -> None:
        net = runtime.net
        _, caller = await dial("server")
        await caller.call(b"before")
        with net.hold("test", "server") as hold:
            for n in (1, 2, 3):
                caller.transport.write(b"x" * n)
                await asyncio.sleep(0.002)
            await flying(runtime, 3)
            packets = net.inflight()
            assert [(p.kind, p.src, p.dst, p.size, p.held) for p in packets] == [
                ("data", "test", "server", n, True) for n in (1, 2, 3)
            ]
            assert packets[0].connection == LABEL
            assert packets[0].due_at is None
            assert packets[0].sent_at <= packets[2].sent_at
            # The way back is held too: release it as it comes.
            assert net.release(packets[2].n) == 1
            task = asyncio.create_task(caller.read(1))
            assert await still_waits(task)  # the first holds it up
            assert net.release_one()
            await flying(runtime, 3)
            assert net.release(lambda p: p.src == "server") == 1
            assert await task == b"x"
            assert repr(hold) == "<hold test <-> server>"
        assert await caller.read(5) == b"xxxxx"
        assert net.inflight() == []
        assert not net.release_one()
        await end(caller)

    runtime.run(story)
    assert notes(runtime) == []


def test_a_held_connect(runtime: Runtime) -> None:
    """It waits; it can be let go, refused, or lost as a SYN is."""

    async def story() -> None:
        net = runtime.net
        with net.hold(lambda packet: packet.kind == "syn"):
            tasks = [asyncio.create_task(dial("server")) for _ in range(3)]
            assert await still_waits(tasks[0])
            assert [p.kind for p in net.inflight()] == ["syn"] * 3
            assert isinstance(net.inflight()[0], Packet)
            assert not net.refuse_one("nobody>*")
            assert net.refuse_one("test>server:*")
            with pytest.raises(ConnectionRefusedError, match="was refused"):
                await tasks[0]
            assert net.release_one()
            _, caller = await tasks[1]
            assert await caller.call(b"hi") == b"hi"
            assert net.refuse_one()
            with pytest.raises(ConnectionRefusedError):
                await tasks[2]
            assert not net.refuse_one()
        await end(caller)

    runtime.run(story)


def test_a_dropped_piece_comes_again(runtime: Runtime) -> None:
    """A lost segment is sent again by the system: the stream stalls for 200 ms."""

    async def story() -> float:
        net = runtime.net
        _, caller = await dial("server")
        with net.hold("test", "server"):
            caller.transport.write(b"lost")
            await flying(runtime, 1)
            start = current().clock.now_ns()
            assert net.drop_one()
            assert not net.drop_one(999)
        assert await caller.read(4) == b"lost"
        took = elapsed(start)
        await end(caller)
        return took

    assert runtime.run(story) >= 0.2
    assert notes(runtime) == ["loss"]


def test_reset_of_one_connection(runtime: Runtime) -> None:
    """Both ends see a reset; other connections stay."""

    async def story() -> None:
        _, caller = await dial("server")
        _, bystander = await dial("server")
        await caller.call(b"hi")
        await bystander.call(b"hi")
        [first, second] = runtime.net.connections()
        assert (first.label, first.ends) == (LABEL, ("test", "server"))
        assert second.label == "test>server:7007#2"
        runtime.net.reset(caller.transport)
        assert isinstance(await caller.lost, ConnectionResetError)
        assert await bystander.call(b"fine") == b"fine"
        await end(bystander)

    runtime.run(story)
    told = [(r.host, r.get("connection")) for r in runtime.trace.of_kind("conn.reset")]
    assert sorted(told) == [("server", LABEL), ("test", LABEL)]


def test_half_close_and_truncation(runtime: Runtime) -> None:
    """A direction ends at once or after so many bytes; the other goes on."""

    async def story() -> None:
        _, caller = await dial("server")
        await caller.call(b"hi")
        runtime.net.truncate(LABEL, "server", 3)
        caller.transport.write(b"question")
        assert await caller.read(3) == b"que"
        await caller.until_eof()
        assert caller.received == b""
        await end(caller)
        _, caller = await dial("server")
        await caller.call(b"hi")
        runtime.net.close_half("test>server:7007#2", "server")
        await caller.until_eof()
        await end(caller)

    runtime.run(story)
    with pytest.raises(ValueError, match="number of bytes"):
        runtime.net.truncate(LABEL, "server", -1)


def test_a_connection_dies_silently(runtime: Runtime) -> None:
    """Nothing arrives, ends included, and nobody is told."""

    async def story() -> None:
        _, caller = await dial("server")
        await caller.call(b"hi")
        with runtime.net.kill_silently("test>server:*"):
            task = asyncio.create_task(caller.call(b"anyone?"))
            assert await still_waits(task)
        assert await task == b"anyone?"
        runtime.net.kill_silently(LABEL)
        task = asyncio.create_task(caller.call(b"anyone?"))
        assert await still_waits(task)
        [server] = runtime.hosts
        await server.stop(grace=0)
        assert await still_waits(task)
        assert not caller.eof
        caller.transport.abort()
        await task

    runtime.run(story)


def test_the_next_connects_and_listens_fail(runtime: Runtime) -> None:
    """As many as asked; the end of the block forgets the rest."""

    async def story() -> None:
        net = runtime.net
        with net.fail_next(connect="server", count=2):
            for _ in range(2):
                with pytest.raises(ConnectionRefusedError):
                    await dial("server")
            _, caller = await dial("server")
        net.fail_next(listen="test")
        with pytest.raises(OSError, match="by a fault") as caught:
            await current().network.listen(Caller, ("", 0))
        assert caught.value.errno == errno.EADDRINUSE
        listener = await current().network.listen(Caller, ("", 0))
        listener.close()
        with net.fail_next(connect="server", port=9):
            _, again = await dial("server")
            await end(again)
        with net.fail_next(connect="server", error=errno.ENETDOWN):
            with pytest.raises(OSError, match="server") as caught:
                await dial("server")
            assert caught.value.errno == errno.ENETDOWN
        _, again = await dial("server")
        await end(caller)
        await end(again)

    runtime.run(story)
    for wrong in ({}, {"listen": "server", "connect": "server"}, {"count": 0}):
        options: Any = {"connect": "server", **wrong} if "count" in wrong else wrong
        with pytest.raises(ValueError, match=r"fail_next needs|from 1"):
            runtime.net.fail_next(**options)


def test_connections_are_named_when_unknown(runtime: Runtime) -> None:
    """The error lists what is open; without a proxy it says how to get one."""
    with pytest.raises(SimulationError, match=r"no connection 'a>b' .*open: none"):
        runtime.net.reset("a>b")

    async def story() -> None:
        _, caller = await dial("server")
        await caller.call(b"hi")
        with pytest.raises(ValueError, match="say 'test' or 'server'"):
            runtime.net.close_half(LABEL, "nobody")
        await end(caller)

    runtime.run(story)
    with Runtime() as bare, pytest.raises(PlanError, match="faults=True"):
        bare.net.reset(LABEL)
