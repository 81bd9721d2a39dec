"""`Runtime`: one run on the real machine, put together."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast

from rpcsim.errors import HostStateError, SimulationError, UnhandledErrors
from rpcsim.ports import NANOS, enter, leave, to_ns
from rpcsim.real._directory import can_bind
from rpcsim.real._ending import shut_down
from rpcsim.real._engine import Engine
from rpcsim.real._host import RealHost
from rpcsim.real._running import run_main
from rpcsim.real._telling import take_failures, tell_leftovers, tell_waiting
from rpcsim.real._thread import LoopThread, make_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextvars import Token
    from types import TracebackType

    from rpcsim.ports import (
        Bridge,
        Duration,
        Entropy,
        Inexact,
        Main,
        Ports,
        WorldClock,
    )
    from rpcsim.real._limits import Limits
    from rpcsim.real._net import RealNet
    from rpcsim.trace import Level, Trace

__all__ = ["Runtime"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


class Runtime:
    """The same machine as `Sim`, on real sockets, threads and clocks.

    `with Runtime():` runs its event loop in a thread of its own, for blocking callers;
    `async with Runtime():` uses the running loop. It may be entered again after its
    end, each time with hosts and a trace of its own; several run side by side.

    Args:
        seed: What named streams of chance derive from; ids are the system's.
        loop: `"asyncio"`, or `"uvloop"` (`pip install rpcsim[fast]`), for `with`.
        faults: Whether connections between hosts go through a proxy that can hold and
            delay them; `net.partition` and `net.link` need it.
        max_threads: Blocking calls that may run, or wait, at one time.
        trace: What is recorded: `"protocol"`, `"steps"` or `"off"`.
        grace: How long the end waits for running calls and orderly stops.
        strict: Whether a fault that cannot be exact here raises `InexactFault` when
            it is asked for; else it is told in `inexact`.
        limits: How many connections, bytes and seconds are taken on.

    Raises:
        ImportError: uvloop is asked for and missing.
    """

    mode: Final = "real"

    def __init__(
        self,
        *,
        seed: int = 0,
        loop: Literal["asyncio", "uvloop"] = "asyncio",
        faults: bool = False,
        max_threads: int = 256,
        trace: Level = "protocol",
        grace: Duration = 5,
        strict: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.seed: Final = seed
        self._make_loop = make_loop(loop)
        self._options: Final[dict[str, Any]] = {
            "seed": seed,
            "level": trace,
            "faults": faults,
            "max_threads": max_threads,
            "strict": strict,
            "limits": limits,
        }
        self._grace: Final = to_ns(grace) / NANOS
        self._thread: LoopThread | None = None
        self._token: Token[Ports] | None = None
        self._inside: object = None
        self._active = False
        self._begin()

    def _begin(self) -> None:
        self._engine = Engine(**self._options)
        self._hosts: dict[str, RealHost] = {}
        self._used = False
        self.leftovers: Sequence[str] = ()

    def __repr__(self) -> str:
        state = "active" if self._active else "ended" if self._used else "not entered"
        return f"<Runtime seed={self.seed}, {len(self._hosts)} hosts, {state}>"

    # -- what it is made of --------------------------------------------------------------

    @property
    def ports(self) -> Ports:
        """The ports of host `test`, which code outside every host uses."""
        return self._engine.test.ports

    @property
    def clock(self) -> WorldClock:
        """The system's clocks."""
        return cast("WorldClock", self.ports.clock)

    @property
    def entropy(self) -> Entropy:
        """The run's chance."""
        return self._engine.entropy

    @property
    def bridge(self) -> Bridge:
        """The blocking bridge, as host `test` uses it."""
        return self.ports.bridge

    @property
    def net(self) -> RealNet:
        """The network between the hosts."""
        return self._engine.net

    @property
    def trace(self) -> Trace:
        """What happened; readable after the end."""
        return self._engine.trace

    @property
    def services(self) -> dict[str, str]:
        """What clients are told: service name to URL."""
        return self._engine.services

    @property
    def hosts(self) -> Sequence[RealHost]:
        """All declared hosts, in order; `test` is not declared."""
        return tuple(self._hosts.values())

    @property
    def inexact(self) -> Sequence[Inexact]:
        """Faults that were not exact here, in order of first use."""
        return self._engine.ledger.entries()

    # -- hosts and programs --------------------------------------------------------------

    def host(
        self,
        name: str,
        factory: Callable[..., Any] | None = None,
        *,
        addresses: Sequence[str] | None = None,
        background: bool = False,
    ) -> RealHost:
        """Declare a host and start it.

        Args:
            name: Letters, digits, `.`, `_` and `-`; resolves to its address.
            factory: Takes the host or nothing; gives an awaitable, an object with
                `async start()` and `async stop()`, or `None`. Called at every start.
            addresses: Instead of the next 127.0.0.x. Those of other networks are known
                in this run only and lead to the loopback address.
            background: Means nothing on the real machine.

        Raises:
            HostStateError: There is a host of that name.
        """
        if not NAME.fullmatch(name):
            raise ValueError(
                f"not a host name: {name!r}; use letters, digits, '.', '_' and '-'"
            )
        if name in self._engine.directory.by_name:
            raise HostStateError(f"host {name!r} is declared already; names are unique")
        self._check_active(f"host({name!r})")
        return self._engine.do(self._declare, name, factory, tuple(addresses or ()))

    def _declare(
        self,
        name: str,
        factory: Callable[..., Any] | None,
        addresses: tuple[str, ...],
    ) -> RealHost:
        engine, directory = self._engine, self._engine.directory
        for given in addresses:
            if given in directory.by_address:
                raise SimulationError(
                    f"host {name!r} cannot have the address {given}: "
                    f"{directory.by_address[given]!r} has it"
                )
        own = [given for given in addresses if given.startswith("127.")]
        address = own[0] if own else directory.free_address()
        if addresses and not own:
            engine.ledger.note(
                "addresses", f"host {name} is at {address}, not {', '.join(addresses)}"
            )
        if not can_bind(address):
            directory.virtual.add(address)
            engine.ledger.note(
                "addresses",
                f"this machine has no {address}: host {name} shares 127.0.0.1",
            )
        directory.add(name, address, addresses)
        host = self._hosts[name] = RealHost(engine, name, address, factory)
        host.start()
        return host

    def run(self, main: Main) -> Any:
        """Run `main` on host `test` and give its outcome.

        Args:
            main: An awaitable, a coroutine function, or a function that may block; the
                last runs in a thread of the pool.

        Raises:
            BlockingInCoroutine: An event loop runs here: await it instead.
        """
        return run_main(self.ports, main)

    def _check_active(self, what: str) -> None:
        if not self._active:
            raise SimulationError(
                f"{what}: this runtime is not running; use it inside `with runtime:`"
            )

    # -- what goes on ----------------------------------------------------------------------

    def take_failures(self) -> list[Exception]:
        """Take the failures of tasks and callbacks kept so far; they count as seen."""
        return self._engine.do(take_failures, self._engine)

    def leftovers_now(self) -> Iterator[str]:
        """Tell what is there now, one line each."""
        return iter(self._engine.do(lambda: list(tell_leftovers(self._engine))))

    def waiting_now(self) -> Iterator[str]:
        """Tell what each task and thread that is not done waits for, one line each."""
        return iter(self._engine.do(lambda: list(tell_waiting(self._engine))))

    # -- the block -----------------------------------------------------------------------

    def _renew(self) -> None:
        if self._active:
            raise SimulationError("this runtime is in use already; make another one")
        if self._used:
            self._begin()
        self._used = self._active = True

    def __enter__(self) -> Self:
        self._renew()
        self.start_thread(daemon=False)
        self._token = enter(self.ports)
        return self

    def start_thread(self, *, daemon: bool) -> None:
        """Start the loop in a thread of its own."""
        thread = LoopThread(self._engine, self._make_loop, daemon=daemon)
        self._active = self._used = True
        self._thread = thread

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.end_thread()
        finally:
            if self._token is not None:
                leave(self.ports, self._token)
                self._token = None
        self._raise_kept(error)

    def end_thread(self) -> None:
        """End the run in order, then the loop and its thread."""
        assert self._thread is not None
        engine = self._engine
        thread, self._thread = self._thread, None
        self._active = False
        self.leftovers = thread.end(
            lambda: shut_down(
                engine, list(self._hosts.values()), self._grace, own_loop=True
            )
        )

    async def __aenter__(self) -> Self:
        self._renew()
        self._engine.attach(asyncio.get_running_loop(), shared=True)
        self._token = enter(self.ports)
        self._inside = self._engine.mark_inside()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        engine = self._engine
        work = engine.backstage_task(
            shut_down(engine, list(self._hosts.values()), self._grace, own_loop=False),
            "shutdown",
        )
        cancelled: asyncio.CancelledError | None = None
        while not work.done():
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError as again:
                if work.cancelled():
                    break
                cancelled = again
                engine.hasten()
        engine.detach()
        engine.pool.join()
        self._active = False
        engine.unmark_inside(self._inside)
        if self._token is not None:
            leave(self.ports, self._token)
            self._token = None
        self.leftovers = tuple(work.result())
        if cancelled is not None:
            raise cancelled
        self._raise_kept(error)

    def _raise_kept(self, error: BaseException | None) -> None:
        """Raise what nobody took, or note it on what is being raised anyway."""
        fatal, self._engine.fatal = self._engine.fatal, None
        kept, self._engine.kept = self._engine.kept, []
        if error is not None:
            for lost in kept:
                error.add_note(f"also failed, and nobody took it: {lost!r}")
            return
        if fatal is not None:
            raise fatal
        if kept:
            raise UnhandledErrors(
                f"{len(kept)} failure(s) in callbacks or background tasks of this "
                "runtime were taken by nobody",
                kept,
            )
