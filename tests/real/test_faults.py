from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from rpcsim.errors import PlanError, SimulationError
from rpcsim.ports import current
from rpcsim.real import Runtime
from tests.real.parts import LOOPS, Caller, EchoServer, dial, hang_up, notes

if TYPE_CHECKING:
    from collections.abc import Iterator

PAUSE = 0.01  # seconds in which held bytes must not come


@pytest.fixture(params=LOOPS)
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    with Runtime(faults=True, grace=1, loop=request.param) as made:
        for name in ("server", "other"):
            made.bridge.wait(made.host(name, EchoServer).wait_started())
        yield made
    assert made.leftovers == ()


async def still_waits(task: asyncio.Task[object]) -> bool:
    await asyncio.wait({task}, timeout=PAUSE)
    return not task.done()


def test_without_the_proxy_a_partition_is_refused() -> None:
    """The error says how to get one."""
    with Runtime() as runtime:
        runtime.host("server")
        with pytest.raises(PlanError, match=r"Runtime\(faults=True\)"):
            runtime.net.partition("test", "server")
        with pytest.raises(PlanError, match=r"Runtime\(faults=True\)"):
            runtime.net.link("test", "server", latency="1ms")
        runtime.net.repair_all()


def test_a_partition_holds_data_and_its_repair_releases_it(runtime: Runtime) -> None:
    """Bytes written meanwhile arrive after the repair, in order; others go on."""

    async def story() -> None:
        transport, caller = await dial("server")
        there, bystander = await dial("other")
        assert await caller.call(b"before") == b"before"
        with runtime.net.partition("test", "server"):
            transport.write(b"during")
            transport.write(b" and more")
            task: asyncio.Task[object] = asyncio.create_task(caller.read(6))
            assert await still_waits(task)
            assert await bystander.call(b"fine") == b"fine"
        assert await task == b"during"
        assert await caller.read(9) == b" and more"
        transport.close()
        there.close()

    runtime.run(story)
    assert notes(runtime) == []  # exact for what passes the proxy
    told = [record.get("do") for record in runtime.trace.of_kind("fault")]
    assert told == ["begin", "end"]


def test_one_way(runtime: Runtime) -> None:
    """Requests arrive, replies do not, until both may pass again."""

    async def story() -> None:
        transport, caller = await dial("server")
        fault = runtime.net.partition("test", "server", direction="b->a")
        [relay] = runtime.net.relays
        task: asyncio.Task[object] = asyncio.create_task(caller.call(b"hi"))
        assert await still_waits(task)
        assert relay.held() == (0, 2)
        fault.undo()
        fault.undo()
        assert await task == b"hi"
        transport.close()

    runtime.run(story)


def test_a_connect_waits_for_the_repair_or_its_limit(runtime: Runtime) -> None:
    """As a SYN nobody answers: not refused, but unanswered."""

    async def story() -> None:
        runtime.net.partition("test", "server")
        with pytest.raises(TimeoutError, match="server:7007 got no answer within 5ms"):
            await current().network.connect(Caller, ("server", 7007), timeout="5ms")
        task = asyncio.create_task(dial("server"))
        assert await still_waits(task)
        runtime.net.repair("server", "test")
        transport, caller = await task
        assert await caller.call(b"hi") == b"hi"
        transport.close()

    runtime.run(story)


