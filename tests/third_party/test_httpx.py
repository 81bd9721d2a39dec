"""httpx, unmodified over the simulated network, through anyio (checks 61, 62)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from rpcsim.sim import Authority
from tests.third_party.stage import play_twice

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rpcsim.sim import Sim

CA = Authority()


def server(tls: bool = False) -> Callable[[], Awaitable[None]]:
    """Answer each request with the number of its connection; close it when idle."""

    async def run() -> None:
        opened = 0

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            nonlocal opened
            opened += 1
            mine = opened
            try:
                while True:
                    async with asyncio.timeout(5):  # keep-alive
                        head = await reader.readuntil(b"\r\n\r\n")
                    if b"/reset" in head:
                        writer.transport.abort()
                        return
                    if b"/slow" in head:
                        await asyncio.sleep(100)
                    writer.write(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % mine
                    )
            except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        context = CA.server_context("server") if tls else None
        listening = await asyncio.start_server(serve, "", 80, ssl=context)
        await listening.serve_forever()

    return run


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_eight_requests_use_one_connection(tls: bool) -> None:
    """After the server closed it, the next request opens a second (check 62)."""
    scheme = "https" if tls else "http"

    async def client(sim: Sim) -> str:
        verify = CA.client_context() if tls else False
        async with httpx.AsyncClient(verify=verify) as http:
            seen = ""
            for _ in range(8):
                seen += (await http.get(f"{scheme}://server:80/")).text
            await asyncio.sleep(10)
            return seen + (await http.get(f"{scheme}://server:80/")).text

    assert play_twice(server(tls), client) == "111111112"


def test_a_request_times_out() -> None:
    """The default read limit of 5 s passes in simulated time."""

    async def client(sim: Sim) -> float:
        async with httpx.AsyncClient() as http:
            with pytest.raises(httpx.ReadTimeout):
                await http.get("http://server/slow")
            return round(sim.loop.time(), 6)

    assert play_twice(server(), client) == 5.004


def test_a_reset_is_the_librarys_error() -> None:
    """The server resets the connection in the middle of a request."""

    async def client(sim: Sim) -> None:
        async with httpx.AsyncClient() as http:
            with pytest.raises(httpx.ReadError):
                await http.get("http://server/reset")

    play_twice(server(), client)


def test_an_untrusted_certificate_is_the_librarys_error() -> None:
    """The server's authority is not the client's."""

    async def client(sim: Sim) -> str:
        stranger = Authority("stranger").client_context()
        async with httpx.AsyncClient(verify=stranger) as http:
            with pytest.raises(httpx.ConnectError) as raised:
                await http.get("https://server:80/")
            return str(raised.value)

    assert "CERTIFICATE_VERIFY_FAILED" in play_twice(server(tls=True), client)
