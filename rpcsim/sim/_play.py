"""Carrying a pattern out on the hosts and links of a run."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Self, get_args

from rpcsim.errors import PlanError
from rpcsim.sim._distributions import Constant
from rpcsim.sim._links import Partition
from rpcsim.sim._patterns import Action, Do

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rpcsim.sim._net import SimNet
    from rpcsim.sim._sim import Sim

__all__ = ["Play"]

# What is done to hosts: the states in which it means something, and what undoes it.
ON_HOSTS: Final = {
    "crash": (("running", "paused"), "restart"),
    "restart": (("stopped", "crashed"), None),
    "pause": (("running",), "resume"),
    "resume": (("paused",), None),
}


class Play:
    """A pattern under way; its end lifts what is in force and calls off the rest.

    Attributes:
        active: Whether it may still do something.
    """

    __slots__ = ("_cuts", "_down", "_net", "_sim", "active", "pattern")

    def __init__(
        self, net: SimNet, sim: Sim, pattern: Sequence[tuple[int, Action]]
    ) -> None:
        self._net = net
        self._sim = sim
        self.pattern: Final = tuple(pattern)
        self._cuts: dict[tuple[str, str], int] = {}
        self._down: dict[str, str] = {}  # host to what brings it back
        self.active = True
        for when_ns, action in self.pattern:
            self._check(when_ns, action)
        begin = sim.loop.now_ns
        for when_ns, action in self.pattern:
            sim.loop.at(begin + when_ns, sim.fault_strand, self._act, (action,))

    def __repr__(self) -> str:
        state = "" if self.active else ", undone"
        return f"<pattern of {len(self.pattern)} actions{state}>"

    def _check(self, when_ns: int, action: Action) -> None:
        if when_ns < 0:
            raise PlanError(f"{action} is to happen before the pattern begins")
        if action.do not in get_args(Do):
            near = get_close_matches(action.do, get_args(Do), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise PlanError(f"nothing is called {action.do!r}{hint}")
        if (action.do in ON_HOSTS) is bool(action.dst):
            raise PlanError(f"{action}: dst= goes with links and not with hosts")
        self._net.check_names([*action.src, *action.dst])

    def _act(self, action: Action) -> None:
        if not self.active:
            return
        if action.do in ON_HOSTS:
            for name in action.src:
                self._on_host(name, action.do)
            return
        self._tell(str(action))
        pairs = [(a, b) for a in action.src for b in action.dst if a != b]
        if action.do == "latency":
            latency = Constant(action.value_ns)
            self._net.link(action.src, action.dst, both=False, latency=latency)
            return
        for pair in pairs:
            if action.do == "join":
                self._net.lift(self._cuts.pop(pair, 0))
            elif pair not in self._cuts:
                a, b = pair
                self._cuts[pair] = self._net.cut(Partition((a,), (b,), both=False))

    def _on_host(self, name: str, do: str) -> None:
        host: Any = self._sim.by_name[name]
        states, back = ON_HOSTS[do]
        if host.state not in states:
            self._tell(f"{do} {name}: skipped, it is {host.state}")
            return
        self._tell(f"{do} {name}")
        getattr(host, do)()
        if back is None:
            self._down.pop(name, None)
        else:
            self._down[name] = back

    def _tell(self, told: str) -> None:
        self._sim.record("fault", (("kind", "pattern"), ("do", told)))

    def undo(self) -> None:
        """Lift what is in force and do no more of it; doing so twice does nothing."""
        if not self.active:
            return
        self.active = False
        if self._cuts:
            self._tell(f"join {len(self._cuts)} links")
        for number in self._cuts.values():
            self._net.lift(number)
        self._cuts.clear()
        for name, back in list(self._down.items()):
            self._on_host(name, back)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()
