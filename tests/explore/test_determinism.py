"""The self-check finds what depends on the process, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpcsim.errors import NondeterminismError, SimulationError
from rpcsim.explore import Mismatch, check, check_determinism
from rpcsim.scenario import Scenario
from rpcsim.sim import Policy, Tape, replay
from rpcsim.trace import Difference, Record
from tests.scenario.texts import with_steps

SCENARIOS = Path(__file__).parents[2] / "scenarios"


def test_a_good_scenario_is_equal_in_every_way() -> None:
    """A disturbed heap, other runs between, and another hash seed change nothing."""
    findings = check_determinism(SCENARIOS / "agents-conversation.yaml")
    assert [finding.way for finding in findings] == ["heap", "fresh", "file"]
    for finding in findings:
        assert finding.ok, finding.told()
        assert finding.records > 100


def planted(folder: Path, body: str) -> Path:
    """Write a project whose one step runs `body`, and give its scenario."""
    (folder / "pyproject.toml").write_text("")
    module = f"planted_{folder.name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(body)
    path = folder / "story.yaml"
    path.write_text(with_steps(f"{{id: own, do: '{module}:step'}}"))
    return path


def test_order_of_hashes_is_found_by_a_fresh_interpreter(tmp_path: Path) -> None:
    """Iterating over a set of text gives another order there."""
    body = (
        "async def step(context):\n"
        "    return list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'})\n"
    )
    (finding,) = check_determinism(planted(tmp_path, body), ways=["fresh"])
    assert not finding.ok
    assert "client.end" in finding.told()
    assert "order of hashes" in finding.told()


def test_state_left_in_the_process_is_found_by_a_second_run(tmp_path: Path) -> None:
    """A counter in a module goes on counting; a fresh interpreter does not show it."""
    body = (
        "seen = []\n"
        "async def step(context):\n"
        "    seen.append(1)\n"
        "    return len(seen)\n"
    )
    path = planted(tmp_path, body)
    heap, fresh, file = check_determinism(path)
    assert not heap.ok
    assert "state left in the process" in heap.told()
    assert fresh.ok
    assert file.ok


def test_an_interpreter_that_fails_says_why(tmp_path: Path) -> None:
    """Its last words are in the error."""
    body = (
        "import os\n"
        "if os.environ.get('PYTHONHASHSEED') in ('4242', '77'):\n"
        "    raise RuntimeError('not here')\n"
        "async def step(context):\n"
        "    return 1\n"
    )
    with pytest.raises(SimulationError, match="not here"):
        check_determinism(planted(tmp_path, body), ways=["fresh"])


def test_unknown_ways_are_refused() -> None:
    """Naming those there are."""
    with pytest.raises(ValueError, match="heap, fresh, file"):
        check_determinism("x.yaml", ways=["moon"])


# -- programs by name --------------------------------------------------------------------

STORIES = sorted(path.name for path in SCENARIOS.glob("*.yaml"))


@pytest.mark.parametrize("story", STORIES)
def test_every_scenario_passes_in_all_three_ways(story: str) -> None:
    """Record by record, choice by choice, and in its outcome (check 72)."""
    check(SCENARIOS / story)


@pytest.mark.parametrize(
    ("program", "policy"),
    [("races", "random"), ("talk", "fifo"), ("talk", "pct(depth=3, horizon=60)")],
)
def test_good_programs_pass_in_all_three_ways(program: str, policy: str) -> None:
    """Sets of tasks, blocking code, ids and draws (check 72)."""
    check(f"tests.explore.planted:{program}", seed=3, policy=policy)


@pytest.mark.parametrize(
    ("program", "way", "kind", "told"),
    [
        ("set_of_texts", "fresh", "hash order", "word "),
        ("order_by_id", "heap", "addresses", "order by address"),
        ("default_repr", "heap", "addresses", "text with an address"),
        ("counter", "heap", "state", "call "),
        ("early_time", "heap", "real", "time.time at "),
        ("early_time_in_a_fiber", "fresh", "real", "time.time at "),
        ("held_urandom", "fresh", "real", "os.urandom at "),
        ("real_file", "fresh", "real", "open '/dev/urandom' at "),
        ("finaliser", "heap", "finaliser", "Sender.__del__"),
        ("extra_draw", "fresh", "extra draw", "stream 'user/a' was drawn from "),
    ],
)
def test_a_planted_cause_is_named(program: str, way: str, kind: str, told: str) -> None:
    """At the right record, with the right cause and place (check 73)."""
    (finding,) = check_determinism(f"tests.explore.planted:{program}", ways=[way])
    assert not finding.ok
    assert finding.cause is not None
    assert finding.cause.kind == kind, finding.told()
    assert told in finding.told()
    assert isinstance(finding.difference, Difference)
    assert "mock" in {record.kind for record in sides(finding.difference)}
    assert any("planted.py" in place for place in finding.cause.places)


def sides(found: Difference) -> list[Record]:
    return [record for record in (found.left, found.right) if record is not None]


def test_a_difference_in_the_outcome_alone_is_found() -> None:
    """Records are equal; what the program returns is not."""
    heap, fresh, file = check_determinism("tests.explore.planted:outcome_only")
    assert isinstance(heap.difference, Mismatch)
    assert heap.difference.what == "the outcome"
    assert heap.cause is not None
    assert heap.cause.kind == "state"
    assert fresh.ok == file.ok


def test_check_raises_the_first_difference() -> None:
    """Both records, the last common ones, and the cause (10.3)."""
    with pytest.raises(NondeterminismError) as raised:
        check("tests.explore.planted:set_of_texts", seed=5, ways=["fresh"])
    told = str(raised.value)
    assert "planted:set_of_texts, seed 5, fresh: first difference at record" in told
    assert "    both: " in told
    assert "   first: " in told
    assert "  second: " in told
    assert "  cause: order of hashes" in told
    assert "made at " in told


def test_a_replay_that_leaves_its_tape_is_a_difference() -> None:
    """Under another hash seed the tape fits no longer, or the records differ."""
    (finding,) = check_determinism("tests.explore.planted:set_of_texts", ways=["file"])
    assert not finding.ok
    assert finding.cause is not None
    assert finding.cause.kind == "hash order"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.explore.planted:rases", "no program .*rases"),
        ("tests.explore.plantet:races", "No module named"),
        ("tests.explore.planted:calls", "is no function"),
        (":x", "no program"),
    ],
)
def test_a_program_that_is_not_there_is_told(name: str, message: str) -> None:
    """With what to name instead."""
    with pytest.raises(ValueError, match=message):
        check_determinism(name)


# -- policies and tapes of scenarios -------------------------------------------------------


@pytest.mark.parametrize("story", STORIES)
def test_zeros_and_nothing_are_fifo_for_every_scenario(story: str) -> None:
    """Digest for digest, schedule included (check 19)."""
    scenario = Scenario.load(SCENARIOS / story)

    def digests(policy: str | Policy) -> list[str | None]:
        result = scenario.run(trace="steps", policy=policy)
        return [result.digest, result.schedule_digest]

    fifo = digests("fifo")
    assert digests(replay(Tape())) == fifo
    assert digests(replay(Tape.zeros(1_000_000))) == fifo


def test_a_horizon_that_is_not_told_is_measured() -> None:
    """By one first-in-first-out run, so that the tape tells a number (10.2)."""
    scenario = Scenario.load(SCENARIOS / STORIES[0])
    fifo = scenario.run(policy="fifo", record=True)
    assert fifo.tape is not None
    choices = len(fifo.tape.tracks["schedule"])
    auto = scenario.run(policy="pct(depth=2)", record=True)
    assert auto.tape is not None
    assert auto.tape.policy == f"pct(depth=2, horizon={choices})"
    told = scenario.run(policy=auto.tape.policy, record=True)
    assert told.schedule_digest == auto.schedule_digest
    again = scenario.run(policy=replay(auto.tape), record=True)
    assert again.schedule_digest == auto.schedule_digest
    assert again.draws.keys() <= auto.draws.keys()
