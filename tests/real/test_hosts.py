from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.errors import HostDown, HostStateError, UnhandledErrors
from rpcsim.ports import current
from rpcsim.real import Runtime
from tests.real.parts import EchoServer, dial, notes, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.ports import Host


def test_hosts_have_their_own_addresses_and_contexts() -> None:
    """Host number k is 127.0.0.(k+1), `test` the first; code knows where it runs."""

    async def here() -> tuple[str, list[str]]:
        ports = current()
        return ports.host, await ports.network.resolve("localhost")

    with Runtime() as runtime:
        a, b = runtime.host("a"), runtime.host("b")
        assert [*a.addresses, *b.addresses] == ["127.0.0.2", "127.0.0.3"]
        assert runtime.run(here) == ("test", ["127.0.0.1"])
        assert a.run(here) == ("a", ["127.0.0.2"])
        assert b.run(lambda: current().host) == "b"
        assert [host.name for host in runtime.hosts] == ["a", "b"]


def test_two_hosts_with_one_port_number() -> None:
    """Both listen at 7007; each talks to the other and to itself, by name."""
    with Runtime() as runtime:
        hosts = [runtime.host("a", EchoServer), runtime.host("b", EchoServer)]
        for host in hosts:
            runtime.bridge.wait(host.wait_started())

        async def talk(name: str) -> tuple[str, Any]:
            transport, caller = await dial(name)
            assert await caller.call(b"hello") == b"hello"
            peer, own = (
                transport.get_extra_info("peername"),
                transport.get_extra_info("sockname"),
            )
            transport.close()
            return own[0], peer

        for host, own in zip(hosts, ("127.0.0.2", "127.0.0.3"), strict=True):
            assert host.run(talk("a")) == (own, ("127.0.0.2", 7007))
            assert host.run(talk("b")) == (own, ("127.0.0.3", 7007))
            assert host.run(talk("localhost")) == (own, (own, 7007))
            assert host.run(talk("127.0.0.1")) == (own, (own, 7007))
    labels = {record.get("connection") for record in runtime.trace.of_kind("conn.open")}
    assert {"a>b:7007#1", "b>a:7007#1", "a>a:7007#1", "a>a:7007#2"} <= labels


def test_factories_of_every_kind() -> None:
    """A coroutine function with or without the host, an object, or nothing at all."""
    seen: list[str] = []

    async def with_host(host: Host) -> None:
        seen.append(f"{host.name} {current().host}")

    async def without() -> None:
        seen.append(current().host)

    def plain() -> None:
        seen.append("plain")

    class Optional:
        def __init__(self, port: int = 9) -> None:
            seen.append(f"port {port}")

        async def start(self) -> None:
            seen.append("started")

        async def stop(self) -> None:
            seen.append("stopped")

    with Runtime() as runtime:
        factories: list[Callable[..., Any]] = [with_host, without, plain, Optional]
        for number, factory in enumerate(factories):
            host = runtime.host(f"h{number}", factory)
            runtime.bridge.wait(host.wait_started())
            until(lambda number=number: len(seen) > number)  # type: ignore[misc]  # bound
    assert seen == ["h0 h0", "h1", "plain", "port 9", "started", "stopped"]


def test_a_start_that_fails_is_told_to_who_waits() -> None:
    """`wait_started` raises it; unawaited, it is raised at the end."""

    class Broken:
        async def start(self) -> None:
            raise LookupError("no licence")

    def wrong() -> int:
        return 3

    with Runtime() as runtime:
        for factory, kind in ((Broken, LookupError), (wrong, HostStateError)):
            host = runtime.host(f"h{kind.__name__}", factory)
            with pytest.raises(kind):
                runtime.bridge.wait(host.wait_started())
    with pytest.raises(UnhandledErrors, match="1 failure"), Runtime() as runtime:
        runtime.host("a", Broken)


