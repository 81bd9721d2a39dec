"""Hosts: factories that start, stop, crash and restart."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.errors import (
    HostDown,
    HostStateError,
    SimulationError,
    UnhandledErrors,
)
from rpcsim.ports import current
from rpcsim.sim import Sim
from tests.sim.programs import PORT, ask, echo_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rpcsim.sim._host import SimHost


def test_restart_calls_the_factory_again() -> None:
    """State in memory is gone, addresses stay, the incarnation rises (check 36)."""
    made: list[tuple[int, Any]] = []

    class Service:
        def __init__(self, host: SimHost) -> None:
            self.host = host
            self.memory: list[int] = []
            made.append((host.incarnation, self))

        async def start(self) -> None:
            self.memory.append(self.host.incarnation)
            await asyncio.sleep(1)

        async def stop(self) -> None:
            self.memory.append(-1)

    with Sim() as sim:
        host = sim.host("box", Service)
        addresses, name = host.addresses, host.name
        sim.run(host.wait_started)
        assert sim.clock.elapsed == 1
        host.crash()
        assert (host.state, repr(host)) == (
            "crashed",
            "<host box: crashed, incarnation 1>",
        )
        host.restart(after="2s")
        sim.clock.advance(1)
        assert host.state == "crashed"
        sim.clock.advance(1)
        assert host.state == "running"
        sim.run(host.wait_started)
        sim.run(host.stop)
        assert host.state == "stopped"
        host.restart()
        assert (host.addresses, host.name, host.incarnation) == (addresses, name, 3)
    assert [n for n, _ in made] == [1, 2, 3]
    assert [service.memory for _, service in made] == [[1], [2, -1], [3, -1]]
    kinds = [r.kind for r in sim.trace if r.host == "box"]
    assert kinds == [
        *("host.start", "host.crash", "host.restart", "host.stop", "host.restart"),
        "host.stop",
    ]


def test_factories_of_every_shape() -> None:
    """They take the host or nothing; give a coroutine, an object or nothing (4.1)."""
    seen: list[Any] = []

    def bare() -> None:
        seen.append(current().host)

    def with_host(host: SimHost) -> None:
        seen.append(host.name)

    def with_default(depth: int = 3) -> None:
        seen.append(depth)

    async def coroutine(host: SimHost) -> None:
        await asyncio.sleep(1)
        seen.append((host.name, current().host, asyncio.current_task().get_name()))  # type: ignore[union-attr]

    with Sim() as sim:
        sim.host("none")
        sim.host("a", bare)
        sim.host("b", with_host)
        sim.host("c", with_default)
        sim.host("d", coroutine)
        sim.host("e", lambda: None)
        for host in sim.hosts:
            sim.run(host.wait_started)
        sim.clock.run_until_idle()
        assert [host.name for host in sim.hosts] == ["none", *"abcde"]
    assert seen == ["a", "b", 3, ("d", "d", "d/coroutine-1")]


@pytest.mark.parametrize("waited", [False, True])
def test_a_factory_that_fails_is_told(waited: bool) -> None:
    """`wait_started` raises it; with nobody waiting it is a failure of the run."""

    def broken() -> None:
        raise OSError("no such device")

    sim = Sim()
    if waited:
        with sim, pytest.raises(OSError, match="no such device"):
            host = sim.host("box", broken)
            sim.run(host.wait_started)
        return
    with pytest.raises(UnhandledErrors) as raised, sim:
        sim.host("box", broken)
        sim.run(asyncio.sleep(1))
    (error,) = raised.value.exceptions
    assert error.__notes__ == ["starting host box, at 1 s of simulated time"]


def test_a_background_program_that_fails_later_is_told() -> None:
    """After it was up, a host's program is a task like any other."""

    async def server() -> None:
        await asyncio.sleep(3)
        raise ValueError("late")

    with pytest.raises(UnhandledErrors) as raised, Sim() as sim:
        host = sim.host("box", server)
        sim.run(host.wait_started)
        sim.run(asyncio.sleep(10))
    (error,) = raised.value.exceptions
    assert error.__notes__ == ["in task box/server-1, at 10 s of simulated time"]


