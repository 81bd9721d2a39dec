"""Whatever the text: a scenario or a `ScenarioError`, soon."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcsim.errors import ScenarioError
from rpcsim.scenario import Scenario
from tests.scenario.texts import GOOD

quick = settings(deadline=None, max_examples=150)
WORDS = [
    *("rpcsim", "name", "topology", "hosts", "role", "agent", "broker", "client", "1"),
    *(
        "workload",
        "clients",
        "steps",
        "agent.call",
        "to",
        "method",
        "sleep",
        "1s",
        "at",
    ),
    *("faults", "kind", "partition", "crash", "on", "expect", "step", "value", "after"),
    *("&a", "*a", "<<", "!x", "{", "}", "[", "]", ":", "- ", "\n", "  ", "#", "'", '"'),
    *("|", ">", "%", "\t", "\x85", "\u2028", "\ud83d\ude00", "null", "~", "---", "..."),
]
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(
            st.sampled_from(WORDS) | st.text(max_size=5), below, max_size=4
        )
    ),
    max_leaves=12,
)


def load(text: str, kind: str) -> Scenario | None:
    try:
        return Scenario.loads(text, kind=kind)
    except ScenarioError as error:
        refused = error
    assert refused.problems
    assert all(problem.message for problem in refused.problems)
    str(refused).encode()
    return None


@quick
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=40))
@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_any_text_is_read_or_refused(kind: str, parts: list[str]) -> None:
    """Neither hangs nor any other exception."""
    load("".join(parts), kind)


@quick
@given(st.data())
@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_a_good_text_cut_and_pasted_is_read_or_refused(
    kind: str, data: st.DataObject
) -> None:
    """Nearly good texts reach deeper than noise does; good ones round-trip."""
    text = GOOD if kind == "yaml" else Scenario.loads(GOOD).to_json()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 30)))
        new = data.draw(st.sampled_from([*WORDS, ""]) | st.text(max_size=4))
        text = text[:start] + new + text[end:]
    story = load(text, kind)
    if story is not None:
        assert Scenario.loads(story.dump()) == story


@quick
@given(json_values, st.sampled_from(["topology", "workload", "faults", "expect"]))
def test_any_value_in_any_place_is_read_or_refused(value: Any, key: str) -> None:
    """Wrong shapes are problems, not errors of ours."""
    story = json.loads(Scenario.loads(GOOD).to_json())
    story[key] = value
    load(json.dumps(story), "json")
