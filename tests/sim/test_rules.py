"""Packet rules: order, counts, times, chance, and what they do to streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.errors import RuleError
from rpcsim.ports import (
    Copies,
    Corrupt,
    Deliver,
    Drop,
    Hold,
    Pass,
    Reset,
    Truncate,
    Verdict,
)
from rpcsim.sim import Packet, Sim
from tests.sim.programs import PORT, ask, echo_server
from tests.sim.test_tcp import Log, pair

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def sim() -> Any:
    with Sim(seed=3) as sim:
        sim.host("server")
        sim.net.link("*", "*", latency="10ms")
        yield sim


def arrivals(sim: Sim, writes: int = 4, *, before: Callable[[], object]) -> list[float]:
    """Write once every second; give how long after its second each piece arrived."""
    near, far = Log(), Log()

    async def story() -> list[float]:
        transport, server = await pair(sim, near, far)
        await sim.net.wait_idle()
        before()
        took = []
        for n in range(writes):
            begin = sim.loop.time()
            transport.write(b"%d" % n)
            await asyncio.sleep(1)
            took += [
                round(at - begin, 6)
                for what, at in far.events
                if what[0] == "data" and at >= begin
            ]
        await asyncio.sleep(10)
        assert far.data == b"".join(b"%d" % n for n in range(writes))
        transport.close()
        server.close()
        return took

    took: list[float] = sim.run(story)
    return took


def test_dropped_segments_are_sent_again(sim: Sim) -> None:
    """`Drop` on a stream is a lost segment; a count is spent (check 55)."""

    def rules() -> None:
        sim.net.rule(Drop(), kind="data", src="test", count=2, name="lost")

    assert arrivals(sim, before=rules) == [0.61, 0.01, 0.01, 0.01]
    told = [(r.get("rule"), r.get("do")) for r in sim.trace.of_kind("rule")]
    assert told == [("lost", "drop")] * 2
    assert not sim.net.link_between("test", "server").special
    assert sim.net.unreached() == []


def test_rules_are_asked_in_order(sim: Sim) -> None:
    """The first that does not pass decides; `after` lets some by (check 55)."""
    asked: list[str] = []

    def look(packet: Packet) -> Verdict:
        asked.append(packet.connection)
        return Pass()

    def rules() -> None:
        sim.net.rule(look, kind="data", src="test")
        sim.net.rule(Deliver("100ms"), kind="data", src="test", after=1, count=1)
        sim.net.rule(Deliver("200ms"), kind="data", src="test")
        sim.net.rule(Deliver("400ms"), kind="data", dst="server", connection="other*")

    assert arrivals(sim, before=rules) == [0.21, 0.11, 0.21, 0.21]
    assert asked == ["test>server:7#1"] * 4
    assert sim.net.unreached() == ["packet-4"]


def test_rules_have_their_time(sim: Sim) -> None:
    """`during` counts from the start of the run, its end not included (check 55)."""

    def rules() -> None:
        begin = sim.loop.time()
        span = (begin + 1, begin + 3)
        sim.net.rule(Deliver("50ms"), kind="data", src="test", during=span)

    assert arrivals(sim, before=rules) == [0.01, 0.06, 0.06, 0.01]


@pytest.mark.parametrize(("chance", "hit"), [(0, 0), (1, 200), (0.25, 50)])
def test_rules_have_their_chance(sim: Sim, chance: float, hit: int) -> None:
    """Probability 0, 1 and between, from a stream of the rule's own (check 55)."""

    def rules() -> None:
        sim.net.rule(
            Deliver("50ms"), kind="data", src="test", probability=chance, name="dice"
        )

    took = arrivals(sim, 200, before=rules)
    assert abs(took.count(0.06) - hit) <= (20 if 0 < chance < 1 else 0)
    draws = sim.entropy.draws()
    assert draws.get("fault/dice", 0) == (200 if 0 < chance < 1 else 0)


