"""Simulated hosts: factories of software that crash, and are started anew."""

from __future__ import annotations

import asyncio
import inspect
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, Literal

from rpcsim.errors import HostStateError
from rpcsim.ports import Duration, Main, to_ns
from rpcsim.ports._runtime import CURRENT
from rpcsim.sim._clock import HostClock
from rpcsim.sim._compat import has_unread_failure
from rpcsim.sim._disk import SOUND, DiskModel, HostDisk, SimDisk
from rpcsim.sim._fiber import SimBridge
from rpcsim.sim._pause import Pause
from rpcsim.sim._points import SimPoints
from rpcsim.sim._ports import HostNetwork, HostSink, SimPorts
from rpcsim.sim._signals import deliver, signal_of
from rpcsim.sim._strand import Life

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from signal import Signals

    from rpcsim.sim._sim import Sim
    from rpcsim.sim._strand import StrandLike
    from rpcsim.sim._task import SimHandle

__all__ = ["SimHost"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True


class SimHost:
    """A machine of the simulation.

    Attributes:
        name: Its name; resolves to its addresses.
        addresses: Numeric addresses.
        state: `declared`, `running`, `paused`, `stopped` or `crashed`.
        clock: Its clock, which `skew`, `drift`, `step` and `follow` set; it goes on
            over restarts.
        life: The present incarnation.
        signals: Handlers of the present incarnation, with the strands they run on.
        ports: The ports of the present incarnation.
    """

    def __init__(
        self,
        sim: Sim,
        name: str,
        factory: Callable[..., Any] | None,
        addresses: Sequence[str],
        *,
        background: bool,
        disk: DiskModel | None = None,
    ) -> None:
        self._sim = sim
        self._factory = factory
        self._background = background
        self._base = copy_context()
        self._product: Any = None
        self._started: asyncio.Future[None] | None = None
        self._restarting: asyncio.Future[None] | None = None
        self._powered = True
        self.name: Final = name
        self.addresses: Final = tuple(addresses)
        self.clock: Final[HostClock] = (
            sim.clock
            if name == "test"
            else HostClock(sim.loop, sim.clock.wall_start_ns, name)
        )
        self._disk_model = disk
        self._disk: SimDisk | None = None
        self._pause: Pause | None = None
        self.signals: dict[Signals, tuple[StrandLike, SimHandle]] = {}
        self.state = "declared"
        self.life = Life(name, 0, background=background)
        self.ports: SimPorts = self._make_ports()

    def __repr__(self) -> str:
        return f"<host {self.name}: {self.state}, incarnation {self.incarnation}>"

    @property
    def incarnation(self) -> int:
        """How often it was started."""
        return self.life.incarnation

    @property
    def disk(self) -> SimDisk:
        """Its disk, to be broken, saved and restored; it stays over restarts."""
        if self._disk is None:  # most hosts never ask for theirs
            self._disk = SimDisk(self._sim, self.name, self._disk_model or SOUND)
        return self._disk

    @property
    def up(self) -> bool:
        """Whether its system answers packets; it outlives a crash of its programs."""
        return self.state != "crashed" or self._powered

    def _make_ports(self) -> SimPorts:
        sim, life = self._sim, self.life
        ports = SimPorts(
            host=self.name,
            clock=self.clock,
            network=HostNetwork(sim.loop, life),
            entropy=sim.entropy,
            disk=HostDisk(self, life),
            bridge=SimBridge(sim, life),
            points=SimPoints(sim.points, life),
            trace=HostSink(sim.loop, life),
            services=sim.services,
            life=life,
            loop=sim.loop,
        )
        life.ports = ports
        life.context = self._base.copy()
        life.context.run(CURRENT.set, ports)
        return ports

    def inside(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call `fn` in the context of the present incarnation."""
        context = self.life.context
        assert context is not None
        return context.copy().run(fn, *args)

    def _wrong_state(self, verb: str, instead: str) -> HostStateError:
        error = HostStateError(
            f"cannot {verb} host {self.name!r}: it is {self.state} at "
            f"{self._sim.loop.now_ns / 1e9:.9g} s; {instead}"
        )
        if self._sim.loop.pumping:
            self._sim.keep(error)
        return error

    # -- beginning ---------------------------------------------------------------------

    def start(self) -> None:
        """Run the factory, as the next incarnation."""
        if self.state in ("running", "paused"):
            raise self._wrong_state("start", "crash or stop it first")
        loop = self._sim.loop
        lost = self.start_failure()  # of the incarnation before
        if lost is not None:
            loop.keep_failure(lost, f"starting host {self.name}")
        self.life = Life(
            self.name, self.life.incarnation + 1, background=self._background
        )
        self.ports = self._make_ports()
        self._product = self._pause = None
        self.signals.clear()
        first = self.life.incarnation == 1
        self.state = "running"
        self._powered = True
        self._sim.record_on(
            self.name,
            "host.start" if first else "host.restart",
            (("incarnation", self.life.incarnation),),
        )
        self._started = loop.create_future()
        if self._factory is None:
            self._started.set_result(None)
            return
        program: Any = self._begin(self._factory, self._started)
        # Reports show tasks by name: the factory's says more than ours.
        program.__name__ = getattr(self._factory, "__name__", "factory")
        self.inside(loop.make_task, program)

    async def _begin(
        self, factory: Callable[..., Any], started: asyncio.Future[None]
    ) -> None:
        try:
            product = factory(self) if _takes_host(factory) else factory()
            if hasattr(product, "start"):
                self._product = product
                await product.start()
                product = None
        except Exception as error:  # noqa: BLE001 - told to whoever waits for the start
            if not started.done():
                started.set_exception(error)
            return
        if not started.done():
            started.set_result(None)
        if product is not None:
            await product

    async def wait_started(self) -> None:
        """Wait until what the factory gave is up; raises what its start raised.

        A restart that is still due is waited for.
        """
        if self._restarting is not None and not self._restarting.done():
            await asyncio.shield(self._restarting)
        if self._started is None:
            raise self._wrong_state("wait for", "start it first")
        if self.state == "crashed":
            raise self._sim.host_down(self.name)
        await asyncio.shield(self._started)

    def start_failure(self) -> BaseException | None:
        """Take what its start raised, if nobody waited for it."""
        started = self._started
        if started is None or not has_unread_failure(started):
            return None
        return started.exception()

    def restart(self, after: Duration = 0) -> None:
        """Start again, after a stop or crash."""
        if self.state not in ("stopped", "crashed"):
            raise self._wrong_state("restart", "crash or stop it first")
        delay = to_ns(after)
        if delay <= 0:
            self.start()
            return
        loop = self._sim.loop
        strand = self._sim.fault_strand
        due = self._restarting = loop.create_future()
        loop.at(loop.now_ns + delay, strand, self._start_if_down, (due,))

    def _start_if_down(self, due: asyncio.Future[None]) -> None:
        if self.state in ("stopped", "crashed"):
            self.start()
        if not due.done():
            due.set_result(None)

    # -- standing still ----------------------------------------------------------------

    def pause(self) -> None:
        """Stop it where it is: none of its code runs until `resume`.

        Its system goes on: peers may connect and write until its buffers are full.
        """
        if self.state != "running":
            raise self._wrong_state("pause", "only a running host can be paused")
        self._sim.record_on(self.name, "host.pause", ())
        self.state = "paused"
        if self._pause is None:
            self._pause = Pause(self._sim.loop, self.life)
        self._pause.begin()

    def resume(self) -> None:
        """Let it go on; what came up meanwhile runs first, timers by deadline."""
        if self.state != "paused":
            raise self._wrong_state("resume", "only a paused host can go on")
        assert self._pause is not None
        self._sim.record_on(self.name, "host.resume", ())
        self.state = "running"
        self._pause.end()

    def send_signal(self, sig: int | str) -> None:
        """Send it a signal: its handler runs, or the system's default action.

        Without a handler TERM, INT, KILL and the like end the process, STOP pauses and
        CONT resumes it.

        Args:
            sig: A number, a member of `signal.Signals`, or a name such as `"TERM"`.
        """
        number = signal_of(sig)
        if self.state not in ("running", "paused"):
            raise self._wrong_state("send a signal to", "start it first")
        self._sim.record_on(self.name, "host.signal", (("signal", number.name),))
        deliver(self, number)

    # -- ending ------------------------------------------------------------------------

    async def stop(self, grace: Duration = 5) -> None:
        """End in order; what does not end within `grace` is cancelled."""
        if self.state != "running":
            raise self._wrong_state("stop", "only a running host can be stopped")
        loop = self._sim.loop
        work = self.inside(loop.make_task, self._end(to_ns(grace) / 1e9))
        try:
            await work
        finally:
            if self.state == "running":
                self.state = "stopped"
                self._sim.record_on(self.name, "host.stop", ())

    async def _end(self, grace: float) -> None:
        loop, life = self._sim.loop, self.life
        product, me = self._product, asyncio.current_task()
        if product is not None and hasattr(product, "stop"):
            try:
                async with asyncio.timeout(grace):
                    await product.stop()
            except TimeoutError as error:
                error.add_note(f"host {self.name} did not stop within {grace:g} s")
                loop.keep_failure(error, f"stopping host {self.name}")
            except Exception as error:  # noqa: BLE001 - the rest is stopped all the same
                loop.keep_failure(error, f"stopping host {self.name}")
        for listening in list(life.listeners.values()):
            loop.net.unlisten(listening)
        try:
            async with asyncio.timeout(grace):
                await self.ports.resources.aclose()
        except Exception as error:  # noqa: BLE001 - the rest is stopped all the same
            loop.keep_failure(error, f"closing what host {self.name} shared")
        left = [t for t in loop.tasks() if t.life is life and t is not me]
        for task in left:
            task.cancel()
        if left:
            # Its `finally` blocks have this instant to say goodbye; then connections
            # close, for which many of them wait.
            await asyncio.wait(left, timeout=0)
        for end in list(life.endpoints.values()):
            end.close()
        left = [task for task in left if not task.done()]
        if left:
            await asyncio.wait(left, timeout=grace)
        for timer in loop.pending_timers():
            if timer.strand.life is life:
                timer.cancel()

    def crash(self, kind: Literal["power", "process"] = "power") -> None:
        """End at once; nothing of it runs any more, `finally` blocks included."""
        if kind not in ("power", "process"):
            raise ValueError(f"a crash is of kind 'power' or 'process', not {kind!r}")
        if self.state not in ("running", "paused"):
            raise self._wrong_state("crash", "start it first")
        loop, life = self._sim.loop, self.life
        self._sim.record_on(self.name, "host.crash", (("kind", kind),))
        life.dead = life.shut = True
        self._powered = kind == "process"
        self.state = "crashed"
        if kind == "power" and self._disk is not None:
            self._disk.power_lost()
        life.parked += [task for task in loop.tasks() if task.life is life]
        life.parked.append((self._product, self.ports, self._started))
        self._product = None
        loop.drop(life)
        loop.net.crash(life, power=kind == "power")
        self._sim.graves.append(life)

    # -- from outside --------------------------------------------------------------------

    def run(self, main: Main) -> Any:
        """Run `main` on this host from synchronous code."""
        if self.state not in ("running", "paused"):
            raise self._sim.host_down(self.name)
        return self._sim.run_on(self, main)


def _takes_host(factory: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        for p in parameters
    )
