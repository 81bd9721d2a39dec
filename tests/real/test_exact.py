"""Faults that are exact through the proxy: one test body for both machines."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.ports import current
from rpcsim.real import Runtime
from rpcsim.sim import Sim
from tests.real.parts import Caller, EchoServer, dial, notes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from rpcsim.ports import Machine

PAUSE = "20ms"  # in which what is held must not come
LABEL = "test>server:7007#1"


@pytest.fixture(params=["sim", "real"])
def world(request: pytest.FixtureRequest) -> Iterator[Any]:
    made: Machine = (
        Sim(seed=5) if request.param == "sim" else Runtime(seed=5, faults=True, grace=1)
    )
    with made as machine:
        machine.bridge.wait(machine.host("server", EchoServer).wait_started())
        yield machine
    if isinstance(made, Runtime):
        assert notes(made) == []


def on_connection(world: Any, story: Callable[[Caller, Any], Awaitable[None]]) -> None:
    async def main() -> None:
        _, caller = await dial("server")
        assert await caller.call(b"hello") == b"hello"
        await story(caller, world.net)
        if not caller.lost.done():
            caller.transport.abort()
            await caller.lost

    world.run(main)


async def nothing_comes(caller: Caller) -> None:
    before = caller.received
    await current().clock.sleep(PAUSE)
    assert caller.received == before
    assert not caller.eof
    assert not caller.lost.done()


def test_partitions(world: Any) -> None:
    """Both ways and one way; what was written meanwhile arrives after the repair."""

    async def story(caller: Caller, net: Any) -> None:
        for direction in ("both", "a->b", "b->a"):
            with net.partition("test", "server", direction=direction):
                caller.transport.write(b"held")
                await nothing_comes(caller)
            assert await caller.read(4) == b"held"

    on_connection(world, story)


def test_hold_and_release(world: Any) -> None:
    """What is held is listed and does not arrive before it is released, in order."""

    async def story(caller: Caller, net: Any) -> None:
        with net.hold("test", "server"):
            caller.transport.write(b"one")
            await nothing_comes(caller)
            caller.transport.write(b"three")
            await nothing_comes(caller)
            held = [p for p in net.inflight() if p.held]
            assert [(p.kind, p.size, p.src, p.dst) for p in held] == [
                ("data", 3, "test", "server"),
                ("data", 5, "test", "server"),
            ]
            assert {p.connection for p in held} == {LABEL}
            assert net.release_one()
            await nothing_comes(caller)  # the echo of it is held on the way back
        assert await caller.read(8) == b"onethree"
        assert not net.release_one()

    on_connection(world, story)


def test_a_condition_holds(world: Any) -> None:
    """Only what a function of the packet picks."""

    async def story(caller: Caller, net: Any) -> None:
        with net.hold(lambda packet: packet.size > 3):
            caller.transport.write(b"abc")
            assert await caller.read(3) == b"abc"
            caller.transport.write(b"abcd")
            await nothing_comes(caller)
            assert net.release() == 1
            await nothing_comes(caller)
            assert net.release(lambda packet: packet.src == "server") == 1
            assert await caller.read(4) == b"abcd"

    on_connection(world, story)


def test_silent_death(world: Any) -> None:
    """Nothing arrives, and nobody is told; the handle's end revives it."""

    async def story(caller: Caller, net: Any) -> None:
        with net.kill_silently(LABEL):
            caller.transport.write(b"anyone?")
            await nothing_comes(caller)
        assert await caller.read(7) == b"anyone?"

    on_connection(world, story)


def test_reset(world: Any) -> None:
    """Both ends lose the connection with `ConnectionResetError`."""

    async def story(caller: Caller, net: Any) -> None:
        net.reset(caller.transport)
        assert isinstance(await caller.lost, ConnectionResetError)

    on_connection(world, story)
    for _ in range(100):
        lost = world.trace.of_kind("conn.lost")
        if len(lost) == 2:
            break
        world.bridge.wait(world.clock.sleep("5ms"))
    assert {(r.host, r.get("error")) for r in lost} == {
        ("test", "ConnectionResetError"),
        ("server", "ConnectionResetError"),
    }


def test_half_close(world: Any) -> None:
    """One direction ends; the peer sees end-of-file."""

    async def story(caller: Caller, net: Any) -> None:
        net.close_half(LABEL, "server")
        await caller.until_eof()
        assert caller.eof

    on_connection(world, story)


def test_refused_connects(world: Any) -> None:
    """As many as asked, at the host asked; listens likewise."""

    async def story(caller: Caller, net: Any) -> None:
        with net.fail_next(connect="server", count=2):
            for _ in range(2):
                with pytest.raises(ConnectionRefusedError):
                    await dial("server")
            _, other = await dial("server")
        net.fail_next(listen="test")
        with pytest.raises(OSError, match="by a fault"):
            await current().network.listen(Caller, ("", 0))
        (await current().network.listen(Caller, ("", 0))).close()
        other.transport.abort()
        await other.lost

    on_connection(world, story)


def test_a_held_connect_is_refused_or_released(world: Any) -> None:
    """A connect is a packet too."""

    async def story(caller: Caller, net: Any) -> None:
        with net.hold(lambda packet: packet.kind == "syn"):
            first, second = (asyncio.ensure_future(dial("server")) for _ in range(2))
            await current().clock.sleep(PAUSE)
            assert not first.done()
            assert net.refuse_one("test>server:*")
            with pytest.raises(ConnectionRefusedError):
                await first
            assert net.release_one()
            _, other = await second
            assert not net.refuse_one()
        assert await other.call(b"hi") == b"hi"
        other.transport.abort()
        await other.lost

    on_connection(world, story)