def test_a_rule_ends_with_its_block(sim: Sim) -> None:
    """And leaves no trace on the links (check 55)."""

    async def story() -> None:
        transport, server = await pair(sim, Log(), far := Log())
        await sim.net.wait_idle()
        with sim.net.rule(Drop(), dst="server") as rule:
            transport.write(b"x")
            await asyncio.sleep(0.1)
            assert rule.used == 1
            assert sim.net.link_between("test", "server").special
        assert repr(rule) == "<rule packet-1: seen 1, used 1, removed>"
        assert far.data == b""
        await asyncio.sleep(1)
        assert far.data == b"x"
        transport.close()
        server.close()

    sim.run(story)
    assert not sim.net.link_between("test", "server").special


def test_other_verdicts_on_streams(sim: Sim) -> None:
    """Copies arrive once, a reset ends it, a held packet waits for its rule (6.8)."""

    async def story() -> None:
        near, far = Log(), Log()
        transport, server = await pair(sim, near, far)
        await sim.net.wait_idle()
        begin = sim.loop.time()
        sim.net.rule(Copies(["30ms", "20ms"]), kind="data", src="test", count=1)
        transport.write(b"twice")
        await sim.net.wait_idle()
        assert far.data == b"twice"
        assert far.events[-1][1] - begin == pytest.approx(0.03)
        assert sim.net.counters("test", "server").duplicated == 1
        with sim.net.rule(Hold(), kind="data", src="test", count=1):
            transport.write(b" held")
            transport.write(b" behind")
            await asyncio.sleep(5)
            assert far.data == b"twice"
            assert [(p.size, p.held) for p in sim.net.inflight()] == [
                (5, True),
                (7, True),
            ]
        await sim.net.wait_idle()
        assert far.data == b"twice held behind"
        sim.net.rule(Reset(), kind="data", dst="test", count=1)
        far.transport.write(b"never arrives")
        await asyncio.sleep(1)
        for log in (near, far):
            assert log.events[-1][0] == ("lost", "ConnectionResetError")
        assert near.data == b""
        server.close()

    sim.run(story)


def test_rules_on_a_connect(sim: Sim) -> None:
    """A dropped SYN is sent again, a reset one refused, a delayed one late (6.8)."""
    sim.host("echo", echo_server)

    async def story() -> list[float]:
        took = []
        for kind in ("syn", "synack"):
            begin = sim.loop.time()
            with sim.net.rule(Drop(), kind=kind, count=1):
                assert await ask("x", host="echo") == ["x"]
            took.append(round(sim.loop.time() - begin, 6))
        begin = sim.loop.time()
        with sim.net.rule(Deliver("300ms"), kind="syn"):
            assert await ask("x", host="echo") == ["x"]
        took.append(round(sim.loop.time() - begin, 6))
        with (
            sim.net.rule(Reset(), kind="syn", dst="echo"),
            pytest.raises(ConnectionRefusedError),
        ):
            await asyncio.open_connection("echo", PORT)
        return took

    assert sim.run(story) == [1.04, 1.04, 0.34]


def test_what_a_rule_sees_of_a_packet(sim: Sim) -> None:
    """Kind, hosts, connection, size and time, in order of sending."""
    seen: list[Packet] = []

    def look(packet: Packet) -> Verdict:
        seen.append(packet)
        return Pass()

    sim.host("echo", echo_server)
    sim.net.rule(look)
    sim.run(ask("hello", host="echo"))
    sim.run(asyncio.sleep(1))
    told = [(p.kind, f"{p.src}>{p.dst}", p.size, round(p.sent_at, 6)) for p in seen]
    assert told == [
        ("syn", "test>echo", 0, 0.0),
        ("synack", "echo>test", 0, 0.01),
        ("ack", "test>echo", 0, 0.02),
        ("data", "test>echo", 6, 0.02),
        ("data", "echo>test", 6, 0.03),
        ("fin", "test>echo", 0, 0.04),
        ("fin", "echo>test", 0, 0.05),
    ]
    assert {p.connection for p in seen} == {"test>echo:7#1"}
    assert [p.n for p in seen] == sorted(p.n for p in seen)


