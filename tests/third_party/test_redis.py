"""redis-py's asyncio client against a small scripted server (issue 3)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.third_party.stage import play_twice

if TYPE_CHECKING:
    from rpcsim.sim import Sim


NO_RETRY = Retry(NoBackoff(), 0)


async def _command(reader: asyncio.StreamReader) -> list[bytes]:
    count = int((await reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(count):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


async def server() -> None:
    """Know SET and GET; BLPOP waits, the key `poison` resets the connection."""
    store: dict[bytes, bytes] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                verb, *words = await _command(reader)
                if words == [b"poison"]:
                    writer.transport.abort()
                elif verb == b"SET":
                    store[words[0]] = words[1]
                    writer.write(b"+OK\r\n")
                elif verb == b"GET":
                    value = store.get(words[0])
                    told = (
                        b"$-1" if value is None else b"$%d\r\n%b" % (len(value), value)
                    )
                    writer.write(told + b"\r\n")
                elif verb == b"BLPOP":
                    await asyncio.sleep(1000)
                else:
                    writer.write(b"+OK\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "", 6379)
    await listening.serve_forever()


def connect() -> redis.Redis:
    return redis.Redis(host="server", protocol=2, socket_timeout=5, retry=NO_RETRY)


def test_values_are_set_and_read() -> None:
    """Two commands on one connection; equal digests for two runs."""

    async def client(sim: Sim) -> list[object]:
        async with connect() as db:
            return [await db.set("a", "1"), await db.get("a"), await db.get("b")]

    assert play_twice(server, client) == [True, b"1", None]


def test_a_command_times_out() -> None:
    """`socket_timeout` is simulated time."""

    async def client(sim: Sim) -> float:
        async with connect() as db:
            await db.get("a")
            begun = sim.loop.time()
            with pytest.raises(RedisTimeoutError):
                await db.blpop(["queue"])
            return round(sim.loop.time() - begun)

    assert play_twice(server, client) == 5


def test_a_reset_is_the_librarys_error() -> None:
    """The server resets; the next command opens a new connection."""

    async def client(sim: Sim) -> object:
        async with connect() as db:
            await db.set("a", "1")
            with pytest.raises(RedisConnectionError):
                await db.get("poison")
            return await db.get("a")

    assert play_twice(server, client) == b"1"
