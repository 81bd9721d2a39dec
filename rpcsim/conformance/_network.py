"""What any `Network`, `Transport` and `Listener` must do."""

from __future__ import annotations

import asyncio
import errno
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from rpcsim.conformance._checking import (
    Check,
    Recorder,
    araises,
    end_of,
    expect,
    on,
    pair,
    run_all,
)
from rpcsim.ports import MessageInfo, current

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rpcsim.conformance._checking import Make

__all__ = ["NETWORK", "check_network"]

INFO: Final = MessageInfo(
    system="agent", kind="request", method="Dog.bark", call_id="1", src="test"
)


def check_network(make: Make) -> None:
    """Check the network between a machine's hosts: connections, listeners, names.

    Args:
        make: Gives a fresh machine, on which partitions are possible.
    """
    run_all(NETWORK, make)


def _on_pair(
    make: Make, story: Callable[[Recorder, Recorder], Awaitable[None]]
) -> None:
    """Run a story with both ends of a connection from `test` to `server`."""
    with make() as machine:
        machine.host("server")

        async def main() -> None:
            await story(*await pair(machine))

        machine.run(main)
    expect(not machine.leftovers, f"left behind: {list(machine.leftovers)}")


# -- the protocol's calls ---------------------------------------------------------------


def calls_come_in_their_order(make: Make) -> None:
    """Made first, then data, then end-of-file, and lost exactly once and last."""

    async def story(near: Recorder, far: Recorder) -> None:
        near.transport.write(b"question")
        expect(await far.read(8) == b"question", "the bytes changed on the way")
        far.transport.write(b"answer")
        expect(await near.read(6) == b"answer", "the bytes changed on the way back")
        near.transport.write(b"end")
        near.transport.write_eof()
        await far.until(lambda: "eof" in far.calls, "eof_received is due")
        await end_of(far, near)
        expect(
            far.calls == ["made", "data", "eof", "lost"]
            or far.calls == ["made", "data", "data", "eof", "lost"],
            f"the accepting side saw {far.calls}",
        )
        expect(near.calls[0] == "made", f"the dialling side saw {near.calls}")
        expect(near.calls.count("lost") == 1, f"the dialling side saw {near.calls}")
        expect(near.calls[-1] == "lost", f"something came after the end: {near.calls}")
        expect(near.error is None and far.error is None, "an orderly end is no error")

    _on_pair(make, story)


def bytes_arrive_in_order_and_unchanged(make: Make) -> None:
    """Whatever the sizes of the writes, and whatever the caller does to its buffer."""

    async def story(near: Recorder, far: Recorder) -> None:
        sent = bytearray()
        for n in (1, 0, 7, 1460, 70_000, 3):
            buffer = bytearray((i * 7 + n) % 251 for i in range(n))
            sent += buffer
            near.transport.write(buffer)
            buffer[:] = b"\0" * n  # ours again as soon as write() returns
        more = [b"ab", bytearray(b"cd"), memoryview(b"ef")]
        near.transport.writelines(more)
        sent += b"abcdef"
        got = await far.read(len(sent))
        expect(got == sent, "what arrived differs from what was written")
        await end_of(near, far)

    _on_pair(make, story)


def half_close_leaves_the_other_direction_open(make: Make) -> None:
    """Both ways, one after the other."""

    async def story(near: Recorder, far: Recorder) -> None:
        expect(near.transport.can_write_eof(), "a plain stream can be half closed")
        near.transport.write(b"all I have")
        near.transport.write_eof()
        await far.until(lambda: "eof" in far.calls, "eof_received is due")
        expect(far.received == b"all I have", f"before the end came {far.received!r}")
        far.transport.write(b"answered")
        expect(await near.read(8) == b"answered", "the open direction is closed")
        far.transport.write_eof()
        await near.until(lambda: "eof" in near.calls, "eof_received is due")
        await end_of(near, far)

    _on_pair(make, story)


