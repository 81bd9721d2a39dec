"""`Sim`: one deterministic world's machine, put together."""

from __future__ import annotations

import contextlib
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
from rpcsim.sim._anyio import anyio_backend
from rpcsim.sim._audit import Auditor
from rpcsim.sim._clock import SimClock
from rpcsim.sim._compat import get_running_loop_or_none, ordered_task_sets
from rpcsim.sim._eager import task_name
from rpcsim.sim._end import end_of_run, tell_leftovers
from rpcsim.sim._external import External, ExternalWork
from rpcsim.sim._host import SimHost
from rpcsim.sim._logs import captured_logs
from rpcsim.sim._loop import SimLoop
from rpcsim.sim._net import SimNet
from rpcsim.sim._points import PointPlan
from rpcsim.sim._policy import policy_of
from rpcsim.sim._scheduler import Limits
from rpcsim.sim._strand import BACKGROUND, Life, Strand
from rpcsim.sim._streams import SimEntropy, stream_seed
from rpcsim.sim._taping import Recorder, Tap, TapePlayer
from rpcsim.sim._trace_file import TraceWriter
from rpcsim.sim._waits import deadlock_text, listing, waiting_tasks
from rpcsim.sim._warp import LoopTime
from rpcsim.trace import KEEP, Trace

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from contextvars import Token
    from pathlib import Path
    from types import TracebackType

    from rpcsim.ports import Ports
    from rpcsim.sim._audit import Audit, Finding
    from rpcsim.sim._clock import ClockModel
    from rpcsim.sim._disk import DiskModel
    from rpcsim.sim._fiber import SimBridge
    from rpcsim.sim._points import Armed, Passing
    from rpcsim.sim._policy import Policy, Scope
    from rpcsim.sim._tape import Tape
    from rpcsim.trace import Data, Level

