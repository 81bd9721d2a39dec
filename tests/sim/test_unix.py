"""Unix-domain sockets of a host, adopted sockets, files: section 7 of the spec."""

from __future__ import annotations

import asyncio
import errno
import io
import socket
from pathlib import Path
from typing import Any

import pytest

from rpcsim.errors import EscapeError
from rpcsim.sim import Authority, Sim
from tests.sim.programs import PORT, echo_server

PATH = "/run/app.sock"


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
    writer.close()


@pytest.fixture
def sim() -> Any:
    with Sim() as sim:
        sim.host("a")
        sim.host("b", echo_server)
        sim.net.link("*", "*", latency="1s")
        yield sim


def test_a_path_is_its_hosts_own_and_without_latency(sim: Sim) -> None:
    """Links shape it not; another host does not see it; the file system is not used."""

    async def story() -> None:
        server = await asyncio.start_unix_server(shout, PATH)
        assert server.sockets[0].getsockname() == PATH
        assert server.sockets[0].family == socket.AF_UNIX
        reader, writer = await asyncio.open_unix_connection(PATH)
        assert writer.get_extra_info("peername") == PATH
        assert writer.get_extra_info("sockname") == ""
        writer.write(b"hello\n")
        assert await reader.readline() == b"HELLO\n"
        writer.close()
        await writer.wait_closed()
        assert sim.loop.time() == 0
        with pytest.raises(OSError, match="in use") as raised:
            await asyncio.start_unix_server(shout, PATH)
        assert raised.value.errno == errno.EADDRINUSE
        server.close()
        await server.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_unix_connection(PATH)
        again = await asyncio.start_unix_server(shout, Path(PATH))
        assert again.is_serving()

    async def stranger() -> None:
        with pytest.raises(FileNotFoundError):
            await asyncio.open_unix_connection(PATH)

    sim.by_name["a"].run(story)
    sim.by_name["b"].run(stranger)


def test_paths_and_options_are_checked(sim: Sim) -> None:
    """As asyncio does; abstract names are refused."""

    async def story() -> None:
        loop: Any = asyncio.get_running_loop()
        for call in (loop.create_unix_connection, loop.create_unix_server):
            with pytest.raises(ValueError, match="path was"):
                await call(asyncio.Protocol)
            with pytest.raises(ValueError, match="needs a path"):
                await call(asyncio.Protocol, "\0abstract")

    sim.run(story)


def test_a_path_speaks_tls(sim: Sim) -> None:
    """With the name the caller says."""
    authority = Authority()

    async def story() -> bytes:
        context = authority.server_context("app")
        server = await asyncio.start_unix_server(shout, PATH, ssl=context)
        reader, writer = await asyncio.open_unix_connection(
            PATH, ssl=authority.client_context(), server_hostname="app"
        )
        writer.write(b"hidden\n")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        server.close()
        return line

    assert sim.by_name["a"].run(story) == b"HIDDEN\n"


class Made:
    """A socket as a library makes it; the guard of this room forbids real ones."""

    def __init__(self) -> None:
        self.closed = False
        self.connected = False

    def getpeername(self) -> Any:
        if not self.connected:
            raise OSError(errno.ENOTCONN, "not connected")
        return ("192.0.2.1", 1)

    def fileno(self) -> int:
        return -1 if self.closed else 9

    def close(self) -> None:
        self.closed = True


def test_a_connected_socket_is_adopted_by_a_transport(sim: Sim) -> None:
    """`sock_connect`, then `create_connection(sock=)`; its descriptor goes unused."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        made: Any = Made()
        await loop.sock_connect(made, ("10.0.0.3", PORT))
        assert loop.time() == 2
        with pytest.raises(OSError, match="already connected"):
            await loop.sock_connect(made, ("10.0.0.3", PORT))
        reader, writer = await asyncio.open_connection(sock=made)
        assert made.closed
        assert writer.get_extra_info("peername") == ("10.0.0.3", PORT)
        stand_in = writer.get_extra_info("socket")
        assert stand_in is writer.get_extra_info("socket")
        writer.write(b"through\n")
        assert await reader.readline() == b"through\n"
        quiet = stand_in.fileno()
        writer.close()
        await writer.wait_closed()
        assert stand_in.fileno() != quiet

    sim.by_name["a"].run(story)


def test_an_adopted_socket_can_be_read_by_hand(sim: Sim) -> None:
    """`sock_sendall`, `sock_recv`, `sock_recv_into`; dropping it closes."""

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(10_000):
            writer.write(data)
        writer.close()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        made: Any = Made()
        await asyncio.start_server(back, "", PORT)
        await loop.sock_connect(made, ("a", PORT))
        await loop.sock_sendall(made, b"one\n")
        assert await loop.sock_recv(made, 2) == b"on"
        room = bytearray(10)
        assert await loop.sock_recv_into(made, room) == 2
        assert room[:2] == b"e\n"
        big = b"x" * 300_000 + b"\n"
        await loop.sock_sendall(made, big)
        got = b""
        while len(got) < len(big):
            piece = await loop.sock_recv(made, 65_536)
            assert piece
            got += piece
        assert got == big
        del made
        await asyncio.sleep(3)

    sim.by_name["a"].run(story)
    assert not list(sim.net.ends())


def test_a_socket_connected_elsewhere_is_fenced() -> None:
    """A real connection cannot be taken over (check 64)."""

    async def story() -> None:
        made: Any = Made()
        made.connected = True
        with pytest.raises(EscapeError, match="sock_connect"):
            await asyncio.get_running_loop().sock_connect(made, ("b", PORT))

    with pytest.raises(EscapeError, match="sock_connect"), Sim() as sim:
        sim.run(story)


@pytest.mark.parametrize("tls", [False, True])
def test_a_file_is_sent_by_copying(sim: Sim, tls: bool) -> None:
    """`sendfile` with offset and count, over backpressure, then the stream goes on."""
    authority = Authority()
    content = bytes(range(256)) * 2_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        file = io.BytesIO(content)
        sent = await loop.sendfile(writer.transport, file, 256, 400_000)
        assert (sent, file.tell()) == (400_000, 400_256)
        writer.write(b"end")
        writer.close()

    async def story() -> bytes:
        context = authority.server_context("a") if tls else None
        server = await asyncio.start_server(serve, "", 99, ssl=context)
        trust = authority.client_context() if tls else None
        reader, writer = await asyncio.open_connection("a", 99, ssl=trust)
        data = await reader.read()
        writer.close()
        server.close()
        return data

    assert sim.by_name["a"].run(story) == content[256:400_256] + b"end"


def test_a_file_is_not_sent_without_copying(sim: Sim) -> None:
    """`fallback=False` has the error asyncio has for it."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        _, writer = await asyncio.open_connection("b", PORT)
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sendfile(writer.transport, io.BytesIO(), fallback=False)
        writer.close()
        with pytest.raises(RuntimeError, match="closing"):
            await loop.sendfile(writer.transport, io.BytesIO())

    sim.run(story)
