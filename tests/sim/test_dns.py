"""Names and the faults of looking them up (check 58)."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.sim import Sim
from tests.sim.programs import PORT, ask, echo_server

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def sim() -> Any:
    with Sim() as sim:
        sim.host("server", echo_server, addresses=["10.0.7.1", "fd00::7"])
        sim.host("other", echo_server)
        sim.host("client")
        yield sim


async def resolve(name: str = "db.example", **options: Any) -> list[str]:
    """Ask as code does; the conftest's guard refuses the real resolver."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(name, 80, **options)
    return [str(info[4][0]) for info in infos]


def lookups(sim: Sim) -> list[tuple[Any, Any]]:
    records = sim.trace.of_kind("dns")
    return [(r.get("how"), r.get("addresses") or r.get("error")) for r in records]


def test_the_table_answers_and_is_traced(sim: Sim) -> None:
    """An entry, in order; hosts by name; numeric hosts skip it; unknown names fail."""
    sim.net.dns.set("db.example", ["other", "10.0.7.1"], latency="5ms")

    async def story() -> float:
        assert await resolve() == ["10.0.0.3", "10.0.7.1"]
        assert await resolve("server") == ["10.0.7.1", "fd00::7"]
        assert await resolve("10.1.2.3") == ["10.1.2.3"]
        assert await resolve("server", family=socket.AF_INET6) == ["fd00::7"]
        with pytest.raises(socket.gaierror) as raised:
            await resolve("nowhere")
        assert raised.value.errno == socket.EAI_NONAME
        network: Any = sim.by_name["client"].ports.network
        assert await network.resolve("db.example") == ["10.0.0.3", "10.0.7.1"]
        return sim.loop.time()

    assert sim.by_name["client"].run(story) == 0.01
    assert lookups(sim) == [
        ("answered", "10.0.0.3 10.0.7.1"),
        ("answered", "10.0.7.1 fd00::7"),
        ("answered", "10.0.7.1 fd00::7"),
        ("failed", socket.EAI_NONAME),
        ("answered", "10.0.0.3 10.0.7.1"),
    ]
    assert {record.host for record in sim.trace.of_kind("dns")} == {"client"}


def test_a_time_to_live_is_per_host(sim: Sim) -> None:
    """The asker remembers the answer that long; another host asks anew."""
    dns = sim.net.dns
    dns.set("db.example", "10.0.0.3", ttl=60)

    async def story() -> None:
        assert await resolve() == ["10.0.0.3"]
        dns.set("db.example", "10.0.7.1", ttl=60)
        await asyncio.sleep(59)
        assert await resolve() == ["10.0.0.3"]
        await asyncio.sleep(1)
        assert await resolve() == ["10.0.7.1"]

    sim.by_name["client"].run(story)
    assert sim.by_name["other"].run(resolve) == ["10.0.7.1"]
    dns.remove("db.example")
    assert [how for how, _ in lookups(sim)] == [
        "answered",
        "remembered",
        "answered",
        "answered",
    ]


@pytest.mark.parametrize(
    ("kind", "options", "number", "took"),
    [
        ("unknown", {}, socket.EAI_NONAME, 0),
        ("temporary", {}, socket.EAI_AGAIN, 0),
        ("timeout", {}, socket.EAI_AGAIN, 10),
        ("timeout", {"after": 3}, socket.EAI_AGAIN, 3),
    ],
)
def test_lookups_fail(
    sim: Sim, kind: Any, options: dict[str, Any], number: int, took: float
) -> None:
    """With the resolver's own numbers; after the fault they work again (check 58)."""

    async def story() -> None:
        with sim.net.dns.fail(kind, "server", **options) as fault:
            with pytest.raises(socket.gaierror) as raised:
                await resolve("server")
            assert raised.value.errno == number
            assert sim.loop.time() == took
            assert await resolve("other") == ["10.0.0.3"]
            with pytest.raises(socket.gaierror):
                await asyncio.open_connection("server", PORT)
        assert fault.hits == 2
        assert await resolve("server") == ["10.0.7.1", "fd00::7"]

    sim.run(story)


