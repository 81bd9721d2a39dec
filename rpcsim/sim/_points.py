"""Points: moments that production code names, and what a plan does at them.

A point nobody armed costs one dictionary lookup, and leaves no record. What happens at
an armed one happens there and then, in the step of the code that passes it. Blocking
code stops at the point if its host crashes or is paused there; a coroutine cannot be
stopped in the middle of a step, so it reaches its next `await` first, and nothing that
it does on the way leaves the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, cast

from rpcsim.errors import PlanError
from rpcsim.ports import to_ns
from rpcsim.sim._fiber import current_fiber

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rpcsim.ports import Duration
    from rpcsim.sim._host import SimHost
    from rpcsim.sim._sim import Sim
    from rpcsim.sim._strand import Life

__all__ = [
    "Armed",
    "Passing",
    "PointPlan",
    "SimPoints",
    "crash",
    "delay",
    "pause",
    "raise_",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passing:
    """One passing of a point.

    Attributes:
        host: The host whose code passes it.
        name: Name of the point.
        labels: What the code tells about the moment.
        count: How often the arming has seen it passed, from 1.
    """

    host: SimHost
    name: str
    labels: Mapping[str, str]
    count: int


Action: TypeAlias = "Callable[[Passing], object]"


def crash(passing: Passing) -> None:
    """Cut the power of the host that passes."""
    passing.host.crash()


def pause(passing: Passing) -> None:
    """Pause the host that passes."""
    passing.host.pause()


def delay(duration: Duration) -> Action:
    """Have blocking code stay at the point for so long.

    A coroutine cannot be delayed in the middle of a step: there it raises
    `BlockingInCoroutine`, as every blocking call does.
    """
    to_ns(duration)  # refused here, not when the point is reached

    def act(passing: Passing) -> None:
        ports = passing.host.ports
        ports.bridge.wait(ports.clock.sleep(duration))

    act.__name__ = "delay"
    return act


def raise_(error: BaseException) -> Action:
    """Raise an error out of the point."""
    if not isinstance(error, BaseException):
        raise TypeError(f"raise_ takes an exception, not {error!r}")

    def act(passing: Passing) -> None:
        raise error

    act.__name__ = "raise"
    return act


class Armed:
    """A point that is armed, or a rare branch that is on; a `with` block ends it.

    Attributes:
        seen: How often it was passed meanwhile.
        used: How often something was done.
    """

    __slots__ = ("_end", "do", "host", "name", "nth", "probability", "seen", "used")

    def __init__(
        self,
        name: str,
        host: str | None,
        end: Callable[[Armed], None],
        *,
        nth: int | None = None,
        do: Action | None = None,
        probability: float = 1.0,
    ) -> None:
        self.name: Final = name
        self.host: Final = host
        self.nth: Final = nth
        self.do: Final = do
        self.probability: Final = probability
        self.seen = 0
        self.used = 0
        self._end = end

    def __repr__(self) -> str:
        return f"<{self}: passed {self.seen} times>"

    def __str__(self) -> str:
        where = "" if self.host is None else f" on {self.host}"
        if self.do is None:
            return f"rare branch {self.name!r}{where}"
        verb = getattr(self.do, "__name__", type(self.do).__name__)
        which = "every passing" if self.nth is None else f"passing {self.nth}"
        return f"{verb} at {which} of point {self.name!r}{where}"

    def concerns(self, host: str) -> bool:
        """Whether it is about that host."""
        return self.host is None or self.host == host

    def undo(self) -> None:
        """Take it back; doing so twice does nothing."""
        self._end(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()


class PointPlan:
    """What is armed in one run."""

    def __init__(self, sim: Sim) -> None:
        self._sim: Final = sim
        self.armed: Final[dict[str, list[Armed]]] = {}
        self.rare: Final[dict[str, list[Armed]]] = {}
        self._all: list[Armed] = []

    def arm(self, name: str, *, host: str | None, nth: int | None, do: Action) -> Armed:
        """Have something done when a point is passed."""
        self._check(host)
        if nth is not None and (type(nth) is not int or nth < 1):
            raise PlanError(f"nth= counts passings from 1 (None: all), not {nth!r}")
        if not callable(do):
            raise PlanError(
                f"do= is crash, pause, delay(d), raise_(error) or a function of one "
                f"Passing, not {do!r}"
            )
        armed = Armed(name, host, self._disarm, nth=nth, do=do)
        for other in self.armed.get(name, ()):
            hosts = {None, host} if host is not None else {other.host}
            if other.host in hosts and (None in (nth, other.nth) or nth == other.nth):
                raise PlanError(
                    f"cannot arm {armed}: {other} is armed already, and only one of "
                    "them can happen; undo() it, or give another nth="
                )
        self.armed.setdefault(name, []).append(armed)
        self._all.append(armed)
        return armed

    def turn_on(self, name: str, *, host: str | None, probability: float) -> Armed:
        """Have a rare branch taken."""
        self._check(host)
        if not 0 <= probability <= 1:
            raise PlanError(f"a probability is 0 to 1, not {probability!r}")
        armed = Armed(name, host, self._disarm, probability=probability)
        self.rare.setdefault(name, []).append(armed)
        self._all.append(armed)
        return armed

    def _check(self, host: str | None) -> None:
        if host is not None:
            self._sim.net.check_names(host)

    def _disarm(self, armed: Armed) -> None:
        for table in (self.armed, self.rare):
            there = table.get(armed.name, [])
            if any(one is armed for one in there):
                left = [one for one in there if one is not armed]
                table[armed.name] = left
                if not left:
                    del table[armed.name]  # so that passing costs one lookup again

    def passed(self, name: str, life: Life, labels: dict[str, str]) -> None:
        """Do what is armed for a passing."""
        sim = self._sim
        told = tuple((key, str(value)) for key, value in labels.items())
        sim.record_on(life.host, "point", (("name", name), *told))
        for armed in list(self.armed[name]):
            if not armed.concerns(life.host):
                continue
            armed.seen += 1
            if armed.nth is None or armed.nth == armed.seen:
                self._act(armed, life, labels)
            if life.dead:
                break
        if life.shut:
            _stay(sim, life)

    def _act(self, armed: Armed, life: Life, labels: dict[str, str]) -> None:
        sim = self._sim
        armed.used += 1
        if armed.nth is not None:
            self._disarm(armed)
        data = (("kind", "point"), ("do", str(armed)))
        sim.record_on(life.host, "fault", data)
        assert armed.do is not None
        armed.do(
            Passing(
                host=sim.by_name[life.host],
                name=armed.name,
                labels=labels,
                count=armed.seen,
            )
        )

    def takes(self, name: str, life: Life) -> bool:
        """Say whether a rare branch is taken."""
        for armed in self.rare[name]:
            if armed.concerns(life.host) and not life.dead:
                armed.seen += 1
                if self._lucky(armed):
                    armed.used += 1
                    data = (("name", name), ("rare", True))
                    self._sim.record_on(life.host, "point", data)
                    return True
        return False

    def _lucky(self, armed: Armed) -> bool:
        if armed.probability in (0, 1):
            return armed.probability == 1
        stream = self._sim.entropy.stream(f"fault/buggify/{armed.name}")
        return stream.random() < armed.probability

    def unreached(self) -> list[str]:
        """Tell what was armed and never happened, one line each."""
        return [
            f"{armed} (passed {armed.seen} times)"
            for armed in self._all
            if not armed.used and armed.probability
        ]


def _stay(sim: Sim, life: Life) -> None:
    """Keep blocking code where it is: for ever, or until its host goes on."""
    fiber = current_fiber()
    if fiber is None:
        return
    future = cast("Any", sim.loop.create_future())
    if not life.dead:
        sim.loop.call_soon(future.set_result, None)  # its host is shut: it waits
    fiber.block(future)


class SimPoints:
    """The `Points` port of one incarnation."""

    __slots__ = ("_armed", "_life", "_plan", "_rare")

    def __init__(self, plan: PointPlan, life: Life) -> None:
        self._plan = plan
        self._life = life
        self._armed = plan.armed
        self._rare = plan.rare

    def point(self, name: str, **labels: str) -> None:
        """Pass the moment `name`."""
        if name in self._armed and not self._life.dead:
            self._plan.passed(name, self._life, labels)

    def buggify(self, name: str) -> bool:
        """Whether the rare branch `name` is to be taken now."""
        return name in self._rare and self._plan.takes(name, self._life)
