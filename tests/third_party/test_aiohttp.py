"""aiohttp, server and client, unmodified over the simulated network (check 61)."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp._websocket.writer import WebSocketWriter

from rpcsim.sim import Authority
from tests.third_party.stage import play_twice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from rpcsim.sim import Sim

CA = Authority()
PORT = 8080


async def hello(request: web.Request) -> web.Response:
    assert request.transport is not None
    peer = request.transport.get_extra_info("peername")
    return web.json_response({"host": peer[0], "port": peer[1]})


async def trickle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for n in range(3):
        await response.write(b"part %d\n" % n)
        await asyncio.sleep(1)
    return response


async def slow(request: web.Request) -> web.Response:
    await asyncio.sleep(100)
    return web.Response()


async def reset(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def chat(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(f"you said {message.data}")
    return socket


def server(tls: bool = False) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/", hello),
                web.get("/trickle", trickle),
                web.get("/slow", slow),
                web.get("/reset", reset),
                web.get("/chat", chat),
            ]
        )
        runner = web.AppRunner(app)
        await runner.setup()
        context = CA.server_context("server") if tls else None
        await web.TCPSite(runner, None, PORT, ssl_context=context).start()
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    return run


@asynccontextmanager
async def session(tls: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
    scheme = "https" if tls else "http"
    connector = aiohttp.TCPConnector(ssl=CA.client_context() if tls else True)
    async with aiohttp.ClientSession(
        f"{scheme}://server:{PORT}",
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=5),
    ) as opened:
        yield opened
    await asyncio.sleep(1)  # TLS says goodbye


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_requests_keep_one_connection(tls: bool) -> None:
    """Keep-alive: three requests, one connection; equal digests for two runs."""

    async def client(sim: Sim) -> list[Any]:
        async with session(tls) as http:
            seen = []
            for _ in range(3):
                async with http.get("/") as response:
                    assert response.status == 200
                    seen.append(await response.json())
            return seen

    first, second, third = play_twice(server(tls), client)
    assert first == second == third
    assert first["host"] == "10.0.0.3"


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_stream_arrives_piece_by_piece(tls: bool) -> None:
    """Each chunk is there one latency after it was written."""

    async def client(sim: Sim) -> list[tuple[float, bytes]]:
        async with session(tls) as http, http.get("/trickle") as response:
            begun = sim.loop.time()
            return [
                (round(sim.loop.time() - begun, 6), piece)
                async for piece in response.content
            ]

    pieces = play_twice(server(tls), client)
    assert pieces == [(0.0, b"part 0\n"), (1.0, b"part 1\n"), (2.0, b"part 2\n")]


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_websocket_talks(tls: bool) -> None:
    """Upgrade, messages both ways, close."""

    # The library's own generator of masks, made when it was imported.
    signature = inspect.signature(WebSocketWriter)
    masks: Any = signature.parameters["random"].default
    before = masks.getstate()

    async def client(sim: Sim) -> list[str]:
        sim.register_random(masks)
        async with session(tls) as http, http.ws_connect("/chat") as socket:
            seen = []
            for word in ("one", "two"):
                await socket.send_str(word)
                seen.append(await socket.receive_str())
            return seen

    assert play_twice(server(tls), client) == ["you said one", "you said two"]
    assert masks.getstate() == before


def test_a_request_times_out_at_the_second() -> None:
    """The client's time limit is simulated time."""

    async def client(sim: Sim) -> float:
        async with session() as http:
            with pytest.raises(TimeoutError):
                await http.get("/slow")
            return sim.loop.time()

    assert play_twice(server(), client) == 5.0


def test_a_reset_is_the_librarys_error() -> None:
    """The server resets: `ServerDisconnectedError` or its reset, an `OSError`."""

    async def client(sim: Sim) -> str:
        async with session() as http:
            with pytest.raises(aiohttp.ClientConnectionError) as raised:
                await http.get("/reset")
            return type(raised.value).__name__

    assert play_twice(server(), client) in (
        "ClientOSError",
        "ClientConnectionResetError",
    )


def test_a_refused_connect_is_the_librarys_error() -> None:
    """Nobody listens there: `ClientConnectorError` after one round trip."""

    async def client(sim: Sim) -> float:
        async with session() as http:
            with pytest.raises(aiohttp.ClientConnectorError) as raised:
                await http.get("http://server:81/")
            assert isinstance(raised.value.os_error, ConnectionRefusedError)
            return sim.loop.time()

    assert play_twice(server(), client) == 0.004


def test_an_unknown_name_is_the_librarys_error() -> None:
    """The simulated resolver says there is no such name."""

    async def client(sim: Sim) -> str:
        async with session() as http:
            with pytest.raises(aiohttp.ClientConnectorDNSError) as raised:
                await http.get("http://nowhere:80/")
            return str(raised.value.host)

    assert play_twice(server(), client) == "nowhere"