def abort_is_a_reset_at_the_peer(make: Make) -> None:
    """The peer gets `ConnectionResetError`; who aborted, `None`."""

    async def story(near: Recorder, far: Recorder) -> None:
        near.transport.abort()
        expect(near.transport.is_closing(), "an aborted transport is closing")
        error = await far.lost()
        expect(
            isinstance(error, ConnectionResetError),
            f"the peer of an abort got {error!r}",
        )
        expect(await near.lost() is None, f"who aborted got {near.error!r}")

    _on_pair(make, story)


def close_flushes(make: Make) -> None:
    """Everything written before `close` arrives; what is written after does not."""

    async def story(near: Recorder, far: Recorder) -> None:
        blob = bytes(range(256)) * 1024
        near.transport.write(blob)
        near.transport.close()
        near.transport.write(b"too late")
        near.transport.close()
        expect(near.transport.is_closing(), "a closed transport is closing")
        got = await far.read(len(blob))
        expect(got == blob, "close() lost or changed bytes")
        await far.until(lambda: "eof" in far.calls, "eof_received is due")
        expect(far.received == b"", f"after close() came {far.received!r}")
        await end_of(far)
        await near.lost()

    _on_pair(make, story)


def a_slow_reader_stops_the_writer(make: Make) -> None:
    """`pause_reading` fills buffers up to `pause_writing`; nothing is lost."""

    async def story(near: Recorder, far: Recorder) -> None:
        far.transport.pause_reading()
        size = 0
        for _ in range(4000):
            if near.paused:
                break
            near.transport.write(b"x" * 65_536)
            size += 65_536
            await asyncio.sleep(0)
        expect(near.paused, f"{size} bytes written, and pause_writing was not called")
        waiting = near.transport.get_write_buffer_size()
        expect(waiting > 0, "writing is paused with an empty buffer")
        expect(far.received == b"", "data came to a protocol that paused reading")
        far.transport.resume_reading()
        got = await far.read(size)
        expect(len(got) == size, f"{size} bytes were written, {len(got)} arrived")
        await near.until(lambda: not near.paused, "resume_writing is due")
        await end_of(near, far)

    _on_pair(make, story)


def buffer_limits_can_be_set(make: Make) -> None:
    """A writer is paused above the high limit it asked for, not at another one."""

    async def story(near: Recorder, far: Recorder) -> None:
        near.transport.set_write_buffer_limits(high=0)
        far.transport.pause_reading()
        size = 0
        for _ in range(1000):
            if near.paused:
                break
            near.transport.write(b"x" * 65_536)
            size += 65_536
            await asyncio.sleep(0)
        expect(near.paused, f"high=0, {size} bytes written, and nobody was paused")
        far.transport.resume_reading()
        await far.read(size)
        await end_of(near, far)

    _on_pair(make, story)


def messages_are_frames_with_a_meaning(make: Make) -> None:
    """`write_message` sends the bytes in order, says so, and the trace tells it."""
    with make() as machine:
        machine.host("server")

        async def main() -> None:
            near, far = await pair(machine)
            near.transport.write(b"<")
            out = near.transport.write_message(b"frame", INFO)
            near.transport.write(b">")
            expect(
                out is True, f"write_message gave {out!r} for a message that goes out"
            )
            got = await far.read(7)
            expect(got == b"<frame>", f"the frame arrived as {got!r}")
            await end_of(near, far)

        machine.run(main)
        records = machine.trace.of_kind("call.request")
        expect(
            len(records) == 1, f"the trace has {len(records)} records of the message"
        )
        expect(records[0].get("method") == "Dog.bark", f"it tells {records[0]}")


