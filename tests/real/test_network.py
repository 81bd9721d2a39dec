from __future__ import annotations

import asyncio
import errno
import gc
import socket
import ssl
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.ports import MessageInfo, current, use
from rpcsim.real import Runtime
from tests.real.parts import (
    LOOPS,
    Caller,
    EchoProtocol,
    EchoServer,
    dial,
    hang_up,
    notes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[False, True], ids=["direct", "proxied"])
def runtime(request: pytest.FixtureRequest, loop: Any) -> Iterator[Runtime]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with Runtime(faults=request.param, loop=loop) as made:
            made.bridge.wait(made.host("server", EchoServer).wait_started())
            yield made
        gc.collect()
    assert made.leftovers == ()


class Accepting:
    """Listens as host `server` and hands out accepted ends, in order."""

    def __init__(self) -> None:
        self.ends: asyncio.Queue[Caller] = asyncio.Queue()

    async def open(self) -> int:
        listener = await current().network.listen(self._accept, ("", 0))
        return listener.addresses[0][1]

    def _accept(self) -> Caller:
        ends = self.ends

        class Accepted(Caller):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                ends.put_nowait(self)

        return Accepted()


async def pair(runtime: Runtime) -> tuple[Any, Caller, Caller]:
    """A connection from `test` to `server`: transport, our end, its end."""
    accepting = Accepting()
    [server] = runtime.hosts
    port = await asyncio.create_task(_as(server, accepting.open))
    transport, near = await current().network.connect(Caller, ("server", port))
    far = await accepting.ends.get()
    return transport, near, far


async def _as(host: Any, fn: Callable[[], Any]) -> Any:
    with use(host.ports):
        return await fn()


def test_half_close_both_ways(runtime: Runtime) -> None:
    """After `write_eof` the other direction still works; then it ends the same way."""

    async def story() -> None:
        transport, near, far = await pair(runtime)
        transport.write(b"question")
        transport.write_eof()
        assert await far.read(8) == b"question"
        await far.until_eof()
        far.transport.write(b"answer")
        far.transport.write_eof()
        assert await near.read(6) == b"answer"
        await near.until_eof()
        near.transport.close()
        far.transport.close()
        assert [await near.lost, await far.lost] == [None, None]

    runtime.run(story)


def test_abort_is_a_reset_and_close_flushes(runtime: Runtime) -> None:
    """The peer of an abort gets `ConnectionResetError`; of a close, every byte."""

    async def story() -> None:
        transport, near, far = await pair(runtime)
        transport.abort()
        assert isinstance(await far.lost, ConnectionResetError)
        assert await near.lost is None
        transport, near, far = await pair(runtime)
        blob = bytes(range(256)) * 4096
        transport.write(blob)
        transport.close()
        assert await far.read(len(blob)) == blob
        await far.until_eof()
        far.transport.close()

    runtime.run(story)


def test_the_accepting_side_sees_the_dialling_host(runtime: Runtime) -> None:
    """Also through the proxy, the peer is the host's own address."""

    async def story() -> None:
        transport, _, far = await pair(runtime)
        assert far.transport.get_extra_info("peername")[0] == "127.0.0.1"
        assert far.transport.get_extra_info("connection") == transport.get_extra_info(
            "connection"
        )
        transport.close()

    runtime.run(story)


def test_backpressure_reaches_the_writer(runtime: Runtime) -> None:
    """A reader that pauses fills buffers until the writer's grows; nothing is lost."""

    async def story() -> None:
        transport, _, far = await pair(runtime)
        far.transport.pause_reading()
        size = 0
        while transport.get_write_buffer_size() < 1 << 20:
            transport.write(b"x" * 65536)
            size += 65536
            await asyncio.sleep(0)
        far.transport.resume_reading()
        assert len(await far.read(size)) == size
        transport.close()
        await far.until_eof()

    runtime.run(story)


