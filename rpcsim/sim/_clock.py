"""Clocks: each host's own, which may be set wrong, and the world's, moved by hand."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final

from rpcsim.ports import NANOS, Duration, to_ns
from rpcsim.sim._warp import Line, LoopTime, ppb_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from rpcsim.sim._loop import SimLoop
    from rpcsim.sim._sim import Sim
    from rpcsim.sim._strand import Life
    from rpcsim.trace import Data

__all__ = ["ClockModel", "HostClock", "SimClock"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockModel:
    """How a host's clock is set from its declaration on.

    Attributes:
        skew: How far the wall clock is ahead of the world's; behind, if negative.
        drift: Parts per million by which it runs fast; slow, if negative.
        monotonic: Whether the monotonic clock, and with it every timer, drifts too.
    """

    skew: Duration = 0
    drift: float = 0
    monotonic: bool = False

    def __post_init__(self) -> None:
        to_ns(self.skew)
        if self.monotonic and not ppb_of(self.drift):
            raise ValueError("monotonic=True says how a drift acts: give a drift too")


class SimTimer:
    """A timer made through the `Clock` port."""

    __slots__ = ("_handle", "when_ns")

    def __init__(self, handle: asyncio.TimerHandle, when_ns: int) -> None:
        self._handle = handle
        self.when_ns: Final = when_ns

    def cancel(self) -> None:
        """Forget it."""
        self._handle.cancel()


class HostClock:
    """Simulated time as one host sees it; it stays the host's over restarts.

    Attributes:
        wall_start_ns: The world's wall clock at the start of the run.
        mono: The monotonic reading, once it left the world's; `None` before.
    """

    __slots__ = ("_host", "_loop", "_skew_ns", "_wall", "mono", "wall_start_ns")

    def __init__(self, loop: SimLoop, wall_start_ns: int, host: str) -> None:
        self._loop = loop
        self._host: Final = host
        self.wall_start_ns: Final = wall_start_ns
        self.mono: Line | None = None
        self._wall: Line | None = None
        self._skew_ns = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.time():.9g} s>"

    # -- reading -----------------------------------------------------------------------

    def now_ns(self) -> int:
        """Monotonic nanoseconds since the start of the run."""
        now_ns = self._loop.now_ns
        return now_ns if self.mono is None else self.mono.read(now_ns)

    def time(self) -> float:
        """Monotonic seconds since the start of the run."""
        if self.mono is not None:
            return self.now_ns() / NANOS
        return self._loop.world_time()

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC by the wall clock."""
        now_ns = self._loop.now_ns
        if self._wall is None:
            return self.wall_start_ns + now_ns
        return self._wall.read(now_ns)

    def now(self, tz: tzinfo | None = UTC) -> datetime:
        """The wall clock, cut to microseconds."""
        moment = EPOCH + timedelta(microseconds=self.wall_ns() // 1_000)
        return moment.astimezone(tz or UTC)

    @property
    def follows(self) -> bool:
        """Whether it shows the world's time."""
        return self._wall is None and self.mono is None

    # -- waiting -----------------------------------------------------------------------

    async def sleep(self, duration: Duration) -> None:
        """Wait in simulated time."""
        await asyncio.sleep(to_ns(duration) / NANOS)

    def call_at_ns(
        self, when_ns: int, fn: Callable[[Any], object], arg: Any = None
    ) -> SimTimer:
        """Call `fn(arg)` at an instant of the monotonic clock."""
        loop = self._loop
        when_ns = max(when_ns, self.now_ns())
        return SimTimer(loop.call_at(when_ns / NANOS, fn, arg), when_ns)

    def call_later(
        self, delay: Duration, fn: Callable[[Any], object], arg: Any = None
    ) -> SimTimer:
        """Call `fn(arg)` after a delay."""
        return self.call_at_ns(self.now_ns() + to_ns(delay), fn, arg)

    def background(self) -> AbstractContextManager[None]:
        """Make tasks and timers created in a block background ones."""
        return self._loop.sim.background()

    # -- setting it wrong --------------------------------------------------------------

    def skew(self, ahead: Duration) -> None:
        """Set the wall clock so far ahead of what it showed without a skew.

        Args:
            ahead: The whole skew from now on; negative is behind, 0 takes it off.
        """
        ahead_ns = to_ns(ahead)
        self._wall_line().move(ahead_ns - self._skew_ns)
        self._skew_ns = ahead_ns
        self._tell("skew", ("ns", ahead_ns))

    def step(self, by: Duration) -> None:
        """Move the wall clock once; it may go back, the monotonic one never does."""
        by_ns = to_ns(by)
        self._wall_line().move(by_ns)
        self._tell("step", ("ns", by_ns))

    def drift(self, ppm: float, monotonic: bool = False) -> None:
        """Run fast from now on, or slow.

        Args:
            ppm: Parts per million, to the thousandth; negative is slow, 0 ends it.
            monotonic: Whether the monotonic clock drifts too, and with it `loop.time()`
                and every timer of the host.
        """
        ppb = ppb_of(ppm)
        self._wall_line().tilt(self._loop.now_ns, ppb)
        self._tilt_mono(ppb if monotonic else 0)
        self._tell("drift", ("ppb", ppb), ("monotonic", monotonic))

    def follow(self) -> None:
        """Show the world's wall clock again; the monotonic one goes on at its rate.

        A monotonic reading that ran ahead stays ahead: it cannot go back.
        """
        self._wall = None
        self._skew_ns = 0
        self._tilt_mono(0)
        self._tell("follow")

    def set_to(self, model: ClockModel) -> None:
        """Set it as a model says."""
        if to_ns(model.skew):
            self.skew(model.skew)
        if model.drift:
            self.drift(model.drift, model.monotonic)

    def _wall_line(self) -> Line:
        if self._wall is None:
            self._wall = Line(self.wall_ns(), self._loop.now_ns)
        return self._wall

    def _tilt_mono(self, ppb: int) -> None:
        loop, line = self._loop, self.mono
        if line is None:
            if not ppb:
                return
            line = self.mono = Line(loop.now_ns, loop.now_ns)
            if not loop.shadowed("call_at"):
                LoopTime(loop).install()
        # Timers are deadlines on this clock: when its rate changes, they move.
        life: Life = loop.sim.by_name[self._host].life
        timers = [t for t in loop.pending_timers() if t.strand.life is life]
        due = [line.read(timer.when_ns) for timer in timers]
        line.tilt(loop.now_ns, ppb)
        for timer, reading in zip(timers, due, strict=True):
            timer.when_ns = max(loop.now_ns, line.reached(reading))
            timer._when = timer.when_ns / NANOS
        loop.resort()

    def _tell(self, what: str, *data: tuple[str, Any]) -> None:
        told: Data = (("do", what), *data)
        self._loop.sim.record_on(self._host, "host.clock", told)
        if self._loop.sim.followed:
            self.note_followed()

    def note_followed(self) -> None:
        """Say that the standard clocks, which follow the world's, do not show this."""
        text = "the frozen clocks show the world's time, not this host's"
        self._loop.sim.record_on(self._host, "note", (("text", text),))


class SimClock(HostClock):
    """Simulated time of the world; a test may move it by hand.

    As the clock of host `test`, which code outside every host uses, it can be set
    wrong like any other; `elapsed` and moving it by hand are about the world.
    """

    __slots__ = ("_reach_ns", "_sim")

    def __init__(self, sim: Sim, wall_start_ns: int) -> None:
        super().__init__(sim.loop, wall_start_ns, "test")
        self._sim: Final = sim
        # How far an advance from inside lets time move, where it is moved by hand.
        self._reach_ns = 0

    @property
    def elapsed(self) -> float:
        """Simulated seconds since the start of the run."""
        return self._loop.now_ns / 1e9

    @property
    def reach_ns(self) -> int:
        """The instant up to which somebody inside asked for time to move."""
        return self._reach_ns

    # -- from synchronous code: a test, or a fiber ---------------------------------------

    def advance(self, duration: Duration) -> None:
        """Move time on; everything due on the way runs at its own time.

        From synchronous code only; in a coroutine `await advance_async(...)`.
        """
        self.advance_to_ns(self._loop.now_ns + self._forward(duration))

    def advance_to(self, when: Duration) -> None:
        """Move time to an instant, counted from the start of the run."""
        self.advance_to_ns(self._later(when))

    def advance_to_ns(self, when_ns: int) -> None:
        """Move time to an instant in nanoseconds."""
        sim = self._sim
        if sim.loop.pumping:
            sim.bridge_here().wait(self._arrive(when_ns))
        else:
            sim.pump(None, deadline_ns=when_ns)

    def run_until(self, predicate: Callable[[], bool]) -> bool:
        """Run until a predicate is true; false when nothing is left to do before."""
        if self._loop.pumping:
            return self._sim.bridge_here().wait(self.run_until_async(predicate))
        return self._sim.pump(predicate)

    def run_until_idle(self) -> None:
        """Run until only background work is left."""
        self.run_until(self._idle)

    # -- from coroutines -----------------------------------------------------------------

    async def advance_async(self, duration: Duration) -> None:
        """Move time on from inside: equal to a sleep where time moves by itself."""
        await self._arrive(self._loop.now_ns + self._forward(duration))

    async def advance_to_async(self, when: Duration) -> None:
        """Move time to an instant from inside."""
        await self._arrive(self._later(when))

    async def run_until_async(self, predicate: Callable[[], bool]) -> bool:
        """Let the others run until a predicate is true; false when they are done."""
        while not predicate():
            if not await self.give_way_async():
                return False
        return True

    async def give_way_async(self, n: int = 1) -> int:
        """Let the others run, `n` times: those who can now, else whoever is due next.

        Returns:
            How often; less than `n` when nothing was left to do.
        """
        for done in range(n):
            due = self._loop.next_event_ns()
            if due is None:
                return done
            await self._arrive(due)
        return n

    async def run_until_idle_async(self) -> None:
        """Let the others run until only background work is left."""
        await self.run_until_async(self._idle)

    async def _arrive(self, when_ns: int) -> None:
        """Wait for an instant of the world's time, letting it come."""
        loop = self._loop
        if when_ns <= loop.now_ns:
            await asyncio.sleep(0)
            return
        self._reach_ns = max(self._reach_ns, when_ns)
        there = loop.create_future()

        def arrive() -> None:
            if not there.done():
                there.set_result(None)

        timer = loop.timer_at(when_ns / NANOS, when_ns, arrive, (), copy_context())
        try:
            await there
        finally:
            timer.cancel()

    def _forward(self, duration: Duration) -> int:
        delta = to_ns(duration)
        if delta < 0:
            raise ValueError(f"time does not go back: advance({duration!r})")
        return delta

    def _later(self, when: Duration) -> int:
        when_ns = to_ns(when)
        if when_ns < self._loop.now_ns:
            raise ValueError(
                f"time does not go back: it is {self.elapsed:.9g} s, asked for {when!r}"
            )
        return when_ns

    def _idle(self) -> bool:
        return self._loop.idle()
