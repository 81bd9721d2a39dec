"""A small scenario with a fault: three servers, three clients, two seconds of partition.

Every client makes ten calls, each to the next server, and tries again over another
connection until it is answered; meanwhile two clients are cut off from two servers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.bench._programs import Place

__all__ = ["chaos", "message_chaos"]

SERVERS: Final = ("s0", "s1", "s2")
CLIENTS: Final = ("c0", "c1", "c2")
CUT: Final = (("c0", "c1"), ("s0", "s1"))
CALLS: Final = 10
TRIES: Final = 50
PORT: Final = 7100
# Seconds: for one try, between tries, until the cut, of the cut.
PATIENCE, PAUSE, BEFORE, LENGTH = 0.5, 0.1, 0.02, 2.0


async def _handle(reader: Any, writer: Any) -> None:
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    except OSError:
        pass  # the client gave up
    finally:
        writer.close()


class _Client:
    """Keeps a connection to each server, and makes another when a call failed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.open: dict[str, Any] = {}

    async def run(self) -> int:
        done = 0
        for call in range(CALLS):
            server = SERVERS[(self.number + call) % len(SERVERS)]
            for _ in range(TRIES):
                if await self._ask(server, b"%d %d\n" % (self.number, call)):
                    done += 1
                    break
                await asyncio.sleep(PAUSE)
        for _, writer in self.open.values():
            writer.close()
        return done

    async def _ask(self, server: str, line: bytes) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                if server not in self.open:
                    self.open[server] = await asyncio.open_connection(server, PORT)
                reader, writer = self.open[server]
                writer.write(line)
                if await reader.readline() == line:
                    return True
        except (OSError, TimeoutError):
            pass
        if server in self.open:
            self.open.pop(server)[1].close()
        return False


async def chaos(n: int, place: Place) -> int:
    """One whole run."""
    town = place.town
    servers = [
        await town.run(name, lambda s=name: asyncio.start_server(_handle, s, PORT))
        for name in SERVERS
    ]
    asked = [
        asyncio.ensure_future(town.run(name, lambda i=i: _Client(i).run()))
        for i, name in enumerate(CLIENTS)
    ]
    await asyncio.sleep(BEFORE)
    town.cut(*CUT)
    await asyncio.sleep(LENGTH)
    town.heal()
    if sum(await asyncio.gather(*asked)) != CALLS * len(CLIENTS):
        raise AssertionError("a call was never answered")
    for server in servers:
        server.close()
    await asyncio.sleep(PATIENCE)  # the handlers see the ends of their connections
    return 1


async def message_chaos(n: int, place: Place) -> int:
    """The same over a network of messages."""
    net = place.messages
    ends = {name: net.bind(name) for name in (*SERVERS, *CLIENTS)}

    async def serve(name: str) -> None:
        while True:
            sender, message = await ends[name].recv()
            await ends[name].send(sender, message)

    async def ask(name: str, server: str, line: bytes) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                await ends[name].send(server, line)
                while (await ends[name].recv())[1] != line:
                    pass  # the late answer to a try before
                return True
        except TimeoutError:
            return False

    async def client(number: int) -> int:
        done = 0
        for call in range(CALLS):
            server = SERVERS[(number + call) % len(SERVERS)]
            for _ in range(TRIES):
                if await ask(CLIENTS[number], server, b"%d %d" % (number, call)):
                    done += 1
                    break
                await asyncio.sleep(PAUSE)
        return done

    serving = [asyncio.ensure_future(serve(name)) for name in SERVERS]
    asked = [asyncio.ensure_future(client(i)) for i in range(len(CLIENTS))]
    await asyncio.sleep(BEFORE)
    net.partition(*map(set, CUT))
    await asyncio.sleep(LENGTH)
    net.heal()
    if sum(await asyncio.gather(*asked)) != CALLS * len(CLIENTS):
        raise AssertionError("a call was never answered")
    for server in serving:
        server.cancel()
    return 1
