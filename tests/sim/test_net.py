"""Names, listeners, connects and partitions of the simulated network."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

from rpcsim.errors import HostDown, SimulationError
from rpcsim.ports import MessageInfo
from rpcsim.sim import Constant, Sim, Uniform
from tests.sim.programs import PORT, ask, echo_server
from tests.sim.test_tcp import Log


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


def test_other_names_of_a_host(sim: Sim) -> None:
    """Aliases, IPv6 addresses, and `localhost` even where a host is called so (6.1)."""
    sim.host("localhost", echo_server)
    sim.net.alias("echo.example", "server")
    assert sim.run(ask("x", host="echo.example")) == ["x"]
    assert sim.run(ask("six", host="fd00::2")) == ["six"]
    assert sim.run(ask("by address", host="10.0.0.4")) == ["by address"]
    with pytest.raises(ConnectionRefusedError):
        sim.run(ask("myself", host="localhost"))
    attempts = [(a.dst, a.outcome) for a in sim.net.attempts()]
    assert attempts == [
        ("server", "open"),
        ("server", "open"),
        ("localhost", "open"),
        ("test", "ConnectionRefusedError"),
    ]

    async def story() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, "fd00::2", PORT)
        assert transport.get_extra_info("peername") == ("fd00::2", PORT)
        assert transport.get_extra_info("sockname")[0] == "fd00::1"
        transport.abort()
        names = await loop.getaddrinfo("echo.example", 80)
        assert names[0][4] == ("10.0.0.2", 80)

    sim.run(story)
    for name, host, told in (
        ("client", "server", "'client' is taken: it means 'client'"),
        ("echo.example", "client", "'echo.example' is taken: it means 'server'"),
        ("new", "nobody", "no host is called 'nobody'"),
    ):
        with pytest.raises(SimulationError, match=told):
            sim.net.alias(name, host)
    with pytest.raises(SimulationError, match=r"cannot be called 'echo\.example'"):
        sim.host("echo.example")


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


# -- control and inspection ------------------------------------------------------------


@pytest.fixture
def pairs(sim: Sim) -> Any:
    """Give a coroutine that makes a connected pair: (near, far, listening server)."""
    sim.net.link("*", "*", latency="10ms")

    async def make() -> tuple[Log, Log, Any]:
        near, far = Log(), Log()
        loop = asyncio.get_running_loop()
        listening = await sim.by_name["client"].inside(
            loop.create_task, loop.create_server(lambda: far, "", 99)
        )
        await loop.create_connection(lambda: near, "client", 99)
        await sim.net.wait_idle()
        return near, far, listening

    return make


def test_packets_in_flight_can_be_seen(sim: Sim, pairs: Any) -> None:
    """Number, kind, hosts, connection, size, times, in order of sending (6.7)."""

    async def story() -> None:
        near, far, server = await pairs()
        begin = sim.loop.time()
        near.transport.write(b"hello")
        near.transport.write_eof()
        await asyncio.sleep(0.005)
        far.transport.write(b"you")
        told = [
            (p.kind, p.src, p.dst, p.connection, p.size, p.held)
            for p in sim.net.inflight()
        ]
        assert told == [
            ("data", "test", "client", "test>client:99#1", 5, False),
            ("fin", "test", "client", "test>client:99#1", 0, False),
            ("data", "client", "test", "test>client:99#1", 3, False),
        ]
        times = [(p.sent_at - begin, p.due_at - begin) for p in sim.net.inflight()]
        assert [(round(a, 6), round(b, 6)) for a, b in times] == [
            (0, 0.01),
            (0, 0.01),
            (0.005, 0.015),
        ]
        (open_,) = sim.net.connections()
        assert (open_.label, open_.ends) == ("test>client:99#1", ("test", "client"))
        assert (open_.waiting, open_.in_flight) == (0, 8)
        await sim.net.wait_idle()
        assert sim.loop.time() - begin == pytest.approx(0.02)  # with the answer to FIN
        assert sim.net.inflight() == []
        near.transport.close()
        server.close()

    sim.run(story)


def test_hold_keeps_packets_and_release_keeps_their_order(sim: Sim, pairs: Any) -> None:
    """Those in flight too; one by one, by number, all at the end (check 53)."""

    async def story() -> None:
        near, far, server = await pairs()
        near.transport.write(b"in flight ")
        with sim.net.hold("test", "client") as held:
            assert repr(held) == "<hold test <-> client>"
            near.transport.write(b"held ")
            far.transport.write(b"back")
            near.transport.write(b"too")
            await asyncio.sleep(60)
            assert (near.data, far.data) == (b"", b"")
            numbers = [p.n for p in sim.net.inflight()]
            assert all(p.held for p in sim.net.inflight())
            assert sim.net.release_one()
            await sim.net.wait_idle()
            assert far.data == b"in flight "
            # Out of order: it waits for the one before it.
            assert sim.net.release(numbers[3]) == 1
            await sim.net.wait_idle()
            assert (near.data, far.data) == (b"", b"in flight ")
            assert sim.net.release(lambda p: p.src == "client") == 1
            await sim.net.wait_idle()
            assert (near.data, far.data) == (b"back", b"in flight ")
            assert sim.net.release(numbers[1]) == 1
            await sim.net.wait_idle()
            assert far.data == b"in flight held too"
            assert not sim.net.release_one()
            near.transport.write(b"!")
        await sim.net.wait_idle()
        assert far.data == b"in flight held too!"
        near.transport.close()
        server.close()

    sim.run(story)


def test_hold_by_a_condition(sim: Sim, pairs: Any) -> None:
    """Only what it is true of, and what follows in the same direction (check 53)."""

    async def story() -> None:
        near, far, server = await pairs()
        other, deaf, again = await pairs_on_another_port(sim)
        with sim.net.hold(lambda p: p.size == 4):
            near.transport.write(b"ab")
            near.transport.write(b"four")
            near.transport.write(b"behind")
            other.transport.write(b"free")
            other.transport.write(b"!")
            await asyncio.sleep(1)
            assert (far.data, deaf.data) == (b"ab", b"")
            sim.net.release(lambda p: "100" in p.connection)
            await asyncio.sleep(1)
            assert (far.data, deaf.data) == (b"ab", b"free!")
        await sim.net.wait_idle()
        assert far.data == b"abfourbehind"
        for end in (near, other):
            end.transport.close()
        server.close()
        again.close()

    sim.run(story)


async def pairs_on_another_port(sim: Sim) -> tuple[Log, Log, Any]:
    near, far = Log(), Log()
    loop = asyncio.get_running_loop()
    server = await sim.by_name["client"].inside(
        loop.create_task, loop.create_server(lambda: far, "", 100)
    )
    await loop.create_connection(lambda: near, "client", 100)
    await sim.net.wait_idle()
    return near, far, server


@pytest.mark.parametrize("held", [True, False])
def test_drop_one_loses_a_packet(sim: Sim, pairs: Any, held: bool) -> None:
    """A stream sends it again after 200 ms, what follows waits (check 53)."""

    async def story() -> None:
        near, far, server = await pairs()
        begin = sim.loop.time()
        hold = sim.net.hold("test", "client") if held else None
        near.transport.write(b"one ")
        near.transport.write(b"two")
        assert sim.net.drop_one()
        if hold is not None:
            hold.undo()
        await sim.net.wait_idle()
        assert far.data == b"one two"
        assert sim.loop.time() - begin == pytest.approx(0.21)
        assert sim.net.counters("test", "client").dropped == 1
        assert not sim.net.drop_one()
        near.transport.close()
        server.close()

    sim.run(story)


def test_connects_can_be_held_and_refused(sim: Sim) -> None:
    """`refuse_one` ends the oldest pending connect; `release` lets one on (53)."""

    async def story() -> None:
        with sim.net.hold("test", "server"):
            refused = asyncio.ensure_future(ask("a"))
            opened = asyncio.ensure_future(ask("b"))
            await asyncio.sleep(20)
            assert [p.kind for p in sim.net.inflight()] == ["syn", "syn"]
            assert sim.net.refuse_one()
            with pytest.raises(ConnectionRefusedError, match="refused by a fault"):
                await refused
            assert [p.kind for p in sim.net.inflight()] == ["syn"]
            assert not sim.net.refuse_one("other*")
            assert not opened.done()
        assert await opened == ["b"]
        assert not sim.net.refuse_one()

    sim.run(story)
    assert [(a.connection, a.outcome) for a in sim.net.attempts()] == [
        ("test>server:7#1", "ConnectionRefusedError"),
        ("test>server:7#2", "open"),
    ]


def test_reset_ends_a_connection(sim: Sim, pairs: Any) -> None:
    """At both ends, at once, by label, glob or transport (6.7)."""

    async def story() -> None:
        for how in ("label", "glob", "transport"):
            near, far, server = await pairs()
            label = near.transport.get_extra_info("connection")
            told = {"label": label, "glob": "test>client*", "transport": far.transport}
            sim.net.reset(told[how])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for log in (near, far):
                assert log.events[-1][0] == ("lost", "ConnectionResetError")
            server.close()

    sim.run(story)


def test_close_half_from_outside(sim: Sim, pairs: Any) -> None:
    """The peer sees end-of-file; the program gets a broken pipe on writing (6.7)."""

    async def story() -> None:
        near, far, server = await pairs()
        far.keep_open = True
        sim.net.close_half("*", "test")
        await sim.net.wait_idle()
        assert far.kinds[-1] == "eof"
        far.transport.write(b"still here")
        await sim.net.wait_idle()
        assert near.data == b"still here"
        near.transport.write(b"x")
        await sim.net.wait_idle()
        assert near.events[-1][0] == ("lost", "BrokenPipeError")
        assert far.events[-1][0] == ("lost", "ConnectionResetError")
        server.close()
        with pytest.raises(SimulationError, match="no connection"):
            sim.net.close_half("*", "test")

    sim.run(story)


def test_a_connection_dies_silently(sim: Sim, pairs: Any) -> None:
    """Nobody hears anything, until the writer gives up after 924 s (6.2)."""

    async def story() -> None:
        near, far, server = await pairs()
        with sim.net.kill_silently("*"):
            near.transport.write(b"late")
            await asyncio.sleep(0.5)
            assert far.data == b""
        await asyncio.sleep(10)
        assert far.data == b"late"
        assert await ask("others live") == ["others live"]
        sim.net.kill_silently("test>client*")
        near.transport.write(b"into the void")
        begin = sim.loop.time()
        await asyncio.sleep(900)
        assert near.kinds[-1] != "lost"
        await asyncio.sleep(200)
        assert near.events[-1][0] == ("lost", "TimeoutError")
        assert 924 <= near.events[-1][1] - begin <= 1_050
        assert far.kinds[-1] == "data"
        far.transport.abort()
        server.close()

    sim.run(story)


def test_failures_told_in_advance(sim: Sim) -> None:
    """The next listens or connects fail, so many of them, with a number (6.7)."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        sim.net.fail_next(connect="server", count=2)
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError, match="failed by a fault"):
                await ask("x")
        assert await ask("x") == ["x"]
        with sim.net.fail_next(connect="*", error=errno.ENETDOWN):
            with pytest.raises(OSError, match="port 7, failed") as raised:
                await ask("x")
            assert raised.value.errno == errno.ENETDOWN
        with sim.net.fail_next(connect="server", port=8):
            assert await ask("x") == ["x"]
        sim.net.fail_next(listen="test")
        with pytest.raises(OSError, match="listen at host 'test'") as raised:
            await loop.create_server(asyncio.Protocol, "", 80)
        assert raised.value.errno == errno.EADDRINUSE
        (await loop.create_server(asyncio.Protocol, "", 80)).close()

    sim.run(story)
    net: Any = sim.net
    with pytest.raises(ValueError, match="listen= or connect=, and not both"):
        net.fail_next()
    with pytest.raises(ValueError, match="from 1, not 0"):
        net.fail_next(connect="server", count=0)
    with pytest.raises(ValueError, match="two sides, or a condition"):
        net.hold("test")


