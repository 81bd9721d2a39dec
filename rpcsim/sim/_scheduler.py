"""The heart of the simulation: an integer clock, one heap, one list of what can run.

The laws of this file:

- A heap entry is a tuple `(when_ns, seq, strand, fn, args)`; `seq` is unique, so
  comparison never goes further and stays in C.
- Time never moves while something can run. When nothing can, the clock takes the
  earliest instant of the heap and makes all its entries runnable, in `seq` order.
- A turn is exactly one entry, chosen by the policy among the runnable ones.
- Entries of one strand run in the order they became runnable, whatever is chosen.
"""

from __future__ import annotations

import gc
from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Final

from rpcsim.errors import (
    LivelockError,
    RealTimeLimitError,
    SimulationError,
    StalledError,
    StepLimitError,
    TimeLimitError,
)
from rpcsim.ports import NANOS, duration_text
from rpcsim.sim._strand import Life, Strand, in_background
from rpcsim.sim._streams import Drawing
from rpcsim.sim._task import SimTimerHandle, callback_name

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Container
    from typing import TypeAlias

    from rpcsim.sim._policy import Chooser
    from rpcsim.sim._strand import Entry, StrandLike
    from rpcsim.trace import Trace

    # When it is due, its number, where it runs and what, with arguments and cause.
    Internal: TypeAlias = tuple[
        int, int, StrandLike, Callable[..., Any], tuple[Any, ...], int
    ]

