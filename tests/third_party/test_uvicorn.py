"""starlette on uvicorn, unmodified over the simulated network (check 61)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.third_party.stage import play_twice

if TYPE_CHECKING:
    from starlette.requests import Request

    from rpcsim.sim import Sim


async def hello(request: Request) -> Response:
    return PlainTextResponse(f"hello {request.query_params['name']}")


def blocking(request: Request) -> Response:
    time.sleep(2)
    return PlainTextResponse("after a while")


async def slow(request: Request) -> Response:
    await asyncio.sleep(100)
    return Response()


async def server() -> None:
    app = Starlette(
        routes=[
            Route("/hello", hello),
            Route("/blocking", blocking),
            Route("/slow", slow),
        ]
    )
    config = uvicorn.Config(app, "0.0.0.0", 80, log_config=None, lifespan="off")
    await uvicorn.Server(config).serve()


def test_requests_reach_the_application() -> None:
    """A coroutine endpoint, and one that blocks, in a fiber."""

    async def client(sim: Sim) -> list[object]:
        await asyncio.sleep(1)
        async with httpx.AsyncClient(base_url="http://server") as http:
            first = await http.get("/hello", params={"name": "you"})
            begun = sim.loop.time()
            second = await http.get("/blocking")
            return [first.text, second.text, round(sim.loop.time() - begun, 3)]

    assert play_twice(server, client) == ["hello you", "after a while", 2.004]


def test_a_request_times_out() -> None:
    """The client's limit, while the application sleeps."""

    async def client(sim: Sim) -> float:
        await asyncio.sleep(1)
        async with httpx.AsyncClient(timeout=3) as http:
            with pytest.raises(httpx.ReadTimeout):
                await http.get("http://server/slow")
            return round(sim.loop.time())

    assert play_twice(server, client) == 4


def test_a_partition_is_a_connect_timeout() -> None:
    """The server cannot be reached; after the repair it can."""

    async def client(sim: Sim) -> str:
        await asyncio.sleep(1)
        async with httpx.AsyncClient(timeout=3) as http:
            with (
                sim.net.partition("client", "server"),
                pytest.raises(httpx.ConnectTimeout),
            ):
                await http.get("http://server/hello?name=me")
            return (await http.get("http://server/hello?name=me")).text

    assert play_twice(server, client) == "hello me"
