"""`World`: one run put together, on the simulated machine or on the real one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from rpcsim.agents import AgentServer
from rpcsim.errors import HostStateError
from rpcsim.fakes import BrokerMemory, BrokerServer
from rpcsim.interop import freeze

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence
    from types import TracebackType

    from rpcsim.interop import FrozenClock
    from rpcsim.ports import (
        Duration,
        Host,
        Inexact,
        Machine,
        Main,
        Mode,
        Net,
        Ports,
        WorldClock,
    )
    from rpcsim.sim import Sim, SimClock
    from rpcsim.trace import Trace

__all__ = ["SimWorld", "World"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

DEFAULT_BROKER = "broker"


class World:
    """One run: hosts, a network between them, a clock, and the trace of it all.

    Clients used in the block find what runs in it by name. The members are the same in
    both modes; in simulation those of `Sim` are there too (`step`, `loop`, ...).

    Args:
        machine: The simulated or the real machine below; the world ends it.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._hosts: dict[str, Host] = {}

    def __repr__(self) -> str:
        hosts = ", ".join(f"{h.name}: {h.state}" for h in self.machine.hosts)
        return f"<World mode={self.mode} seed={self.seed} hosts: {hosts or 'none'}>"

    def __getattr__(self, name: str) -> Any:
        """Give the machine's own members: `step`, `loop`, `next_event`, ..."""
        if name.startswith("_") or name == "machine":
            raise AttributeError(name)
        try:
            return getattr(self.machine, name)
        except AttributeError:
            raise AttributeError(
                f"a World in mode {self.mode!r} has no {name!r}"
            ) from None

    # -- the block ---------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.machine.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.machine.__exit__(kind, error, traceback)

    # -- what every run has --------------------------------------------------------------

    @property
    def mode(self) -> Mode:
        """`"sim"` or `"real"`."""
        return self.machine.mode

    @property
    def seed(self) -> int:
        """What all draws derive from."""
        return self.machine.seed

    @property
    def net(self) -> Net:
        """The network between the hosts."""
        return self.machine.net

    @property
    def clock(self) -> WorldClock:
        """The clock, as host `test` sees it."""
        return self.machine.clock

    @property
    def trace(self) -> Trace:
        """What happened; readable after the end."""
        return self.machine.trace

    @property
    def ports(self) -> Ports:
        """The ports of host `test`."""
        return self.machine.ports

    @property
    def services(self) -> MutableMapping[str, str]:
        """What clients are told: service name to URL."""
        return self.machine.services

    @property
    def hosts(self) -> Sequence[Host]:
        """The declared hosts, in order."""
        return self.machine.hosts

    @property
    def leftovers(self) -> Sequence[str]:
        """After the end: what the test left behind, one line each, by name."""
        return self.machine.leftovers

    @property
    def inexact(self) -> Sequence[Inexact]:
        """Faults that were not exact on this machine."""
        return self.machine.inexact

    def run(self, main: Main) -> Any:
        """Run a program on host `test` and give its outcome.

        Args:
            main: An awaitable, a coroutine function, or a function that may block.
        """
        return self.machine.run(main)

    def sleep(self, seconds: Duration) -> None:
        """Block for so long in the world's time."""
        self.ports.bridge.wait(self.ports.clock.sleep(seconds))

    # -- hosts -------------------------------------------------------------------------

    def host(
        self,
        name: str,
        factory: Callable[..., Any] | None = None,
        *,
        addresses: Sequence[str] | None = None,
        background: bool = False,
    ) -> Host:
        """Declare a host and start it; blocks until it is up, where blocking is allowed.

        In a coroutine, `await host.wait_started()` instead.

        Args:
            name: Unique; other hosts reach it by this name.
            factory: Takes the host or nothing; gives an awaitable, an object with
                `async start()` and `async stop()`, or `None`. Called at every start.
            addresses: Numeric addresses; by default the next free one.
            background: Whether its timers are expected to go on for ever.
        """
        host = self.machine.host(
            name, factory, addresses=addresses, background=background
        )
        self._hosts[name] = host
        if self.ports.bridge.may_block():
            self.ports.bridge.wait(host.wait_started())
        return host

    def __getitem__(self, name: str) -> Host:
        """Give the host of that name; `KeyError` names the known ones."""
        if name not in self._hosts:
            known = ", ".join(self._hosts) or "none"
            raise KeyError(f"no host {name!r} in this world (declared: {known})")
        return self._hosts[name]

    # -- verbs: one per part of the system -------------------------------------------------

    def broker(self, host: str = DEFAULT_BROKER, **options: Any) -> Host:
        """Start a message broker; agents and proxies of the world use the first one.

        What it confirmed survives a crash and restart of its host.

        Args:
            host: Name of the host it runs on.
            **options: Limits and port of `rpcsim.fakes.BrokerServer`.
        """
        port = options.get("port", BrokerServer.DEFAULT_PORT)
        self.services.setdefault("broker", f"rpcsim://{host}:{port}")
        options.setdefault("memory", BrokerMemory())
        return self.host(host, lambda: BrokerServer(**options), background=True)

    def agent(
        self,
        id: str,  # noqa: A002 - the documented name
        *plugins: Any,
        host: str | None = None,
        broker: str | None = None,
        **options: Any,
    ) -> Host:
        """Start an agent, and a broker if the world has none.

        Args:
            id: The agent's identity: what `Agent(id)` addresses.
            *plugins: Classes with `@remote` methods, or modules holding some.
            host: Name of the host it runs on; by default the id.
            broker: Host or URL of its broker; by default the world's.
            **options: Options of `rpcsim.agents.AgentServer`, such as `threads`.
        """
        name = id if host is None else host
        if name in self._hosts:
            raise HostStateError(
                f"host {name!r} runs something already; give the agent its own with "
                f"agent({id!r}, ..., host='another-name')"
            )
        if broker is None and "broker" not in self.services:
            self.broker()
        url = broker
        if broker is not None and "://" not in broker:
            url = f"rpcsim://{broker}:{BrokerServer.DEFAULT_PORT}"
        return self.host(
            name,
            lambda: AgentServer(id, *plugins, broker=url, **options),
            background=True,
        )


class SimWorld(World):
    """A simulated world: its clock can be moved by hand, its machine is a `Sim`."""

    machine: Sim

    def freeze(self, *, ignore: Sequence[str] = ()) -> FrozenClock:
        """Have `datetime` and `time` follow the simulated clock, for a `with` block.

        Code that reads them by itself, or took their functions by name before the run,
        then sees the run's time, in the test too; freezegun does it.

        Args:
            ignore: Modules that keep reading the real clock, by prefixes of names.
        """
        return freeze(self.machine, ignore=ignore)

    @property
    def clock(self) -> SimClock:
        """The simulated clock; `advance`, `advance_to` and `run_until` move it."""
        return self.machine.clock
