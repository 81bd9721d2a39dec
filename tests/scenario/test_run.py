"""Running scenarios: the same file and the same code paths in both modes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpcsim.errors import ScenarioError
from rpcsim.scenario import Scenario, run
from tests.scenario.texts import GOOD, with_steps

SCENARIOS = Path(__file__).parents[2] / "scenarios"
NAMES = ["agents-conversation", "agents-crash", "agents-partition"]


@pytest.mark.parametrize("name", NAMES)
def test_worked_scenarios_hold_in_simulation_and_repeat(name: str) -> None:
    """Twice with one digest, schedule included; and another seed is another run."""
    first, second = run(SCENARIOS / f"{name}.yaml"), run(SCENARIOS / f"{name}.yaml")
    first.raise_if_failed()
    assert first.digest == second.digest
    assert first.schedule_digest == second.schedule_digest
    other = run(SCENARIOS / f"{name}.yaml", seed=99)
    other.raise_if_failed()
    assert other.digest != first.digest


@pytest.mark.parametrize("name", NAMES)
def test_worked_scenarios_hold_on_real_sockets(name: str) -> None:
    """The same file; leftovers are problems there too."""
    result = run(SCENARIOS / f"{name}.yaml", mode="real")
    assert result.ok, result.summary()
    assert result.mode == "real"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", NAMES)
def test_worked_scenarios_hold_under_any_schedule(name: str, seed: int) -> None:
    """The random policy draws another order for each seed."""
    run(SCENARIOS / f"{name}.yaml", seed=seed).raise_if_failed()


def problems(text: str, name: str = "x.yaml") -> list[str]:
    return list(Scenario.loads(text, name=name).run().problems)


@pytest.mark.parametrize(
    ("expect", "words"),
    [
        ("{value: hi}", "expected value 'hi'; it gave 'hi woof'"),
        ("{error: KeyError}", "expected error KeyError; it gave"),
        ("{outcome: raised}", "expected outcome raised"),
        ("{matches: b*}", "expected a match of 'b*'"),
        ("{between: [1s, 2s]}", "expected at least 1s"),
        ("{any_of: [{value: a}, {error: B}]}", "none of any_of holds"),
    ],
)
def test_what_does_not_hold_is_told(expect: str, words: str) -> None:
    """Naming the step, what was expected and what came."""
    call = f"{{id: a, agent.call: {{to: web, method: Dog.bark, args: [hi]}}, expect: {expect}}}"
    told = problems(with_steps(call))
    assert len(told) == 1
    assert told[0].startswith("step a: ")
    assert words in told[0]


@pytest.mark.parametrize(
    "expect",
    [
        "{value: hi woof}",
        "{matches: hi*}",
        "{within: 1s, outcome: ok}",
        "{any_of: [{error: X}, {value: hi woof}]}",
    ],
)
def test_what_holds_is_no_problem(expect: str) -> None:
    """Each way to say the same."""
    call = f"{{id: a, agent.call: {{to: web, method: Dog.bark, args: [hi]}}, expect: {expect}}}"
    assert problems(with_steps(call)) == []


def test_an_error_that_nothing_expects_is_a_problem() -> None:
    """Unless the rule is switched off."""
    text = with_steps("{id: a, agent.call: {to: web, method: Dog.fly}}")
    told = problems(text)
    assert len(told) == 1
    assert "no-unhandled-error: step a raised MethodNotFound" in told[0]
    assert problems(text + "invariants: [{no-unhandled-error: off}]\n") == []


def test_steps_wait_for_times_and_for_each_other() -> None:
    """`at`, `after`, `background`, `repeat` and `parallel` keep their promises."""
    text = with_steps(
        "{id: bg, background: true, sleep: 2s}",
        "{id: five, at: 500ms, sleep: 0}",
        "{id: late, after: bg, sleep: 0}",
        "{id: rep, repeat: {times: 3, every: 100ms}, sleep: 10ms}",
        "{id: par, parallel: [{id: x, sleep: 1s}, {sleep: 2s}]}",
        "{give_up: 100ms, sleep: 9s, expect: {error: CallTimeout, within: 100ms}}",
    )
    result = Scenario.loads(text).run()
    result.raise_if_failed()
    began = {k: v.began_ns // 10**6 for k, v in result.outcomes.items()}
    ended = {k: v.ended_ns // 10**6 for k, v in result.outcomes.items()}
    assert began["bg"] == 0
    assert began["five"] == 500
    assert began["late"] == ended["bg"] == 2000
    assert [began[f"rep[{n}]"] for n in range(3)] == [2000, 2100, 2200]
    assert began["x"] == began["par/2"] == 2210
    assert ended["par"] == ended["par/2"] == 4210
    assert result.sim_seconds == pytest.approx(4.31)


def test_a_step_can_wait_until_another_has_started() -> None:
    """`walk.started` is the moment the far side runs it; `.sent` comes before."""
    text = with_steps(
        "{id: walk, background: true, agent.call: {to: web, method: Dog.walk, args: [1]}}",
        "{id: sent, after: walk.sent, sleep: 0}",
        "{id: started, after: walk.started, sleep: 0}",
        more="topology_links: 1\n",
    ).replace("topology_links: 1\n", "")
    text = text.replace(
        "workload:", "  links: [{between: '* <-> *', latency: 10ms}]\nworkload:"
    )
    result = Scenario.loads(text).run()
    result.raise_if_failed()
    sent, started = (result.outcomes[name].began_ns for name in ("sent", "started"))
    assert sent < started < result.outcomes["walk"].ended_ns


def test_references_draws_and_constructors_reach_the_far_side() -> None:
    """Earlier values are passed on; drawn ones are equal for equal seeds."""
    text = with_steps(
        "{id: a, agent.call: {to: web, method: Dog.bark, args: [{$draw: {int: [0, 999]}}]}}",
        "{id: b, agent.call: {to: web, method: Dog.bark, args: [{$ref: a.value}]}}",
        "{id: c, agent.call: {to: web, method: Dog.bark, args: [{$$x: 1}]}}",
    )
    first, second = Scenario.loads(text).run(), Scenario.loads(text).run()
    value = first.outcomes["a"].value
    assert first.outcomes["b"].value == f"{value} woof"
    assert first.outcomes["c"].value == "{'$x': 1} woof"
    assert second.outcomes["a"].value == value
    assert Scenario.loads(text).run(seed=1).outcomes["a"].value != value


def test_fire_and_forget_is_never_sure() -> None:
    """The call is on its way, and that is all there is to know."""
    text = with_steps("{id: a, agent.send: {to: web, method: Dog.bark, args: [hi]}}")
    outcome = Scenario.loads(text).run().outcomes["a"]
    assert outcome.kind == "maybe"
    assert outcome.error is None


def test_hosts_are_stopped_and_started_by_steps_and_faults() -> None:
    """A stopped agent does not answer; started again it does."""
    text = with_steps(
        "{host.stop: {host: web}}",
        "{id: gone, agent.call: {to: web, method: Dog.bark, args: [x], timeout: 1s}, expect: {error: RequestTimeout}}",
        "{host.start: {host: web}}",
        "{id: back, agent.call: {to: web, method: Dog.bark, args: [y], timeout: 1s}, expect: {value: y woof}}",
        "{id: gap, at: 5s, agent.call: {to: web, method: Dog.bark, args: [z], timeout: 500ms}, expect: {error: RequestTimeout}}",
        "{id: end, at: 7s, agent.call: {to: web, method: Dog.bark, args: [z], timeout: 1s}, expect: {value: z woof}}",
        more="faults: [{kind: stop, on: web, at: 4s, until: 6s}]\n",
    )
    assert problems(text) == []


def test_own_code_and_own_checks_run() -> None:
    """`do` gets the client's context, `call` the result."""
    text = with_steps(
        "{id: own, do: 'tests.scenario.test_run:own_step', expect: {value: desk}}",
        more="expect: [{call: 'tests.scenario.test_run:own_check'}]\n",
    )
    assert problems(text) == ["own_check: told 1 outcome"]


