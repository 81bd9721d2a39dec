"""The programs: asyncio and nothing else, so that every loop can run them.

Each takes the number of operations wanted and the `Place` it runs in, and gives the
number it did.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tests.bench._chaos import chaos, message_chaos

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

__all__ = ["MESSAGES", "PROGRAMS", "Place", "Program"]

Program: TypeAlias = "Callable[[int, Place], Coroutine[Any, Any, int]]"
Start: TypeAlias = "Callable[[str | None, int], Awaitable[asyncio.AbstractServer]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What differs from loop to loop.

    Attributes:
        serve: Runs a server's start on a host of its own where the loop knows hosts;
            gives the address for clients, and the server.
        mark: Begins the measurement anew: what was before was preparation.
        messages: A network of messages, for the loop that has no streams.
        town: Several hosts and the cuts between them, where the loop knows such.
    """

    serve: Callable[[Start], Awaitable[tuple[str, int, asyncio.AbstractServer]]]
    mark: Callable[[], None]
    messages: Any = None
    town: Any = None


# -- scheduling ------------------------------------------------------------------------


async def trivial(n: int, place: Place) -> int:
    return 1


async def chain(n: int, place: Place) -> int:
    """One callback after the other, each scheduling the next."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = n

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            done.set_result(None)

    loop.call_soon(step)
    await done
    return n


async def _ready(n: int, place: Place, tasks: int) -> int:
    """Tasks that are always ready; making them is not measured."""
    turns = max(n // tasks, 2)
    loop = asyncio.get_running_loop()
    everybody, gate = loop.create_future(), loop.create_future()
    waiting = 0

    async def work() -> None:
        nonlocal waiting
        waiting += 1
        if waiting == tasks:
            everybody.set_result(None)
        await gate  # the first turn
        for _ in range(turns - 1):
            await asyncio.sleep(0)

    working = [asyncio.ensure_future(work()) for _ in range(tasks)]
    await everybody
    place.mark()
    gate.set_result(None)
    await asyncio.gather(*working)
    return turns * tasks


async def ready_100(n: int, place: Place) -> int:
    return await _ready(n, place, 100)


async def ready_10000(n: int, place: Place) -> int:
    return await _ready(n, place, 10_000)


async def timers(n: int, place: Place) -> int:
    """A hundred tasks that sleep a microsecond again and again."""
    turns = max(n // 100, 1)

    async def work() -> None:
        for _ in range(turns):
            await asyncio.sleep(1e-6)

    await asyncio.gather(*(work() for _ in range(100)))
    return turns * 100


# -- calls over the network ------------------------------------------------------------


def _dump_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _load_json(line: bytes) -> Any:
    return json.loads(line)


class Answering(asyncio.Protocol):
    """The server's side: a line of JSON in, a line of JSON out."""

    def __init__(self, dump: Callable[[Any], bytes], load: Callable[[bytes], Any]):
        self.dump, self.load, self.rest = dump, load, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            call = self.load(line)
            reply = {"id": call["id"], "result": call["args"]}
            self.transport.write(self.dump(reply) + b"\n")


class Asking(asyncio.Protocol):
    """The client's side: the next call leaves when the last one's answer is here."""

    def __init__(
        self, n: int, dump: Callable[[Any], bytes], load: Callable[[bytes], Any]
    ):
        self.left, self.dump, self.load, self.rest = n, dump, load, b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        call = {"id": self.left, "method": "echo", "args": ["hello", 1]}
        self.transport.write(self.dump(call) + b"\n")

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if self.load(line)["id"] != self.left:
                raise AssertionError("an answer to another call")
            self.left -= 1
            if self.left:
                self.ask()
            else:
                self.done.set_result(None)