def test_rules_that_cannot_be_are_refused() -> None:
    """When installed: content of streams, doubles, nonsense, never asked (14)."""
    with Sim() as sim:
        for name in ("a", "b", "c"):
            sim.host(name)
        net: Any = sim.net
        for verdict, match, told in (
            (Corrupt(1), {}, "cannot corrupt 1 bits the packets of a stream"),
            (Truncate(2), {"kind": "data"}, "TCP delivers what was written or nothing"),
            (Drop(), {"kind": "dada"}, "no packets of kind 'dada'"),
            (Drop(), {"count": 0}, "count= is how often it decides"),
            (Drop(), {"after": -1}, "after= is how many to let pass"),
            (Drop(), {"probability": 2}, "a probability is 0 to 1"),
            (Drop(), {"during": (2, 1)}, "0 <= from < until"),
            ("drop", {}, "cannot decide 'drop' about a packet"),
        ):
            with pytest.raises(RuleError, match=told):
                net.rule(verdict, **match)
        net.rule(Drop(), src=["a", "b"], dst="c", name="first")
        with pytest.raises(RuleError, match="never be asked: 'first' decides"):
            net.rule(Deliver(1), src="a", dst="c", kind="data")
        with pytest.raises(RuleError, match="there is a rule 'first' already"):
            net.rule(Drop(), src="c", name="first")
        net.rule(Deliver(1), src="a", dst="b")
        net.rule(Deliver(1), src="*", dst="c")


def test_a_rule_that_fails_ends_the_run() -> None:
    """`RuleError` out of the run, even if the program swallows everything (6.8)."""

    def broken(packet: Packet) -> Verdict:
        raise KeyError(packet.kind)

    with pytest.raises(RuleError, match="raised KeyError") as raised, Sim() as sim:
        sim.host("server", echo_server)
        sim.net.rule(broken, kind="data", name="broken")
        sim.run(ask("x"))
    assert "rule 'broken' raised KeyError about Packet(" in str(raised.value)


def test_a_function_may_not_alter_a_stream() -> None:
    """What could not be known when it was installed ends the run (6.8)."""
    with (
        pytest.raises(RuleError, match=r"cannot corrupt .* a data packet"),
        Sim() as sim,
    ):
        sim.host("server", echo_server)
        sim.net.rule(lambda packet: Corrupt(1), kind="data")
        sim.run(ask("x"))


def test_rules_replay_and_shift_no_other_draw() -> None:
    """Equal digests for one seed; a rule draws from its own stream only (10.1)."""

    def run(chance: float | None) -> Sim:
        with Sim(seed=11, policy="random") as sim:
            sim.host("server", echo_server)
            sim.net.link("*", "*", latency="5ms", loss=0.1)
            if chance is not None:
                sim.net.rule(Drop(), kind="data", probability=chance)
            sim.run(ask(*"abcdefgh"))
        return sim

    assert run(0.3).trace.digest == run(0.3).trace.digest
    assert run(0.3).trace.digest != run(None).trace.digest
    assert run(0.0).trace.digest == run(None).trace.digest


def test_rules_that_never_matched_are_told_at_the_end() -> None:
    """In the trace, and by `unreached`; those that matched are not (check 55)."""
    with Sim() as sim:
        sim.host("server", echo_server)
        sim.net.rule(Drop(), kind="datagram", name="never")
        sim.net.rule(Deliver("1ms"), kind="data", name="often")
        sim.run(ask("x"))
        assert sim.net.unreached() == ["never"]
    (told,) = sim.trace.of_kind("plan.unreached")
    assert "never" in str(told.get("what"))
