"""The canonical form: what is written reads back as the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcsim.errors import ScenarioError
from rpcsim.scenario import (
    Allowed,
    Client,
    Count,
    Expect,
    Invariant,
    Latency,
    Limits,
    Repeat,
    Requires,
    Retry,
    Scenario,
    Schedule,
    Topology,
    Workload,
    draw,
    faults,
    hosts,
    link,
    ops,
    ref,
)
from tests.scenario.texts import GOOD

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,8}", fullmatch=True)
spans = st.one_of(
    st.integers(0, 10**6).map(lambda n: f"{n}ns"),
    st.integers(0, 1000).map(lambda n: f"{n}ms"),
    st.integers(0, 100),
)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
data: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(texts.filter(lambda t: t[:1] != "$"), below, max_size=3)
    ),
    max_leaves=6,
)
pairs = st.tuples(st.integers(0, 50), st.integers(50, 99)).map(list)


@st.composite
def stories(pick: st.DrawFn) -> Scenario:
    """Give good scenarios that use every key now and then."""
    optional = st.none() | spans
    ids = pick(st.lists(names, min_size=1, max_size=5, unique=True))
    steps = []
    for ident in ids:
        common = {
            "id": ident,
            "at": pick(optional),
            "background": pick(st.booleans()),
            "give_up": pick(optional),
            "repeat": pick(
                st.none() | st.builds(Repeat, times=st.integers(1, 9), every=spans)
            ),
            "retry": pick(
                st.none()
                | st.builds(Retry, times=st.integers(1, 3), on=st.just("KeyError"))
            ),
        }
        steps.append(
            pick(
                st.one_of(
                    st.builds(
                        ops.agent_call,
                        to=st.just("web"),
                        method=st.just("Dog.bark"),
                        args=st.lists(data, max_size=3),
                        kwargs=st.dictionaries(names, data, max_size=2),
                        timeout=st.none() | spans | pairs,
                        expect=st.none()
                        | st.builds(Expect, value=data, within=optional),
                        **{k: st.just(v) for k, v in common.items()},
                    ),
                    st.builds(
                        ops.sleep,
                        duration=spans,
                        **{k: st.just(v) for k, v in common.items()},
                    ),
                )
            )
        )
    plan = pick(
        st.lists(
            st.one_of(
                st.builds(
                    faults.crash, on=st.just("web"), at=optional, restart_after=optional
                ),
                st.builds(faults.partition, isolate=st.just("w*"), at=optional),
                st.builds(
                    faults.latency,
                    link=st.just("desk -> *"),
                    latency=st.builds(Latency, base=spans, jitter=spans),
                    lasts=optional,
                ),
                st.builds(
                    faults.stop,
                    on=st.just(["web"]),
                    when=st.builds(
                        faults.when, event=st.just("exec_start"), nth=st.integers(1, 5)
                    ),
                    delay=spans,
                ),
            ),
            max_size=3,
        )
    )
    return Scenario(
        name=pick(st.from_regex(r"[a-z0-9][a-z0-9-]{0,9}", fullmatch=True)),
        about=pick(texts),
        seed=pick(st.integers(0, 2**64 - 1)),
        requires=Requires(modes=pick(st.sampled_from([("sim",), ("sim", "real")]))),
        limits=Limits(sim_time="1h", settle=pick(spans)),  # type: ignore[arg-type]
        topology=Topology(
            hosts={
                "mq": hosts.broker(),
                "web": hosts.agent(
                    plugins=[
                        hosts.plugin(module="a.b:C", threads=pick(st.integers(1, 4)))
                    ]  # type: ignore[arg-type]
                ),
                "desk": hosts.client(),
            },
            links=(link("* <-> mq", latency=pick(spans)),),
        ),
        workload=Workload(clients={"ann": Client(host="desk", steps=tuple(steps))}),
        faults=tuple(plan),
        expect=pick(
            st.lists(
                st.one_of(
                    st.builds(
                        Expect,
                        step=st.just(ids[0]),
                        any_of=st.lists(
                            st.builds(Allowed, error=st.just("KeyError")),
                            min_size=1,
                            max_size=2,
                        ),
                    ),
                    st.builds(
                        Expect,
                        count=st.builds(Count, event=st.just("outcome")),
                        at_least=st.integers(0, 3),
                    ),
                ),
                max_size=2,
            ).map(tuple)
        ),
        invariants=pick(
            st.lists(
                st.builds(
                    Invariant, name=st.just("nothing-left-behind"), on=st.booleans()
                ),
                max_size=1,
            ).map(tuple)
        ),
        schedule=Schedule(policy=pick(st.sampled_from(["fifo", "random"]))),
    )


@settings(deadline=None, max_examples=120)
@given(stories())
def test_what_is_dumped_loads_as_the_same(story: Scenario) -> None:
    """From YAML and from JSON; and the canonical form of it is itself."""
    text = story.dump()
    assert Scenario.loads(text) == story
    assert Scenario.loads(text).dump() == text
    assert Scenario.loads(story.to_json(), kind="json") == story


def test_the_python_form_equals_the_file() -> None:
    """Texts and lists given in Python are normalised as a file's are."""
    story = Scenario(
        name="small",
        topology=Topology(
            hosts={
                "mq": hosts.broker(),
                "web": hosts.agent(
                    plugins=(hosts.plugin(module="scenarios.parts.kennel:Dog"),)
                ),
                "desk": hosts.client(),
            }
        ),
        workload=Workload(
            clients={
                "ann": Client(
                    host="desk",
                    steps=(
                        ops.agent_call(
                            id="a",
                            to="web",
                            method="Dog.bark",
                            args=("hi",),
                            timeout="1s",  # type: ignore[arg-type]  # normalised
                            expect=Expect(value="hi woof"),
                        ),
                    ),
                )
            }
        ),
    )
    assert story == Scenario.loads(GOOD)
    assert story.replace(seed=3).seed == 3