def test_writes_of_one_turn_leave_together() -> None:
    """Head and body of a frame are one delivery; a large one does not wait."""
    pieces: list[int] = []
    arrived = asyncio.Event()

    class Counting(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            pieces.append(len(data))
            arrived.set()

    async def story() -> None:
        network = current().network
        listener = await network.listen(Counting, ("", 0))
        transport, _ = await network.connect(
            asyncio.Protocol, ("localhost", listener.addresses[0][1])
        )
        transport.write(b"head")
        transport.write(bytearray(b"body"))
        transport.writelines([b"a", memoryview(b"b")])
        assert transport.get_write_buffer_size() == 10
        await arrived.wait()
        transport.write(b"x" * 65536)
        assert transport.get_write_buffer_size() < 65536
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.close()
        listener.close()

    with Runtime() as runtime:
        runtime.run(story)
    assert pieces[0] == 10


def test_write_message_is_traced(runtime: Runtime) -> None:
    """A frame's meaning stands in the trace, under the host that wrote it."""
    info = MessageInfo(
        system="agent", kind="request", method="Dog.bark", call_id="c1", src="test"
    )

    async def story() -> None:
        transport, caller = await dial("server")
        transport.write_message(b"frame", info)
        assert await caller.read(5) == b"frame"
        transport.close()

    runtime.run(story)
    [record] = runtime.trace.of_kind("call.request")
    assert (record.host, record.get("method"), record.get("id")) == (
        "test",
        "Dog.bark",
        "c1",
    )


def test_refused_names_the_connection(runtime: Runtime) -> None:
    """Nobody listens: the usual error with its number, and a trace record."""
    with pytest.raises(
        ConnectionRefusedError, match="port 9 of host 'server'"
    ) as caught:
        runtime.bridge.wait(dial("server", 9))
    assert caught.value.errno == errno.ECONNREFUSED
    [record] = runtime.trace.of_kind("conn.refused")
    assert record.get("connection") == "test>server:9#1"
    assert record.get("why") == "no listener"


def test_listening_twice_and_elsewhere(runtime: Runtime) -> None:
    """`EADDRINUSE` for a place in use, `EADDRNOTAVAIL` for another host's address."""
    [server] = runtime.hosts

    async def listen(name: str) -> None:
        await current().network.listen(EchoProtocol, (name, EchoServer.port))

    for name, number in (
        ("", errno.EADDRINUSE),
        ("server", errno.EADDRINUSE),
        ("test", errno.EADDRNOTAVAIL),
        ("203.0.113.9", errno.EADDRNOTAVAIL),
    ):
        with pytest.raises(OSError, match="host 'server'") as caught:
            server.run(listen(name))
        assert caught.value.errno == number


def test_a_port_another_program_holds_is_no_obstacle_to_a_host() -> None:
    """Hosts are reached through the run's own address book; `test` is the machine."""
    with Runtime() as runtime, socket.socket() as taken, socket.socket() as other:
        server = runtime.host("server")
        taken.bind((server.addresses[0], 0))
        taken.listen()
        port = taken.getsockname()[1]

        async def serve() -> None:
            listener = await current().network.listen(EchoProtocol, ("", port))
            assert listener.addresses == [(server.addresses[0], port)]

        server.run(serve)
        transport, caller = runtime.bridge.wait(dial("server", port))
        assert runtime.bridge.wait(caller.call(b"hi")) == b"hi"
        hang_up(runtime, transport)
        assert [note.fault for note in runtime.inexact] == ["port"]
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use by another program") as caught:
            runtime.run(
                lambda: current().network.listen(EchoProtocol, other.getsockname())
            )
        assert caught.value.errno == errno.EADDRINUSE


def test_a_closed_listener_refuses_and_frees_its_port(runtime: Runtime) -> None:
    """Open connections stay; the port can be bound again at once."""

    async def story() -> None:
        network = current().network
        listener = await network.listen(EchoProtocol, ("", 0))
        place = ("test", listener.addresses[0][1])
        transport, caller = await dial(*place)
        listener.close()
        await listener.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await dial(*place)
        assert await caller.call(b"still") == b"still"
        again = await network.listen(EchoProtocol, place)
        again.close()
        transport.close()

    runtime.run(story)


def test_unknown_names(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no host goes to the system's resolver; its no is a `gaierror`."""
    asked: list[str] = []

    def none(name: str, *args: object, **kwargs: object) -> Any:
        asked.append(name)
        if name == "known.example":
            place = ("192.0.2.7", 0)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place)] * 2
        raise socket.gaierror(socket.EAI_NONAME, "no")

    monkeypatch.setattr(socket, "getaddrinfo", none)
    resolve = runtime.ports.network.resolve
    with pytest.raises(
        socket.gaierror, match=r"'servr' \(hosts of this run: test, server"
    ):
        runtime.bridge.wait(dial("servr"))
    assert runtime.bridge.wait(resolve("known.example")) == ["192.0.2.7"]
    assert runtime.bridge.wait(resolve("server")) == ["127.0.0.2"]
    assert runtime.bridge.wait(resolve("192.0.2.1")) == ["192.0.2.1"]
    assert asked == ["servr", "known.example"]


