"""websockets, server and client, unmodified over the simulated network (check 61)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError

from tests.third_party.stage import play_twice

if TYPE_CHECKING:
    from rpcsim.sim import Sim


async def server() -> None:
    async def talk(socket: ServerConnection) -> None:
        async for message in socket:
            if message == "reset":
                socket.transport.abort()
                return
            if message != "silence":
                await socket.send(f"you said {message!s}")

    async with serve(talk, None, 8765) as listening:
        await listening.serve_forever()


def test_messages_and_keep_alive() -> None:
    """Messages both ways, pings while idle, close; equal digests for two runs."""

    async def client(sim: Sim) -> list[object]:
        async with connect("ws://server:8765") as socket:
            await socket.send("one")
            first = await socket.recv()
            await asyncio.sleep(100)  # five pings
            await socket.send("two")
            return [first, await socket.recv(), round(sim.loop.time(), 3)]

    assert play_twice(server, client) == ["you said one", "you said two", 100.016]


def test_silence_times_out() -> None:
    """A time limit around `recv` is simulated time."""

    async def client(sim: Sim) -> float:
        async with connect("ws://server:8765") as socket:
            await socket.send("silence")
            begun = sim.loop.time()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(socket.recv(), 3)
            return round(sim.loop.time() - begun, 6)

    assert play_twice(server, client) == 3.0


def test_a_reset_is_the_librarys_error() -> None:
    """The server resets: `ConnectionClosedError`, without a close frame."""

    async def client(sim: Sim) -> str:
        async with connect("ws://server:8765") as socket:
            await socket.send("reset")
            with pytest.raises(ConnectionClosedError) as raised:
                await socket.recv()
            return type(raised.value.__cause__).__name__

    assert play_twice(server, client) == "ConnectionResetError"


def test_a_partition_is_noticed_by_the_keep_alive() -> None:
    """Pings at 20 s, given up after another 20 s."""

    async def client(sim: Sim) -> float:
        async with connect("ws://server:8765") as socket:
            fault = sim.net.partition("client", "server")
            with pytest.raises(ConnectionClosedError):
                await socket.recv()
            noticed = sim.loop.time()
            fault.undo()
            return round(noticed)

    assert play_twice(server, client) in (40, 50)
