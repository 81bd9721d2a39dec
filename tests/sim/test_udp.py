"""Datagrams on the simulated network (check 50)."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from rpcsim.errors import SimulationError
from rpcsim.ports import Copies, Corrupt, Drop, Truncate
from rpcsim.sim import Burst, Datagrams, Sim

PORT = 5005


class Ear(asyncio.DatagramProtocol):
    """Keeps what it hears, with the time."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, bytes]] = []
        self.sources: list[Any] = []
        self.errors: list[Exception] = []
        self.lost: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        now = asyncio.get_running_loop().time()
        self.heard.append((round(now, 6), data))
        self.sources.append(addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    @property
    def data(self) -> list[bytes]:
        return [data for _, data in self.heard]


async def ear(**options: Any) -> Ear:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_datagram_endpoint(Ear, **options)
    return protocol


def listener(sim: Sim, host: str = "b", **options: Any) -> Ear:
    ears: list[Ear] = []

    async def bind() -> None:
        ears.append(await ear(local_addr=("", PORT), **options))

    sim.by_name[host].run(bind)
    return ears[0]


@pytest.fixture
def sim() -> Any:
    with Sim(seed=11) as sim:
        sim.host("a")
        sim.host("b")
        yield sim


def send(sim: Sim, *pieces: bytes, to: Any = ("b", PORT), **options: Any) -> Ear:
    """Send from host `a` to a place; give the sender."""
    ears: list[Ear] = []

    async def story() -> None:
        mine = await ear(**options)
        for piece in pieces:
            mine.transport.sendto(piece, None if "remote_addr" in options else to)
        await asyncio.sleep(5)
        mine.transport.close()
        ears.append(mine)

    sim.by_name["a"].run(story)
    return ears[0]


def test_datagrams_arrive_whole_after_the_latency(sim: Sim) -> None:
    """With the sender's address, to which one can answer."""
    sim.net.link("a", "b", latency="3ms")
    there = listener(sim)

    async def story() -> list[bytes]:
        mine = await ear(remote_addr=("b", PORT))
        assert mine.transport.get_extra_info("peername") == ("10.0.0.3", PORT)
        own = mine.transport.get_extra_info("sockname")
        assert own == ("10.0.0.2", 49_152)
        mine.transport.sendto(b"one")
        mine.transport.sendto(b"two")
        await asyncio.sleep(1)
        assert there.sources == [own, own]
        there.transport.sendto(b"back", own)
        await asyncio.sleep(1)
        return mine.data

    assert sim.by_name["a"].run(story) == [b"back"]
    assert there.heard == [(0.003, b"one"), (0.003, b"two")]


def test_loss_copies_and_disorder(sim: Sim) -> None:
    """Each happens about as often as asked, and nothing else does."""
    pieces = [b"%d" % n for n in range(400)]
    sim.net.link("a", "b", datagrams=Datagrams(loss=0.25))
    there = listener(sim)
    send(sim, *pieces)
    assert 260 < len(there.heard) < 340
    assert there.data == sorted(there.data, key=int)

    there.heard.clear()
    sim.net.link("a", "b", datagrams=Datagrams(duplicate=0.25))
    send(sim, *pieces)
    assert 460 < len(there.heard) < 540
    assert set(there.data) == set(pieces)

    there.heard.clear()
    sim.net.link("a", "b", datagrams=Datagrams(reorder=0.25, reorder_by="2ms"))
    send(sim, *pieces)
    assert sorted(there.data, key=int) == pieces
    times = {time for time, _ in there.heard}
    assert len(times) == 2
    assert there.data != pieces


def test_corruption_with_and_without_checksum(sim: Sim) -> None:
    """The checksum drops what was altered; without it one bit differs."""
    there = listener(sim)
    sim.net.link("a", "b", datagrams=Datagrams(corrupt=1.0))
    send(sim, b"\0" * 100)
    assert there.heard == []
    lost = sim.trace.of_kind("datagram.lost")
    assert [record.get("why") for record in lost] == ["checksum"]

    sim.net.link("a", "b", datagrams=Datagrams(corrupt=1.0, checksum=False))
    send(sim, b"\0" * 100)
    ((_, data),) = there.heard
    assert sum(byte.bit_count() for byte in data) == 1


def test_loss_in_bursts(sim: Sim) -> None:
    """Two states: losses come in runs of about the stated length."""
    burst = Burst(worsens=0.02, recovers=0.2)
    sim.net.link("a", "b", datagrams=Datagrams(burst=burst))
    there = listener(sim)
    send(sim, *[b"%d" % n for n in range(1000)])
    kept = {int(data) for data in there.data}
    lost = [n for n in range(1000) if n not in kept]
    runs = sum(n - 1 not in lost for n in lost)
    assert 30 < len(lost) < 250
    assert len(lost) / runs > 2.5


def test_fragments_are_lost_one_by_one(sim: Sim) -> None:
    """Six fragments: each may be lost, all are needed."""
    sim.net.link("a", "b", datagrams=Datagrams(loss=0.1))
    there = listener(sim)
    for _ in range(10):  # not more at once than the receive buffer takes
        send(sim, *[b"x" * 8_000] * 20)
    assert 70 < len(there.heard) < 140  # 200 * 0.9 ** 6 = 106
    assert set(map(len, there.data)) == {8_000}


def test_messages_too_long_are_refused(sim: Sim) -> None:
    """Over 65 507 bytes, or over the MTU when fragments are forbidden: `EMSGSIZE`."""
    there = listener(sim)
    mine = send(sim, b"x" * 65_508, b"y" * 65_507)
    assert [error.errno for error in mine.errors] == [errno.EMSGSIZE]  # type: ignore[attr-defined]
    assert list(map(len, there.data)) == [65_507]
    sim.net.link("a", "b", datagrams=Datagrams(dont_fragment=True))
    mine = send(sim, b"x" * 1_473, b"y" * 1_472)
    assert [error.errno for error in mine.errors] == [errno.EMSGSIZE]  # type: ignore[attr-defined]
    assert "need 2 packets of 1500 bytes" in str(mine.errors[0])
    assert len(there.heard) == 2


def test_a_closed_port_is_told_to_connected_sockets_only(sim: Sim) -> None:
    """After one round trip, by `ConnectionRefusedError`."""
    sim.net.link("a", "b", latency="3ms")
    assert send(sim, b"x", to=("b", 9)).errors == []
    (error,) = send(sim, b"x", remote_addr=("b", 9)).errors
    assert isinstance(error, ConnectionRefusedError)
    sim.by_name["b"].crash()
    assert send(sim, b"x", remote_addr=("b", 9)).errors == []


def test_broadcast_reaches_everybody_and_oneself(sim: Sim) -> None:
    """With the flag; the own echo comes under the own address."""
    there = listener(sim)
    here = listener(sim, "a")
    mine = send(sim, b"hi", to=("255.255.255.255", PORT))
    (error,) = mine.errors
    assert isinstance(error, PermissionError)
    assert "allow_broadcast=True" in str(error)
    assert (there.heard, here.heard) == ([], [])

    for where in ("255.255.255.255", "10.255.255.255"):
        send(sim, b"hi", to=(where, PORT), allow_broadcast=True)
    assert (there.data, here.data) == ([b"hi"] * 2, [b"hi"] * 2)
    assert {source[0] for source in here.sources} == {"10.0.0.2"}


def test_what_exceeds_the_receive_buffer_is_lost(sim: Sim) -> None:
    """A paused host takes 208 KiB; the rest is gone when it resumes (check 39)."""
    there = listener(sim)
    sim.by_name["b"].pause()
    send(sim, *[b"x" * 50_000] * 6)
    assert there.heard == []
    sim.by_name["b"].resume()
    sim.run(asyncio.sleep(1))
    assert len(there.heard) == 4
    why = [record.get("why") for record in sim.trace.of_kind("datagram.lost")]
    assert why == ["receive buffer full"] * 2


def test_a_full_queue_drops(sim: Sim) -> None:
    """Bandwidth and queue of the link count for datagrams, too."""
    sim.net.link("a", "b", bandwidth=8_000, queue=1_000)
    there = listener(sim)
    send(sim, *[b"x" * 400] * 5)
    assert [time for time, _ in there.heard] == [0.4, 0.8]


def test_partitions_and_rules_reach_datagrams(sim: Sim) -> None:
    """Dropped while it lasts; rules match `datagram`; held ones are in flight."""
    there = listener(sim)
    with sim.net.partition("a", "b"):
        send(sim, b"lost")
    sim.net.rule(Drop(), kind="datagram", count=1)
    send(sim, b"dropped")
    sim.net.rule(Truncate(2), kind="datagram", count=1)
    sim.net.rule(Corrupt(1), kind="datagram", count=1)
    sim.net.rule(Copies(["1ms", "2ms"]), kind="datagram", count=1)
    send(sim, b"cut", b"dropped by the checksum", b"copied")
    assert there.data == [b"cu", b"copied", b"copied"]
    there.heard.clear()
    with sim.net.hold("a", "b"):
        send(sim, b"held")
        (packet,) = sim.net.inflight()
        assert (packet.kind, packet.src, packet.dst, packet.size) == (
            "datagram",
            "a",
            "b",
            4,
        )
        assert there.heard == []
    sim.run(asyncio.sleep(1))
    assert there.data == [b"held"]


def test_a_port_is_shared_only_when_both_say_so(sim: Sim) -> None:
    """`EADDRINUSE`; with `reuse_port` one of the sockets gets all of a sender's."""

    async def story() -> None:
        first = await ear(local_addr=("", PORT), reuse_port=True)
        with pytest.raises(OSError, match="reuse_port=True") as raised:
            await ear(local_addr=("", PORT))
        assert raised.value.errno == errno.EADDRINUSE
        second = await ear(local_addr=("", PORT), reuse_port=True)
        other = await ear(local_addr=("127.0.0.1", 0))
        for _ in range(5):
            other.transport.sendto(b"x", ("127.0.0.1", PORT))
        await asyncio.sleep(1)
        assert sorted((len(first.heard), len(second.heard))) == [0, 5]
        with pytest.raises(OSError, match="another host's") as raised:
            await ear(local_addr=("b", 1))
        assert raised.value.errno == errno.EADDRNOTAVAIL
        for one in (first, second, other):
            one.transport.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [first.lost, second.lost] == [[None], [None]]
        again = await ear(local_addr=("", PORT))
        assert again.transport.is_closing() is False

    sim.by_name["a"].run(story)


def test_wrong_calls_are_refused_as_asyncio_does(sim: Sim) -> None:
    """No address, another address than the remote one, no bytes."""

    async def story() -> None:
        free, tied = await ear(), await ear(remote_addr=("b", PORT))
        with pytest.raises(ValueError, match="needs one to send to"):
            free.transport.sendto(b"x")
        with pytest.raises(ValueError, match="must be None or"):
            tied.transport.sendto(b"x", ("b", 1))
        with pytest.raises(TypeError, match="bytes-like"):
            free.transport.sendto("x", ("b", 1))

    sim.by_name["a"].run(story)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Datagrams(loss=1.5), "loss is a probability"),
        (lambda: Datagrams(loss=0.1, burst=Burst(worsens=0, recovers=0)), "contradict"),
        (lambda: Datagrams(reorder_by=0), "reorder_by is a positive time"),
        (lambda: Burst(worsens=2, recovers=0), "worsens is a probability"),
    ],
)
def test_wrong_settings_are_refused(make: Any, text: str) -> None:
    """When made, not when hit."""
    with pytest.raises(ValueError, match=text):
        make()
    with Sim() as sim, pytest.raises((TypeError, SimulationError), match="Datagrams"):
        sim.net.link("*", "*", datagrams=0.5)  # type: ignore[arg-type]