def test_crash_and_restart() -> None:
    """Clients see a reset; the factory runs again at the same address."""
    made: list[EchoServer] = []
    ended: list[str] = []

    class Server(EchoServer):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        async def start(self) -> None:
            await super().start()
            self.task = asyncio.create_task(self.work())

        async def work(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(current().host)

    async def story(server: Host) -> None:
        transport, caller = await dial("server")
        assert await caller.call(b"one") == b"one"
        server.crash("process")
        assert isinstance(await caller.lost, ConnectionResetError)
        with pytest.raises(ConnectionRefusedError, match="nobody listens on port 7007"):
            await dial("server")
        with pytest.raises(HostDown, match="is crashed"):
            await server.wait_started()
        server.restart()
        await server.wait_started()
        transport, caller = await dial("server")
        assert await caller.call(b"two") == b"two"
        transport.close()

    with Runtime() as runtime:
        server = runtime.host("server", Server)
        runtime.bridge.wait(server.wait_started())
        runtime.run(story(server))
        assert (server.state, server.incarnation, len(made)) == ("running", 2, 2)
    assert ended == ["server", "server"]
    assert notes(runtime) == ["crash"]
    kinds = [record.kind for record in runtime.trace.of_kind("host")]
    assert kinds == ["host.start", "host.crash", "host.restart", "host.stop"]
    assert len(runtime.trace.of_kind("conn.reset")) == 1
    assert len(runtime.trace.of_kind("conn.refused")) == 1
    assert runtime.leftovers == ()


def test_a_host_without_power_answers_nobody_until_it_is_back() -> None:
    """A connect waits as for a lost SYN: until the restart, or the caller's limit."""
    with Runtime() as runtime:
        server = runtime.host("server", EchoServer)
        runtime.bridge.wait(server.wait_started())
        server.crash()

        async def story() -> bytes:
            network = current().network
            with pytest.raises(TimeoutError, match="no answer within 5ms"):
                await network.connect(asyncio.Protocol, ("server", 7007), timeout="5ms")
            connecting = asyncio.create_task(dial("server"))
            server.restart("2ms")
            await server.wait_started()
            transport, caller = await connecting
            answer = await caller.call(b"back")
            transport.close()
            return answer

        assert runtime.run(story) == b"back"


def test_a_crashed_host_runs_no_more() -> None:
    """Its timers and threads end, and its ports refuse what its code still tries."""
    rung: list[object] = []
    tried: list[BaseException] = []
    waiting = threading.Event()

    async def for_ever() -> None:
        waiting.set()
        await asyncio.Event().wait()

    def in_thread() -> None:
        try:
            current().bridge.wait(for_ever())
        finally:
            try:
                current().bridge.wait(asyncio.sleep(0))
            except HostDown as error:
                tried.append(error)

    async def software() -> None:
        ports = current()
        handles.append(ports.bridge.spawn(in_thread))
        try:
            await asyncio.Event().wait()
        finally:
            for attempt in (
                ports.network.connect(asyncio.Protocol, ("test", 1)),
                ports.network.listen(asyncio.Protocol, ("", 0)),
            ):
                with pytest.raises(HostDown, match="incarnation 1 ended"):
                    await attempt
                tried.append(HostDown())

    handles: list[Any] = []
    with Runtime() as runtime:
        host = runtime.host("a", software)
        assert waiting.wait(10)

        async def crash() -> None:
            current().clock.call_later(0, rung.append)
            host.crash()
            await asyncio.Event().wait()

        with pytest.raises(HostDown, match="'a' went down while"):
            host.run(crash)
        until(lambda: len(tried) == 3)
        runtime.bridge.wait(runtime.clock.sleep("2ms"))
        with pytest.raises(HostDown, match="`restart\\(\\)` it"):
            host.run(for_ever)
    assert rung == []


def test_stop_in_order() -> None:
    """`stop()` first, then tasks are cancelled, then shared clients are closed."""
    order: list[str] = []

    class Software:
        async def start(self) -> None:
            self.task = asyncio.create_task(self.work())
            current().resources.on_close("client", self.closed)

        async def work(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                order.append("task")

        async def closed(self) -> None:
            order.append(f"client of {current().host}")

        async def stop(self) -> None:
            order.append("stop")

    with Runtime() as runtime:
        host = runtime.host("a", Software)
        runtime.bridge.wait(host.wait_started())
        runtime.bridge.wait(host.stop())
        assert host.state == "stopped"
        assert order == ["stop", "task", "client of a"]
        with pytest.raises(
            HostStateError, match="'a' cannot be stopped: it is stopped"
        ):
            runtime.bridge.wait(host.stop())
        host.restart()
        runtime.bridge.wait(host.wait_started())
        assert host.incarnation == 2


def test_a_stop_longer_than_its_grace_is_cut() -> None:
    """The rest ends all the same; that it took too long is told at the end."""

    class Slow:
        async def start(self) -> None: ...

        async def stop(self) -> None:
            await asyncio.Event().wait()

    def use() -> None:
        with Runtime() as runtime:
            host = runtime.host("a", Slow)
            runtime.bridge.wait(host.stop(grace=0))
            assert host.state == "stopped"

    with pytest.raises(UnhandledErrors) as caught:
        use()
    assert "stopping host a took too long" in str(caught.value.exceptions[0])


def test_wrong_states_are_named() -> None:
    """Each error tells the host, its state and the time, and what to try."""
    with Runtime() as runtime:
        host = runtime.host("a")
        with pytest.raises(HostStateError, match=r"'a' cannot be started.*running"):
            host.start()
        with pytest.raises(HostStateError, match=r"cannot be restarted.*running"):
            host.restart()
        with pytest.raises(ValueError, match="'power' or 'process'"):
            host.crash("fire")  # type: ignore[arg-type]  # what is tested
        host.crash()
        with pytest.raises(HostStateError, match=r"cannot crash: it is crashed"):
            host.crash()
        host.restart("1h")
        with pytest.raises(HostStateError, match="one restart is due"):
            host.restart()
        assert repr(host) == "<host a: crashed, incarnation 1>"
    assert runtime.leftovers == ()
