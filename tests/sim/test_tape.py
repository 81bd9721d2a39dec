"""The tape: recorded, replayed, cut, fixed, written, read; and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcsim.errors import ReplayError, SimulationError, TraceFormatError
from rpcsim.sim import Sim, Tape, Track, owned, replay
from tests.sim.programs import RACES, conversation

ROOT = Path(__file__).parents[2]


def races(**options: Any) -> Sim:
    """Run all races in one simulation."""
    with Sim(trace="steps", **options) as sim:
        log: list[Any] = []
        for race in RACES:
            sim.run(race(log))
        sim.record("note", (("log", repr(log)),))
    return sim


def talk(**options: Any) -> Sim:
    """Run a conversation over drawn latencies."""
    return conversation(trace="steps", **options)


def draws(**options: Any) -> Sim:
    """Draw from streams of its own while two tasks race."""
    with Sim(trace="steps", **options) as sim:
        stream = sim.entropy.stream("user/dice")

        async def throw(name: str) -> None:
            for _ in range(9):
                data = (("who", name), ("value", stream.below(6) + 1))
                sim.record("mock", data)
                await asyncio.sleep(1 + round(stream.random()))
                stream.getrandbits(70)
                sim.entropy.uuid4()

        async def main() -> None:
            await asyncio.gather(throw("ann"), throw("bob"))

        sim.run(main)
    return sim


PROGRAMS = (races, talk, draws)
program_fixture = pytest.mark.parametrize(
    "program", PROGRAMS, ids=lambda program: program.__name__
)


def digests(sim: Sim) -> tuple[str | None, str | None]:
    return sim.trace.digest, sim.trace.schedule_digest


def tape_of(sim: Sim) -> Tape:
    assert sim.tape is not None
    return sim.tape


# -- recording and following -------------------------------------------------------------


@program_fixture
@pytest.mark.parametrize("policy", ["fifo", "random", "pct(depth=3, horizon=50)"])
def test_recording_changes_nothing(program: Any, policy: str) -> None:
    """With it or without: the same digests and draws; without it there is no tape."""
    plain = program(seed=5, policy=policy)
    recorded = program(seed=5, policy=policy, record=True)
    assert digests(plain) == digests(recorded)
    assert plain.entropy.draws() == recorded.entropy.draws()
    assert plain.tape is None
    tape = tape_of(recorded)
    assert tape.complete
    assert (tape.seed, tape.policy) == (5, recorded.policy)
    assert len(tape.tracks["schedule"]) >= 5
    assert "ids" not in tape.tracks


@program_fixture
@pytest.mark.parametrize("policy", ["random", "random(scope=host)", "pct(horizon=50)"])
def test_a_strict_replay_is_the_same_run(program: Any, policy: str) -> None:
    """Every choice is on the tape: the digests are equal, whatever made them."""
    first = program(seed=11, policy=policy, record=True)
    again = program(policy=replay(tape_of(first)), record=True)
    assert digests(again) == digests(first)
    assert tape_of(again).tracks == tape_of(first).tracks
    assert again.player is not None
    assert (again.player.misfits, again.player.silent) == (0, 0)


@program_fixture
@pytest.mark.parametrize("seed", range(3))
def test_zeros_and_nothing_are_fifo(program: Any, seed: int) -> None:
    """A tape of zeros, too long or too short, and an empty one (check 19)."""
    fifo = digests(program(seed=seed))
    for tape in (Tape(), Tape.zeros(5), Tape.zeros(100_000)):
        assert digests(program(seed=seed, policy=replay(tape))) == fifo


@program_fixture
def test_a_short_tape_goes_on_with_zeros(program: Any) -> None:
    """Cut after the last choice that is not 0, it is still the whole run."""
    first = program(seed=3, policy="random", record=True)
    tape = tape_of(first)
    last = max(index for label, index, _ in tape.deviations() if label == "schedule")
    assert digests(program(policy=replay(tape.cut(last + 1)))) == digests(first)
    shorter = program(policy=replay(tape.cut(last)))
    assert digests(shorter) != digests(first)


def test_all_zero_is_the_quiet_answer_everywhere() -> None:
    """`rest="zero"` gives 0 in every stream: the least latency, the first face."""
    sim = draws(policy=replay(Tape(), rest="zero"))
    assert {r.get("value") for r in sim.trace.of_kind("mock")} == {1}
    assert sim.clock.elapsed == 9
    # Ids follow from the seed alone: zeros would make them equal.
    assert sim.entropy.uuid4() != sim.entropy.uuid4()


def test_one_choice_may_be_fixed_while_the_rest_stays_drawn() -> None:
    """The later draws of the stream, and the other streams, are what they were."""

    def faces(**options: Any) -> list[Any]:
        return [r.get("value") for r in draws(seed=4, **options).trace.of_kind("mock")]

    # Draws of user/dice: ann's face and her delay, then bob's face.
    drawn = faces()
    other = 5 if drawn[1] != 6 else 0
    tape = Tape.of({"user/dice": {2: other}})
    fixed = faces(policy=replay(tape))
    assert fixed == [drawn[0], other + 1, *drawn[2:]]
    schedule = draws(seed=4, policy="random", record=True)
    held = tape_of(schedule).tracks["schedule"].values
    one = Tape.of({"schedule": {0: 1}})
    again = draws(seed=4, policy=replay(one, rest="seed"), record=True)
    assert tape_of(again).tracks["schedule"].values[0] == 1
    assert held[0] != 1 or digests(again) == digests(schedule)


# -- leaving the tape ----------------------------------------------------------------------


def walkers(steps: int, **options: Any) -> Sim:
    """Let two tasks walk some steps, and a third join them at the end."""
    with Sim(**options) as sim:

        async def walk(n: int) -> None:
            for _ in range(n):
                await asyncio.sleep(0)

        async def main() -> None:
            await asyncio.gather(walk(5), walk(steps))

        sim.run(main)
        sim.record("mock", ())
    return sim


def test_a_changed_program_leaves_its_tape_at_the_first_changed_choice() -> None:
    """`ReplayError` tells the index, both ranges and the last records (check 23)."""
    tape = tape_of(races(seed=2, policy="random", record=True))
    at = len(tape.tracks["schedule"]) // 2
    track = tape.tracks["schedule"]
    ranges = list(track.ranges)
    recorded = ranges[at]
    assert recorded is not None
    ranges[at] = recorded + 1
    changed = tape.with_track("schedule", Track(track.values, tuple(ranges)))
    with pytest.raises(ReplayError) as raised:
        races(policy=replay(changed))
    error = raised.value
    assert (error.stream, error.index) == ("schedule", at)
    assert (error.recorded, error.found) == (recorded + 1, recorded)
    told = str(error)
    assert f"choice {at} of stream 'schedule' at " in told
    assert f"of {recorded + 1}, the program now has a choice among {recorded}" in told
    assert "last records" in told
    lenient = races(policy=replay(changed, strict=False))
    assert lenient.player is not None
    assert lenient.player.misfits == 1
    assert digests(lenient) == digests(races(seed=2, policy="random"))


def test_one_choice_more_than_a_whole_tape_is_a_changed_program() -> None:
    """A tape cut by hand goes on with zeros; a complete one does not."""
    tape = tape_of(walkers(5, seed=1, policy="random", record=True))
    walkers(5, policy=replay(tape))
    with pytest.raises(ReplayError, match=r"stream 'user/dice'.*ends after 0 choices"):
        draws(policy=replay(tape))
    walkers(9, policy=replay(tape, strict=False))


def test_a_swallowed_replay_error_still_fails_the_run() -> None:
    """A draw in user code raises into it; the run keeps what it swallowed."""
    tape = tape_of(draws(seed=3, record=True))
    track = tape.tracks["user/dice"]
    wrong = Track(track.values[:2], (7, *track.ranges[1:2]))
    changed = tape.with_track("user/dice", wrong)
    with (
        pytest.raises(ReplayError, match="stream 'user/dice'"),
        Sim(policy=replay(changed)) as sim,
        contextlib.suppress(ReplayError),
    ):
        sim.entropy.stream("user/dice").below(6)


def test_lenient_replay_clamps_and_counts() -> None:
    """A choice too large for the alternatives is cut to the last one."""
    tape = Tape.of({"schedule": [1_000] * 10_000})
    sim = talk(seed=1, policy=replay(tape, strict=False), record=True)
    track = tape_of(sim).tracks["schedule"]
    assert sim.player is not None
    assert sim.player.clamped == len(track)
    assert all(
        value == (of or 0) - 1
        for value, of in zip(track.values, track.ranges, strict=True)
    )
    with pytest.raises(ReplayError, match="the tape holds 1000"):
        talk(seed=1, policy=replay(tape))


# -- another owner of the choices --------------------------------------------------------


@given(st.data())
@settings(deadline=None, max_examples=15, derandomize=True)
def test_a_property_based_test_may_own_the_choices(data: st.DataObject) -> None:
    """A source of integers with ranges is all a policy needs."""

    class Owner:
        def draw(self, label: str, n: int) -> int | None:
            if label == "schedule":
                return data.draw(st.integers(0, n - 1))
            return None

    def run(**options: Any) -> Sim:
        return walkers(3, **options)

    sim = run(policy=owned(Owner()), record=True)
    assert digests(run(policy=replay(tape_of(sim)))) == digests(sim)


def test_a_source_out_of_range_is_told() -> None:
    """What it gave, for what, and what is allowed."""

    class Wrong:
        def draw(self, label: str, n: int) -> int | None:
            return n

    with pytest.raises(SimulationError, match=r"gave 2 for stream 'schedule'.*give 0"):
        walkers(3, policy=owned(Wrong()))


# -- the value -------------------------------------------------------------------------


def test_a_tape_is_a_value_with_a_telling_repr() -> None:
    """Changes give copies; what is no longer all of a run is not complete."""
    tape = Tape.of({"schedule": {2: 1, 4: 3}, "net/a>b": [5]}, seed=9)
    assert repr(tape) == "<Tape of seed 9: schedule: 5, net/a>b: 1>"
    assert list(tape.deviations()) == [
        *(("schedule", 2, 1), ("schedule", 4, 3), ("net/a>b", 0, 5))
    ]
    assert tape.cost() == (3, 6, 9)
    assert tape.plain() == {"schedule": {2: 1, 4: 3}, "net/a>b": {0: 5}}
    assert Tape.of(tape.plain(), seed=9) == tape
    assert tape.fix("schedule", 4, None).cut(3) == tape.cut(3)
    assert tape.fix("dns", 1, 4).tracks["dns"].values == (None, 4)
    assert len(tape.cut(0)) == 1
    assert list(tape.only("net/a>b").tracks) == ["net/a>b"]
    assert repr(Tape()) == "<Tape of seed None: empty>"
    done = tape_of(walkers(2, record=True))
    assert done.complete
    assert not done.cut(1).complete


@pytest.mark.parametrize(
    ("values", "ranges", "message"),
    [
        ((1,), (), "one range per value"),
        ((3,), (3,), "3 is not below its range 3"),
        ((-1,), (3,), "at least 0, not -1"),
        ((0,), (0,), "at least 1, not 0"),
        ((True,), (3,), "whole number"),
        ((1 << 200,), (2,), "a number of 201 bits is not below"),
    ],
)
def test_an_impossible_choice_is_refused(
    values: Any, ranges: Any, message: str
) -> None:
    """A tape holds only what some run could choose."""
    with pytest.raises(ValueError, match=message):
        Track(values, ranges)
    with pytest.raises(ValueError, match="index of 0 or more"):
        Tape.of({"schedule": {-1: 1}})


# -- files -----------------------------------------------------------------------------


@program_fixture
def test_a_written_tape_is_read_back(program: Any) -> None:
    """All of it; what a program made has one text."""
    tape = tape_of(program(seed=1 << 70, policy="random", record=True))
    text = tape.dumps()
    assert Tape.loads(text) == tape
    assert Tape.loads(text).dumps() == text
    header = json.loads(text.split("\n")[0])
    assert header["schema"] == "rpcsim.tape/1"


numbers = st.one_of(st.integers(0, 9), st.integers(0, 1 << 100))


@given(
    st.dictionaries(
        st.text(max_size=8), st.lists(st.one_of(st.none(), numbers), min_size=1)
    ),
    st.one_of(st.none(), st.integers()),
    st.booleans(),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_any_tape_survives_its_file(
    choices: dict[str, list[int | None]], seed: int | None, ranged: bool
) -> None:
    """Any labels, seeds, holes, and numbers of any size."""
    tracks = {
        label: Track(
            tuple(values),
            tuple((v or 0) + 1 + (v or 0) % 3 if ranged else None for v in values),
        )
        for label, values in choices.items()
    }
    tape = Tape(tracks=tracks, seed=seed, policy="x", scope="host", complete=True)
    assert Tape.loads(tape.dumps()) == tape


def test_a_cut_file_is_read_as_far_as_it_goes() -> None:
    """Without its end it is not complete; a half-written line does not count."""
    tape = tape_of(races(policy="random", record=True))
    lines = tape.dumps().split("\n")
    assert not Tape.loads("\n".join(lines[:-2]) + "\n").complete
    cut = Tape.loads("\n".join(lines[:-2])[:-30])
    assert not cut.complete
    assert len(cut) < len(tape)


HEADER = '{"schema":"rpcsim.tape/1","seed":0}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: not JSON"),
        ("[]", "line 1: expected a JSON object"),
        ('{"schema":"rpcsim.trace/1"}', "line 1: expected schema 'rpcsim.tape/1'"),
        ('{"schema":"rpcsim.tape/1","seed":1.5}', "line 1, seed: expected a whole"),
        ('{"schema":"rpcsim.tape/1","scope":"x"}', "line 1: scope"),
        ('{"schema":"rpcsim.tape/1","policy":1}', "line 1: policy"),
        ('{"schema":"rpcsim.tape/1","complete":1}', "line 1: complete"),
        (HEADER + '{"s":1}\n', "line 2: s is a stream, not 1"),
        (HEADER + '{"s":"a","i":1,"v":[],"n":[]}\n', "goes on with choice 0, not 1"),
        (HEADER + '{"s":"a","i":0,"v":3,"n":[]}\n', "line 2: v is a list"),
        (HEADER + '{"s":"a","i":0,"v":[1],"n":[]}\n', "line 2: 1 choices, 0 ranges"),
        (HEADER + '{"s":"a","i":0,"v":[0,4],"n":3}\n', "line 2, position 2: 4 is not"),
        (HEADER + '{"s":"a","i":0,"v":[NaN],"n":3}\n', "position 1: expected a whole"),
        (HEADER + '{"s":"a","i":0,"v":["0xg"],"n":3}\n', "position 1: expected"),
        (HEADER + '{"s":"a","i":0,"v":[0],"n":"2^-1"}\n', "position 1: expected"),
        (HEADER + '{"s":"a","i":0,"v":[0],"n":"2^999999999"}\n', "position 1: exp"),
        (HEADER + '{"end":{"choices":4}}\n', "line 2: the end tells of 4 choices"),
        (HEADER + '{"end":{"choices":0}}\n{}\n', "line 3: text after the end"),
        (HEADER + "{\n{}\n", "line 2: not JSON"),
        (HEADER + "[" * 100_000 + "\n\n", "line 2: not JSON"),
    ],
)
def test_a_bad_file_is_refused_by_line_and_position(text: str, message: str) -> None:
    """`TraceFormatError` names the place and what stands there."""
    with pytest.raises(TraceFormatError, match=message):
        Tape.loads(text)


def test_sizes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer lines and more choices than any run has are refused before they cost."""
    monkeypatch.setattr("rpcsim.sim._tape.MAX_LINE", 1_000)
    monkeypatch.setattr("rpcsim.sim._tape.MAX_CHOICES", 100)
    with pytest.raises(TraceFormatError, match="line 2: longer than 1000"):
        Tape.loads(HEADER + "x" * 1_001 + "\n")
    with pytest.raises(TraceFormatError, match="line 2: more than 100 choices"):
        Tape.loads(
            HEADER + json.dumps({"s": "a", "i": 0, "v": [0] * 101, "n": 1}) + "\n"
        )


