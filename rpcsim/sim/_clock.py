"""The world's clock: the `Clock` port, and the hands to move it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rpcsim.ports import Duration, to_ns
from rpcsim.sim._ports import HostClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.sim._sim import Sim

__all__ = ["SimClock"]


class SimClock(HostClock):
    """Simulated time of the world; a test may move it by hand."""

    __slots__ = ("_sim",)

    def __init__(self, sim: Sim, wall_start_ns: int) -> None:
        super().__init__(sim.loop, wall_start_ns)
        self._sim: Final = sim

    @property
    def elapsed(self) -> float:
        """Simulated seconds since the start of the run."""
        return self._loop.now_ns / 1e9

    def advance(self, duration: Duration) -> None:
        """Move time on; everything due on the way runs at its own time.

        From synchronous code only; blocking code in a fiber waits instead.
        """
        delta = to_ns(duration)
        if delta < 0:
            raise ValueError(f"time does not go back: advance({duration!r})")
        self.advance_to_ns(self._loop.now_ns + delta)

    def advance_to(self, when: Duration) -> None:
        """Move time to an instant, counted from the start of the run."""
        when_ns = to_ns(when)
        if when_ns < self._loop.now_ns:
            raise ValueError(
                f"time does not go back: it is {self.elapsed:.9g} s, asked for {when!r}"
            )
        self.advance_to_ns(when_ns)

    def advance_to_ns(self, when_ns: int) -> None:
        """Move time to an instant in nanoseconds."""
        sim = self._sim
        if sim.loop.pumping:
            sim.bridge_here().wait(self.sleep((when_ns - self._loop.now_ns) / 1e9))
        else:
            sim.pump(None, deadline_ns=when_ns)

    def run_until(self, predicate: Callable[[], bool]) -> bool:
        """Run until a predicate is true; false when nothing is left to do before."""
        return self._sim.pump(predicate)

    def run_until_idle(self) -> None:
        """Run until only background work is left."""
        self._sim.pump(self._idle)

    def _idle(self) -> bool:
        return self._loop.idle()