def test_a_protocol_that_raises_is_told_at_the_end() -> None:
    """The connection ends, and the failure is kept."""

    class Bad(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            raise LookupError("cannot read this")

    async def story() -> None:
        network = current().network
        listener = await network.listen(Bad, ("", 0))
        transport, caller = await dial("test", listener.addresses[0][1])
        transport.write(b"x")
        await caller.until_eof()
        transport.close()
        listener.close()

    with pytest.raises(ExceptionGroup) as caught, Runtime() as runtime:
        runtime.run(story)
    assert str(caught.value.exceptions[0]) == "cannot read this"


def test_addresses_given_by_the_user_lead_to_the_host() -> None:
    """Those of other networks are known in the run, and the report says it."""
    with Runtime() as runtime:
        server = runtime.host("server", EchoServer, addresses=["10.1.2.3"])
        runtime.bridge.wait(server.wait_started())
        transport, caller = runtime.bridge.wait(dial("10.1.2.3"))
        assert runtime.bridge.wait(caller.call(b"hi")) == b"hi"
        hang_up(runtime, transport)
        own = runtime.host("own", addresses=["127.0.0.77"])
        assert tuple(own.addresses) == ("127.0.0.77",)
    assert notes(runtime) == ["addresses"]


def test_one_loopback_address_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where 127.0.0.2 cannot be bound, hosts share 127.0.0.1 with ports of their own."""
    monkeypatch.setattr("rpcsim.real._runtime.can_bind", lambda address: False)
    with Runtime() as runtime:
        for name in ("a", "b"):
            runtime.bridge.wait(runtime.host(name, EchoServer).wait_started())
            transport, caller = runtime.bridge.wait(dial(name))
            assert runtime.bridge.wait(caller.call(b"hi")) == b"hi"
            hang_up(runtime, transport)
    assert notes(runtime) == ["addresses", "addresses"]
    labels = [record.get("connection") for record in runtime.trace.of_kind("conn.open")]
    assert labels == ["test>a:7007#1"] * 2 + ["test>b:7007#1"] * 2


def test_tls_verifies_names(runtime: Runtime) -> None:
    """The name asked for must be the certificate's; bytes then cross, proxied or not."""
    [server] = runtime.hosts
    pem = Path(__file__).with_name("server.pem")  # for the name `server`, to 2126
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(pem)
    trusting = ssl.create_default_context(cafile=str(pem))

    async def serve() -> int:
        listener = await current().network.listen(Greeting, ("", 0), tls=serving)
        return listener.addresses[0][1]

    class Greeting(EchoProtocol):
        def eof_received(self) -> bool | None:
            return None

    class Asking(Caller):
        def eof_received(self) -> bool | None:
            return None

    async def story(port: int) -> bytes:
        network = current().network
        with pytest.raises(ssl.SSLCertVerificationError):
            await network.connect(Asking, ("127.0.0.2", port), tls=trusting)
        transport, caller = await network.connect(
            Asking, ("server", port), tls=trusting
        )
        answer = await caller.call(b"secret")
        transport.close()
        await caller.lost
        return answer

    port = server.run(serve)
    assert runtime.run(story(port)) == b"secret"


def test_strangers_are_named_outside(runtime: Runtime) -> None:
    """A program that is no host of the run connects to the real socket."""
    [server] = runtime.hosts
    listener = server.run(lambda: current().network.listen(EchoProtocol, ("", 0)))
    with socket.create_connection(listener.addresses[0]) as sock:
        sock.sendall(b"hi")
        assert sock.recv(2) == b"hi"
    opened = runtime.trace.of_kind("conn.open")
    port = listener.addresses[0][1]
    assert opened[0].get("connection") == f"outside>server:{port}#1"
