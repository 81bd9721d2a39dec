"""Patterns of trouble: exactly who reaches whom at each moment, and that all heals."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.errors import PlanError, SimulationError
from rpcsim.sim import Sim, patterns
from rpcsim.sim._patterns import Action
from rpcsim.sim._streams import SimStream
from tests.sim.programs import ask, echo_server

if TYPE_CHECKING:
    from collections.abc import Callable

FIVE = ("a", "b", "c", "d", "e")
WHOLE = "abcde bacde cabde dabce eabcd"


def stream() -> SimStream:
    return SimStream(4, "pattern")


def seen(sim: Sim) -> str:
    """Tell the matrix: each host, followed by those it can send to."""
    link = sim.net.link_between
    return " ".join(
        a + "".join(b for b in FIVE if a != b and not link(a, b).cut) for a in FIVE
    )


def matrices(pattern: list[tuple[int, Action]], seconds: int) -> list[str]:
    """Play a pattern over five hosts; give the matrix in the middle of each second."""
    with Sim() as sim:
        for name in FIVE:
            sim.host(name)
        sim.net.play(pattern)

        async def story() -> list[str]:
            told = []
            for n in range(seconds):
                await asyncio.sleep(n + 0.5 - sim.loop.time())
                told.append(seen(sim))
            return told

        told: list[str] = sim.run(story)
    return told


CUTS: dict[str, tuple[Callable[..., Any], str]] = {
    "isolate": (
        lambda **when: patterns.isolate(FIVE, "b", **when),
        "acde b cade dace eacd",
    ),
    "ring": (lambda **when: patterns.ring(FIVE, **when), "abe bac cbd dce ead"),
    "bridge": (
        lambda **when: patterns.bridge(["a", "b"], ["d", "e"], "c", **when),
        "abc bac cabde dce ecd",
    ),
    "one_way": (
        lambda **when: patterns.one_way(["a"], ["b", "c"], **when),
        "ade bacde cabde dabce eabcd",
    ),
    "halves": (
        lambda **when: patterns.halves(FIVE, stream(), **when),
        "ade bc cb dae ead",
    ),
    "majority": (
        lambda **when: patterns.majority(FIVE, 3, stream(), **when),
        "abc bac cab de ed",
    ),
}


@pytest.mark.parametrize("name", CUTS)
def test_cuts_are_exactly_those_told(name: str) -> None:
    """From `at` for `lasts` this matrix, before and after it the whole one (56)."""
    make, cut = CUTS[name]
    assert matrices(make(at=1, lasts=2), 4) == [WHOLE, cut, cut, WHOLE]
    assert matrices(make(heal=False), 3) == [cut] * 3


def clogged(*names: str) -> str:
    """Tell the matrix when these hosts reach nobody and nobody reaches them."""
    return " ".join(
        a + "".join(b for b in FIVE if a != b and not {a, b} & {*names}) for a in FIVE
    )


def test_swizzle_clog() -> None:
    """Hosts clogged one by one in drawn order, unclogged in another (check 56)."""
    told = matrices(patterns.swizzle_clog(FIVE, stream()), 11)
    down, up = "bcade", "bdace"
    assert told[:5] == [clogged(*down[: n + 1]) for n in range(5)]
    assert told[5:] == [*(clogged(*up[n + 1 :]) for n in range(5)), WHOLE]
    forever = matrices(patterns.swizzle_clog(FIVE, stream(), heal=False), 11)
    assert forever == [*told[:5], *[clogged(*FIVE)] * 6]


def test_flap() -> None:
    """Cut, joined, cut, ... so many times (check 56)."""
    when: Any = {"up": 1, "down": 2, "times": 2, "at": 1}
    cut = "acde bcde cabde dabce eabcd"
    told = matrices(patterns.flap(["a"], ["b"], **when), 7)
    assert told == [WHOLE, cut, cut, WHOLE, cut, cut, WHOLE]
    told = matrices(patterns.flap(["a"], ["b"], heal=False, **when), 8)
    assert told == [WHOLE, cut, cut, WHOLE, *[cut] * 4]


def test_slow_ramp() -> None:
    """The latency rises step by step, then returns (6.9)."""
    ramp = patterns.slow_ramp(["a"], ["b"], most="40ms", lasts=4, steps=4, before="1ms")
    with Sim() as sim:
        sim.host("a")
        sim.host("b")
        sim.net.play(ramp)

        async def story() -> list[list[int]]:
            told = []
            for n in range(5):
                await asyncio.sleep(n + 0.5 - sim.loop.time())
                pairs = ("a", "b"), ("b", "a"), ("a", "test")
                told.append([sim.net.link_between(*pair).fixed_ns for pair in pairs])
            return told

        told = sim.run(story)
    rising = [10_750_000, 20_500_000, 30_250_000, 40_000_000, 1_000_000]
    assert told == [[ns, ns, 0] for ns in rising]


def states(pattern: list[tuple[int, Action]], seconds: int) -> list[str]:
    """Play a pattern on five hosts; tell which run in the middle of each second."""
    with Sim() as sim:
        for name in FIVE:
            sim.host(name)
        sim.net.play(pattern)

        async def story() -> list[str]:
            told = []
            for n in range(seconds):
                await asyncio.sleep(n + 0.5 - sim.loop.time())
                told.append("".join(h.name for h in sim.hosts if h.state == "running"))
            return told

        told: list[str] = sim.run(story)
    return told


def test_rolling_restart() -> None:
    """One after another, all up in between (check 56)."""
    told = states(patterns.rolling_restart(["a", "b"], at=1), 6)
    assert told == ["abcde", "bcde", "abcde", "acde", "abcde", "abcde"]
    told = states(patterns.rolling_restart(["a", "b"], heal=False), 4)
    assert told == ["bcde", "abcde", "acde", "acde"]


@pytest.mark.parametrize("kind", ["attrition", "pause_storm"])
def test_storms(kind: str) -> None:
    """About as many hits as the rate says; at the end all run again (check 56)."""
    storm = getattr(patterns, kind)(FIVE, stream(), rate=0.5, lasts=60, down=3)
    hits = [action for _, action in storm if action.do in ("crash", "pause")]
    assert 20 <= len(hits) <= 40
    told = states(storm, 70)
    assert told[-1] == "abcde"
    assert sum(len(up) < 5 for up in told) > 30
    last = getattr(patterns, kind)(
        FIVE, stream(), rate=0.5, lasts=60, down=100, heal=False
    )
    assert states(last, 70)[-1] == ""


def test_patterns_are_data() -> None:
    """A pattern equals another made from the same stream, and can be thinned out."""
    one = patterns.swizzle_clog(FIVE, stream())
    assert one == patterns.swizzle_clog(FIVE, stream())
    assert [when for when, _ in one] == sorted(when for when, _ in one)
    assert str(one[0][1]) == "cut a -> b" or str(one[0][1]).startswith("cut ")
    half = [step for n, step in enumerate(one) if n % 2]
    assert matrices(half, 1) != [WHOLE]


def test_a_play_may_be_called_off() -> None:
    """Its end joins what it cut and does no more; other partitions stay (6.9)."""
    with Sim() as sim:
        for name in FIVE:
            sim.host(name)
        other = sim.net.partition("a", "b")

        async def story() -> None:
            with sim.net.play(patterns.isolate(FIVE, "a", at=1, lasts=5)) as play:
                await asyncio.sleep(2)
                assert seen(sim).split()[0] == "a"
            assert not play.active
            assert seen(sim) == "acde bcde cabde dabce eabcd"
            other.undo()
            assert seen(sim) == WHOLE
            with sim.net.play(patterns.attrition(FIVE, stream(), rate=9, lasts=9)):
                await asyncio.sleep(5)
                assert any(host.state == "crashed" for host in sim.hosts)
            assert all(host.state == "running" for host in sim.hosts)

        sim.run(story)
    told = [
        r.get("do") for r in sim.trace.of_kind("fault") if r.get("kind") == "pattern"
    ]
    assert told[:2] == ["cut a -> b", "cut a -> c"]


def test_meaningless_actions_are_skipped() -> None:
    """Told in the trace: the host is not in a state for it (4.1)."""
    pattern = [(0, Action("restart", ("a",))), (1, Action("crash", ("a",)))]
    with Sim() as sim:
        sim.host("a")
        play = sim.net.play([*pattern, (2, Action("pause", ("a",)))])
        sim.run(asyncio.sleep(1))
        play.undo()
    told = [r.get("do") for r in sim.trace.of_kind("fault")]
    assert told == [
        "restart a: skipped, it is running",
        "crash a",
        "pause a: skipped, it is crashed",
        "restart a",
    ]


def test_bad_patterns_are_refused() -> None:
    """When they are made, or when they are to be played."""
    bad: list[tuple[Callable[[], object], str]] = [
        (lambda: patterns.isolate(FIVE, "z", lasts=1), "'z' is none of the hosts"),
        (lambda: patterns.isolate(FIVE, "a"), "needs lasts=; or say heal=False"),
        (lambda: patterns.ring(["a", "b"], lasts=1), "ring needs 3 hosts or more"),
        (lambda: patterns.ring("abc", lasts=1), "needs 3 hosts or more"),
        (lambda: patterns.bridge(["a"], ["a"], "b", lasts=1), "each once"),
        (lambda: patterns.majority(FIVE, 2, stream(), lasts=1), "is 3 to 4 of them"),
        (lambda: patterns.halves(FIVE, stream(), at=-1, lasts=1), "0 or later"),
        (lambda: patterns.one_way(["a"], ["b"], lasts=0), "lasts some time"),
        (lambda: patterns.flap(["a"], ["b"], up=1, down=0, times=1), "above 0"),
        (lambda: patterns.attrition(FIVE, stream(), rate=0, lasts=1), "above 0"),
    ]
    for make, told in bad:
        with pytest.raises(PlanError, match=told):
            make()
    wrong: Any = "cutt"
    with Sim() as sim:
        sim.host("a")
        for action, told in (
            (Action(wrong, ("a",)), "did you mean 'cut'"),
            (Action("cut", ("a",)), "dst= goes with links"),
            (Action("crash", ("a",), ("test",)), "dst= goes with links"),
        ):
            with pytest.raises(PlanError, match=told):
                sim.net.play([(0, action)])
        with pytest.raises(SimulationError, match="no host is called 'b'"):
            sim.net.play([(0, Action("crash", ("b",)))])


def test_a_system_lives_through_a_pattern_and_replays() -> None:
    """Clients go on after it; two runs of one seed are one (determinism)."""

    def run(seed: int) -> str | None:
        with Sim(seed=seed, policy="random") as sim:
            for name in FIVE:
                sim.host(name, echo_server)
            draws = sim.entropy.stream("pattern")
            sim.net.play(patterns.swizzle_clog(FIVE, draws, gap="300ms"))
            for name in FIVE:
                assert sim.by_name[name].run(ask("x", host="a")) == ["x"]
        return sim.trace.digest

    assert run(1) == run(1)
    assert run(1) != run(2)
