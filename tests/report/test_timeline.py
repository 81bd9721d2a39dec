"""The timeline: what people read first when something failed."""

from __future__ import annotations

from pathlib import Path

from rpcsim.report import timeline
from rpcsim.scenario import run
from rpcsim.trace import Trace

SCENARIOS = Path(__file__).parents[2] / "scenarios"


def test_a_crash_is_told_as_a_story() -> None:
    """Who called what, what broke, what was done twice, how it ended."""
    result = run(SCENARIOS / "agents-crash.yaml")
    told = timeline(result.trace, origin_ns=result.origin_ns)
    lines = told.splitlines()
    wanted = [
        "ann calls Dog.walk of web01 [walk]",
        "runs Dog.walk [walk]",
        "oom: web01 has its process killed, back after 300ms",
        "its process dies",
        "starts again, life number 2",
        "run number 2 of this request",
        'ann has "walked 30 minutes" [walk]',
        "the run is over",
    ]
    places = [next(n for n, line in enumerate(lines) if w in line) for w in wanted]
    assert places == sorted(places)
    assert all(len(line) <= 100 for line in lines)
    assert "conn.data" not in told
    assert "   0.0000  mq      ■ starts" in told


def test_nested_calls_are_told_at_the_host_that_makes_them() -> None:
    """A call out of a method is no step, and has a line of its own."""
    result = run(SCENARIOS / "agents-conversation.yaml")
    told = timeline(result.trace, origin_ns=result.origin_ns)
    assert "→ calls Cook.cook of kitchen" in told
    assert "✗ ann gets OutOfStock: no more soup (it ran and raised) [soup]" in told
    assert "runs Waiter.price [bill]" in told


def test_ascii_and_tail() -> None:
    """For terminals and logs that know no more, and for failure sections."""
    result = run(SCENARIOS / "agents-partition.yaml")
    told = timeline(result.trace, last=5, ascii_only=True)
    assert told.isascii()
    assert "lines before" in told.splitlines()[0]
    assert len(told.splitlines()) == 6


def test_hostile_text_cannot_move_the_cursor() -> None:
    """Control characters of values are shown as dots, long lines are wrapped."""
    trace = Trace()
    data = (("step", "a"), ("client", "c"), ("told", "x\x1b[2J" + "y" * 300))
    trace.append(0, "client.begin", "h", "s", -1, data)
    told = timeline(trace)
    assert "\x1b" not in told
    assert all(len(line) <= 100 for line in told.splitlines())


def test_an_empty_trace_is_told_as_such() -> None:
    """Rather than as nothing."""
    assert "nothing happened" in timeline(Trace())