SAMPLE = tape_of(walkers(3, seed=5, policy="random", record=True)).dumps()


@given(
    st.integers(0, len(SAMPLE) - 1),
    st.integers(0, 8),
    st.one_of(st.text(max_size=6), st.sampled_from(["9" * 30, "null", "[", '"', "{}"])),
)
@settings(deadline=None, max_examples=300, derandomize=True)
def test_an_altered_file_is_read_or_refused(at: int, gone: int, put: str) -> None:
    """Never another error, and never an impossible tape."""
    text = SAMPLE[:at] + put + SAMPLE[at + gone :]
    try:
        tape = Tape.loads(text)
    except TraceFormatError as error:
        told = str(error)
    else:
        told = "line by line" if Tape.loads(tape.dumps()) == tape else "lost"
    assert told.startswith("line ")


def test_a_version_1_file_stays_readable() -> None:
    """The format is a promise."""
    text = (
        '{"schema":"rpcsim.tape/1","seed":7,"policy":"random","scope":"host",'
        '"complete":true,"later":1}\n'
        '{"s":"schedule","i":0,"v":[0,2,1],"n":[2,3,2]}\n'
        '{"s":"net/a>b","i":0,"v":["0x20000000000001",0],"n":"2^70"}\n'
        '{"s":"dns","i":0,"v":[1,null],"n":null}\n'
        '{"end":{"choices":7}}\n'
    )
    tape = Tape.loads(text)
    assert (tape.seed, tape.policy, tape.scope) == (7, "random", "host")
    assert tape.complete
    assert tape.tracks == {
        "schedule": Track((0, 2, 1), (2, 3, 2)),
        "net/a>b": Track(((1 << 53) + 1, 0), (1 << 70, 1 << 70)),
        "dns": Track((1, None), (None, None)),
    }


FOLLOW = """
import pathlib, sys
from rpcsim.sim import Tape, replay
from tests.sim import test_tape
tape = Tape.loads(pathlib.Path(sys.argv[1]).read_text())
for program in test_tape.PROGRAMS[int(sys.argv[2]):][:1]:
    print(*test_tape.digests(program(policy=replay(tape))))
"""


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_file_replays_in_another_process(tmp_path: Path, number: int) -> None:
    """Equal digests under another hash seed (check 23)."""
    sim = PROGRAMS[number](seed=6, policy="random", record=True)
    path = tmp_path / "tape.jsonl"
    path.write_text(tape_of(sim).dumps())
    done = subprocess.run(
        [sys.executable, "-c", FOLLOW, str(path), str(number)],
        env={**os.environ, "PYTHONHASHSEED": "321", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == list(digests(sim))