def test_the_systems_own_limit(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no limit of the caller's, `ETIMEDOUT` comes after the usual 127 seconds."""
    monkeypatch.setattr("rpcsim.real._net.SYN_TIMEOUT_NS", 1_000_000)
    runtime.net.partition("*", "server")
    with pytest.raises(TimeoutError, match=r"test>server:7007#1 timed out"):
        runtime.bridge.wait(dial("server"))
    [record] = runtime.trace.of_kind("conn.refused")
    assert record.get("why") == "timeout"


def test_ends_are_held_too(runtime: Runtime) -> None:
    """A close, and a reset by a crash, reach the peer after the repair only."""

    async def story() -> None:
        _, first = await dial("server")
        _, second = await dial("other")
        runtime.net.partition("test", ["server", "other"])
        server, other = runtime.hosts
        await server.stop(grace=0)
        other.crash("process")
        waiting: asyncio.Task[object] = asyncio.create_task(
            _first(first.lost, second.lost)
        )
        assert await still_waits(waiting)
        assert not first.eof
        runtime.net.repair_all()
        assert isinstance(await second.lost, ConnectionResetError)
        await first.until_eof()
        await waiting
        first.transport.close()

    runtime.run(story)


async def _first(*futures: asyncio.Future[Exception | None]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def test_a_partition_pushes_back(runtime: Runtime) -> None:
    """The proxy holds a bounded amount; then the writer's own buffer grows."""

    async def story() -> None:
        transport, caller = await dial("server")
        runtime.net.partition("test", "server")
        [relay] = runtime.net.relays
        size = 0
        while transport.get_write_buffer_size() < 1 << 20:
            transport.write(b"x" * 65536)
            size += 65536
            await asyncio.sleep(0)
        assert sum(relay.held()) < 1 << 20
        runtime.net.repair_all()
        assert len(await caller.read(size)) == size
        transport.close()

    runtime.run(story)


def test_latency_is_a_lower_bound(runtime: Runtime) -> None:
    """A round trip takes at least both ways; pieces keep their order."""

    async def story() -> int:
        transport, caller = await dial("server")
        runtime.net.link("test", "server", latency="3ms")
        runtime.net.link("*", "server", both=False, latency="1h")  # less specific
        start = current().clock.now_ns()
        for n in range(5):
            transport.write(bytes([n]) * 100)
            await asyncio.sleep(0)
        answer = await caller.read(500)
        assert answer == b"".join(bytes([n]) * 100 for n in range(5))
        transport.close()
        return current().clock.now_ns() - start

    assert runtime.run(story) >= 6_000_000
    assert notes(runtime) == ["latency"]
    assert runtime.inexact[-1].measured.endswith("late")


def test_a_drawn_latency(runtime: Runtime) -> None:
    """A distribution draws from the link's own stream."""
    labels: list[str] = []

    class Drawn:
        def draw(self, stream: object) -> int:
            labels.append(repr(stream))
            return 1000

    async def story() -> bytes:
        runtime.net.link("test", "server", latency=Drawn())
        transport, caller = await dial("server")
        answer = await caller.call(b"hi")
        transport.close()
        return answer

    assert runtime.run(story) == b"hi"
    assert {"<stream net/test>server>", "<stream net/server>test>"} == set(labels)


def test_wrong_arguments(runtime: Runtime) -> None:
    """A misspelt host is named with the nearest one; a bad direction with the good."""
    with pytest.raises(SimulationError, match="did you mean 'server'"):
        runtime.net.partition("test", "servr")
    with pytest.raises(ValueError, match="'both', 'a->b' or 'b->a'"):
        runtime.net.partition("test", "server", direction="up")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ValueError, match="negative"):
        runtime.net.link("test", "server", latency=-1)
    with pytest.raises(ValueError, match="at least one host"):
        runtime.net.partition([], "server")


def test_a_partition_outlives_nothing() -> None:
    """Undone after the end of the run it does nothing, and the end is no hang."""
    with Runtime(faults=True, grace=0) as runtime:
        runtime.bridge.wait(runtime.host("server", EchoServer).wait_started())
        transport, caller = runtime.bridge.wait(dial("server"))
        fault = runtime.net.partition("test", "server")

        async def write() -> None:
            transport.write(b"lost")

        runtime.run(write)
        hang_up(runtime, transport)
    fault.undo()
    assert caller.received == b""
    assert runtime.leftovers == ()


def test_a_host_that_repairs_from_any_thread(runtime: Runtime) -> None:
    """Faults may be set and lifted from pool threads and the test alike."""

    def story() -> bytes:
        bridge = current().bridge
        _, caller = bridge.wait(dial("server"))
        with runtime.net.partition("server", "*"):
            pass
        answer = bridge.wait(caller.call(b"hi"))
        hang_up(runtime, caller.transport)
        return answer

    assert runtime.run(story) == b"hi"
