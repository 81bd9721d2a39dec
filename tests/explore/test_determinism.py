"""The self-check finds what depends on the process, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpcsim.errors import SimulationError
from rpcsim.explore import check_determinism
from tests.scenario.texts import with_steps

SCENARIOS = Path(__file__).parents[2] / "scenarios"


def test_a_good_scenario_is_equal_in_every_way() -> None:
    """A disturbed heap, other runs between, and another hash seed change nothing."""
    findings = check_determinism(SCENARIOS / "agents-conversation.yaml")
    assert [finding.way for finding in findings] == ["heap", "fresh"]
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
    heap, fresh = check_determinism(path)
    assert not heap.ok
    assert "state left in the process" in heap.told()
    assert fresh.ok


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
    with pytest.raises(ValueError, match="heap, fresh"):
        check_determinism("x.yaml", ways=["moon"])