def test_lookups_mislead(sim: Sim) -> None:
    """Slow, wrong, rotated, of one family only (check 58)."""
    dns = sim.net.dns

    async def story() -> None:
        with dns.fail("slow", after="2s"):
            assert await resolve("other") == ["10.0.0.3"]
        assert sim.loop.time() == 2
        with dns.fail("wrong", "server", addresses="10.0.0.3"):
            assert await resolve("server") == ["10.0.0.3"]
            assert await ask("to the wrong one") == ["to the wrong one"]
        with dns.fail("rotate", "server"):
            first, second, third = [await resolve("server") for _ in range(3)]
        assert first == third == ["fd00::7", "10.0.7.1"]
        assert second == ["10.0.7.1", "fd00::7"]
        with dns.fail("ipv4", "server"):
            assert await resolve("server") == ["10.0.7.1"]
        with dns.fail("ipv6"):
            assert await resolve("server") == ["fd00::7"]
            with pytest.raises(socket.gaierror):
                await resolve("other")

    sim.run(story)
    opened = sim.trace.of_kind("conn.open")
    assert "other" in {record.host for record in opened}


def test_faults_by_count_and_time(sim: Sim) -> None:
    """Twice only; and only between two moments."""
    dns = sim.net.dns

    async def works() -> bool:
        try:
            return bool(await resolve("server"))
        except socket.gaierror:
            return False

    async def story() -> None:
        dns.fail("unknown", "server", count=2)
        assert [await works() for _ in range(3)] == [False, False, True]
        dns.fail("temporary", "server", during=(10, 20))
        for until, wanted in ((5, True), (10, False), (19, False), (20, True)):
            await asyncio.sleep(until - sim.loop.time())
            assert await works() is wanted

    sim.run(story)


def test_a_stale_address_nobody_has_times_out(sim: Sim) -> None:
    """As a packet into nothing does, after 127 s; the next address is tried."""

    async def story() -> None:
        with pytest.raises(TimeoutError) as raised:
            await asyncio.open_connection("10.9.9.9", PORT)
        assert raised.value.errno == errno.ETIMEDOUT
        assert sim.loop.time() == 127
        sim.net.dns.set("db.example", ["10.9.9.9", "10.0.7.1"])
        assert await ask("found", host="db.example") == ["found"]
        assert sim.loop.time() == 254
        sim.net.dns.set("db.example", ["10.9.9.9", "10.0.0.4"])
        with pytest.raises(OSError, match="Multiple exceptions"):
            await asyncio.open_connection("db.example", PORT)

    sim.run(story)


def test_services_and_reverse_lookups(sim: Sim) -> None:
    """A few service names; `getnameinfo` knows the hosts."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo("server", "https", type=socket.SOCK_DGRAM)
        assert infos[0][1:] == (
            socket.SOCK_DGRAM,
            socket.IPPROTO_UDP,
            "",
            ("10.0.7.1", 443),
        )
        with pytest.raises(socket.gaierror) as raised:
            await loop.getaddrinfo("server", "gopher")
        assert raised.value.errno == socket.EAI_SERVICE
        assert await loop.getnameinfo(("10.0.7.1", 80)) == ("server", "80")
        numeric = socket.NI_NUMERICHOST
        assert await loop.getnameinfo(("10.0.7.1", 80), numeric) == ("10.0.7.1", "80")
        assert await loop.getnameinfo(("10.9.9.9", 80)) == ("10.9.9.9", "80")
        with pytest.raises(socket.gaierror):
            await loop.getnameinfo(("10.9.9.9", 80), socket.NI_NAMEREQD)

    sim.run(story)


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (lambda dns: dns.fail("unknwon"), "is one of unknown"),
        (lambda dns: dns.fail("unknown", count=0), "at least once"),
        (lambda dns: dns.fail("wrong"), "which needs them"),
        (lambda dns: dns.fail("rotate", addresses="10.0.0.1"), "for the kind 'wrong'"),
        (lambda dns: dns.fail("wrong", addresses="other"), "no numeric address"),
        (lambda dns: dns.fail("unknown", after=1), "is for 'slow' and 'timeout'"),
        (lambda dns: dns.fail("slow"), "needs `after`"),
        (lambda dns: dns.fail("slow", after=0), "a positive time"),
        (lambda dns: dns.fail("unknown", during=(2, 1)), "ends before it begins"),
        (lambda dns: dns.set("x", []), "at least one address"),
        (lambda dns: dns.set("x", "10.0.0.1", ttl=-1), "cannot be negative"),
    ],
)
def test_wrong_faults_and_entries_are_refused(
    sim: Sim, use: Callable[[Any], Any], text: str
) -> None:
    """When installed, not when hit."""
    with pytest.raises(ValueError, match=text):
        use(sim.net.dns)


def test_a_table_that_is_not_used_changes_nothing(sim: Sim) -> None:
    """Connects by host name leave no `dns` records until something is set."""
    sim.run(ask("plain"))
    assert lookups(sim) == []
    sim.net.dns.set("other.example", "other")
    sim.run(ask("traced"))
    assert lookups(sim) == [("answered", "10.0.7.1 fd00::7")]