def test_the_python_form_is_validated_by_paths() -> None:
    """The same validator; there is no text, so there are no lines."""
    story = Scenario.loads(GOOD).replace(seed=-1, faults=(faults.crash(on=("wep",)),))
    with pytest.raises(ScenarioError) as caught:
        story.validate()
    assert [p.path for p in caught.value.problems] == ["faults[0].on[0]", "seed"]
    assert "line" not in str(caught.value)


def test_marked_values_round_trip() -> None:
    """References, draws and bytes are data of the file."""
    call = ops.agent_call(
        to="web",
        method="D.b",
        args=[ref("a.value.x"), draw.int(0, 9), b"\x00\xff"],  # type: ignore[arg-type]
    )
    story = Scenario.loads(GOOD)
    first = story.workload.clients["ann"].steps[0]
    client = Client(host="desk", steps=(first, call))
    story = story.replace(workload=Workload(clients={"ann": client}))
    assert '{$bytes: "AP8="}' in story.dump()
    assert Scenario.loads(story.dump()) == story


def test_code_is_dumped_by_name_or_refused() -> None:
    """A lambda runs, and cannot be written down: the path says where it stands."""
    story = Scenario.loads(GOOD)
    named = story.replace(expect=(Expect(call=test_code_is_dumped_by_name_or_refused),))
    assert "tests.scenario.test_dump:test_code_is" in named.dump()
    nameless = story.replace(expect=(Expect(call=lambda _result: True),))
    nameless.validate()
    with pytest.raises(ScenarioError, match=r"expect\[0\]\.call: .*lambda"):
        nameless.dump()


def test_odd_texts_are_quoted() -> None:
    """Names that other readers take for values stay text."""
    for about in ("no", "1.5", "null", "a: b", "# x", "*a", "- x", "\x85\u2028", "x\n"):
        story = Scenario.loads(GOOD).replace(about=about)
        assert Scenario.loads(story.dump()).about == about
