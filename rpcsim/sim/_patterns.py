"""Patterns of trouble: from hosts, times and a stream to a list of what happens when.

A pattern is a plain function that touches nothing: it gives `(time, action)` pairs,
which can be looked at, recorded, thinned out, and carried out by `net.play`. All end
with everything repaired, unless `heal=False`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from rpcsim.errors import PlanError
from rpcsim.ports import Duration, duration_text, to_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rpcsim.ports import Stream

__all__ = [
    "Action",
    "Pattern",
    "attrition",
    "bridge",
    "flap",
    "halves",
    "isolate",
    "majority",
    "one_way",
    "pause_storm",
    "ring",
    "rolling_restart",
    "slow_ramp",
    "swizzle_clog",
]

Do: TypeAlias = Literal["cut", "join", "latency", "crash", "restart", "pause", "resume"]
STEPS: Final = 1_024  # in which a continuous value is drawn


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that is done to the network or to a host.

    Attributes:
        do: `cut` and `join` stop packets from `src` to `dst` and let them pass again;
            `crash`, `restart`, `pause` and `resume` are done to the hosts of `src`;
            `latency` sets that of packets from `src` to `dst`.
        src: Host names.
        dst: Host names; empty where hosts are meant, not links.
        value_ns: The latency.
    """

    do: Do
    src: tuple[str, ...]
    dst: tuple[str, ...] = ()
    value_ns: int = 0

    def __str__(self) -> str:
        arrow = f" -> {'+'.join(self.dst)}" if self.dst else ""
        value = f" {duration_text(self.value_ns)}" if self.do == "latency" else ""
        return f"{self.do} {'+'.join(self.src)}{arrow}{value}"


# What happens when, in nanoseconds from the start of the pattern, in order.
Pattern: TypeAlias = "list[tuple[int, Action]]"


def _times(
    at: Duration, lasts: Duration | None, *, heal: bool
) -> tuple[int, int | None]:
    begin = to_ns(at)
    if begin < 0:
        raise PlanError(f"a pattern begins at 0 or later, not {at!r}")
    if not heal:
        return begin, None
    if lasts is None:
        raise PlanError("a pattern that heals needs lasts=; or say heal=False")
    span = to_ns(lasts)
    if span <= 0:
        raise PlanError(f"a pattern lasts some time, not {lasts!r}")
    return begin, begin + span


def _hosts(hosts: Sequence[str], least: int, what: str) -> tuple[str, ...]:
    names = tuple(hosts)
    if isinstance(hosts, str) or len(names) < least or len(set(names)) < len(names):
        raise PlanError(f"{what} needs {least} hosts or more, each once, not {hosts!r}")
    return names


def _cuts(
    pairs: Iterable[tuple[str, str]], begin: int, end: int | None
) -> list[tuple[int, Action]]:
    """Cut these directions from one moment to another."""
    directions = list(pairs)
    told = [(begin, Action("cut", (a,), (b,))) for a, b in directions]
    if end is not None:
        told += [(end, Action("join", (a,), (b,))) for a, b in directions]
    return told


def _apart(
    hosts: Sequence[str], together: set[frozenset[str]]
) -> list[tuple[str, str]]:
    """Give the directions between hosts that are not to see each other."""
    return [
        (a, b)
        for a in hosts
        for b in hosts
        if a != b and frozenset((a, b)) not in together
    ]


def _groups(hosts: Sequence[str], *groups: Sequence[str]) -> set[frozenset[str]]:
    return {frozenset((a, b)) for group in groups for a in group for b in group}


# -- partitions ------------------------------------------------------------------------


def isolate(
    hosts: Sequence[str],
    host: str,
    *,
    at: Duration = 0,
    lasts: Duration | None = None,
    heal: bool = True,
) -> Pattern:
    """Cut one host off from all others.

    Args:
        hosts: All hosts of the pattern.
        host: The one that is cut off.
        at: When, from the start of the pattern.
        lasts: How long; needed unless `heal` is false.
        heal: Whether it is repaired at the end.
    """
    names = _hosts(hosts, 2, "isolate")
    if host not in names:
        raise PlanError(f"{host!r} is none of the hosts {', '.join(names)}")
    others = [name for name in names if name != host]
    together = _groups(names, others)
    return _cuts(_apart(names, together), *_times(at, lasts, heal=heal))


def halves(
    hosts: Sequence[str],
    stream: Stream,
    *,
    at: Duration = 0,
    lasts: Duration | None = None,
    heal: bool = True,
) -> Pattern:
    """Cut the hosts into two halves, drawn; an odd one is in the second."""
    names = _shuffled(_hosts(hosts, 2, "halves"), stream)
    middle = len(names) // 2
    together = _groups(names, names[:middle], names[middle:])
    return _cuts(_apart(tuple(hosts), together), *_times(at, lasts, heal=heal))


