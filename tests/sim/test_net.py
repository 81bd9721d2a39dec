"""Names, listeners, connects and partitions of the simulated network."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

from rpcsim.errors import EscapeError, HostDown, SimulationError
from rpcsim.sim import Constant, Sim, Uniform
from tests.sim.programs import PORT, ask, echo_server


@pytest.fixture
def sim() -> Any:
    with Sim() as sim:
        sim.host("server", echo_server)
        sim.host("client")
        yield sim


def test_a_refused_connect_takes_one_round_trip(sim: Sim) -> None:
    """Nobody listens: `ECONNREFUSED`, with host and port in the text (check 44)."""
    sim.net.link("*", "*", latency="15ms")

    async def story() -> float:
        with pytest.raises(ConnectionRefusedError) as raised:
            await asyncio.open_connection("client", 81)
        assert raised.value.errno == errno.ECONNREFUSED
        assert "nobody listens on port 81 of host 'client'" in str(raised.value)
        return sim.loop.time()

    assert sim.run(story) == 0.030
    refused = sim.trace.of_kind("conn.refused")
    assert [r.get("why") for r in refused] == ["no listener"]


@pytest.mark.parametrize("why", ["down", "cut", "one way"])
def test_an_unreachable_host_times_the_connect_out(sim: Sim, why: str) -> None:
    """SYNs at 0, 1, 3, ... s; `ETIMEDOUT` after 127 s (check 44)."""
    if why == "down":
        sim.by_name["server"].crash()
    elif why == "cut":
        sim.net.partition("test", "server")
    else:
        sim.net.partition("server", "test", direction="a->b")

    async def story() -> float:
        with pytest.raises(TimeoutError) as raised:
            await asyncio.open_connection("server", PORT)
        assert raised.value.errno == errno.ETIMEDOUT
        return sim.loop.time()

    assert sim.run(story) == 127


def test_a_connect_survives_a_partition_that_heals(sim: Sim) -> None:
    """The next SYN after the repair is answered (6.2)."""
    fault = sim.net.partition("test", "server")
    sim.loop.call_later(2.5, fault.undo)
    assert sim.run(ask("late")) == ["late"]
    assert sim.clock.elapsed == 3
    assert (fault.active, repr(fault)) == (
        False,
        "<partition test <-> server, undone>",
    )


def test_a_given_up_connect_leaves_nothing(sim: Sim) -> None:
    """The network port's time limit, and a cancelled connect (2)."""
    sim.net.link("*", "*", latency="2s")

    async def story() -> None:
        network = sim.ports.network
        with pytest.raises(TimeoutError):
            await network.connect(asyncio.Protocol, ("server", PORT), timeout=3)
        assert sim.loop.time() == 3
        opening = asyncio.ensure_future(
            network.connect(asyncio.Protocol, ("server", PORT))
        )
        await asyncio.sleep(3)
        opening.cancel()
        await asyncio.sleep(30)

    sim.run(story)
    assert not sim.test.life.endpoints
    assert not sim.by_name["server"].life.endpoints


def test_names_of_the_network(sim: Sim) -> None:
    """Hosts by name, address and loopback; unknown ones with a guess (6.1, check 60)."""

    async def server() -> list[str]:
        return await ask("self", host="localhost") + await ask("me", host="127.0.0.1")

    assert sim.by_name["server"].run(server) == ["self", "me"]
    assert sim.run(ask("by address", host="10.0.0.2")) == ["by address"]

    async def story() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(socket.gaierror, match="did you mean 'server'") as raised:
            await asyncio.open_connection("sever", PORT)
        assert raised.value.errno == socket.EAI_NONAME
        assert await loop.getaddrinfo("server", 80) == [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.2", 80))
        ]
        with pytest.raises(socket.gaierror, match="no address of that family"):
            await loop.getaddrinfo("server", 80, family=socket.AF_INET6)
        assert await loop.getnameinfo(("10.0.0.3", 9)) == ("client", "9")
        network = sim.ports.network
        assert await network.resolve("client") == ["10.0.0.3"]
        assert await network.resolve("localhost") == ["127.0.0.1"]
        with pytest.raises(socket.gaierror, match="known: test, server, client"):
            await network.resolve("nobody")

    sim.run(story)


def test_two_hosts_with_one_port_number(sim: Sim) -> None:
    """They talk to each other and to themselves (check 60)."""
    sim.host("twin", echo_server)
    for host in ("server", "twin"):
        for other in ("server", "twin", "localhost"):
            assert sim.by_name[host].run(ask(other, host=other)) == [other]


