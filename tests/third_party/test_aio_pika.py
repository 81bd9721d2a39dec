"""aio-pika's connection attempts, and how it takes their failures (issue 3).

Requests over it need the broker's AMQP front.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aio_pika
import pytest
from aio_pika.exceptions import AMQPConnectionError

from tests.third_party.stage import play_twice

if TYPE_CHECKING:
    from rpcsim.sim import Sim


async def server() -> None:
    """Take connections on the AMQP port; say nothing, or hang up."""

    async def silent(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read()
        writer.close()

    async def hang_up(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readexactly(8)  # the protocol header
        writer.transport.abort()

    await asyncio.start_server(silent, "", 5672)
    await asyncio.start_server(hang_up, "", 5673)
    await asyncio.Event().wait()


@pytest.mark.parametrize("place", ["server:81", "nowhere", "server:5673"])
def test_a_failed_attempt_is_the_librarys_error(place: str) -> None:
    """Refused, unknown name, reset: `AMQPConnectionError`, a `ConnectionError`."""

    async def client(sim: Sim) -> bool:
        with pytest.raises(AMQPConnectionError) as raised:
            await aio_pika.connect(f"amqp://guest:guest@{place}/")
        return isinstance(raised.value, ConnectionError)

    assert play_twice(server, client)


def test_an_attempt_times_out() -> None:
    """A broker that does not speak: the caller's limit, in simulated time."""

    async def client(sim: Sim) -> float:
        with pytest.raises(TimeoutError):
            await aio_pika.connect("amqp://guest:guest@server/", timeout=4)
        return round(sim.loop.time())

    assert play_twice(server, client) == 4


def test_a_robust_connection_keeps_trying() -> None:
    """With nobody there, it tries again every five seconds until given up."""

    async def client(sim: Sim) -> float:
        attempts = asyncio.create_task(
            aio_pika.connect_robust(
                "amqp://guest:guest@server:81/", fail_fast=False, reconnect_interval=5
            )
        )
        await asyncio.sleep(21)
        attempts.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempts
        return len([r for r in sim.trace if r.kind == "conn.refused"])

    assert play_twice(server, client) >= 4
