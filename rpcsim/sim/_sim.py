"""`Sim`: one deterministic world's machine, put together."""

from __future__ import annotations

import gc
import inspect
import re
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

from rpcsim.errors import (
    DeadlockError,
    EscapeError,
    HostDown,
    SimLimitError,
    SimulationError,
    StalledError,
    UnhandledErrors,
)
from rpcsim.ports import Duration, Inexact, Main, duration_text, enter, leave, to_ns
from rpcsim.sim._ambient import Ambient, outside, real_time, stepping, thread_id
from rpcsim.sim._clock import SimClock
from rpcsim.sim._compat import get_running_loop_or_none, ordered_task_sets
from rpcsim.sim._end import end_of_run, tell_leftovers
from rpcsim.sim._host import SimHost
from rpcsim.sim._loop import SimLoop
from rpcsim.sim._net import SimNet
from rpcsim.sim._policy import POLICIES, chooser_for
from rpcsim.sim._scheduler import Limits
from rpcsim.sim._strand import BACKGROUND, Life, Strand
from rpcsim.sim._streams import SimEntropy, stream_seed
from rpcsim.sim._waits import deadlock_text, listing, waiting_tasks
from rpcsim.trace import KEEP, Trace

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from contextvars import Token
    from types import TracebackType

    from rpcsim.ports import Ports
    from rpcsim.sim._fiber import SimBridge
    from rpcsim.trace import Data, Level

__all__ = ["Sim"]

T = TypeVar("T")

WALL_START: Final = datetime(2000, 1, 1, tzinfo=UTC)
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "policy": POLICIES,
    "scope": ("task", "host"),
    "trace": ("protocol", "steps", "off"),
}
# The simulation whose block each thread is in, to refuse a second one there.
_by_thread: Final[dict[int, Sim]] = {}