async def own_step(context: object) -> str:
    return context.ports.host  # type: ignore[attr-defined, no-any-return]


def own_check(result: object) -> str:
    return f"told {len(result.outcomes)} outcome"  # type: ignore[attr-defined]


def test_limits_leave_it_undecided() -> None:
    """A client that does not end in time is no failure and no success."""
    text = with_steps("{id: a, sleep: 2h}", more="limits: {sim_time: 1s}\n")
    result = Scenario.loads(text).run()
    assert result.verdict == "unknown"
    assert "limits.sim_time" in result.limits[0]
    assert result.outcomes["a"].kind == "maybe"


def test_code_that_is_not_there_is_a_scenario_error() -> None:
    """Validation imports nothing, so it shows when the scenario is run."""
    for module, words in (
        ("no.such.module", "no module no"),
        ("scenarios.parts.kennel:Cat", "has no Cat"),
    ):
        story = Scenario.loads(GOOD.replace("scenarios.parts.kennel:Dog", module))
        with pytest.raises(ScenarioError, match=words):
            story.run()


def test_a_mode_the_scenario_excludes_is_refused() -> None:
    """Not run and called good."""
    story = Scenario.loads(GOOD + "requires: {modes: [real]}\n")
    with pytest.raises(ScenarioError, match="does not run in mode sim"):
        story.run()