__all__ = ["Limits", "Scheduler"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

# Look at limits, memory and the trace this often, in turns: often enough to stop a
# runaway within a millisecond, rarely enough to cost nothing.
CHECK_EVERY: Final = 1024
# Young garbage is collected at repeatable moments, as automatic collection is off.
GC_STEPS: Final = 50_000
# Rebuild the heap when more than half of so many entries are tombstones.
HEAP_REBUILD: Final = 1_000
# Turns looked at before a livelock is reported.
SAMPLE: Final = 100


class Limits:
    """How far a run may go.

    Attributes:
        steps_per_instant: Turns without time moving before `LivelockError`.
        max_steps: Turns in all; `None` for no limit.
        max_time_ns: Simulated nanoseconds; `None` for no limit.
        max_real: Seconds of real time; needs `real_clock`.
        stall_ns: Simulated nanoseconds in which only background entries ran.
    """

    __slots__ = (
        "max_real",
        "max_steps",
        "max_time_ns",
        "real_clock",
        "stall_ns",
        "steps_per_instant",
    )

    def __init__(
        self,
        *,
        steps_per_instant: int = 100_000,
        max_steps: int | None = None,
        max_time_ns: int | None = None,
        max_real: float | None = None,
        real_clock: Callable[[], float] | None = None,
        stall_ns: int = 24 * 3600 * NANOS,
    ) -> None:
        if max_real is not None and real_clock is None:
            raise ValueError("max_real needs a real clock to be handed in")
        self.steps_per_instant = steps_per_instant
        self.max_steps = max_steps
        self.max_time_ns = max_time_ns
        self.max_real = max_real
        self.real_clock = real_clock
        self.stall_ns = stall_ns


class Scheduler:
    """Runs entries; knows nothing of asyncio's loop interface."""

    def __init__(
        self, *, chooser: Chooser | None, trace: Trace, limits: Limits, host: str
    ) -> None:
        self.now_ns = 0
        self.steps = 0
        self.trace: Final = trace
        self.limits: Final = limits
        self.world_life: Final = Life(host, 1)
        self.world_strand: Final = Strand("world", self.world_life)
        # The strand whose entry runs, and the record that led to it; the world's
        # strand and -1 outside every step.
        self.strand: StrandLike = self.world_strand
        self.cause = -1
        self.pumping = False
        # What is to be done at the end of the running turn, such as sending what it
        # wrote; emptied by every turn.
        self.turn_ends: Final[list[Callable[[], None]]] = []
        self._chooser = chooser
        # Whether anything was ever made under `sim.background()`.
        self.knows_background = False
        self._ready: list[Any] = []
        self._heap: list[tuple[int, int, StrandLike, Any, Any]] = []
        self._seq = 0
        self._tombstones = 0
        self._float_now = 0.0
        self._instant_steps = 0
        self._foreground_ns = 0
        self._gc_at = GC_STEPS
        self._check_at = 0
        self._real_start = 0.0
        self._sample: dict[str, int] = {}
        self._sampled = 0

    # -- scheduling ------------------------------------------------------------------

    def choose_by(self, chooser: Chooser | None) -> None:
        """Set the policy's choice; `None` is first in, first out."""
        self._chooser = chooser

    def next_seq(self) -> int:
        """Give the next number of this loop's one sequence."""
        self._seq += 1
        return self._seq

    def push(
        self, strand: StrandLike, fn: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        """Make an entry runnable now."""
        entry = (fn, args, self.cause)
        if strand.first is None:
            strand.first = entry
        elif strand.more is None:
            strand.more = deque((entry,))
        else:
            strand.more.append(entry)
        self._ready.append(strand)

    def at(
        self,
        when_ns: int,
        strand: StrandLike,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> None:
        """Make an entry runnable at an instant; one in the past is due now."""
        self._seq = seq = self._seq + 1
        # The cause rides along; internal entries are never cancelled.
        heappush(
            self._heap,
            (max(when_ns, self.now_ns), seq, strand, fn, (args, self.cause)),
        )

    def push_timer(self, handle: SimTimerHandle) -> None:
        """Put a timer of user code into the heap."""
        self._seq = seq = self._seq + 1
        heappush(self._heap, (handle.when_ns, seq, handle.strand, None, handle))

    def timer_cancelled(self) -> None:
        """Note a tombstone; rebuild the heap when they are the majority."""
        self._tombstones += 1
        heap = self._heap
        if len(heap) > HEAP_REBUILD and self._tombstones * 2 > len(heap):
            heap[:] = [
                entry for entry in heap if entry[3] is not None or entry[4]._scheduled
            ]
            heapify(heap)
            self._tombstones = 0

    def drop(self, life: Life) -> None:
        """Take what a dead life scheduled out of the heap: no time is spent on it."""
        heap = self._heap
        life.parked.append([entry for entry in heap if entry[2].life is life])
        heap[:] = [entry for entry in heap if entry[2].life is not life]
        heapify(heap)
        self._tombstones = sum(e[3] is None and not e[4]._scheduled for e in heap)

    def next_event_ns(self) -> int | None:
        """Give the next instant something is due; `None` when nothing is."""
        ready = self._ready
        # While a pump runs, turns that are over leave gaps.
        if ready and (not self.pumping or any(s is not None for s in ready)):
            return self.now_ns
        heap = self._heap
        while heap and heap[0][3] is None and not heap[0][4]._scheduled:
            heappop(heap)
            self._tombstones -= 1
        return heap[0][0] if heap else None

    def idle(self) -> bool:
        """Whether nothing is runnable, and only background entries are pending."""
        return not any(strand is not None for strand in self._ready) and all(
            self._in_background(entry[2])
            or (entry[3] is None and (entry[4].background or not entry[4]._scheduled))
            for entry in self._heap
        )

    def runnable(self, n: int) -> list[StrandLike]:
        """Give the strands of the `n` runnable entries, the head's first."""
        ready = self._ready
        return ready[len(ready) - n :]

    def pending_timers(self) -> list[SimTimerHandle]:
        """Give the timers of user code that are still to fire, in due order."""
        entries = sorted(entry[:2] + entry[3:] for entry in self._heap)
        return [args for *_, fn, args in entries if fn is None and args._scheduled]

    def resort(self) -> None:
        """Put timers whose instants were changed in their places."""
        heap = self._heap
        heap[:] = [
            entry if entry[3] is not None else (entry[4].when_ns, *entry[1:])
            for entry in heap
        ]
        heapify(heap)

    def internal_entries(self) -> list[Internal]:
        """Give what is due later and is no timer of user code, in order of making."""
        return sorted(
            (
                (when_ns, number, strand, fn, *rest)
                for when_ns, number, strand, fn, rest in self._heap
                if fn is not None
            ),
            key=lambda entry: entry[1],
        )

    def withdraw(self, numbers: Container[int]) -> list[Internal]:
        """Take internal entries out, by their numbers; gives them in order of making."""
        taken = [entry for entry in self.internal_entries() if entry[1] in numbers]
        gone = {entry[1] for entry in taken}
        self._heap[:] = [entry for entry in self._heap if entry[1] not in gone]
        heapify(self._heap)
        return taken

    def reshelve(self, life: Life) -> None:
        """Put what came up while a life was shut back in line, before all the rest."""
        shelf, life.shelf = life.shelf, []
        # What a strand got since, and has not had its turn, comes behind.
        for strand, entry in reversed(shelf):
            if strand.first is not None:
                if strand.more is None:
                    strand.more = deque()
                strand.more.appendleft(strand.first)
            strand.first = entry
        ready = self._ready
        head = next((i for i, s in enumerate(ready) if s is not None), len(ready))
        ready[head:head] = [strand for strand, _ in shelf]

    # -- running ---------------------------------------------------------------------

    def pump(
        self,
        until: Callable[[], bool] | None = None,
        *,
        deadline_ns: int | None = None,
        turns: int | None = None,
        jump: bool = True,
    ) -> bool:
        """Run turns until `until()` is true, nothing is left, or a bound is reached.

        Args:
            until: Asked before every turn; `None` never ends it.
            deadline_ns: Time does not move beyond this instant; when nothing is due
                up to it, the clock is set to it.
            turns: Most turns to run.
            jump: Whether time may move at all.

        Returns:
            Whether `until` ended it.
        """
        if self.pumping:
            raise SimulationError("the simulation is already running here")
        self.pumping = True
        self._foreground_ns = self.now_ns  # waiting begins now
        ready = self._ready
        ends = self.turn_ends
        chooser = self._chooser
        drawing = chooser if isinstance(chooser, Drawing) else None
        uniform = None if drawing is None else drawing.uniform
        draws = 0
        whole = int
        trace = self.trace
        record = trace.rows.append if trace.level == "steps" else None
        # Whoever pumps again acts from outside: that is not a livelock of the inside.
        self._instant_steps = steps = self.steps
        stop_at = None if turns is None else steps + turns
        head = 0
        # A pump of a few turns need not look at the limits: many pumps are that.
        check_at = self._check_at if turns is None else steps
        if self.limits.real_clock is not None:
            self._real_start = self.limits.real_clock()
        collecting = gc.isenabled()
        gc.disable()
        try:
            while until is None or not until():
                n = len(ready) - head
                if n == 0:
                    if steps == stop_at:
                        return False
                    if head:
                        ready.clear()
                        head = 0
                    if not jump or not self._advance(deadline_ns):
                        return False
                    self._instant_steps = steps
                    continue
                if steps >= check_at:
                    if steps == stop_at:
                        return False
                    if head:
                        del ready[:head]
                        head = 0
                    check_at = self._check(steps, stop_at)
                strand = ready[head]
                if n > 1 and chooser is not None:
                    if uniform is not None:
                        draws += 1
                        chosen = whole(uniform() * n)
                    else:
                        chosen = chooser(n)
                    if chosen:
                        chosen += head
                        ready[chosen], strand = strand, ready[chosen]
                # The mention is gone from here on: what a finished task held may go.
                ready[head] = None
                head += 1
                entry: Entry = strand.first
                more = strand.more
                strand.first = more.popleft() if more else None
                life = strand.life
                if life.shut:
                    life.shelf.append((strand, entry))
                    continue
                fn, args, self.cause = entry
                self.strand = strand
                steps += 1
                if record is not None:
                    record((self.now_ns, life.host, strand.label, self.cause))
                fn(*args)
                if ends:
                    for end in ends:
                        end()
                    ends.clear()
            return True
        finally:
            if drawing is not None:
                drawing.stream.draws += draws
            self.steps = steps
            self._check_at = check_at
            del ready[:head]
            self.strand = self.world_strand
            self.cause = -1
            self.pumping = False
            if collecting:
                gc.enable()

    def _advance(self, deadline_ns: int | None) -> bool:
        """Move time to the next instant; false when nothing is due (up to a bound)."""
        when = self.next_event_ns()
        if when is None or (deadline_ns is not None and when > deadline_ns):
            if deadline_ns is not None and deadline_ns > self.now_ns:
                self._set_now(deadline_ns)
                self._float_now = max(self._float_now, deadline_ns / 1e9)
            return False
        if when > self.now_ns:
            self._set_now(when)
        # Seconds as a float: the latest deadline of this instant, else the instant.
        told = -1.0
        heap, ready, trace = self._heap, self._ready, self.trace
        timers = trace.level == "steps"
        foreground = False
        while heap and heap[0][0] == when:
            _, _, strand, fn, args = heappop(heap)
            if fn is None:
                handle: SimTimerHandle = args
                if not handle._scheduled:
                    self._tombstones -= 1
                    continue
                handle._scheduled = False
                if handle._when > told:
                    told = handle._when
                entry: Entry = (handle.run, (), handle.cause)
                if timers:
                    host, label = strand.life.host, strand.label
                    trace.append(when, "timer", host, label, handle.cause, ())
            else:
                entry = (fn, *args)
            if strand.first is None:
                strand.first = entry
            elif strand.more is None:
                strand.more = deque((entry,))
            else:
                strand.more.append(entry)
            ready.append(strand)
            if not foreground and not self._in_background(strand):
                foreground = fn is not None or not args.background
        if told < 0:
            told = when / 1e9
        if told > self._float_now:
            self._float_now = told
        if foreground:
            self._foreground_ns = when
        elif deadline_ns is None and when - self._foreground_ns > self.limits.stall_ns:
            raise StalledError(
                f"only background work ran since {self._foreground_ns / 1e9:.9g} s of "
                f"simulated time (now {when / 1e9:.9g} s) while the main program waited"
            )
        return True

    def _in_background(self, strand: StrandLike) -> bool:
        return strand.life.background or getattr(strand, "background", False)

    def _set_now(self, when_ns: int) -> None:
        limit = self.limits.max_time_ns
        if limit is not None and when_ns > limit:
            raise TimeLimitError(
                f"the run wants to go on at {when_ns / 1e9:.9g} s, beyond its limit of "
                f"{duration_text(limit)} of simulated time; raise max_time, or look "
                "at what still waits",
            )
        self.now_ns = when_ns

    def _check(self, steps: int, stop_at: int | None) -> int:
        """Look at limits and memory; give the turn at which to look again."""
        limits = self.limits
        in_instant = steps - self._instant_steps
        if in_instant > limits.steps_per_instant:
            error = self._livelock(in_instant)
            if error is not None:
                raise error
            return steps + 1
        if self._sampled:
            self._sampled = 0
            self._sample.clear()
        if limits.max_steps is not None and steps >= limits.max_steps:
            raise StepLimitError(
                f"{steps} turns ran, the limit of this run, at {self.now_ns / 1e9:.9g} "
                "s of simulated time; raise max_steps, or look for work that repeats",
            )
        if limits.max_real is not None and limits.real_clock is not None:
            spent = limits.real_clock() - self._real_start
            if spent > limits.max_real:
                raise RealTimeLimitError(
                    f"the run took {spent:.1f} s of real time, more than max_real = "
                    f"{limits.max_real:g} s, at {self.now_ns / 1e9:.9g} s simulated",
                )
        if steps >= self._gc_at:
            self._gc_at = steps + GC_STEPS
            gc.collect(0)
        self.trace.trim()
        again = steps + CHECK_EVERY
        if limits.max_steps is not None:
            again = min(again, limits.max_steps)
        return again if stop_at is None else min(again, stop_at)

    def _livelock(self, turns: int) -> SimulationError | None:
        """Watch who is runnable for some more turns, then make the error."""
        sample = self._sample
        for strand in self._ready:
            entry = strand.first
            told = f"{callback_name(entry[0], entry[1])} of {strand.label}"
            sample[told] = sample.get(told, 0) + 1
        self._sampled += 1
        if self._sampled < SAMPLE:
            return None
        frequent = sorted(sample.items(), key=lambda item: -item[1])[:10]
        lines = "\n".join(f"    {count} x {told}" for told, count in frequent)
        return LivelockError(
            f"{turns} turns ran at {self.now_ns / 1e9:.9g} s without time moving; "
            f"runnable in the last {SAMPLE} of them:\n{lines}\n"
            "Something reschedules itself at once: wait for an event, or sleep."
        )

    # -- asyncio's face of the same state ----------------------------------------------

    def time(self) -> float:
        """Give the simulated time in seconds, never less than a fired deadline."""
        return self._float_now

    # The same under a name that hosts with clocks of their own do not shadow.
    world_time = time

    def timer_at(
        self,
        when: float,
        when_ns: int,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        context: Any,
    ) -> asyncio.TimerHandle:
        """Schedule a timer of user code on the running strand."""
        handle = SimTimerHandle(
            when,
            when_ns,
            callback,
            args,
            self,  # type: ignore[arg-type]  # the loop is the subclass
            context,
            self.strand,
            self.cause,
        )
        if self.knows_background:
            handle.background = in_background(context)
        self.push_timer(handle)
        return handle