class Sim:
    """One deterministic simulation: loop, clock, network, hosts, chance, trace.

    Use it as a context manager. Inside the block, blocking clients called from
    synchronous code pump the simulation; `run` runs a program on host `test`.

    Args:
        seed: What every draw derives from.
        policy: `"fifo"` (the oldest runnable entry goes first) or `"random"`.
        scope: `"task"` lets tasks overtake each other, `"host"` only hosts.
        trace: `"protocol"`, `"steps"` (every turn too) or `"off"`.
        keep: How many of the newest trace records stay readable.
        wall_start: The wall clock at the start; naive is UTC.
        max_steps: Most turns; `None` for no limit.
        max_time: Most simulated time; `None` for no limit.
        max_real: Most seconds of real time in one pump; `None` for no limit.
        steps_per_instant: Most turns without time moving.
        stall_limit: Longest simulated time in which only background work may run
            while the main program waits.
        ambient: Whether `time`, `random`, `uuid`, ... answer with simulated values
            inside steps; or a set of `"time"`, `"random"`, `"identity"`.
        debug: asyncio's debug mode on the loop; never changes the trace.
    """

    mode: Final = "sim"

    def __init__(
        self,
        *,
        seed: int = 0,
        policy: str = "fifo",
        scope: Literal["task", "host"] = "task",
        trace: Level = "protocol",
        keep: int = KEEP,
        wall_start: datetime = WALL_START,
        max_steps: int | None = None,
        max_time: Duration | None = None,
        max_real: float | None = None,
        steps_per_instant: int = 100_000,
        stall_limit: Duration = "24h",
        ambient: bool | set[str] | frozenset[str] = True,
        debug: bool = False,
    ) -> None:
        _check_options(seed=seed, policy=policy, scope=scope, trace=trace)
        self.seed: Final = seed
        self.policy: Final = policy
        self.entropy: Final = SimEntropy(seed)
        self.trace: Final = Trace(level=trace, keep=keep)
        limits = Limits(
            steps_per_instant=steps_per_instant,
            max_steps=max_steps,
            max_time_ns=None if max_time is None else to_ns(max_time),
            max_real=max_real,
            real_clock=None if max_real is None else real_time,
            stall_ns=to_ns(stall_limit),
        )
        chooser = chooser_for(policy, lambda: self.entropy.stream("schedule"))
        self.loop: Final = SimLoop(
            self, chooser=chooser, trace=self.trace, limits=limits, host="test"
        )
        self.loop.set_debug(debug)
        self.loop.per_host = scope == "host"
        if wall_start.tzinfo is None:
            wall_start = wall_start.replace(tzinfo=UTC)
        self.clock: Final = SimClock(self, round(wall_start.timestamp() * 10**9))
        self.services: Final[dict[str, str]] = {}
        self.net: Final = SimNet(self, self.loop)
        self.loop.net = self.net
        self.by_name: Final[dict[str, SimHost]] = {}
        self.graves: Final[list[Life]] = []
        self.graveyard: Final = _graveyard()
        self.fault_strand: Final = Strand("faults", self.loop.world_life)
        self.fibers = 0
        self.thread = thread_id()
        self.leftovers: tuple[str, ...] = ()
        self.inexact: Final[tuple[Inexact, ...]] = ()
        self._kept: list[SimulationError] = []
        self._delivered: list[BaseException] = []
        self._ambient = Ambient(ambient)
        self._token: Token[Ports] | None = None
        self._collecting = False
        self._closed = False
        self.test: Final = self._test_host()

    def __repr__(self) -> str:
        now = duration_text(self.loop.now_ns)
        return f"<Sim seed={self.seed} policy={self.policy} at {now}>"

    def _test_host(self) -> SimHost:
        """Code outside every host belongs to this one; its life is the world's."""
        host = SimHost(self, "test", None, ["10.0.0.1"], background=False)
        self.by_name["test"] = host
        self.net.add_host(host)
        host.state = "running"
        life = self.loop.world_life
        life.context, life.ports = host.life.context, host.life.ports
        return host

    # -- the block ---------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._closed:
            raise SimulationError("this simulation has ended; make a new one")
        thread = thread_id()
        other = _by_thread.get(thread)
        if other is not None:
            raise SimulationError(
                f"a simulation is active in this thread ({other!r}); end it first: one "
                "simulation runs per thread at a time"
            )
        self.thread = thread
        _by_thread[thread] = self
        ordered_task_sets.install()
        self._ambient.begin(lambda: stream_seed(self.seed, "ambient"))
        # Off for the whole block, not for each pump: a collection between two pumps
        # would run finalisers at moments no seed decides.
        self._collecting = gc.isenabled()
        gc.disable()
        self._token = enter(self.ports)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(error)

    async def __aenter__(self) -> Self:
        raise SimulationError(
            "a simulation has its own event loop: use `with Sim()` in synchronous code, "
            "then `sim.run(coroutine_function)`"
        )

    async def __aexit__(self, *exc: object) -> None: ...

    def close(self, error: BaseException | None = None) -> None:
        """End the run: stop hosts, count what is left, seal the trace, restore.

        Args:
            error: What ended the block, if anything; kept failures are then noted
                on it instead of being raised.
        """
        if self._closed:
            return
        self._closed = True
        try:
            broken = any(isinstance(kept, SimLimitError) for kept in self._kept)
            self.leftovers = tuple(end_of_run(self, orderly=not broken))
        finally:
            if self._token is not None:
                leave(self.ports, self._token)
                self._ambient.end()
                ordered_task_sets.remove()
                _by_thread.pop(self.thread, None)
                if self._collecting:
                    gc.enable()
        self._raise_kept(error)

    def _raise_kept(self, error: BaseException | None) -> None:
        told = [*self._delivered, error] if error is not None else self._delivered
        kept = [e for e in self._kept if not any(e is t for t in told)]
        failures = [
            failure
            for failure in self.loop.failures
            # One that is no `Exception` was wrapped to be kept.
            if not any(one is t for one in (failure, failure.__cause__) for t in told)
        ]
        if error is not None:
            for more in (*kept, *failures):
                if more is not error and more not in _chain(error):
                    error.add_note(f"also, in the run: {type(more).__name__}: {more}")
            return
        if kept:
            first, *rest = kept
            for more in (*rest, *failures):
                first.add_note(f"also, in the run: {type(more).__name__}: {more}")
            raise first
        if failures:
            raise UnhandledErrors("failures in the run that nobody took", failures)

    def keep(self, error: SimulationError) -> None:
        """Keep an error of the run, to be raised at its end if swallowed."""
        if not any(error is kept for kept in self._kept):
            self._kept.append(error)

    def take_failures(self) -> list[Exception]:
        """Take the failures of tasks and callbacks kept so far; they count as seen."""
        self.loop.collect_failures()
        failures, self.loop.failures = self.loop.failures, []
        return failures

    # -- running -----------------------------------------------------------------------

    def check_thread(self, call: str) -> None:
        """Refuse a call from a thread that is not the simulation's."""
        if thread_id() != self.thread:
            raise self._foreign_thread(call)

    def _foreign_thread(self, call: str) -> EscapeError:
        error = EscapeError(
            f"{call} came from a thread the simulation does not own, at "
            f"{self.loop.now_ns / 1e9:.9g} s; run the code with "
            "`await bridge.call_blocking(fn)`, or `bridge.spawn(fn)`, instead of in "
            "a thread"
        )
        self.keep(error)
        return error

    def misplaced(self, call: str) -> SimulationError | None:
        """Give the error for driving the simulation from here, where it may not be."""
        if thread_id() != self.thread:
            return self._foreign_thread(call)
        if self._closed:
            return SimulationError("this simulation has ended; make a new one")
        if get_running_loop_or_none() not in (None, self.loop):
            return SimulationError(
                f"{call} would wait inside another event loop that is running in this "
                "thread; drive the simulation from synchronous code, or put the "
                "coroutine into it with `sim.run(coroutine_function)`"
            )
        return None

    def pump(self, until: Callable[[], bool] | None, **bounds: Any) -> bool:
        """Run turns until something is true; what they keep is raised from here."""
        wrong = self.misplaced("running the simulation")
        if wrong is not None:
            raise wrong
        if self.loop.pumping:
            raise SimulationError("the simulation is already running here")
        try:
            with stepping(self):
                return self.loop.run_pump(until, **bounds)
        except StalledError as stalled:
            error = StalledError(listing(self, str(stalled)))
            self.keep(error)
            self._delivered.append(error)
            raise error from None
        except SimulationError as error:
            self.keep(error)
            self._delivered.append(error)
            raise
        except (SystemExit, KeyboardInterrupt) as error:
            self._delivered += _chain(error)
            raise

    def complete(self, awaitable: Awaitable[T]) -> T:
        """Run until an awaitable is done; give or raise its outcome.

        Raises:
            DeadlockError: It can never be done.
        """
        future = self.as_future(awaitable)
        if not self.pump(future.done):
            error = DeadlockError(deadlock_text(self, _name(future)))
            self.keep(error)
            self._delivered.append(error)
            raise error
        if not future.cancelled():
            failure = future.exception()
            if failure is not None:
                self._delivered += _chain(failure)
        return future.result()

    def as_future(self, awaitable: Awaitable[T]) -> asyncio.Future[T]:
        """Give the future behind an awaitable, making a task of a coroutine."""
        if hasattr(awaitable, "add_done_callback"):
            return awaitable  # type: ignore[return-value]  # it is a future
        if inspect.iscoroutine(awaitable):
            return self.loop.make_task(awaitable)
        return self.loop.make_task(_await(awaitable))

    def run(self, main: Main) -> Any:
        """Run a program on host `test` and give its outcome.

        Args:
            main: An awaitable, a coroutine function, or a function that may block.
        """
        return self.run_on(self.test, main)

    def run_on(self, host: SimHost, main: Main) -> Any:
        """Run a program on a host."""
        wrong = self.bridge.refusal(main)
        if wrong is not None:
            if inspect.iscoroutine(main):
                main.close()
            raise wrong
        program: Any = _main(host.ports.bridge, main)
        program.__name__ = getattr(main, "__name__", "main")
        task = host.inside(self.loop.make_task, program)
        try:
            return self.bridge.wait(task)
        except BaseException:
            if not task.done():
                task.cancel()
            raise

    @property
    def bridge(self) -> SimBridge:
        """The blocking bridge of host `test`."""
        return self.test.ports.bridge  # type: ignore[return-value]  # made by us

    def bridge_here(self) -> SimBridge:
        """The blocking bridge of the running host."""
        bridge: SimBridge = self.loop.life_of().ports.bridge
        return bridge

    @property
    def ports(self) -> Ports:
        """The ports of host `test`."""
        return self.test.ports

    def step(self, n: int = 1) -> int:
        """Run at most `n` turns; give how many ran."""
        before = self.loop.steps
        self.pump(None, turns=n)
        return self.loop.steps - before

    def next_event(self) -> float | None:
        """Give the next instant something is due, in seconds; `None` for none."""
        when = self.loop.next_event_ns()
        return None if when is None else when / 1e9

    def loop_factory(self) -> SimLoop:
        """Give the loop, as `asyncio.Runner(loop_factory=sim.loop_factory)` asks."""
        return self.loop

    def background(self) -> _Background:
        """Make tasks and timers created in a block background ones: they may stay."""
        return _Background(self.loop)

    def real_time(self) -> Any:
        """Give code in a block the real clock and real chance."""
        return outside()

    # -- hosts -------------------------------------------------------------------------

    def host(
        self,
        name: str,
        factory: Callable[..., Any] | None = None,
        *,
        addresses: Sequence[str] | None = None,
        background: bool = False,
    ) -> SimHost:
        """Declare a host and start it.

        Args:
            name: Unique, of letters, digits, `.`, `_` and `-`.
            factory: Takes the host or nothing; gives an awaitable, an object with
                `async start()` and `async stop()`, or `None`. Called at every start.
            addresses: Numeric addresses; by default the next of 10.0.0.0/8.
            background: Whether its timers are expected to go on for ever.
        """
        if _HOST_NAME.fullmatch(name) is None:
            raise ValueError(
                f"a host name is made of letters, digits, '.', '_' and '-', not {name!r}"
            )
        if name in self.by_name:
            raise SimulationError(
                f"there is a host {name!r} already; names of hosts are unique"
            )
        if addresses is None:
            number = len(self.by_name) + 1
            addresses = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"]
        host = SimHost(self, name, factory, addresses, background=background)
        self.net.add_host(host)
        self.by_name[name] = host
        host.start()
        return host

    @property
    def hosts(self) -> tuple[SimHost, ...]:
        """The declared hosts, in order; host `test` is not among them."""
        return tuple(self.by_name.values())[1:]

    def host_down(self, name: str) -> HostDown:
        """Make the error for a call into a host that does not run."""
        host = self.by_name[name]
        return HostDown(
            f"host {name!r} is {host.state} at {self.loop.now_ns / 1e9:.9g} s; "
            "restart() it first"
        )

    # -- the trace ---------------------------------------------------------------------

    def record(self, kind: str, data: Data) -> int:
        """Record something that happened to the world."""
        return self.record_on("", kind, data)

    def record_on(self, host: str, kind: str, data: Data) -> int:
        """Record something that happened to a host."""
        loop = self.loop
        number = loop.trace.append(
            loop.now_ns, kind, host, loop.strand.label, loop.cause, data
        )
        if number >= 0 and loop.pumping:
            loop.cause = number
        return number

    def leftovers_now(self) -> Iterator[str]:
        """Tell what is still there, one line each."""
        return tell_leftovers(self)

    def waiting_now(self) -> Iterator[str]:
        """Tell what each task that is not done waits for, one line each."""
        return map(str, waiting_tasks(self))