def noisy(**options: Any) -> tuple[Any, ...]:
    with Sim(seed=5, **options) as sim:
        sim.host("a")
        sim.host("b")
        how = Datagrams(
            loss=0.1, duplicate=0.1, reorder=0.1, corrupt=0.1, checksum=False
        )
        sim.net.link("a", "b", latency="1ms", datagrams=how)
        there = listener(sim)
        send(sim, *[b"%d" % n for n in range(200)])
    return there.heard, sim.trace.digest, sim.trace.schedule_digest, sim.leftovers


@pytest.mark.parametrize("policy", ["fifo", "random"])
def test_two_runs_are_one_run(policy: str) -> None:
    """Draws come from the seed; other streams are not shifted."""
    assert noisy(policy=policy) == noisy(policy=policy)


def test_the_crash_of_a_host_frees_nothing_for_its_peers(sim: Sim) -> None:
    """What is on its way still arrives; a restarted host may bind the port again."""
    sim.net.link("a", "b", latency="1s")
    there = listener(sim)

    async def story() -> None:
        mine = await ear(remote_addr=("b", PORT))
        mine.transport.sendto(b"last words")
        await asyncio.sleep(0.5)

    sim.by_name["a"].run(story)
    sim.by_name["a"].crash()
    sim.run(asyncio.sleep(2))
    assert there.data == [b"last words"]
    sim.by_name["b"].crash()
    sim.by_name["b"].restart()
    again = listener(sim)
    assert again.heard == []
