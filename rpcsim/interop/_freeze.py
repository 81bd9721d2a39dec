"""freezegun as a follower: `datetime.now()` and names bound early show the run's time.

One freeze begins at the wall start and is moved at every jump of the simulated clock,
before anything due at that instant runs. It never drives the loop, which does not look
at it. It shows the world's clock: the skew of a single host is not visible through it,
and the trace says so.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from rpcsim.errors import SimulationError
from rpcsim.ports import NANOS
from rpcsim.sim._ambient import originals, real_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rpcsim.ports import Duration
    from rpcsim.sim import Sim

__all__ = ["FrozenClock", "freeze", "frozen_start"]

# Modules that must go on reading the real clock: the runner's timing, workers' links,
# and our own originals. They are added to freezegun's list for our freeze only.
IGNORED: Final = ("_pytest.timing", "xdist", "execnet", "rpcsim.sim._ambient")
# What freezegun replaces in `time` while it is on; the rest stays the simulation's.
_TAKEN: Final = frozenset(
    {
        "time",
        "time_ns",
        "monotonic",
        "monotonic_ns",
        "perf_counter",
        "perf_counter_ns",
        "localtime",
        "gmtime",
        "strftime",
    }
)
SLOW_START: Final = 0.5  # seconds
_US: Final = 1_000


def frozen_start() -> datetime | None:
    """Give the time somebody has frozen already, to begin a run with; else `None`."""
    api = sys.modules.get("freezegun.api")
    factories = getattr(api, "freeze_factories", None)
    if not factories:
        return None
    moment: datetime = factories[-1]()
    return moment.replace(tzinfo=UTC)


class FrozenClock:
    """The freeze that follows a simulation: a block, or `start` and `stop`.

    Moving it moves the simulation, and what is due on the way runs at its own time.

    Args:
        sim: The simulation; its block has been entered.
        ignore: More modules that keep reading the real clock, by prefixes of names.
    """

    def __init__(self, sim: Sim, *, ignore: Sequence[str] = ()) -> None:
        self._sim: Final = sim
        self._ignore: Final = (*IGNORED, *ignore)
        self._freezer: Any = None
        self._frozen: Any = None
        self._api: Any = None
        self._warned = False
        # Naive and in UTC, as freezegun counts. Made before it replaces `datetime`.
        self._start: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - see above
        self._shown_us = 0

    def __repr__(self) -> str:
        state = "off" if self._freezer is None else f"at {self._sim.clock.now()}"
        return f"<FrozenClock {state}>"

    def start(self) -> Self:
        """Freeze the standard clocks at the simulation's time.

        Raises:
            SimulationError: The simulation is not running, or followed already.
        """
        sim = self._sim
        if not sim.active:
            raise SimulationError(
                "freeze() follows a run: call it inside the `with` block"
            )
        if sim.followed:
            raise SimulationError("the clocks follow this run already: freeze once")
        began = real_time()
        # It must find the originals: what it takes for real ones, it restores later.
        with originals(keep=_TAKEN):
            freezegun: Any = importlib.import_module("freezegun")
            self._api = importlib.import_module("freezegun.api")
            self._shown_us = self._wall_us()
            moment = self._start + timedelta(microseconds=self._shown_us)
            self._freezer = freezegun.freeze_time(moment, ignore=list(self._ignore))
            self._frozen = self._freezer.start()
        took = real_time() - began
        sim.followed = True
        sim.loop.shadow(_set_now=self._jumped)
        sim.at_close(self.stop)
        for host in sim.hosts:
            if not host.clock.follows:
                host.clock.note_followed()
        if took > SLOW_START:
            warnings.warn(
                f"freezing the clocks took {took:.1f} s: a module looks its attributes "
                "up lazily; name it in freeze(ignore=[...]), or in the setting "
                "rpcsim_freeze_ignore",
                stacklevel=2,
            )
        return self

    def stop(self) -> None:
        """Give the standard clocks back; doing so twice does nothing."""
        freezer, self._freezer = self._freezer, None
        if freezer is None:
            return
        self._sim.loop.unshadow("_set_now")
        self._sim.followed = False
        with originals():
            freezer.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- moving the simulation by it -----------------------------------------------------

    def tick(self, delta: Duration = 1) -> None:
        """Move the simulated clock on, as `sim.clock.advance` does."""
        self._sim.clock.advance(delta)

    def move_to(self, target: datetime | str) -> None:
        """Move the simulated clock to a moment of the wall clock.

        Args:
            target: A moment, or one in ISO format; without a time zone it is UTC.

        Raises:
            ValueError: It is past.
        """
        moment = type(self._start).fromisoformat(str(target))
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
        wall_us = (moment - self._start) // timedelta(microseconds=1)
        clock = self._sim.clock
        when_ns = wall_us * _US - clock.wall_start_ns
        if when_ns < self._sim.loop.now_ns:
            raise ValueError(
                f"time does not go back: it is {clock.now().isoformat()}, asked for "
                f"{target}"
            )
        clock.advance_to_ns(when_ns)

    # -- following -----------------------------------------------------------------------

    def _wall_us(self) -> int:
        return (self._sim.clock.wall_start_ns + self._sim.loop.now_ns) // _US

    def _jumped(self, when_ns: int) -> None:
        """Stand for the loop's own way to set its time: the freeze goes along."""
        loop = self._sim.loop
        type(loop)._set_now(loop, when_ns)
        if self._api.freeze_factories[-1] is not self._frozen:
            self._suspended()
            return
        now_us = self._wall_us()
        if now_us > self._shown_us:
            step = timedelta(microseconds=now_us - self._shown_us)
            self._shown_us = now_us
            self._frozen.tick(step)

    def _suspended(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                "a time frozen inside a run that freeze() follows is the user's own: "
                "until it ends, the standard clocks stand still at "
                f"{self._sim.loop.now_ns / NANOS:.9g} s of simulated time",
                stacklevel=2,
            )


def freeze(sim: Sim, *, ignore: Sequence[str] = ()) -> FrozenClock:
    """Have the standard clocks follow a simulation, for a `with` block.

    Args:
        sim: The simulation.
        ignore: More modules that keep reading the real clock, by prefixes of names.
    """
    return FrozenClock(sim, ignore=ignore)