class _Background:
    """What is made in the block, and by what is made there, is background work."""

    __slots__ = ("_loop", "_token")

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        self._loop.knows_background = True
        self._token = BACKGROUND.set(True)

    def __exit__(self, *exc: object) -> None:
        BACKGROUND.reset(self._token)


def _check_options(*, seed: object, **given: object) -> None:
    """Refuse options of a kind or name that is not known."""
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"a seed is a whole number, not {seed!r}")
    for option, value in given.items():
        choices = _CHOICES[option]
        if value not in choices:
            near = get_close_matches(str(value), choices, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"unknown {option} {value!r}{hint} (known: {', '.join(choices)})"
            )


def _graveyard() -> Life:
    """Make the life that fibers killed hard are moved to."""
    life = Life("(killed)", 0)
    life.dead = life.shut = True
    return life


def _chain(error: BaseException) -> list[BaseException]:
    """Give an error and all it holds: causes, contexts, members of groups."""
    found: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or any(one is seen for seen in found):
            continue
        found.append(one)
        left += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions
    return found


def _name(future: asyncio.Future[Any]) -> str:
    name = getattr(future, "get_name", None)
    return f"task {name()}" if name is not None else "the future waited for"


async def _main(bridge: Any, main: Main) -> Any:
    if inspect.iscoroutinefunction(main):
        return await main()
    if callable(main) and not inspect.isawaitable(main):
        result = await bridge.call_blocking(main)
        return await result if inspect.isawaitable(result) else result
    return await main


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable
