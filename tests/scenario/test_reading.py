"""Reading YAML and JSON with positions, and telling everything that is wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.errors import ScenarioError
from rpcsim.scenario import Scenario, Span
from rpcsim.scenario._problems import did_you_mean
from rpcsim.scenario._yaml import core_scalar
from tests.scenario.texts import GOOD, with_steps

if TYPE_CHECKING:
    from pathlib import Path


def problems(text: str, kind: str = "yaml") -> list[tuple[int, int, str]]:
    with pytest.raises(ScenarioError) as caught:
        Scenario.loads(text, kind=kind, name="f.yaml")
    return [(p.line, p.column, str(p)) for p in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("null", None),
        ("~", None),
        ("True", True),
        ("tRUE", "tRUE"),
        ("-3", -3),
    ],
)
def test_scalars_are_those_of_yaml_1_2_core(text: str, value: Any) -> None:
    """What YAML 1.1 turns into a bool, a time or a date stays text."""
    found = core_scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_a_good_file_gives_equal_values_from_yaml_and_json() -> None:
    """Both notations mean the same, and so does a byte order mark less."""
    story = Scenario.loads(GOOD)
    again = Scenario.loads(story.to_json(), kind="json")
    assert story == again
    assert story.topology.hosts["web"].tag == "agent"


def test_all_problems_of_one_file_are_told_at_once_by_position() -> None:
    """Five mistakes of five sorts: five messages, right places, right suggestions."""
    text = with_steps(
        "{id: a, agent.call: {to: web, method: Dog.bark}, sleep: 1s}",
        "{id: b, agent.call: {to: wbe, method: Dog.bark, args: [{$ref: c.value}]}}",
        "{id: c, sleep: 1s}",
        more=(
            "faults:\n"
            "  - {kind: partion, isolate: web}\n"
            "  - {kind: partition, isolate: web, at: 3s, until: 2s}\n"
        ),
    )
    told = problems(text)
    assert [(line, column) for line, column, _ in told] == [
        (13, 60),
        (14, 36),
        (14, 73),
        (17, 12),
        (18, 52),
    ]
    words = [text for _, _, text in told]
    assert 'a second operation "sleep"' in words[0]
    assert 'no agent "wbe"; did you mean "web"?' in words[1]
    assert 'step "c" is not earlier' in words[2]
    assert 'unknown fault "partion"; did you mean "partition"?' in words[3]
    assert "until 2s is not after at 3s" in words[4]


def test_a_message_has_file_line_column_path_and_a_caret() -> None:
    """The form people and editors read."""
    with pytest.raises(ScenarioError) as caught:
        Scenario.loads(GOOD + "faults: [{kind: partion}]\n", name="kv.yaml")
    first, source, caret = str(caught.value).splitlines()
    assert first == (
        'kv.yaml:14:17: faults[0].kind: unknown fault "partion"; '
        'did you mean "partition"?'
    )
    assert source.strip() == "faults: [{kind: partion}]"
    assert source[caret.index("^") :].startswith("partion")


@pytest.mark.parametrize(
    ("more", "place", "words"),
    [
        ("seed: 3\nseed: 4\n", (2, 1), 'key "seed" stands twice, first in line 14'),
        ("about: !x text\n", (1, 8), "tag '!x' is not read"),
        ("limits: {<<: {steps: 3}}\n", (1, 10), "merge keys are not read"),
        ("about: *x\n", (1, 8), "alias *x has no anchor"),
        ("about: &x [*x]\n", (1, 12), "stands inside its own anchor"),
        ("about: [\n", (2, 1), "not YAML"),
        ("about:\n\t- x\n", (2, 1), "a tab, which YAML does not take here; indent"),
        (" seed: 3\n", (1, 2), "indent it like its neighbours"),
        ("seed:3\n", (2, 1), "does the line before lack a colon"),
        ("faults: [{knid: crash}]\n", (1, 10), 'is "knid" meant to be "kind"?'),
        ("seed: .nan\n", (1, 7), "not a number JSON has"),
        ("seed: 1e999\n", (1, 7), "too large"),
        ("? [a]\n: 1\n", (1, 3), "a key must be plain text"),
        ("---\na: 1\n", (1, 1), "a second document"),
        ("seed: true\n", (1, 7), "expected a whole number"),
        ("sede: 1\n", (1, 1), 'unknown key "sede" in this scenario; did you mean'),
        ("choices: {}\n", (1, 1), "not offered yet"),
        ("invariants: [linearizable]\n", (1, 14), "not offered yet"),
        ("invariants: [{nothing-left-behind: on}]\n", (1, 36), "expected off"),
        ("schedule: {policy: pct}\n", (1, 20), "not offered yet"),
        ("requires: {modes: [sun]}\n", (1, 20), 'did you mean "sim"?'),
        ("limits: {sim_time: 1m30s}\n", (1, 20), "expected a duration"),
        ("limits: {sim_time: -1s}\n", (1, 20), "expected a duration"),
        ("limits: {sim_time: 5 s}\n", (1, 20), "expected a duration"),
        ("expect: [{step: b, value: 1}]\n", (1, 17), 'no step "b"'),
        ("expect: [{value: 1}]\n", (1, 10), "give step, count or call"),
        ("expect: [{step: a}]\n", (1, 10), "nothing is said of the step"),
        ("expect: [{count: {event: outcome}}]\n", (1, 11), "needs equals"),
        ("expect: [{step: a, value: 1, error: X}]\n", (1, 30), "not both"),
        ("faults: [{kind: rpc}]\n", (1, 17), 'fault "rpc" is not offered yet'),
        ("faults: [{kind: crash}]\n", (1, 10), 'key "on" is missing'),
        ("faults: [{kind: crash, on: wep}]\n", (1, 28), 'did you mean "web"?'),
        ("faults: [{kind: partition}]\n", (1, 10), "what is cut is missing"),
    ],
)
def test_each_mistake_is_told_with_its_place(
    more: str, place: tuple[int, int], words: str
) -> None:
    """One mistake gives one message, at the value or key it is about."""
    told = problems(GOOD + more)
    assert len(told) == 1, told
    line, column, text = told[0]
    assert words in text
    assert (line - GOOD.count("\n"), column) == place


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("{id: a}", "this step has no operation"),
        ("{kv.get: {}}", 'operation "kv.get" is not offered yet'),
        ("{agent.cal: {}}", 'did you mean "agent.call"?'),
        ("{agent.call: {to: web}}", 'argument "method" is missing'),
        ("{agent.call: {to: mq, method: A.b}}", "has role broker"),
        ("{agent.call: {to: web, method: A.b, window: 1}}", "not offered yet"),
        ("{agent.call: {to: web, method: A.b, timeout: [1s]}}", "to complete"),
        ("{agent.call: {to: web, method: A}}", "a method as Class.name"),
        ("{agent.call: {to: web, method: A.b, args: {x: 1}}}", "expected a list"),
        ("{agent.call: {to: web, method: A.b, args: [{$x: 1}]}}", "unknown mark"),
        (
            "{agent.call: {to: web, method: A.b, constructor: {arg: []}}}",
            "expected {args: [...], kwargs: {...}}",
        ),
        ("{after: nobody, sleep: 1s}", 'no step "nobody"'),
        ("{after: b.acked, sleep: 1s}", "not offered yet"),
        ("{sleep: 1s, expect: {step: x}}", "has no place in the expectation"),
        ("{host.stop: {host: wb}}", 'no host "wb"; did you mean'),
        ("{do: nomodule}", "expected code as package.module:attribute"),
        ("{parallel: []}", "expected at least 1 items"),
        ("{repeat: {times: 0}, sleep: 1s}", "a whole number from 1"),
    ],
)
def test_mistakes_in_a_step(step: str, words: str) -> None:
    """A wrong step is told for what it is, never taken as another."""
    assert any(words in text for _, _, text in problems(with_steps(step)))


def test_steps_that_wait_for_each_other_are_told_as_a_cycle() -> None:
    """A run of them would be a deadlock."""
    told = problems(with_steps("{id: a, after: b, sleep: 1s}", "{id: b, sleep: 1s}"))
    assert any("a -> b -> a" in text for _, _, text in told)


def test_a_ref_across_clients_needs_an_after() -> None:
    """Without it the step may have no outcome yet, depending on the schedule."""
    other = "    bob: {{host: desk, steps: [{{{} agent.call: {{to: web, method: D.b, args: [{{$ref: a.value}}]}}}}]}}\n"
    assert "add after: a" in problems(GOOD + other.format(""))[0][2]
    assert Scenario.loads(GOOD + other.format("after: a,")).name == "small"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"rpcsim": 1, "rpcsim": 1}', "stands twice"),
        ('{"a": NaN}', "not a number JSON has"),
        ('{"a": 01}', 'expected ","'),
        ("{'a': 1}", "a key in quotes"),
        ('{"a": 1,}', "a key in quotes"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ('{"a": "x\ny"}', "not JSON"),
        ("[" * 100, "nested deeper"),
        ("[1] 2", "text after the end"),
        ("", "ends too early"),
    ],
)
def test_json_is_read_strictly(text: str, words: str) -> None:
    """What the standard library lets pass is an error here, with its position."""
    told = problems(text, "json")
    assert any(words in text for _, _, text in told)
    assert told[0][0] >= 1


def test_json_problems_have_positions_too() -> None:
    """The same validator, the same places."""
    story = json.loads(Scenario.loads(GOOD).to_json())
    story["seed"] = "x"
    line, column, text = problems(json.dumps(story, indent=1), "json")[0]
    assert "seed: expected a whole number" in text
    assert json.dumps(story, indent=1).splitlines()[line - 1][column - 1 :][:3] == '"x"'


def test_sizes_are_limited() -> None:
    """Ten thousand values, aliases in full, and 64 levels."""
    bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    for n in range(1, 9):
        former = "a" if n == 1 else f"b{n - 1}"
        bomb += f"b{n}: &b{n} [{', '.join([f'*{former}'] * 10)}]\n"
    assert "more than 10000 values" in problems(bomb)[0][2]
    assert "nested deeper" in problems("[" * 200 + "]" * 200)[0][2]
    assert "more than 10000" in problems("[" + "1," * 10_001 + "1]", "json")[0][2]


def test_at_most_twenty_problems_are_shown() -> None:
    """The rest is counted."""
    hosts = "".join(f"    h{n}: {{role: nope}}\n" for n in range(30))
    text = f"rpcsim: 1\nname: x\ntopology:\n  hosts:\n{hosts}"
    with pytest.raises(ScenarioError) as caught:
        Scenario.loads(text)
    assert len(caught.value.problems) == 20
    assert "more problems" in str(caught.value)


def test_another_version_is_refused_naming_the_known_one() -> None:
    """Problems of a document we cannot read would be noise."""
    told = problems(GOOD.replace("rpcsim: 1", "rpcsim: 2") + "sede: 1\n")
    assert len(told) == 1
    assert "the newest known is 1" in told[0][2]


def test_files_are_refused_by_ending_encoding_and_size(tmp_path: Path) -> None:
    """Each with what to do about it."""
    wrong = tmp_path / "a.toml"
    wrong.write_text("x")
    latin = tmp_path / "b.yaml"
    latin.write_bytes(b"name: \xe9\n")
    large = tmp_path / "c.yaml"
    large.write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    for path, words in ((wrong, ".yaml"), (latin, "UTF-8"), (large, "4 MiB")):
        with pytest.raises(ScenarioError, match=words):
            Scenario.load(path)
    good = tmp_path / "d.yaml"
    good.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert Scenario.load(good) == Scenario.loads(GOOD)


@pytest.mark.parametrize("text", ["1.5", "1500ms", "1.5s"])
def test_equal_durations_are_equal(text: str) -> None:
    """However they are written."""
    story = Scenario.loads(GOOD + f"limits: {{settle: {text}}}\n")
    assert story.limits.settle == Span(1_500_000_000)
    assert "settle: 1500ms" in story.dump()


def test_suggestions_are_near_and_repeatable() -> None:
    """Distance two, three from eight letters, ties by the alphabet."""
    assert did_you_mean("partion", ["partition", "portion"]) == (
        'did you mean "portion"?'
    )
    assert did_you_mean("ab", ["ba", "aa"]) == 'did you mean "aa"?'
    assert did_you_mean("xyz", ["partition"]) == ""
    assert did_you_mean("at", ["id"]) == ""