def majority(
    hosts: Sequence[str],
    k: int,
    stream: Stream,
    *,
    at: Duration = 0,
    lasts: Duration | None = None,
    heal: bool = True,
) -> Pattern:
    """Leave `k` drawn hosts together, more than half, and cut them off from the rest."""
    names = _hosts(hosts, 3, "majority")
    if not len(names) / 2 < k < len(names):
        raise PlanError(
            f"a majority of {len(names)} hosts is {len(names) // 2 + 1} to "
            f"{len(names) - 1} of them, not {k!r}"
        )
    drawn = _shuffled(names, stream)
    together = _groups(names, drawn[:k], drawn[k:])
    return _cuts(_apart(names, together), *_times(at, lasts, heal=heal))


def ring(
    hosts: Sequence[str],
    *,
    at: Duration = 0,
    lasts: Duration | None = None,
    heal: bool = True,
) -> Pattern:
    """Let each host see only its neighbours, in the order given, around a ring."""
    names = _hosts(hosts, 3, "ring")
    following = (*names[1:], names[0])
    together = {frozenset(pair) for pair in zip(names, following, strict=True)}
    return _cuts(_apart(names, together), *_times(at, lasts, heal=heal))


def bridge(
    left: Sequence[str],
    right: Sequence[str],
    via: str,
    *,
    at: Duration = 0,
    lasts: Duration | None = None,
    heal: bool = True,
) -> Pattern:
    """Cut two sides apart, with one host that still sees both."""
    names = _hosts((*left, *right, via), 3, "bridge")
    together = _groups(names, (*left, via), (*right, via))
    return _cuts(_apart(names, together), *_times(at, lasts, heal=heal))


def one_way(
    a: Sequence[str],
    b: Sequence[str],
    *,
    at: Duration = 0,
    lasts: Duration | None = None,
    heal: bool = True,
) -> Pattern:
    """Stop packets from `a` to `b`; those from `b` to `a` pass."""
    names = _hosts((*a, *b), 2, "one_way")
    pairs = [(src, dst) for src in names[: len(a)] for dst in names[len(a) :]]
    return _cuts(pairs, *_times(at, lasts, heal=heal))


def swizzle_clog(
    hosts: Sequence[str],
    stream: Stream,
    *,
    at: Duration = 0,
    gap: Duration = 1,
    heal: bool = True,
) -> Pattern:
    """Cut hosts off one after another in a drawn order, repair them in another.

    Args:
        hosts: All hosts of the pattern.
        stream: Draws the orders.
        at: When the first is cut off.
        gap: Time between two steps.
        heal: Whether they are repaired; without it all end cut off.
    """
    names = _hosts(hosts, 2, "swizzle_clog")
    begin, step = _times(at, gap, heal=True)
    assert step is not None
    span = step - begin
    down, up = _shuffled(names, stream), _shuffled(names, stream)
    told: Pattern = []
    clogged: list[str] = []
    now = begin
    for host in down:
        told += _cuts(_around(host, names, clogged), now, None)
        clogged.append(host)
        now += span
    for host in up if heal else ():
        clogged.remove(host)
        told += [
            (now, Action("join", (a,), (b,))) for a, b in _around(host, names, clogged)
        ]
        now += span
    return told


def _around(
    host: str, names: Sequence[str], clogged: Sequence[str]
) -> list[tuple[str, str]]:
    """Give the directions to and from a host, but for hosts that are cut off anyway."""
    others = [name for name in names if name != host and name not in clogged]
    return [pair for other in others for pair in ((host, other), (other, host))]


def flap(
    a: Sequence[str],
    b: Sequence[str],
    *,
    up: Duration,
    down: Duration,
    times: int,
    at: Duration = 0,
    heal: bool = True,
) -> Pattern:
    """Cut two sides apart and join them, again and again.

    Args:
        a: One side.
        b: The other.
        up: How long they are joined between two cuts.
        down: How long a cut lasts.
        times: How many cuts.
        at: When the first one is.
        heal: Whether the last one is repaired.
    """
    names = _hosts((*a, *b), 2, "flap")
    left, right = names[: len(a)], names[len(a) :]
    if times < 1 or to_ns(up) <= 0 or to_ns(down) <= 0:
        raise PlanError("flap needs times= from 1, and up= and down= above 0")
    pairs = [pair for x in left for y in right for pair in ((x, y), (y, x))]
    told: Pattern = []
    begin, _ = _times(at, None, heal=False)
    for n in range(times):
        end = begin + to_ns(down)
        last = n == times - 1 and not heal
        told += _cuts(pairs, begin, None if last else end)
        begin = end + to_ns(up)
    return told


# -- slowness and hosts ----------------------------------------------------------------