def test_links_count_what_they_carry(sim: Sim) -> None:
    """Sent, delivered, dropped packets and bytes, per direction (6.7)."""
    sim.run(ask("four", "five!"))
    sim.run(asyncio.sleep(1))
    out, back = (
        sim.net.counters("test", "server"),
        sim.net.counters("server", "test"),
    )
    # SYN, ACK, two lines, FIN; its answer, two lines, FIN.
    assert (out.sent, out.delivered, out.dropped, out.bytes) == (5, 5, 0, 11)
    assert (back.sent, back.delivered, back.dropped, back.bytes) == (4, 4, 0, 11)
    assert sim.net.connections() == []
    assert [repr(listening) for listening in sim.net.listeners()] == [
        "<listening on 10.0.0.2:7 of server>"
    ]


def test_packets_name_their_call() -> None:
    """A packet that carries a message tells the call's id (6.7)."""
    info = MessageInfo(system="agent", kind="request", method="Dog.bark", call_id="c7")
    with Sim() as sim:
        sim.host("server", echo_server)
        sim.net.link("*", "*", latency="1ms")

        async def story() -> None:
            for _ in range(2):  # written in the turn, and as one piece after it
                transport, _ = await sim.ports.network.connect(Log, ("server", PORT))
                await sim.net.wait_idle()
                transport.write_message(b"frame\n", info)
                await asyncio.sleep(0)
                (packet,) = sim.net.inflight()
                assert (packet.kind, packet.call) == ("data", "c7")
                transport.close()

        sim.run(story)


def test_held_runs_replay() -> None:
    """Holding and dropping give one digest for one seed (determinism)."""

    def run(seed: int) -> str | None:
        with Sim(seed=seed, policy="random") as sim:
            sim.host("server", echo_server)
            sim.net.link("*", "*", latency=Uniform("1ms", "50ms"))

            async def story() -> None:
                asking = asyncio.ensure_future(ask(*"abcdef"))
                for _ in range(5):
                    await asyncio.sleep(0.1)
                    with sim.net.hold("*", "server"):
                        await asyncio.sleep(0.2)
                        sim.net.drop_one()
                assert await asking == list("abcdef")

            sim.run(story)
        return sim.trace.digest

    assert run(5) == run(5)
    assert run(5) != run(6)
