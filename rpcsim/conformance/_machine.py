"""What any `Machine` must do with hosts and programs."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from rpcsim.conformance._checking import (
    Check,
    Recorder,
    araises,
    expect,
    on,
    raises,
    run_all,
)
from rpcsim.errors import HostDown, HostStateError, SimulationError
from rpcsim.ports import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.conformance._checking import Make
    from rpcsim.ports import Host

__all__ = ["MACHINE", "check_machine"]


def check_machine(make: Make) -> None:
    """Check a machine: hosts and their states, main programs, its end.

    Args:
        make: Gives a fresh machine.
    """
    run_all(MACHINE, make)


class _Software:
    """Notes what is asked of it."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        calls.append("made")

    async def start(self) -> None:
        self._calls.append(f"started on {current().host}")

    async def stop(self) -> None:
        self._calls.append("stopped")


def every_kind_of_main_runs(make: Make) -> None:
    """An awaitable, a coroutine function, a function that may block."""
    with make() as machine:

        async def coroutine() -> str:
            await asyncio.sleep(0)
            return f"async on {current().host}"

        def blocking() -> str:
            return f"sync on {current().host}"

        for main in (coroutine, coroutine()):
            got = machine.run(main)
            expect(got == "async on test", f"run() gave {got!r}")
        got = machine.run(blocking)
        expect(got == "sync on test", f"run() gave {got!r}")
        got = machine.run(lambda: coroutine())
        expect(got == "async on test", f"run() of a lambda gave {got!r}")


def a_factory_is_called_at_every_start(make: Make) -> None:
    """Same name and addresses, new software, incarnation + 1."""
    calls: list[str] = []
    with make() as machine:
        host = machine.host("server", lambda: _Software(calls))
        machine.bridge.wait(host.wait_started())
        first = (host.name, tuple(host.addresses))
        expect(host.state == "running", f"a started host is {host.state}")
        expect(host.incarnation == 1, f"the first incarnation is {host.incarnation}")
        machine.bridge.wait(host.stop())
        expect(host.state == "stopped", f"a stopped host is {host.state}")
        host.restart()
        machine.bridge.wait(host.wait_started())
        expect((host.name, tuple(host.addresses)) == first, "name or addresses changed")
        expect(host.incarnation == 2, f"the second incarnation is {host.incarnation}")
    began = ["made", "started on server"]
    expect(
        calls == [*began, "stopped", *began, "stopped"],
        f"the software was asked to: {calls}",
    )


def a_crashed_host_runs_nothing(make: Make) -> None:
    """Its tasks end, calls into it are refused; a restart brings it back."""
    with make() as machine:
        host = machine.host("server")
        ticks: list[int] = []

        async def ticking() -> None:
            while True:
                await current().clock.sleep("1ms")
                ticks.append(1)

        async def begin() -> Any:
            return asyncio.get_running_loop().create_task(ticking())

        host.run(begin)
        host.crash("process")
        expect(host.state == "crashed", f"a crashed host is {host.state}")
        seen = len(ticks)
        machine.bridge.wait(machine.clock.sleep("20ms"))
        expect(len(ticks) == seen, "a crashed host's task went on")
        error = raises(HostDown, lambda: host.run(lambda: 1), "its host is down")
        expect("server" in str(error), f"the host is not named: {error}")
        host.restart(after="1ms")
        machine.bridge.wait(host.wait_started())
        expect(host.run(lambda: 1) == 1, "a restarted host runs code")


def wrong_states_are_named(make: Make) -> None:
    """Restarting what runs, crashing what is down: `HostStateError`."""
    with make() as machine:
        host = machine.host("server")
        for wrong in (host.restart, host.start):
            error = raises(HostStateError, wrong, "it is running")
            expect("server" in str(error), f"the host is not named: {error}")
        host.crash()
        raises(HostStateError, host.crash, "it is down already")
        raises(
            HostStateError,
            lambda: machine.bridge.wait(host.stop()),
            "it is down already",
        )


def names_are_unique_and_plain(make: Make) -> None:
    """One host per name, of letters, digits, `.`, `_` and `-`."""
    with make() as machine:
        machine.host("server")
        raises(SimulationError, lambda: machine.host("server"), "the name is taken")
        raises(ValueError, lambda: machine.host("no spaces"), "no host name")
        names = [host.name for host in machine.hosts]
        expect(names == ["server"], f"the hosts are {names}")


def a_failing_start_is_told_to_who_waits(make: Make) -> None:
    """`wait_started` raises what the software's start raised."""

    class Broken:
        async def start(self) -> None:
            raise LookupError("no configuration")

        async def stop(self) -> None: ...

    with make() as machine:
        host = machine.host("server", Broken)

        async def main() -> None:
            error = await araises(LookupError, host.wait_started(), "its start failed")
            expect(str(error) == "no configuration", f"another error: {error!r}")

        machine.run(main)


