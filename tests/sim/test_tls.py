"""TLS over the simulated network: real handshakes, equal digests (check 57)."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.ports import TLS
from rpcsim.sim import Authority, Sim

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rpcsim.ports import Transport

CA = Authority()
PORT = 443


def echo(context: ssl.SSLContext | None, seen: list[Any]) -> Callable[[], Any]:
    """Serve lines back over TLS; note the client's certificate."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peercert"))
        try:
            while line := await reader.readline():
                if line == b"tls\n":
                    writer.write(b"go\n")
                    await writer.start_tls(CA.server_context("server"))
                    line = b"now secret\n"
                writer.write(line)
                await writer.drain()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "", PORT, ssl=context)
        await server.serve_forever()

    return run


async def ask(line: bytes, context: ssl.SSLContext, **options: Any) -> bytes:
    """Say one line over TLS; give the answer."""
    reader, writer = await asyncio.open_connection(
        "server", PORT, ssl=context, **options
    )
    try:
        writer.write(line)
        return await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()


def serve(sim: Sim, context: ssl.SSLContext | None = None) -> list[Any]:
    """Start host `server`; give the list its clients' certificates go to."""
    seen: list[Any] = []
    server = CA.server_context("server") if context is None else context
    sim.host("server", echo(server, seen), background=True)
    return seen


def conversation(policy: str = "fifo") -> list[Any]:
    """Run one; give what two runs must agree on."""
    with Sim(seed=1, policy=policy, trace="steps") as sim:
        serve(sim)
        sim.net.link("*", "*", latency="3ms")
        answer = sim.run(ask(b"hello\n", CA.client_context()))
    digests = [sim.trace.digest, sim.trace.schedule_digest]
    return [answer.decode(), *digests, list(sim.leftovers)]


@pytest.mark.parametrize("policy", ["fifo", "random"])
def test_two_runs_have_equal_digests(policy: str) -> None:
    """OpenSSL draws its own keys; they do not reach the digest (check 57)."""
    first = conversation(policy)
    assert first[0] == "hello\n"
    assert first[3] == []
    assert conversation(policy) == first


