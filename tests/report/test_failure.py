"""What a failed test is told: how to repeat it, its world, its calls."""

from __future__ import annotations

import asyncio
import shlex

import pytest

from rpcsim.agents import Agent, remote
from rpcsim.harness import Case
from rpcsim.report import failure_sections, left_text, repro_line

NAME = "tests/test_a b.py::test_it's"


class Dog:
    @remote
    def bark(self, words: str) -> str:
        return words.upper()


def test_the_repro_line_is_quoted_for_the_shell() -> None:
    """The shell gives back what was meant; mode and plugin only where they matter."""
    case = Case(NAME, 7, "real")
    words = ["pytest", NAME, "--rpcsim-seed=7"]
    assert shlex.split(repro_line(case, with_mode=False)) == words
    line = repro_line(case, with_mode=True, plugin="rpcsim.pytest_plugin")
    assert shlex.split(line) == [
        *("pytest", "-p", "rpcsim.pytest_plugin"),
        *(*words[1:], "--rpcsim-mode=real"),
    ]


def test_without_a_world_there_is_nothing_to_tell() -> None:
    """A test that only took its seed has no sections and leaves nothing."""
    case = Case(NAME, 7, "sim")
    assert list(failure_sections(case)) == []
    assert left_text(case) == ""


def test_a_call_is_told_in_columns_and_without_noise() -> None:
    """Time, host, what, method; ids short, nothing empty, no private queue."""
    case = Case(NAME, 7, "sim")
    world = case.open("sim", {})
    world.agent("jortel", Dog)
    Agent("jortel").Dog().bark("hello")
    told = dict(failure_sections(case))
    lines = told["rpcsim calls"].splitlines()
    assert lines[0].split()[:4] == ["0.000000", "test", "call.invoke", "Dog.bark"]
    assert len({line.index("Dog.bark") for line in lines}) == 1
    idents = {word for line in lines for word in line.split() if word[:3] == "id="}
    assert [len(word) for word in idents] == [11]
    assert "queue=" not in told["rpcsim calls"]
    assert "error=" not in told["rpcsim calls"]
    assert "    listening on 10.0.0.2:5670 of broker" in told["rpcsim world"]
    assert case.close(None) == []
    assert left_text(case) == ""


def test_what_was_left_is_named_with_the_next_step() -> None:
    """Each thing has a line; the end says what to do about it."""
    case = Case(NAME, 7, "sim")
    world = case.open("sim", {})

    async def main() -> None:
        asyncio.get_running_loop().call_later(60, print)

    world.run(main)
    case.close(None)
    assert left_text(case).splitlines() == [
        f"rpcsim: {NAME} left behind in its world (mode sim):",
        "    timer print of host test, due at 60 s",
        "Await or cancel what the test starts, and close what it opens.",
    ]


def test_failures_of_the_end_are_given_once() -> None:
    """What the end adds to an error that was told before is what `close` gives."""
    case = Case(NAME, 7, "sim")
    world = case.open("sim", {})

    async def boom() -> None:
        await asyncio.sleep(1)
        raise ValueError("late")

    async def main() -> None:
        task = asyncio.ensure_future(boom())
        await asyncio.sleep(2)
        assert task.done()

    world.run(main)
    error = AssertionError("the test's own")
    error.add_note("told before")
    case.note_failures(error)
    assert error.__notes__ == ["told before", "also, in the run: ValueError: late"]
    assert case.close(error) == []


@pytest.mark.parametrize(
    ("part", "name"), [("", "step"), ("clock.", "advance"), ("net.", "moon")]
)
def test_only_what_a_simulation_has_needs_one(part: str, name: str) -> None:
    """The member is named; what no machine has is an error like any other."""
    case = Case(NAME, 7, "real")
    world = case.open("real", {})
    target = getattr(world, part.rstrip("."), world) if part else world
    with pytest.raises(AttributeError) as caught:
        getattr(target, name)
    known = None if name == "moon" else f"{part}{name}"
    assert case.needs_sim(caught.value) == known
    assert case.needs_sim(AttributeError("of something else")) is None
    case.close(None)
