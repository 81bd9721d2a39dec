"""Hosts of the real machine: software made by a factory, on a loopback address."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any, Final, Literal

from rpcsim.errors import HostDown, HostStateError
from rpcsim.ports import NANOS, duration_text, to_ns
from rpcsim.real._ending import Deadline, end_home, kill_home, take
from rpcsim.real._running import run_main

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rpcsim.ports import Duration, Main, Ports
    from rpcsim.real._engine import Engine
    from rpcsim.real._home import Home

__all__ = ["RealHost"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True


class RealHost:
    """`rpcsim.ports.Host` in this process: its code shares the runtime's loop.

    Args:
        engine: The run.
        name: Its name.
        address: Its loopback address.
        factory: Makes its software at every start; `None` for none.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        address: str,
        factory: Callable[..., Any] | None,
    ) -> None:
        self.name: Final = name
        self.addresses: Final[Sequence[str]] = (address,)
        self.state = "declared"
        self.incarnation = 0
        self.home: Home | None = None
        self._engine = engine
        self._factory = factory
        self._software: Any = None
        self._starting: asyncio.Task[None] | None = None
        self._up: asyncio.Future[None] | None = None
        self._stopping = False
        self._restart: asyncio.TimerHandle | None = None
        self._restarted: asyncio.Future[None] | None = None
        self._began_ns = time.monotonic_ns()

    def __repr__(self) -> str:
        return f"<host {self.name}: {self.state}, incarnation {self.incarnation}>"

    @property
    def has_software(self) -> bool:
        """Whether a factory made what runs here."""
        return self._factory is not None

    @property
    def ports(self) -> Ports:
        """The ports of its present incarnation, or of the last one."""
        if self.home is None:
            raise self._wrong("has no ports before its first start")
        return self.home.ports

    # -- starting ------------------------------------------------------------------------

    def start(self) -> None:
        """Run the factory, as incarnation + 1.

        Raises:
            HostStateError: It is running.
        """
        self._engine.do(self._start)

    def _start(self) -> None:
        if self.state == "running":
            raise self._wrong("cannot be started", "crash or stop it first")
        self.forget_restart()
        engine = self._engine
        self.incarnation += 1
        home = engine.new_home(self.name, self.incarnation, self.addresses[0])
        self.home = home
        self.state = "running"
        self._software = self._starting = None
        kind = "host.start" if self.incarnation == 1 else "host.restart"
        home.ports.trace.emit(kind, (("incarnation", self.incarnation),))
        engine.net.set_dark(self.name, dark=False)
        if self._factory is not None:
            up = engine.loop.create_future()
            context = engine.context_of(home)
            self._starting = engine.loop.create_task(
                self._begin(self._factory, up), name=self.name, context=context
            )
            self._up = up

    async def _begin(
        self, factory: Callable[..., Any], up: asyncio.Future[None]
    ) -> None:
        """Make the software and start it; an awaitable counts as up at once."""
        made = factory(self) if _takes_host(factory) else factory()
        if callable(getattr(made, "start", None)):
            self._software = made
            await _settle(made.start())
            made = None
        elif made is not None and not inspect.isawaitable(made):
            raise HostStateError(
                f"the factory of host {self.name!r} gave a {type(made).__name__}; it "
                "must give an awaitable, an object with async start() and stop(), or None"
            )
        if not up.done():
            up.set_result(None)
        if made is not None:
            await made

    async def wait_started(self) -> None:
        """Wait until what the factory gave is up; raises what its start raised.

        A restart that is still due is waited for.

        Raises:
            HostDown: It is not running, or went down meanwhile.
        """
        while self._restarted is not None:
            await asyncio.shield(self._restarted)
        starting, up = self._starting, self._up
        if starting is not None and up is not None and not up.done():
            await asyncio.wait({starting, up}, return_when=asyncio.FIRST_COMPLETED)
        if self.state != "running":
            raise HostDown(f"host {self.name!r} is {self.state}{self._at()}")
        if starting is not None and starting.done() and not starting.cancelled():
            starting.result()

    # -- ending --------------------------------------------------------------------------

    async def stop(self, grace: Duration = 5) -> None:
        """End in order: its `stop()` up to the grace, then its tasks are cancelled.

        Raises:
            HostStateError: It is not running.
        """
        if self.state != "running" or self._stopping:
            raise self._wrong("cannot be stopped", "only a running host can")
        assert self.home is not None
        engine, home = self._engine, self.home
        self._stopping = True
        deadline = Deadline(engine, to_ns(grace) / NANOS)
        try:
            await self._stop_software(home, deadline)
            if self.state == "running":  # it may crash meanwhile
                await end_home(engine, home, deadline)
        finally:
            self._stopping = False
            if self.state == "running":
                self.state = "stopped"
                home.ports.trace.emit("host.stop")

    async def _stop_software(self, home: Home, deadline: Deadline) -> None:
        stop = getattr(self._software, "stop", None)
        if not callable(stop):
            return
        task = self._engine.loop.create_task(
            _settle(stop()),
            name=f"{self.name}.stop",
            context=self._engine.context_of(home),
        )
        await take(self._engine, task, deadline, f"stopping host {self.name}")

    def crash(self, kind: Literal["power", "process"] = "power") -> None:
        """End at once; connections are reset, and callers of `power` hear nothing.

        Its tasks are cancelled, so that `finally` blocks do run: only a process of its
        own could be ended without. The run's report says so.

        Raises:
            HostStateError: It is not running.
        """
        self._engine.do(self._crash, kind)

    def _crash(self, kind: str) -> None:
        if kind not in ("power", "process"):
            raise ValueError(f"a crash is of kind 'power' or 'process', not {kind!r}")
        if self.state != "running":
            raise self._wrong("cannot crash")
        assert self.home is not None
        self._engine.ledger.fault("crash", f"crash({kind!r}) of host {self.name!r}")
        self.state = "crashed"
        data = (("kind", kind), ("incarnation", self.incarnation))
        self.home.ports.trace.emit("host.crash", data)
        kill_home(self._engine, self.home)
        if kind == "power":
            self._engine.net.set_dark(self.name, dark=True)

    def restart(self, after: Duration = 0) -> None:
        """Start again after a stop or crash; same name and address.

        Args:
            after: How long it stays down first.

        Raises:
            HostStateError: It is running, or a restart is due already.
        """
        self._engine.do(self._restart_after, to_ns(after))

    def _restart_after(self, after_ns: int) -> None:
        if self.state not in ("stopped", "crashed"):
            raise self._wrong("cannot be restarted", "`crash()` or `stop()` it first")
        if self._restart is not None:
            raise self._wrong("cannot be restarted twice: one restart is due already")
        if after_ns <= 0:
            self._start()
            return
        loop = self._engine.loop
        self._restarted = loop.create_future()
        context = self._engine.context_of(self._engine.backstage)
        self._restart = loop.call_later(
            after_ns / NANOS, self._restart_now, context=context
        )

    def _restart_now(self) -> None:
        try:
            self._start()
        except Exception as error:  # noqa: BLE001 - nobody is there to take it
            self._engine.keep(error, f"restart of host {self.name}")

    def forget_restart(self) -> None:
        """Drop a restart that is due, and let go whoever waits for it."""
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        if self._restarted is not None:
            self._restarted.set_result(None)
            self._restarted = None

    # -- running -------------------------------------------------------------------------

    def run(self, main: Main) -> Any:
        """Run `main` on this host from synchronous code and give its outcome.

        Raises:
            HostDown: It is not running.
        """
        if self.state != "running":
            raise HostDown(
                f"host {self.name!r} is {self.state}{self._at()}: `restart()` it before "
                "running code there"
            )
        return run_main(self.ports, main)

    def _at(self) -> str:
        since = time.monotonic_ns() - self._began_ns
        return (
            f" ({duration_text(since // 1_000_000 * 1_000_000)} after its declaration)"
        )

    def _wrong(self, what: str, hint: str = "") -> HostStateError:
        told = f"; {hint}" if hint else ""
        return HostStateError(
            f"host {self.name!r} {what}: it is {self.state}{self._at()}{told}"
        )


def _takes_host(factory: Callable[..., Any]) -> bool:
    """Whether a factory wants the host: by a positional parameter without default.

    A class such as `Server(port=0)` must not get the host as its port.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return any(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and (parameter.default is parameter.empty or parameter.name == "host")
        for parameter in parameters
    )


async def _settle(made: Any) -> None:
    """Await what a `start` or `stop` gave, which may be a plain method."""
    if inspect.isawaitable(made):
        await made