def slow_ramp(
    a: Sequence[str],
    b: Sequence[str],
    *,
    most: Duration,
    lasts: Duration,
    steps: int = 10,
    at: Duration = 0,
    before: Duration = 0,
    heal: bool = True,
) -> Pattern:
    """Raise the latency between two sides step by step, up to `most`.

    Args:
        a: One side.
        b: The other.
        most: The latency of the last step.
        lasts: How long the ramp takes.
        steps: How many steps it has.
        at: When the first one is.
        before: The latency to return to.
        heal: Whether it returns at the end.
    """
    names = _hosts((*a, *b), 2, "slow_ramp")
    begin, end = _times(at, lasts, heal=True)
    low, high = to_ns(before), to_ns(most)
    if steps < 1 or not 0 <= low < high or end is None:
        raise PlanError("slow_ramp needs steps= from 1 and before < most")
    sides = names[: len(a)], names[len(a) :]
    told: Pattern = []
    moments = [
        (begin + (end - begin) * n // steps, low + (high - low) * (n + 1) // steps)
        for n in range(steps)
    ]
    for when, latency in [*moments, (end, low)] if heal else moments:
        for src, dst in (sides, sides[::-1]):
            told.append((when, Action("latency", src, dst, latency)))
    return told


def rolling_restart(
    hosts: Sequence[str],
    *,
    at: Duration = 0,
    down: Duration = 1,
    gap: Duration = 1,
    heal: bool = True,
) -> Pattern:
    """Crash hosts one after another; each is up again before the next goes.

    Args:
        hosts: The hosts, in their order.
        at: When the first goes.
        down: How long each stays down.
        gap: How long all are up in between.
        heal: Whether the last one comes back.
    """
    names = _hosts(hosts, 1, "rolling_restart")
    begin, _ = _times(at, None, heal=False)
    told: Pattern = []
    for host in names:
        told.append((begin, Action("crash", (host,))))
        begin += to_ns(down)
        if heal or host != names[-1]:
            told.append((begin, Action("restart", (host,))))
        begin += to_ns(gap)
    return told


def attrition(
    hosts: Sequence[str],
    stream: Stream,
    *,
    rate: float,
    lasts: Duration,
    down: Duration = 5,
    at: Duration = 0,
    heal: bool = True,
) -> Pattern:
    """Crash drawn hosts at drawn moments; each restarts after a while.

    Args:
        hosts: The hosts.
        stream: Draws who and when.
        rate: Crashes a second, of all hosts together.
        lasts: How long it goes on.
        down: How long a host stays down.
        at: When it begins.
        heal: Whether those that are down at the end come back.
    """
    return _storm("crash", "restart", hosts, stream, rate, lasts, down, at, heal=heal)


def pause_storm(
    hosts: Sequence[str],
    stream: Stream,
    *,
    rate: float,
    lasts: Duration,
    down: Duration = 1,
    at: Duration = 0,
    heal: bool = True,
) -> Pattern:
    """Pause drawn hosts at drawn moments; each resumes after a while.

    Args:
        hosts: The hosts.
        stream: Draws who and when.
        rate: Pauses a second, of all hosts together.
        lasts: How long it goes on.
        down: How long a pause is.
        at: When it begins.
        heal: Whether those that are paused at the end resume.
    """
    return _storm("pause", "resume", hosts, stream, rate, lasts, down, at, heal=heal)


def _storm(
    hit: Do,
    back: Do,
    hosts: Sequence[str],
    stream: Stream,
    rate: float,
    lasts: Duration,
    down: Duration,
    at: Duration,
    *,
    heal: bool,
) -> Pattern:
    names = _hosts(hosts, 1, "a storm")
    begin, end = _times(at, lasts, heal=True)
    if not rate > 0 or to_ns(down) <= 0 or end is None:
        raise PlanError("a storm needs rate= and down= above 0")
    told: Pattern = []
    until = dict.fromkeys(names, 0)  # when each is up again
    # Mean distance 1/rate, drawn from 0 to twice that.
    widest = round(2e9 / rate)
    now = begin
    while True:
        now += max(widest * stream.below(STEPS) // STEPS, 1)
        if now >= end:
            break
        free = [host for host in names if until[host] <= now]
        if not free:
            continue
        host = free[stream.below(len(free))]
        until[host] = now + to_ns(down)
        told.append((now, Action(hit, (host,))))
        if heal or until[host] < end:
            told.append((until[host], Action(back, (host,))))
    return sorted(told, key=lambda step: step[0])


def _shuffled(hosts: Sequence[str], stream: Stream) -> list[str]:
    names = list(hosts)
    for i in range(len(names) - 1, 0, -1):
        # 0 is the quiet answer: the order given.
        j = i - stream.below(i + 1)
        names[i], names[j] = names[j], names[i]
    return names
