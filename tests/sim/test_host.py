"""Hosts: factories that start, stop, crash and restart."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.errors import (
    DeadlockError,
    HostDown,
    HostStateError,
    SimulationError,
    UnhandledErrors,
)
from rpcsim.ports import current
from rpcsim.sim import DiskModel, Sim, Uniform, crash
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


# -- pause and resume, signals ---------------------------------------------------------


async def _sink(log: list[Any]) -> None:
    """Take whatever comes in on any connection, noting how much and when."""
    loop = asyncio.get_running_loop()

    class Sink(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            log.append((round(loop.time(), 3), len(data)))

    server = await loop.create_server(Sink, "", PORT)
    await server.serve_forever()


@pytest.mark.parametrize("policy", ["fifo", "random"])
def test_a_paused_host_pushes_back(policy: str) -> None:
    """Its system acknowledges until buffers are full; all arrives later (check 39)."""
    log: list[tuple[float, int]] = []
    pauses: list[str] = []

    class Writer(asyncio.Protocol):
        def pause_writing(self) -> None:
            pauses.append(f"pause {sim.clock.elapsed:g}")

        def resume_writing(self) -> None:
            pauses.append(f"resume {sim.clock.elapsed:g}")

    async def story() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(Writer, "box", PORT)
        box.pause()
        assert (box.state, box.up) == ("paused", True)
        size = 0
        while not pauses:
            transport.write(b"x" * 1024)
            size += 1024
            await asyncio.sleep(0)
        # Receive buffer, send buffer, and the transport's own up to its high water.
        assert size == 3 * 64 * 1024 + 1024
        await asyncio.sleep(10)
        assert (log, pauses) == ([], ["pause 0.002"])
        box.resume()
        await asyncio.sleep(1)
        assert sum(n for _, n in log) == size
        transport.close()

    with Sim(seed=2, policy=policy) as sim:
        box = sim.host("box", lambda: _sink(log))
        sim.net.link("test", "box", latency="1ms")
        sim.run(story)
        kinds = [r.kind for r in sim.trace if r.host == "box"]
        # It accepts the connection when it goes on: its system had taken it before.
        assert kinds[1:4] == ["host.pause", "host.resume", "conn.open"]
    assert len(pauses) == 2
    assert pauses[1].startswith("resume 10.0")


@pytest.mark.parametrize("policy", ["fifo", "random"])
def test_what_fell_due_in_a_pause_fires_in_deadline_order(policy: str) -> None:
    """Timers of many tasks, on resume, before anything later (check 39)."""
    fired: list[Any] = []

    async def program() -> None:
        loop = asyncio.get_running_loop()

        async def arm(n: int) -> None:
            loop.call_later(n, lambda: fired.append((n, sim.clock.elapsed)))

        async with asyncio.TaskGroup() as group:
            for n in (3, 9, 1, 5, 7, 2, 11):
                group.create_task(arm(n))
        await asyncio.sleep(20)

    for seed in range(20):
        fired.clear()
        with Sim(seed=seed, policy=policy) as sim:
            box = sim.host("box", program)
            sim.clock.advance(1.5)
            box.pause()
            sim.clock.advance(8.5)
            assert fired == [(1, 1)]
            box.resume()
            sim.clock.advance(0)
            sim.clock.run_until_idle()
        late = [(n, 10) for n in (2, 3, 5, 7, 9)]
        assert fired == [(1, 1), *sorted(late), (11, 11)], seed


@pytest.mark.parametrize("policy", ["fifo", "random"])
def test_a_strand_keeps_its_order_over_a_pause(policy: str) -> None:
    """Bytes of a connection and callbacks of a task, paused at odd moments (3.5)."""
    for seed in range(30):
        with Sim(seed=seed, policy=policy) as sim:
            sim.host("box", echo_server)
            sim.net.link("test", "box", latency=Uniform("1ms", "3ms"))
            answers = sim.run(_ask_while_pausing(sim, twice=seed % 3 == 0))
            assert answers == [str(n) for n in range(100)], seed


async def _ask_while_pausing(sim: Sim, *, twice: bool) -> list[str]:
    box = sim.by_name["box"]

    async def nemesis() -> None:
        for _ in range(8):
            await asyncio.sleep(0.001)  # as often as packets arrive
            box.pause()
            await asyncio.sleep(0.004)
            box.resume()
            if twice:
                box.pause()  # before the way back is over
                await asyncio.sleep(0)
                box.resume()

    reader, writer = await asyncio.open_connection("box", PORT)
    pausing = asyncio.ensure_future(nemesis())
    for n in range(100):
        writer.write(f"{n}\n".encode())
        if n % 10 == 0:
            await asyncio.sleep(0.001)
    answers = [await reader.readline() for _ in range(100)]
    await pausing
    writer.close()
    return [line.decode().strip() for line in answers]


def test_wrong_states_of_a_pause_are_told() -> None:
    """Pausing what does not run, resuming what is not paused (4.1)."""
    with Sim() as sim:
        box = sim.host("box", lambda: asyncio.sleep(1))
        sim.clock.advance(0)
        with pytest.raises(HostStateError, match="cannot resume host 'box'"):
            box.resume()
        box.pause()
        for verb in (box.pause, box.start, box.restart):
            with pytest.raises(HostStateError, match="it is paused at 0 s"):
                verb()
        with pytest.raises(DeadlockError, match="its host box is paused"):
            sim.run(asyncio.Event().wait)
        box.crash()
        assert box.state == "crashed"
        for verb in (box.pause, box.resume):
            with pytest.raises(HostStateError, match="crashed"):
                verb()
        sim._kept.clear()  # the deadlock was the point


def test_a_run_may_end_with_a_paused_host() -> None:
    """It is resumed and stopped in order: its clean-up runs."""
    cleaned: list[str] = []

    async def program() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cleaned.append("done")

    with Sim() as sim:
        box = sim.host("box", program)
        sim.clock.advance(1)
        box.pause()
        sim.clock.advance(1)
    assert cleaned == ["done"]
    assert not sim.leftovers


def test_signals_reach_handlers_or_do_what_the_system_does() -> None:
    """A handler belongs to the host that sets it (4.1)."""
    seen: list[Any] = []

    async def program() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, seen.append, "asked to end")
        with pytest.raises(RuntimeError, match="cannot be caught"):
            loop.add_signal_handler(signal.SIGKILL, seen.append, "no")
        await asyncio.sleep(3600)

    with Sim() as sim:
        a, b = sim.host("a", program), sim.host("b", lambda: asyncio.sleep(3600))
        sim.clock.advance(1)
        a.send_signal("term")
        sim.send_signal("b", signal.SIGTERM)
        sim.clock.advance(1)
        assert (seen, a.state, b.state) == (["asked to end"], "running", "crashed")
        for sig, state in (("STOP", "paused"), ("SIGCONT", "running")):
            a.send_signal(sig)
            assert a.state == state
        a.send_signal(signal.SIGCHLD)
        a.run(_drop_handler)
        with pytest.raises(ValueError, match="unknown signal 'BARK'"):
            a.send_signal("BARK")
        with pytest.raises(ValueError, match="unknown signal 999"):
            a.send_signal(999)
        a.send_signal(signal.SIGTERM)
        with pytest.raises(HostStateError, match="send a signal to host 'a'"):
            a.send_signal(signal.SIGTERM)
        a.restart()
        assert not a.signals
    crash = next(r for r in sim.trace if r.kind == "host.crash")
    assert (crash.host, crash.get("kind")) == ("b", "process")


async def _drop_handler() -> None:
    loop = asyncio.get_running_loop()
    assert loop.remove_signal_handler(signal.SIGTERM)
    assert not loop.remove_signal_handler(signal.SIGTERM)


def test_datagrams_beyond_the_buffer_of_a_paused_host_are_lost() -> None:
    """Its receive buffer holds 208 KiB; the first to come stay (check 39)."""
    got: list[int] = []

    class Sink(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            got.append(data[0])

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(Sink, local_addr=("0.0.0.0", PORT))
        await asyncio.sleep(3600)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("box", PORT)
        )
        box.pause()
        for n in range(100):
            transport.sendto(bytes([n]) * 4096)
        await asyncio.sleep(10)
        assert got == []
        box.resume()
        await asyncio.sleep(1)
        transport.close()

    with Sim() as sim:
        box = sim.host("box", serve)
        sim.clock.advance(1)
        sim.run(story)
    assert got == list(range(208 * 1024 // 4096))


def hardships() -> list[str | None]:
    """Run hosts that are paused, drift, crash at points and lose disks; the digests."""

    async def work() -> None:
        ports = current()
        for n in range(20):
            await ports.disk.append("journal", bytes([n]) * 700)
            ports.points.point("written")
            if ports.points.buggify("slow"):
                await asyncio.sleep(0.01)
            if n % 4 == 0:
                await ports.disk.fsync("journal")
            await asyncio.sleep(0.001)

    model = DiskModel(latency=Uniform("1ms", "3ms"), lying_fsync=0.1)
    with Sim(seed=11, policy="random", trace="steps", timer_epsilon="1us") as sim:
        hosts = [sim.host(name, work, disk=model) for name in ("a", "b", "c")]
        hosts[0].clock.drift(77.7, monotonic=True)
        sim.buggify("slow", probability=0.3)
        sim.at_point("written", host="b", nth=7, do=crash)
        for _ in range(5):
            sim.clock.advance("7ms")
            hosts[2].pause()
            sim.clock.advance("7ms")
            hosts[2].resume()
        hosts[1].restart()
        sim.clock.advance(1)
        hosts[0].crash()
        stored = [sorted(host.disk.snapshot().files.items()) for host in hosts]
    told = hashlib.blake2b(repr(stored).encode()).hexdigest()
    return [sim.trace.digest, sim.trace.schedule_digest, told]


def test_hardships_replay_in_a_fresh_process() -> None:
    """The same digests and files, under another hash seed."""
    root = Path(__file__).parents[2]
    code = "import json; from tests.sim.test_host import hardships as h; "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print(json.dumps(h()))"],
        env={**os.environ, "PYTHONHASHSEED": "5", "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == hardships() == hardships()