def test_wrong_states_are_refused_by_name() -> None:
    """The error names host, state and time; inside a run it is kept (4.1)."""
    with Sim() as sim:
        host = sim.host("box")
        sim.clock.advance(3)
        for verb in (host.start, host.restart):
            with pytest.raises(HostStateError, match="'box': it is running at 3 s"):
                verb()
        with pytest.raises(ValueError, match="'power' or 'process', not 'soft'"):
            host.crash("soft")  # type: ignore[arg-type]
        host.crash()
        with pytest.raises(HostStateError, match="cannot crash host 'box': it is cra"):
            host.crash()
        with pytest.raises(HostStateError, match="only a running host"):
            sim.run(host.stop)
        with pytest.raises(HostDown, match=r"'box' is crashed at 3 s; restart\(\) it"):
            host.run(print)
        with pytest.raises(HostDown):
            sim.run(host.wait_started)
        with pytest.raises(HostDown):
            host.ports.bridge.wait(asyncio.sleep(1))

    async def swallow(host: SimHost) -> None:
        with contextlib.suppress(HostStateError):
            host.restart()

    with pytest.raises(HostStateError), Sim() as sim:
        sim.run(swallow(sim.host("box")))


def test_names_of_hosts_are_checked() -> None:
    """Unique, of the letters that traces and addresses can carry (4.1)."""
    with Sim() as sim:
        sim.host("machine-123.example_1")
        with pytest.raises(SimulationError, match="there is a host 'machine-123"):
            sim.host("machine-123.example_1")
        with pytest.raises(SimulationError, match="there is a host 'test'"):
            sim.host("test")
        for name in ("", "a b", "a:1", "h\N{LATIN SMALL LETTER E WITH ACUTE}", "*"):
            with pytest.raises(ValueError, match="a host name is made of"):
                sim.host(name)
        with pytest.raises(SimulationError, match=r"10\.0\.0\.2: 'machine-123"):
            sim.host("other", addresses=["10.0.0.2"])
        host = sim.host("third", addresses=["192.168.1.9", "fd00::9"])
        assert host.addresses == ("192.168.1.9", "fd00::9")


def test_a_stopped_host_runs_its_clean_up() -> None:
    """Tasks are cancelled, `finally` blocks run, connections close in order (4.1)."""
    log: list[Any] = []

    async def server() -> None:
        async def serve(r: asyncio.StreamReader, w: asyncio.StreamWriter) -> None:
            try:
                await r.read()
            finally:
                log.append("handler")
                w.write(b"bye")
                w.close()

        listening = await asyncio.start_server(serve, "", PORT)
        try:
            await listening.serve_forever()
        finally:
            log.append("server")

    with Sim() as sim:
        host = sim.host("server", server)

        async def main() -> None:
            reader, writer = await asyncio.open_connection("server", PORT)
            await asyncio.sleep(1)
            await host.stop()
            log.append(await reader.read())
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("server", PORT)

        sim.run(main)
        # An open connection does not hold the server up for the grace.
        assert sim.clock.elapsed == 1
    assert sorted(map(str, log[:2])) == ["handler", "server"]
    assert log[2] == b"bye"


# A host on which everything that could run after a crash is pending at some step.
def busy_run(crash_at: int | None, *, cleanup: bool, log: list[str]) -> Any:
    """Run a small program step by step and crash its host at one; give the digest."""

    class Noisy:
        def __del__(self) -> None:
            if not quiet:
                log.append("destructor")

    quiet = False

    async def stream() -> AsyncIterator[int]:
        n = 0
        try:
            while True:
                await asyncio.sleep(0.3)
                yield n
                n += 1
        finally:
            if cleanup:
                note("generator")

    async def program(host: SimHost) -> None:
        loop = asyncio.get_running_loop()
        noisy = Noisy()

        def tick() -> None:
            note("tick")
            loop.call_later(0.25, tick)
            loop.call_soon(note, "soon")

        def blocking() -> None:
            if not cleanup:
                host.ports.bridge.wait(asyncio.sleep(5))
                return
            try:
                host.ports.bridge.wait(asyncio.sleep(5))
            finally:
                note("fiber")

        fiber = host.ports.bridge.spawn(blocking)
        tick()
        reader, writer = await asyncio.open_connection("server", PORT)
        if cleanup:
            try:
                async for n in stream():
                    writer.write(b"%d\n" % n)
                    await reader.readline()
            finally:
                writer.close()
                note("finally")
        else:
            async for n in stream():
                writer.write(b"%d\n" % n)
                await reader.readline()
        assert (fiber, noisy) is not None

    def note(what: str) -> None:
        log.append(what)
        host.ports.trace.emit("user.note", (("what", what),))

    with Sim() as sim:
        server = sim.host("server", echo_server)
        host = sim.host("busy", program)
        sim.net.link("busy", "server", latency="10ms")
        if crash_at is not None:
            for _ in range(crash_at):
                sim.step()
            host.crash()
            gc.collect(0)
            log.append("CRASH")
        sim.clock.advance("3s")
        log.append("END")
        quiet = True
        assert server.state == "running"
        steps = sim.loop.steps
    return sim.trace.digest, steps