async def _rpc(
    n: int, place: Place, dump: Callable[[Any], bytes], load: Callable[[bytes], Any]
) -> int:
    loop = asyncio.get_running_loop()

    async def start(host: str | None, port: int) -> asyncio.AbstractServer:
        there = asyncio.get_running_loop()
        return await there.create_server(lambda: Answering(dump, load), host, port)

    host, port, server = await place.serve(start)
    transport, client = await loop.create_connection(
        lambda: Asking(n, dump, load), host, port
    )
    await client.done
    transport.close()
    server.close()
    return n


async def rpc_json(n: int, place: Place) -> int:
    return await _rpc(n, place, _dump_json, _load_json)


async def rpc_msgspec(n: int, place: Place) -> int:
    import msgspec

    codec = msgspec.json
    return await _rpc(n, place, codec.Encoder().encode, codec.Decoder().decode)


async def _streams(n: int, place: Place, clients: int) -> int:
    turns = max(n // clients, 1)
    served = asyncio.Semaphore(0)

    async def handle(reader: Any, writer: Any) -> None:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        served.release()

    async def start(host: str | None, port: int) -> asyncio.AbstractServer:
        return await asyncio.start_server(handle, host, port)

    host, port, server = await place.serve(start)

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for _ in range(turns):
            writer.write(b"hello\n")
            await writer.drain()
            await reader.readline()
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(clients)))
    for _ in range(clients):
        await served.acquire()
    server.close()
    return turns * clients


async def streams_1(n: int, place: Place) -> int:
    return await _streams(n, place, 1)


async def streams_50(n: int, place: Place) -> int:
    return await _streams(n, place, 50)


# -- the same calls over a network of messages -----------------------------------------


async def _message_rpc(
    n: int, place: Place, dump: Callable[[Any], bytes], load: Callable[[bytes], Any]
) -> int:
    near, far = (place.messages.bind(i, reliable=True) for i in range(2))

    async def answer() -> None:
        while True:
            sender, message = await far.recv()
            call = load(message)
            reply = {"id": call["id"], "result": call["args"]}
            await far.send(sender, dump(reply))

    server = asyncio.ensure_future(answer())
    for number in range(n):
        call = {"id": number, "method": "echo", "args": ["hello", 1]}
        await near.send(1, dump(call))
        _, message = await near.recv()
        if load(message)["id"] != number:
            raise AssertionError("an answer to another call")
    server.cancel()
    return n


async def _messages_json(n: int, place: Place) -> int:
    return await _message_rpc(n, place, _dump_json, _load_json)


async def _messages_msgspec(n: int, place: Place) -> int:
    import msgspec

    codec = msgspec.json
    return await _message_rpc(n, place, codec.Encoder().encode, codec.Decoder().decode)


async def _message_echo(n: int, place: Place, clients: int) -> int:
    turns = max(n // clients, 1)
    ends = [place.messages.bind(i, reliable=True) for i in range(clients + 1)]

    async def answer() -> None:
        while True:
            sender, message = await ends[0].recv()
            await ends[0].send(sender, message)

    async def ask(end: Any) -> None:
        for _ in range(turns):
            await end.send(0, b"hello\n")
            await end.recv()

    server = asyncio.ensure_future(answer())
    await asyncio.gather(*(ask(end) for end in ends[1:]))
    server.cancel()
    return turns * clients


async def _messages_1(n: int, place: Place) -> int:
    return await _message_echo(n, place, 1)


async def _messages_50(n: int, place: Place) -> int:
    return await _message_echo(n, place, 50)


PROGRAMS: Final[dict[str, Program]] = {
    "chain": chain,
    "ready_100": ready_100,
    "ready_10000": ready_10000,
    "timers": timers,
    "rpc_json": rpc_json,
    "rpc_msgspec": rpc_msgspec,
    "streams_1": streams_1,
    "streams_50": streams_50,
    "empty": trivial,
    "chaos": chaos,
}
# Instead of those of the same name, on a loop without streams.
MESSAGES: Final[dict[str, Program]] = {
    "rpc_json": _messages_json,
    "rpc_msgspec": _messages_msgspec,
    "streams_1": _messages_1,
    "streams_50": _messages_50,
    "chaos": message_chaos,
}