__all__ = ["Sim"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

T = TypeVar("T")

# Turns a program that was cancelled because its `run` failed gets to end.
ENDING_TURNS: Final = 10_000
WALL_START: Final = datetime(2000, 1, 1, tzinfo=UTC)
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "eager": ("start", "defer"),
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
        seed: What every draw derives from; by default that of a replayed tape, else 0.
        policy: `"fifo"` (the oldest runnable entry goes first), `"random"`,
            `"pct(depth=3)"` (drawn priorities), `"portfolio"` (one of these, by
            seed), or a policy object such as `replay(tape)`.
        scope: `"task"` lets tasks overtake each other, `"host"` only hosts; by
            default what the policy says, else `"task"`.
        trace: `"protocol"`, `"steps"` (every turn too) or `"off"`.
        keep: How many of the newest trace records stay readable.
        trace_file: Where the whole trace is written while the run goes on, as JSON
            lines that `rpcsim.trace.read_jsonl` reads; `None` for nowhere.
        wall_start: The wall clock at the start; naive is UTC.
        max_steps: Most turns; `None` for no limit.
        max_time: Most simulated time; `None` for no limit.
        max_real: Most seconds of real time in one pump; `None` for no limit.
        steps_per_instant: Most turns without time moving.
        stall_limit: Longest simulated time in which only background work may run
            while the main program waits.
        ambient: Whether `time`, `random`, `uuid`, ... answer with simulated values
            inside steps; or a set of `"time"`, `"random"`, `"identity"`.
        autojump: Whether time jumps to what is due next when nothing can run; else it
            moves only by `advance`, `advance_to`, `step`, `run_until_idle` and
            `run_until`, and `run` gives back a future if its program has to wait.
        timer_epsilon: How long after its deadline every timer fires; for programs that
            rely on timers being late.
        audit: What is done about calls that go around the loop (real sockets, files,
            processes, threads): `"off"`, `"record"` them as findings, or `"raise"`.
        debug: asyncio's debug mode on the loop; never changes the trace.
        eager: `"start"` runs the first step of an eager task where it is made, as
            Python 3.12 does; `"defer"` makes it an ordinary task.
        record: Whether choices are written down; `tape` gives them.
    """

    mode: Final = "sim"

    def __init__(
        self,
        *,
        seed: int | None = None,
        policy: str | Policy = "fifo",
        scope: Scope | None = None,
        trace: Level = "protocol",
        keep: int = KEEP,
        trace_file: str | Path | None = None,
        wall_start: datetime = WALL_START,
        max_steps: int | None = None,
        max_time: Duration | None = None,
        max_real: float | None = None,
        steps_per_instant: int = 100_000,
        stall_limit: Duration = "24h",
        ambient: bool | set[str] | frozenset[str] = True,
        autojump: bool = True,
        timer_epsilon: Duration = 0,
        audit: Audit = "off",
        debug: bool = False,
        eager: Literal["start", "defer"] = "start",
        record: bool = False,
    ) -> None:
        seed = _seed_of(seed, policy)
        if scope is None:
            _check_options(seed=seed, trace=trace, eager=eager)
        else:
            _check_options(seed=seed, scope=scope, trace=trace, eager=eager)
        chosen = policy_of(policy, seed)
        self.seed: Final = seed
        self.policy: Final = str(chosen)
        self.scope: Final = _scope_of(scope, chosen)
        source = chosen.source()
        # What follows the tape of a replay, and counts where it could not.
        self.player: Final = source if isinstance(source, TapePlayer) else None
        self._recorder = Recorder() if record else None
        tap = None
        if source is not None or record:
            tap = Tap(source, self._recorder)
        self.entropy: Final = SimEntropy(seed, tap)
        self.trace: Final = Trace(level=trace, keep=keep)
        self._writer: TraceWriter | None = None
        if trace_file is not None:
            if trace == "off":
                raise ValueError(
                    "trace_file needs a trace: trace='off' has nothing to write; "
                    "take 'protocol' or 'steps'"
                )
            told = {"keep": keep, "max_steps": max_steps, "autojump": autojump}
            self._writer = TraceWriter(trace_file, told)
        limits = Limits(
            steps_per_instant=steps_per_instant,
            max_steps=max_steps,
            max_time_ns=None if max_time is None else to_ns(max_time),
            max_real=max_real,
            real_clock=None if max_real is None else real_time,
            stall_ns=to_ns(stall_limit),
        )
        self.loop: Final = SimLoop(
            self, chooser=None, trace=self.trace, limits=limits, host="test"
        )
        chooser = chosen.bind(self.loop, lambda: self.entropy.stream("schedule"))
        self.loop.choose_by(chooser if tap is None else tap.chooser(chooser))
        if self.player is not None:
            self.player.attach(self)
        self.loop.set_debug(debug)
        self.loop.starts_eager = eager == "start"
        self.loop.per_host = self.scope == "host"
        self.autojump: Final = autojump
        epsilon_ns = to_ns(timer_epsilon)
        if epsilon_ns < 0:
            raise ValueError(f"timers are late, not early: {timer_epsilon!r}")
        if epsilon_ns:
            LoopTime(self.loop, epsilon_ns).install()
        if wall_start.tzinfo is None:
            wall_start = wall_start.replace(tzinfo=UTC)
        self.clock: Final = SimClock(self, round(wall_start.timestamp() * 10**9))
        self.services: Final[dict[str, str]] = {}
        self.net: Final = SimNet(self, self.loop)
        self.loop.net = self.net
        self.by_name: Final[dict[str, SimHost]] = {}
        self.points: Final = PointPlan(self)
        if audit not in ("off", "record", "raise"):
            raise ValueError(f"audit is 'off', 'record' or 'raise', not {audit!r}")
        self.auditor: Final = Auditor(self, audit)
        self.outside: Final = ExternalWork(self)
        self.graves: Final[list[Life]] = []
        self.graveyard: Final = _graveyard()
        self.fault_strand: Final = Strand("faults", self.loop.world_life)
        self.fibers = 0
        self.carriers: Final[list[Any]] = []  # idle greenlets, for the next fibers
        self.thread = thread_id()
        self.leftovers: tuple[str, ...] = ()
        self.inexact: Final[tuple[Inexact, ...]] = ()
        self._kept: list[SimulationError] = []
        self._delivered: list[BaseException] = []
        self._ambient = Ambient(ambient, threads=audit != "off")
        self.simulates_time: Final = self._ambient.replaces("time")
        self._token: Token[Ports] | None = None
        self._closers: list[Callable[[], None]] = []
        # Whether the standard clocks follow this run's (`rpcsim.interop`).
        self.followed = False
        self._collecting = False
        # Generators of the program that draw from the seed, with their states before.
        self._generators: list[tuple[Any, Any]] = []
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
        if self._writer is not None:
            self._writer.begin(self)
        self.thread = thread
        _by_thread[thread] = self
        ordered_task_sets.install()
        anyio_backend.install()
        task_name.install()
        captured_logs.install()
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
            while self._closers:
                self._closers.pop()()
            if self._token is not None:
                leave(self.ports, self._token)
                while self._generators:
                    generator, state = self._generators.pop()
                    generator.setstate(state)
                self._ambient.end()
                captured_logs.remove()
                task_name.remove()
                anyio_backend.remove()
                ordered_task_sets.remove()
                _by_thread.pop(self.thread, None)
                if self._collecting:
                    gc.enable()
            if self._writer is not None:
                told = (error, *self._kept, *self.loop.failures)
                self._writer.end(self, failed=any(one is not None for one in told))
        self._raise_kept(error)

    @property
    def active(self) -> bool:
        """Whether its block has been entered, and not left."""
        return self._token is not None and not self._closed

    def at_close(self, fn: Callable[[], None]) -> None:
        """Have `fn` called when the run has ended, before names are put back."""
        self._closers.append(fn)

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

    def complete(
        self, awaitable: Awaitable[T], until: Callable[[], bool] | None = None
    ) -> T:
        """Run until an awaitable is done; give or raise its outcome.

        Args:
            awaitable: What is waited for.
            until: Asked in place of it whether to run on.

        Raises:
            DeadlockError: It can never be done.
            RuntimeError: `until` ended it before.
        """
        future = self.as_future(awaitable)
        if not self._pump_for(until or future.done):
            text = deadlock_text(self, _name(future))
            if not self.autojump:
                text += (
                    "\nTime is moved by hand here (autojump=False), and a blocking call "
                    "cannot wait for that; `sim.run(...)` gives a future instead."
                )
            error = DeadlockError(text)
            self.keep(error)
            self._delivered.append(error)
            raise error
        if not future.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        return self._outcome(future)

    def _pump_for(self, done: Callable[[], bool]) -> bool:
        """Run until something is done; by hand only as far as time was let go."""
        if self.autojump:
            return self.pump(done)
        clock = self.clock
        while not self.pump(done, deadline_ns=clock.reach_ns):
            if clock.reach_ns <= self.loop.now_ns:
                return False
        return True

    def _outcome(self, future: asyncio.Future[T]) -> T:
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

        Where time is moved by hand and the program has to wait, its task is given.
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
        if not self.autojump and not self.loop.pumping:
            return self._outcome(task) if self._pump_for(task.done) else task
        try:
            return self.bridge.wait(task)
        except BaseException:
            if not task.done():
                task.cancel()
                # Its end is now: what was told here is not also left behind.
                if not self.loop.pumping:
                    with contextlib.suppress(SimulationError), stepping(self):
                        self.loop.run_pump(task.done, turns=ENDING_TURNS, jump=False)
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

    # -- moving time by hand; `clock` has the same, and the forms to be awaited ----------

    def advance(self, duration: Duration) -> None:
        """Move time on; everything due on the way runs at its own time."""
        self.clock.advance(duration)

    def advance_to(self, when: Duration) -> None:
        """Move time to an instant, counted from the start of the run."""
        self.clock.advance_to(when)

    def run_until(self, predicate: Callable[[], bool]) -> bool:
        """Run until a predicate is true; false when nothing is left to do before."""
        return self.clock.run_until(predicate)

    def run_until_idle(self) -> None:
        """Run until only background work is left."""
        self.clock.run_until_idle()

    def step(self, n: int = 1) -> int:
        """Run at most `n` turns; give how many ran.

        In blocking code of the run, which takes turns itself: as `clock.give_way_async`.
        """
        if self.loop.pumping and self.bridge_here().may_block():
            return self.bridge_here().wait(self.clock.give_way_async(n))
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

    def external(self, fn: Callable[..., Any] | None = None, *args: Any) -> External:
        """Do real work while the simulated clock stands still.

        `with sim.external():` does it in the block; `await sim.external(fn, *args)`
        runs `fn` in a real thread and gives its value. Meanwhile other threads may use
        `call_soon_threadsafe`. Such a run is not promised to replay.
        """
        return External(self.outside, fn, args)

    def allow(self, *patterns: str) -> None:
        """Let calls pass that the audit hook sees; each is recorded.

        Args:
            *patterns: `"open:/some/prefix/*"`, `"subprocess.Popen"`: the
                interpreter's name of the event, and what it is about.
        """
        self.auditor.allow(*patterns)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the audit hook saw and nobody allowed, in order."""
        return tuple(self.auditor.findings)

    def register_random(self, generator: Any) -> None:
        """Have a generator the program holds draw from the seed until the run ends.

        The functions of `random` need no registration: libraries that made a
        `random.Random()` when they were imported do.

        Args:
            generator: Has `seed`, `getstate` and `setstate`, as `random.Random`.
        """
        state = generator.getstate()
        self._generators.append((generator, state))
        generator.seed(stream_seed(self.seed, f"ambient/{len(self._generators)}"))

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
        clock: ClockModel | None = None,
        disk: DiskModel | None = None,
        background: bool = False,
    ) -> SimHost:
        """Declare a host and start it.

        Args:
            name: Unique, of letters, digits, `.`, `_` and `-`.
            factory: Takes the host or nothing; gives an awaitable, an object with
                `async start()` and `async stop()`, or `None`. Called at every start.
            addresses: Numeric addresses; by default the next of 10.0.0.0/8.
            clock: How its clock is set wrong; by default it is right.
            disk: What its disk is like; by default quick, sound and without end.
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
        host = SimHost(self, name, factory, addresses, background=background, disk=disk)
        self.net.add_host(host)
        self.by_name[name] = host
        if clock is not None:
            host.clock.set_to(clock)
        host.start()
        return host

    def at_point(
        self,
        name: str,
        *,
        do: Callable[[Passing], object],
        host: str | None = None,
        nth: int | None = 1,
    ) -> Armed:
        """Have something done when code passes a point; undone by its handle.

        Args:
            name: What the code calls the moment: `points.point(name)`.
            do: `crash`, `pause`, `delay(d)`, `raise_(error)` of this room, or any
                function of the `Passing`.
            host: Only passings of this host count; `None` for all hosts.
            nth: Which passing, counted from 1; `None` for every one.
        """
        return self.points.arm(name, host=host, nth=nth, do=do)

    def buggify(
        self, name: str, *, host: str | None = None, probability: float = 1.0
    ) -> Armed:
        """Have code take a rare branch: `points.buggify(name)` is true.

        Args:
            name: What the code calls the branch.
            host: Only on this host; `None` for all.
            probability: Of each asking, 0 to 1; drawn from a stream of its own.
        """
        return self.points.turn_on(name, host=host, probability=probability)

    def unreached(self) -> list[str]:
        """Tell what was planned and never happened, one line each."""
        return [*self.points.unreached(), *self.net.unreached()]

    def send_signal(self, host: str, sig: int | str) -> None:
        """Send a host a signal, as `host.send_signal(sig)` does."""
        self.net.check_names(host)
        self.by_name[host].send_signal(sig)

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

    @property
    def tape(self) -> Tape | None:
        """The choices made so far; `None` unless made with `record=True`."""
        recorder = self._recorder
        if recorder is None:
            return None
        return recorder.tape(
            seed=self.seed,
            policy=self.policy,
            scope=self.scope,
            complete=self._closed,
        )

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


def _seed_of(seed: int | None, policy: str | Policy) -> int:
    """Give the seed of a run: the one given, else that of the tape it follows."""
    tape: Tape | None = getattr(policy, "tape", None)
    recorded = None if tape is None else tape.seed
    if seed is None:
        return 0 if recorded is None else recorded
    if recorded not in (None, seed) and getattr(policy, "strict", False):
        raise ValueError(
            f"the tape was recorded with seed {recorded}, the run has seed {seed}: what "
            "is not on the tape would differ; leave the seed out, or replay with "
            "strict=False"
        )
    return seed


def _scope_of(scope: Scope | None, policy: Policy) -> Scope:
    """Give the scope of a run; refuse one that contradicts its policy's."""
    if scope is not None and policy.scope not in (None, scope):
        raise ValueError(
            f"the run has scope {scope!r}, its policy {policy} scope {policy.scope!r}; "
            "give one of them only"
        )
    return scope or policy.scope or "task"


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