def test_binding_follows_the_system(sim: Sim) -> None:
    """In use, another host's address, port 0 counted, all addresses (6.1)."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        network = sim.ports.network
        first = await network.listen(asyncio.Protocol, ("", 0))
        assert first.addresses == (("10.0.0.1", 49_152),)
        second = await network.listen(asyncio.Protocol, ("", 0))
        assert second.addresses == (("10.0.0.1", 49_153),)
        with pytest.raises(OSError, match=r"10\.0\.0\.1:49152 .* in use") as raised:
            await network.listen(asyncio.Protocol, ("test", 49_152))
        assert raised.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match="another host's") as raised:
            await loop.create_server(asyncio.Protocol, "server", 80)
        assert raised.value.errno == errno.EADDRNOTAVAIL
        first.close()
        await first.wait_closed()
        again = await network.listen(asyncio.Protocol, ("test", 49_152))
        later = await loop.create_server(
            asyncio.Protocol, ["test", "10.0.0.1"], 80, start_serving=False
        )
        assert not later.is_serving()
        await later.start_serving()
        assert later.is_serving()
        for listener in (again, second, later):
            listener.close()

    sim.run(story)


def test_a_server_ends_with_its_connections() -> None:
    """`wait_closed` waits for them; `serve_forever` ends by cancel or close."""
    with Sim() as sim:

        async def story() -> None:
            seen: list[Any] = []

            async def serve(r: asyncio.StreamReader, w: asyncio.StreamWriter) -> None:
                seen.append(await r.read())
                w.close()

            server: Any = await asyncio.start_server(serve, "", PORT)
            serving = asyncio.create_task(server.serve_forever())
            _, writer = await asyncio.open_connection("test", PORT)
            await asyncio.sleep(1)
            server.close()
            closing = asyncio.create_task(server.wait_closed())
            await asyncio.sleep(1)
            assert (closing.done(), serving.done(), seen) == (False, False, [])
            writer.write(b"end")
            writer.close()
            await closing
            with pytest.raises(asyncio.CancelledError):
                await serving
            assert seen == [b"end"]
            assert server.get_loop() is sim.loop

            other: Any = await asyncio.start_server(serve, "", PORT)
            pairs = [await asyncio.open_connection("test", PORT) for _ in range(2)]
            await asyncio.sleep(1)
            other.close()
            other.abort_clients()
            await other.wait_closed()
            with pytest.raises(ConnectionResetError):
                await pairs[0][0].read()
            for _, writer in pairs:
                writer.close()

        sim.run(story)
    assert sim.leftovers == ()


def test_latencies_of_links() -> None:
    """The most specific setting wins, later beats earlier; per direction (6.6)."""
    with Sim(seed=4) as sim:
        for name in ("a", "b", "c"):
            sim.host(name, echo_server)
        net = sim.net
        net.link("*", "*", latency="1ms")
        net.link("a", "b", latency="20ms")
        net.link("a", "*", latency="5ms")
        net.link("b", "a", both=False, latency=Constant(7_000_000))

        def trip(src: str, dst: str) -> float:
            begin = sim.clock.elapsed
            sim.by_name[src].run(ask("x", host=dst))
            return round(sim.clock.elapsed - begin, 6)

        # Two round trips: connect, question and answer; then the close is local.
        assert trip("a", "b") == 2 * 0.027
        assert trip("a", "c") == 2 * 0.010
        assert trip("b", "c") == 2 * 0.002
        net.link("b", "c", latency=Uniform("3ms", "4ms"))
        assert 4 * 0.003 <= trip("b", "c") <= 4 * 0.004
        assert repr(net.link_between("b", "c")) == "<link b -> c: 3ms..4ms>"


def test_partitions_and_repairs(sim: Sim) -> None:
    """Several at once, one way, groups, repair by pair and all at once (6.7)."""
    net = sim.net

    def cut(src: str, dst: str) -> bool:
        return net.link_between(src, dst).cut

    both = net.partition(["client", "test"], "server")
    assert cut("client", "server")
    assert cut("server", "test")
    assert not cut("client", "test")
    with net.partition("server", "*", direction="b->a"):
        assert cut("client", "server")
        both.undo()
        both.undo()
        assert cut("client", "server")
        assert not cut("server", "client")
        assert not cut("server", "server")
    assert not cut("client", "server")
    net.partition("*", "*")
    assert cut("client", "test")
    net.repair("client", "test")
    assert not cut("client", "test")
    assert cut("client", "server")
    net.repair_all()
    assert not cut("client", "server")
    net.repair_all()
    assert [r.get("do") for r in sim.trace.of_kind("fault")] == [
        *("begin", "begin", "end", "end", "begin", "repair", "repair")
    ]


def test_bad_uses_of_the_network_are_told(sim: Sim) -> None:
    """Wrong names with a guess, wrong durations and directions (issue 2, 4)."""
    net: Any = sim.net
    with pytest.raises(SimulationError, match="'clint'; did you mean 'client'"):
        net.partition("clint", "server")
    with pytest.raises(ValueError, match="at least one host"):
        net.link([], "server")
    with pytest.raises(ValueError, match="'both', 'a->b' or 'b->a', not 'left'"):
        net.partition("client", "server", direction="left")
    with pytest.raises(ValueError, match="not a duration: '5 ms'"):
        net.link("*", "*", latency="5 ms")
    with pytest.raises(ValueError, match="cannot be negative"):
        net.link("*", "*", latency=-1)
    with pytest.raises(TypeError, match="a latency is a duration such as"):
        net.link("*", "*", latency=object())
    with pytest.raises(ValueError, match="0 <= low <= high"):
        Uniform(2, 1)

    async def story() -> None:
        with pytest.raises(ValueError, match="needs a host and a port"):
            await asyncio.get_running_loop().create_connection(asyncio.Protocol)

    sim.run(story)


def test_a_dead_host_has_no_network(sim: Sim) -> None:
    """Its port says so to whoever still holds it (4.3)."""
    host = sim.by_name["client"]
    network = host.ports.network
    host.crash()
    for call in (
        network.connect(asyncio.Protocol, ("server", PORT)),
        network.listen(asyncio.Protocol, ("", 80)),
    ):
        with pytest.raises(HostDown, match="'client' is crashed"):
            sim.run(call)


def test_tls_is_fenced_for_now() -> None:
    """The error names the call and says what is missing."""
    with pytest.raises(EscapeError), Sim() as sim:
        sim.host("server", echo_server)

        async def story() -> None:
            for call in (
                sim.ports.network.connect(
                    asyncio.Protocol,
                    ("server", PORT),
                    tls=object(),  # type: ignore[arg-type]  # refused before it is looked at
                ),
                asyncio.open_connection("server", PORT, ssl=True),
                asyncio.start_server(print, "", 9, ssl=object()),
            ):
                with pytest.raises(EscapeError, match=r"host 'test'.*TLS is not part"):
                    await call

        sim.run(story)
