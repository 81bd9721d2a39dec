"""Small software for hosts of these tests."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from typing import TYPE_CHECKING, Literal

from rpcsim.ports import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.ports import Listener, Transport
    from rpcsim.real import Runtime

LOOKS = 10_000  # of a millisecond each; no condition here comes near


# Which loops the tests of sockets and threads are run on.
LOOPS: list[Literal["asyncio", "uvloop"]] = ["asyncio"]
if importlib.util.find_spec("uvloop") is not None:
    LOOPS.append("uvloop")


class EchoProtocol(asyncio.Protocol):
    """Answers every line with the same line."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Caller(asyncio.Protocol):
    """Sends bytes and waits for as many; remembers how the connection ended."""

    def __init__(self) -> None:
        self.received = b""
        self.lost: asyncio.Future[Exception | None] = (
            asyncio.get_running_loop().create_future()
        )
        self.eof = False
        self._arrived = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._arrived.set()

    def eof_received(self) -> bool | None:
        self.eof = True
        self._arrived.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived.set()
        if not self.lost.done():
            self.lost.set_result(exc)

    async def read(self, n: int) -> bytes:
        while len(self.received) < n and not self.lost.done():
            self._arrived.clear()
            await self._arrived.wait()
        data, self.received = self.received[:n], self.received[n:]
        return data

    async def call(self, data: bytes) -> bytes:
        self.transport.write(data)
        return await self.read(len(data))

    async def until_eof(self) -> None:
        while not self.eof and not self.lost.done():
            self._arrived.clear()
            await self._arrived.wait()


class EchoServer:
    """A host's software: an echo on one port."""

    port = 7007

    def __init__(self) -> None:
        self.listener: Listener | None = None

    async def start(self) -> None:
        network = current().network
        self.listener = await network.listen(EchoProtocol, ("", self.port))

    async def stop(self) -> None:
        assert self.listener is not None
        self.listener.close()
        await self.listener.wait_closed()


async def dial(host: str, port: int = EchoServer.port) -> tuple[Transport, Caller]:
    """Connect the running host's caller to an echo."""
    return await current().network.connect(Caller, (host, port))


def hang_up(runtime: Runtime, transport: Transport | asyncio.BaseTransport) -> None:
    """Close a connection from a thread that is not its loop's."""

    async def close() -> None:
        transport.close()

    runtime.bridge.wait(close())


def notes(runtime: Runtime) -> list[str]:
    """Name the inexact faults of a run; other programs may hold its ports meanwhile."""
    return [note.fault for note in runtime.inexact if note.fault != "port"]


def until(condition: Callable[[], bool]) -> None:
    """Wait in this thread until something is so, by looking again and again."""
    for _ in range(LOOKS):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never came")