def test_a_fresh_process_has_equal_digests() -> None:
    """Another interpreter, another hash seed, the same run."""
    code = (
        "import json; from tests.sim.test_tls import conversation;"
        "print(json.dumps(conversation()))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(child.stdout) == conversation()


def test_facts_of_a_good_handshake() -> None:
    """Peer certificate, ALPN, cipher, ssl object, client certificate."""
    server = CA.server_context("server", alpn=("h2", "x"), client_certificates=True)

    async def story() -> None:
        context = CA.client_context(identity="me.example", alpn=("x",))
        reader, writer = await asyncio.open_connection("server", PORT, ssl=context)
        told = writer.get_extra_info
        assert told("peercert")["subjectAltName"] == (("DNS", "server"),)
        assert told("peercert")["notAfter"].endswith("2999 GMT")
        assert told("ssl_object").selected_alpn_protocol() == "x"
        assert told("cipher")[1] == "TLSv1.3"
        assert told("sslcontext") is context
        assert told("peername") == ("10.0.0.2", PORT)
        assert told("compression") is None
        writer.write(b"one\n")
        assert await reader.readline() == b"one\n"
        writer.close()
        await writer.wait_closed()

    with Sim() as sim:
        seen = serve(sim, server)
        sim.run(story)
        ((certificate,),) = (seen,)
        assert certificate["subject"] == ((("commonName", "me.example"),),)


def test_the_handshake_takes_two_round_trips() -> None:
    """One for the connection, one for the keys (TLS 1.3)."""
    with Sim() as sim:
        serve(sim)
        sim.net.link("*", "*", latency="10ms")

        async def story() -> float:
            context = CA.client_context()
            _, writer = await asyncio.open_connection("server", PORT, ssl=context)
            shaken = sim.loop.time()
            writer.close()
            await writer.wait_closed()
            return shaken

        assert sim.run(story) == 0.04


def test_flights_count_as_whole_pieces_and_show_no_checksum() -> None:
    """Handshake flights are rounded up to 4 KiB; data counts as it is."""
    with Sim() as sim:
        serve(sim)
        sim.run(ask(b"x" * 10_000 + b"\n", CA.client_context()))
        written = sim.trace.of_kind("conn.data")
    assert {record.get("crc") for record in written} == {None}
    sizes: list[Any] = [record.get("bytes") for record in written]
    assert sizes[:3] == [4096, 4096, 4096]
    assert any(10_001 < size < 10_100 for size in sizes)


@pytest.mark.parametrize(
    ("server", "client", "error", "text"),
    [
        (
            CA.server_context("other"),
            CA.client_context(),
            ssl.SSLCertVerificationError,
            "Hostname mismatch, certificate is not valid for 'server'",
        ),
        (
            CA.server_context("server"),
            Authority("stranger").client_context(),
            ssl.SSLCertVerificationError,
            "unable to get local issuer certificate",
        ),
        (
            CA.server_context("server", expired=True),
            CA.client_context(),
            ssl.SSLCertVerificationError,
            "certificate has expired",
        ),
    ],
    ids=["wrong name", "unknown CA", "expired"],
)
def test_bad_certificates_are_refused(
    server: ssl.SSLContext, client: ssl.SSLContext, error: type, text: str
) -> None:
    """By the standard library's own exceptions (check 57)."""
    with Sim() as sim:
        serve(sim, server)

        async def story() -> None:
            with pytest.raises(error, match=text):
                await ask(b"hello\n", client)

        sim.run(story)


def test_a_protocol_too_old_is_refused() -> None:
    """A server of TLS 1.2 and a client of 1.3."""
    server, client = CA.server_context("server"), CA.client_context()
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    with Sim() as sim:
        serve(sim, server)

        async def story() -> None:
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await ask(b"hello\n", client)

        sim.run(story)


def test_a_stalled_handshake_times_out() -> None:
    """The server never answers: the client's own limit, then it works again."""
    with Sim() as sim:
        serve(sim)
        fault = sim.net.tls.fail("stall", "server")

        async def story() -> float:
            with pytest.raises(ConnectionAbortedError, match="longer than 5"):
                await ask(b"hello\n", CA.client_context(), ssl_handshake_timeout=5)
            stalled = sim.loop.time()
            assert await ask(b"hello\n", CA.client_context()) == b"hello\n"
            return stalled

        assert sim.run(story) == 5
        assert fault.hits == 1
        kinds = [record.get("kind") for record in sim.trace.of_kind("fault")]
        assert kinds == ["tls.stall"]


@pytest.mark.parametrize("side", ["server", "client"])
def test_an_alert_ends_the_handshake(side: Any) -> None:
    """A fatal alert instead of the next flight, from either side."""
    host = "server" if side == "server" else "test"
    with Sim() as sim:
        serve(sim)
        sim.net.tls.fail("alert", host, side=side)

        async def story() -> None:
            with pytest.raises(ssl.SSLError, match=r"HANDSHAKE_FAILURE|by a fault"):
                await ask(b"hello\n", CA.client_context())

        sim.run(story)


def test_a_truncated_stream_has_no_goodbye() -> None:
    """The stream ends after some bytes, without the closing alert."""
    with Sim() as sim:
        serve(sim)
        sim.net.tls.fail("truncate", "server", after=3)

        async def story() -> bytes:
            context = CA.client_context()
            reader, writer = await asyncio.open_connection("server", PORT, ssl=context)
            writer.write(b"hello\n")
            with pytest.raises(asyncio.IncompleteReadError) as raised:
                await reader.readexactly(6)
            writer.close()
            return raised.value.partial

        assert sim.run(story) == b"hel"


def test_start_tls_upgrades_a_connection_in_use() -> None:
    """Plain first, then TLS on the same connection, on both sides."""
    with Sim() as sim:
        sim.host("server", echo(None, []), background=True)

        async def story() -> None:
            reader, writer = await asyncio.open_connection("server", PORT)
            writer.write(b"plain\n")
            assert await reader.readline() == b"plain\n"
            writer.write(b"tls\n")
            assert await reader.readline() == b"go\n"
            await writer.start_tls(CA.client_context(), server_hostname="server")
            assert await reader.readline() == b"now secret\n"
            writer.write(b"more\n")
            assert await reader.readline() == b"more\n"
            assert writer.get_extra_info("ssl_object") is not None
            writer.close()

        sim.run(story)
        written = sim.trace.of_kind("conn.data")
        assert written[0].get("crc") is not None
        assert written[-1].get("crc") is None


def test_the_network_port_speaks_tls() -> None:
    """`connect(tls=)` and `listen(tls=)`, as on the real machine."""

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport: Transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    class Asker(Echo):
        got = b""

        def data_received(self, data: bytes) -> None:
            self.got += data

    with Sim() as sim:
        server, client = sim.host("server"), sim.host("client")

        async def listen() -> None:
            context = CA.server_context("server")
            await server.ports.network.listen(Echo, ("", 99), tls=context)

        async def story() -> bytes:
            network = client.ports.network
            where, context = ("server", 99), CA.client_context()
            transport, asker = await network.connect(Asker, where, tls=context)
            transport.write(b"through")
            await asyncio.sleep(1)
            with pytest.raises(ssl.SSLError):
                stranger = Authority("stranger").client_context()
                await network.connect(Asker, where, tls=stranger)
            transport.close()
            await asyncio.sleep(1)
            return asker.got

        server.run(listen)
        assert client.run(story) == b"through"


@pytest.mark.parametrize(
    ("use", "error", "text"),
    [
        (lambda tls: tls.fail("stal"), ValueError, "is one of stall, alert, truncate"),
        (
            lambda tls: tls.fail("stall", side="both"),
            ValueError,
            "'server' or 'client'",
        ),
        (lambda tls: tls.fail("stall", count=0), ValueError, "at least once"),
        (lambda tls: tls.fail("alert", after=3), ValueError, "is for 'truncate'"),
        (lambda tls: tls.fail("alert", "nobody"), Exception, "no host is called"),
    ],
)
def test_wrong_faults_are_refused(
    use: Callable[[Any], Any], error: type[Exception], text: str
) -> None:
    """When installed, not when hit."""
    with Sim() as sim, pytest.raises(error, match=text):
        use(sim.net.tls)


def test_wrong_arguments_are_refused_as_asyncio_does() -> None:
    """A name without TLS, TLS without a name, limits without TLS, no context."""

    async def story() -> None:
        loop: Any = asyncio.get_running_loop()
        with pytest.raises(ValueError, match="only meaningful with ssl"):
            await loop.create_connection(None, "server", 1, server_hostname="x")
        with pytest.raises(ValueError, match="only meaningful with ssl"):
            await loop.create_server(None, "", 1, ssl_handshake_timeout=1)
        with pytest.raises(TypeError, match="SSLContext"):
            await loop.create_server(None, "", 1, ssl=True)
        with pytest.raises(TypeError, match=r"instance of ssl\.SSLContext"):
            await loop.start_tls(None, None, None)

    with Sim() as sim:
        sim.run(story)


def test_certificates_are_made_from_names_alone() -> None:
    """Equal names are equal bytes; nothing is drawn."""
    one, two = Authority("a"), Authority("a")
    assert one.certificate == two.certificate
    assert one.issue("x", "10.0.0.1") == two.issue("x", "10.0.0.1")
    assert one.issue("y").key != one.issue("x").key
    assert repr(one) == "<certificate authority 'a'>"
    with pytest.raises(ValueError, match="at least one name"):
        one.issue()


def test_the_network_port_takes_tls_by_files(tmp_path: Path) -> None:
    """`TLS(cert=...)` and `TLS(ca=...)`, as the real machine takes them."""
    own, trusted = tmp_path / "server.pem", tmp_path / "ca.pem"
    issued = CA.issue("server")
    own.write_bytes(issued.key + issued.certificate)
    trusted.write_bytes(CA.certificate)

    with Sim() as sim:
        server, client = sim.host("server"), sim.host("client")

        async def listen() -> None:
            network = server.ports.network
            await network.listen(asyncio.Protocol, ("", 99), tls=TLS(cert=own))

        async def story() -> str:
            network = client.ports.network
            where = ("server", 99)
            transport, _ = await network.connect(
                asyncio.Protocol, where, tls=TLS(ca=trusted)
            )
            version: str = transport.get_extra_info("ssl_object").version()
            transport.close()
            await asyncio.sleep(1)
            return version

        server.run(listen)
        assert client.run(story) == "TLSv1.3"