def what_is_left_is_named(make: Make) -> None:
    """Tasks, listeners and connections the test left behind; not the hosts' own."""
    made: list[Any] = []

    class Busy:
        async def start(self) -> None:
            loop = asyncio.get_running_loop()
            made.append(loop.create_task(current().clock.sleep("1h")))
            made.append(await current().network.listen(asyncio.Protocol, ("", 7007)))

        async def stop(self) -> None: ...

    with make() as machine:
        machine.bridge.wait(machine.host("server", Busy).wait_started())

        async def main() -> None:
            loop = asyncio.get_running_loop()
            sleep = current().clock.sleep("1h")
            made.append(loop.create_task(sleep, name="forgotten"))
            made.append(await current().network.listen(asyncio.Protocol, ("", 7008)))
            made.append(await current().network.connect(Recorder, ("server", 7007)))

        machine.run(main)
    told = list(machine.leftovers)
    for word in ("task", "listener", "connection"):
        lines = [line for line in told if line.startswith(word)]
        expect(len(lines) == 1, f"of kind {word}, the report has {lines} in {told}")
    expect("forgotten" in "".join(told), f"the task is not named: {told}")


def an_orderly_run_leaves_nothing(make: Make) -> None:
    """Software given to hosts ends with them."""
    calls: list[str] = []
    with make() as machine:
        host = machine.host("server", partial(_Software, calls))
        machine.bridge.wait(host.wait_started())
    expect(calls[-1] == "stopped", f"the host was not stopped: {calls}")
    expect(not machine.leftovers, f"left behind: {list(machine.leftovers)}")
    expect(not machine.inexact, f"nothing went wrong, and told: {machine.inexact}")


def failures_nobody_took_are_raised(make: Make) -> None:
    """At the end of the run, in a group."""

    async def fail() -> None:
        raise LookupError("nobody looks")

    def whole_run() -> None:
        with make() as machine:

            async def main() -> Any:
                task = asyncio.get_running_loop().create_task(fail())
                await current().clock.sleep("1ms")
                return task

            machine.run(main)

    caught = raises(ExceptionGroup, whole_run, "a task failed and nobody took it")
    expect("nobody looks" in repr(caught.exceptions), f"another failure: {caught!r}")


def taken_failures_count_as_seen(make: Make) -> None:
    """`take_failures` gives them, and the end raises them no more."""

    async def fail() -> None:
        raise LookupError("somebody looks")

    with make() as machine:

        async def main() -> Any:
            task = asyncio.get_running_loop().create_task(fail())
            await current().clock.sleep("1ms")
            return task

        task = machine.run(main)
        taken = machine.take_failures()
        expect(
            [str(error) for error in taken] == ["somebody looks"],
            f"take_failures() gave {taken}",
        )
        del task


def waiting_tasks_are_told(make: Make) -> None:
    """`waiting_now` names every task that is not done."""
    with make() as machine:

        async def main() -> None:
            loop = asyncio.get_running_loop()
            task = loop.create_task(asyncio.Event().wait(), name="patient")
            await asyncio.sleep(0)
            told = list(machine.waiting_now())
            expect(any("patient" in line for line in told), f"it told {told}")
            task.cancel()

        machine.run(main)


def services_are_shared(make: Make) -> None:
    """What a world tells its clients is the same on every host."""
    with make() as machine:
        host = machine.host("server")
        machine.services["broker"] = "rpcsim://server:5670"
        seen = host.run(lambda: current().services["broker"])
        expect(seen == "rpcsim://server:5670", f"host server was told {seen!r}")


def resources_end_with_their_host(make: Make) -> None:
    """Shared clients are closed when their host stops, newest first."""
    closed: list[str] = []

    def closer(name: str) -> Callable[[], Any]:
        async def close() -> None:
            closed.append(name)

        return close

    with make() as machine:
        host = machine.host("server")

        async def use_some() -> None:
            resources = current().resources
            for name in ("first", "second"):
                resources.obtain(name, partial(str, name))
                resources.on_close(name, closer(name))

        async def both(host: Host) -> None:
            await on(host, use_some)
            await host.stop()

        machine.bridge.wait(both(host))
        expect(closed == ["second", "first"], f"closed in the order {closed}")


MACHINE: Final[tuple[Check, ...]] = (
    every_kind_of_main_runs,
    a_factory_is_called_at_every_start,
    a_crashed_host_runs_nothing,
    wrong_states_are_named,
    names_are_unique_and_plain,
    a_failing_start_is_told_to_who_waits,
    what_is_left_is_named,
    an_orderly_run_leaves_nothing,
    failures_nobody_took_are_raised,
    taken_failures_count_as_seen,
    waiting_tasks_are_told,
    services_are_shared,
    resources_end_with_their_host,
)