def ends_tell_who_they_are(make: Make) -> None:
    """`peername` of the accepting side is the dialling host's own address."""
    with make() as machine:
        server = machine.host("server")

        async def main() -> None:
            near, far = await pair(machine)
            mine = (await current().network.resolve("test"))[0]
            peer = far.transport.get_extra_info("peername")
            expect(peer[0] == mine, f"host test is {mine}, the server sees {peer[0]}")
            there = near.transport.get_extra_info("peername")
            expect(
                there[0] in server.addresses,
                f"the server is {server.addresses}, the client sees {there[0]}",
            )
            none = near.transport.get_extra_info("no such thing", "nothing")
            expect(none == "nothing", f"an unknown fact is {none!r}, not the default")
            await end_of(near, far)

        machine.run(main)


# -- connecting and listening ------------------------------------------------------------


def nobody_listens(make: Make) -> None:
    """`ConnectionRefusedError`, with its number."""
    with make() as machine:
        machine.host("server")

        async def main() -> None:
            connect = current().network.connect(Recorder, ("server", 9))
            error = await araises(
                ConnectionRefusedError, connect, "nobody listens there"
            )
            expect(error.errno == errno.ECONNREFUSED, f"errno is {error.errno}")

        machine.run(main)


def unknown_names_are_told(make: Make) -> None:
    """`gaierror` from both `connect` and `resolve`."""
    name = "no-such-host.invalid"
    with make() as machine:

        async def main() -> None:
            network = current().network
            await araises(
                socket.gaierror, network.resolve(name), "there is no such name"
            )
            connect = network.connect(Recorder, (name, 80))
            await araises(socket.gaierror, connect, "there is no such name")

        machine.run(main)


def hosts_are_found_by_name_and_address(make: Make) -> None:
    """A host's name and its addresses lead to it, `localhost` to oneself."""
    with make() as machine:
        server = machine.host("server")

        async def main() -> None:
            network = current().network
            found = await network.resolve("server")
            expect(
                list(found) == list(server.addresses),
                f"'server' is {found}, the host says {list(server.addresses)}",
            )
            numeric = await network.resolve(found[0])
            expect(list(numeric) == [found[0]], f"{found[0]} resolves to {numeric}")

        machine.run(main)


def places_are_taken_once(make: Make) -> None:
    """`EADDRINUSE` for a place in use, `EADDRNOTAVAIL` for another host's address."""
    with make() as machine:
        server = machine.host("server")

        async def main() -> None:
            network = current().network
            listener = await network.listen(Recorder, ("", 0))
            port = listener.addresses[0][1]
            expect(port > 0, f"port 0 was bound as port {port}")
            error = await araises(
                OSError, network.listen(Recorder, ("", port)), "the place is taken"
            )
            expect(error.errno == errno.EADDRINUSE, f"errno is {error.errno}")
            there = (server.addresses[0], 7000)
            error = await araises(
                OSError, network.listen(Recorder, there), "the address is another's"
            )
            expect(error.errno == errno.EADDRNOTAVAIL, f"errno is {error.errno}")
            listener.close()
            listener.close()
            await listener.wait_closed()

        machine.run(main)
    expect(not machine.leftovers, f"left behind: {list(machine.leftovers)}")


def a_closed_listener_keeps_its_connections(make: Make) -> None:
    """It refuses new ones, and frees its place at once."""
    with make() as machine:

        async def main() -> None:
            network = current().network
            ends: list[Recorder] = []

            def accept() -> Recorder:
                ends.append(Recorder())
                return ends[-1]

            listener = await network.listen(accept, ("", 0))
            place = ("test", listener.addresses[0][1])
            _, near = await network.connect(Recorder, place)
            near.transport.write(b"early")
            await near.until(lambda: ends, "the factory is due")
            await ends[0].read(5)
            listener.close()
            await listener.wait_closed()
            await araises(
                ConnectionRefusedError,
                network.connect(Recorder, place),
                "a closed listener accepts nobody",
            )
            near.transport.write(b"still there")
            await ends[0].read(11)
            again = await network.listen(accept, place)
            again.close()
            await end_of(near, ends[0])

        machine.run(main)
    expect(not machine.leftovers, f"left behind: {list(machine.leftovers)}")