@pytest.mark.parametrize("first", range(3))
def test_nothing_of_a_crashed_host_runs(first: int) -> None:
    """Crash at every step: no callback, timer, generator, destructor (check 38)."""
    steps = 60
    for crash_at in range(1 + first, steps, 3):
        log: list[str] = []
        careful, _ = busy_run(crash_at, cleanup=True, log=log)
        assert log[log.index("CRASH") + 1] == "END", (crash_at, log)
        plain, _ = busy_run(crash_at, cleanup=False, log=[])
        assert careful == plain, crash_at


def test_a_host_that_crashes_itself_says_no_more() -> None:
    """What is left of the running step can send and schedule nothing."""
    seen: list[Any] = []

    async def suicidal(host: SimHost) -> None:
        loop = asyncio.get_running_loop()
        _, writer = await asyncio.open_connection("server", PORT)
        host.crash()
        writer.write(b"ghost\n")
        loop.call_soon(seen.append, "soon")
        loop.call_later(1, seen.append, "later")
        kept = loop.create_task(asyncio.sleep(0))
        with pytest.raises(HostDown):
            await host.ports.network.connect(asyncio.Protocol, ("server", PORT))
        await kept
        seen.append("went on")

    with Sim() as sim:
        sim.host("server", echo_server)
        sim.host("box", suicidal)
        sim.clock.advance(5)
        assert sim.run(ask("a")) == ["a"]
    assert seen == []
    assert [r for r in sim.trace.lane("box") if r.kind == "conn.data"] == []


def test_a_process_crash_is_told_to_peers_at_one_latency() -> None:
    """End-of-file, or a reset when unread data waited (check 37)."""
    with Sim() as sim:
        sim.net.link("*", "*", latency="10ms")
        host = sim.host("server", echo_server)

        async def main() -> None:
            reader, writer = await asyncio.open_connection("server", PORT)
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            before = sim.loop.time()
            host.crash("process")
            assert await reader.read() == b""
            assert sim.loop.time() - before == pytest.approx(0.010)
            # The system is there: it refuses, and answers what it does not know.
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("server", PORT)
            writer.write(b"anyone?\n")
            await asyncio.sleep(1)
            with pytest.raises(ConnectionResetError):
                await writer.drain()
            writer.close()

        sim.run(main)


def test_unread_data_of_a_crashed_process_is_a_reset() -> None:
    """As the system does for a socket closed with data waiting (check 37)."""

    class Deaf(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.pause_reading()

    async def deaf() -> None:
        loop = asyncio.get_running_loop()
        await (await loop.create_server(Deaf, "", PORT)).serve_forever()

    with Sim() as sim:
        host = sim.host("server", deaf)

        async def main() -> None:
            reader, writer = await asyncio.open_connection("server", PORT)
            writer.write(b"unread")
            await asyncio.sleep(1)
            host.crash("process")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

        sim.run(main)


def test_a_power_crash_is_silence_then_a_reset_after_restart() -> None:
    """Nothing until the machine is up again; then RST on the next write (check 37)."""
    with Sim() as sim:
        sim.net.link("*", "*", latency="10ms")
        host = sim.host("server", echo_server)

        async def main() -> None:
            reader, writer = await asyncio.open_connection("server", PORT)
            host.crash()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await reader.read()
            host.restart()
            await asyncio.sleep(60)
            assert not reader.at_eof()
            writer.write(b"still there?\n")
            before = sim.loop.time()
            with pytest.raises(ConnectionResetError):
                await reader.readline()
            assert sim.loop.time() - before == pytest.approx(0.020)
            writer.close()
            assert await ask("again") == ["again"]

        sim.run(main)


def test_a_crash_with_a_connect_under_way() -> None:
    """The SYN is sent again: the restarted host answers it (6.2)."""
    with Sim() as sim:
        sim.net.link("*", "*", latency="100ms")
        host = sim.host("server", echo_server)

        async def main() -> float:
            opening = asyncio.ensure_future(ask("late"))
            await asyncio.sleep(0.05)  # the SYN is on the wire
            host.crash()
            await asyncio.sleep(1.5)
            host.restart()
            assert await opening == ["late"]
            return sim.loop.time()

        # SYNs at 0, 1, 3 s: the third is answered.
        assert sim.run(main) == pytest.approx(3.2 + 0.2)