def hosts_have_ports_of_their_own(make: Make) -> None:
    """Two hosts with one port number talk to each other and to themselves by name."""
    with make() as machine:
        names = ("left", "right")
        listeners: list[Any] = []

        def greeting(name: str) -> Callable[[], Recorder]:
            class Greeting(Recorder):
                def connection_made(self, transport: asyncio.BaseTransport) -> None:
                    super().connection_made(transport)
                    self.transport.write(name.ljust(5).encode())

            return Greeting

        async def ask(target: str) -> str:
            transport, near = await current().network.connect(Recorder, (target, 7007))
            name = (await near.read(5)).decode().strip()
            transport.close()
            await near.lost()
            return name

        async def main() -> None:
            for host in machine.hosts:

                async def listen(name: str = host.name) -> None:
                    network = current().network
                    listener = await network.listen(greeting(name), ("", 7007))
                    listeners.append(listener)

                await on(host, listen)
            for host in machine.hosts:
                for target in names:
                    told = await on(host, partial(ask, target))
                    expect(
                        told == target, f"{host.name} asked {target}, {told} answered"
                    )
            for listener in listeners:
                listener.close()

        for name in names:
            machine.host(name)
        machine.run(main)


# -- partitions --------------------------------------------------------------------------


def a_partition_stalls_and_its_repair_delivers(make: Make) -> None:
    """Bytes written meanwhile arrive after the repair, in order."""
    with make() as machine:
        machine.host("server")

        async def main() -> None:
            near, far = await pair(machine)
            near.transport.write(b"before ")
            await far.read(7)
            with machine.net.partition("test", "server") as fault:
                near.transport.write(b"during")
                await machine.clock.sleep("20ms")
                expect(far.received == b"", f"{far.received!r} crossed a partition")
                fault.undo()
            near.transport.write(b" after")
            got = await far.read(12)
            expect(got == b"during after", f"after the repair came {got!r}")
            await end_of(near, far)

        machine.run(main)


def a_one_way_partition_lets_the_other_way_pass(make: Make) -> None:
    """Requests arrive, replies do not, until the repair."""
    with make() as machine:
        machine.host("server")

        async def main() -> None:
            near, far = await pair(machine)
            machine.net.partition("test", "server", direction="b->a")
            near.transport.write(b"request")
            await far.read(7)
            far.transport.write(b"reply")
            await machine.clock.sleep("20ms")
            expect(near.received == b"", f"{near.received!r} went against the cut")
            machine.net.repair("test", "server")
            expect(await near.read(5) == b"reply", "the reply is lost")
            machine.net.repair_all()
            await end_of(near, far)

        machine.run(main)


def a_connect_across_a_partition_times_out(make: Make) -> None:
    """At the caller's own limit, as `TimeoutError`; it is not refused."""
    with make() as machine:
        machine.host("server")

        async def main() -> None:
            with machine.net.partition("test", "*"):
                connect = current().network.connect(
                    Recorder, ("server", 9), timeout="20ms"
                )
                start = machine.clock.now_ns()
                await araises(
                    TimeoutError, connect, "nobody answers across a partition"
                )
                took = machine.clock.now_ns() - start
                expect(took >= 19_000_000, f"timeout='20ms' took {took} ns")

        machine.run(main)


NETWORK: Final[tuple[Check, ...]] = (
    calls_come_in_their_order,
    bytes_arrive_in_order_and_unchanged,
    half_close_leaves_the_other_direction_open,
    abort_is_a_reset_at_the_peer,
    close_flushes,
    a_slow_reader_stops_the_writer,
    buffer_limits_can_be_set,
    messages_are_frames_with_a_meaning,
    ends_tell_who_they_are,
    nobody_listens,
    unknown_names_are_told,
    hosts_are_found_by_name_and_address,
    places_are_taken_once,
    a_closed_listener_keeps_its_connections,
    hosts_have_ports_of_their_own,
    a_partition_stalls_and_its_repair_delivers,
    a_one_way_partition_lets_the_other_way_pass,
    a_connect_across_a_partition_times_out,
)
