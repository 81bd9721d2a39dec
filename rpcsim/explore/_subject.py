"""What is run again and compared: a scenario file, or a program named by its module.

A subject can be run in this process, or in a new interpreter that gets a `Job` as JSON
and writes what it observed; both give the same `Observed`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from rpcsim.errors import SimulationError
from rpcsim.explore._probe import Probe, Sighting
from rpcsim.scenario import Scenario
from rpcsim.sim import Sim, Tape, replay
from rpcsim.trace import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rpcsim.harness import RunResult
    from rpcsim.sim import Policy
    from rpcsim.trace import Trace

__all__ = ["Observed", "Subject", "clutter", "fresh_main", "run_fresh", "subject_of"]

# Beyond the scenario's own limit: starting an interpreter, importing, writing.
GRACE_SECONDS: Final = 60.0
# A program has no limit of its own.
PROGRAM_SECONDS: Final = 120.0
# Records of a program that stay readable; what is beyond is in the digests.
KEEP: Final = 200_000
# Blocks per size that are made and partly freed to disturb the heap: some megabytes,
# in every class of sizes the allocator has up to half a kilobyte.
CLUTTER: Final = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One run, as far as it is compared.

    Attributes:
        seed: The run's seed.
        records: What happened, step by step.
        digest: The trace's digest.
        schedule_digest: The digest of all its records.
        tape: Its choices.
        draws: Stream to the number of draws.
        outcome: What it returned or raised, as text.
        sightings: What a probe saw, if one was set.
    """

    seed: int
    records: tuple[Record, ...] = field(repr=False)
    digest: str | None
    schedule_digest: str | None
    tape: Tape
    draws: Mapping[str, int]
    outcome: str
    sightings: tuple[Sighting, ...] = ()


class Subject(Protocol):
    """Something that can be run again."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def seconds(self) -> float:
        """How long a run may take, in real seconds."""

    @property
    def seed(self) -> int:
        """Its seed."""

    def run(self, tape: Tape | None = None, *, seed: int | None = None) -> Observed:
        """Run it, along a tape if one is given, or with another seed."""

    def plain(self) -> dict[str, Any]:
        """Give what a new interpreter needs to find it."""


@dataclass(frozen=True, slots=True)
class _ScenarioFile:
    """A scenario by its file."""

    scenario: Scenario

    @property
    def name(self) -> str:
        return self.scenario.name

    @property
    def seconds(self) -> float:
        return self.scenario.limits.real_time.seconds + GRACE_SECONDS

    @property
    def seed(self) -> int:
        return self.scenario.seed

    def run(self, tape: Tape | None = None, *, seed: int | None = None) -> Observed:
        result = self.scenario.run(
            seed=seed,
            trace="steps",
            policy=None if tape is None else replay(tape),
            record=True,
        )
        assert result.tape is not None  # a simulated run that was told to record
        return _observed(
            result.trace, result.tape, result.draws, _told_result(result), result.seed
        )

    def plain(self) -> dict[str, Any]:
        return {"scenario": self.scenario.origin, "seed": self.scenario.seed}


@dataclass(frozen=True, slots=True)
class _Program:
    """A function that is given a simulation, by `module:attribute`."""

    name: str
    seed: int
    policy: str

    seconds: Final = PROGRAM_SECONDS

    def run(self, tape: Tape | None = None, *, seed: int | None = None) -> Observed:
        program = _resolve(self.name)
        policy: str | Policy = self.policy if tape is None else replay(tape)
        sim = Sim(
            seed=self.seed if seed is None else seed,
            policy=policy,
            trace="steps",
            keep=KEEP,
            record=True,
        )
        try:
            with sim:
                value = program(sim)
                if inspect.iscoroutine(value):
                    value = sim.run(value)
            outcome = repr(value)
        except Exception as error:  # noqa: BLE001 - whatever it raises is its outcome
            outcome = f"{type(error).__name__}: {error}"
        assert sim.tape is not None  # told to record
        return _observed(sim.trace, sim.tape, sim.entropy.draws(), outcome, sim.seed)

    def plain(self) -> dict[str, Any]:
        return {"program": self.name, "seed": self.seed, "policy": self.policy}


def subject_of(
    what: str | os.PathLike[str], *, seed: int | None = None, policy: str = "random"
) -> Subject:
    """Find what is named.

    Args:
        what: The path of a scenario file, or `module:attribute` of a function (or
            coroutine function) that takes a `Sim`.
        seed: In place of the scenario's own; a program's is 0.
        policy: Of a program; a scenario has its own.

    Raises:
        ScenarioError: It is not a good scenario.
        ValueError: There is no such program.
    """
    told = os.fspath(what)
    if ":" in told and not Path(told).exists():
        _resolve(told)
        return _Program(told, 0 if seed is None else seed, policy)
    scenario = Scenario.load(what)
    return _ScenarioFile(scenario if seed is None else scenario.replace(seed=seed))


def _resolve(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"no program {name!r} ({error}); name a function that takes a simulation as "
            "package.module:function, or a scenario file that exists"
        ) from error
    if not callable(found):
        raise ValueError(f"{name!r} is no function that takes a simulation")
    return found


def _told_result(result: RunResult) -> str:
    """Tell how a scenario ended: the verdict, and what came of every step."""
    steps = {
        step.id: [step.kind, repr(step.value), repr(step.error), step.ended_ns]
        for step in result.outcomes.values()
    }
    return json.dumps([result.verdict, list(result.problems), steps])


def _observed(
    trace: Trace, tape: Tape, draws: Mapping[str, int], outcome: str, seed: int
) -> Observed:
    return Observed(
        seed=seed,
        records=tuple(trace),
        digest=trace.digest,
        schedule_digest=trace.schedule_digest,
        tape=tape,
        draws=dict(draws),
        outcome=outcome,
    )


# -- another interpreter -----------------------------------------------------------------


def clutter() -> list[Any]:
    """Disturb the heap: give what is to be held while something runs again."""
    held: list[Any] = [
        [bytes(size) for _ in range(CLUTTER)] for size in range(8, 480, 16)
    ]
    # Smaller than any bytes object.
    held += [
        [object() for _ in range(CLUTTER)],
        [n + 0.5 for n in range(CLUTTER)],
    ]
    for n, blocks in enumerate(held):
        # Freed in another order than made, the free blocks come out scattered.
        order = sorted(range(CLUTTER), key=lambda i: i * 7919 % 577)
        for index in order[n % 3 :: 2]:
            blocks[index] = None
    return held


def run_fresh(
    subject: Subject,
    *,
    hash_seed: str,
    tape: Tape | None = None,
    junk: bool = False,
    wanted: list[tuple[str, str]] | None = None,
) -> Observed:
    """Run a subject in a new interpreter.

    Args:
        subject: What to run.
        hash_seed: Its `PYTHONHASHSEED`.
        tape: What it follows strictly, if anything.
        junk: Whether its heap is disturbed first.
        wanted: Kinds and hosts of records whose makers are looked for: a probe is
            set, which is slow.

    Raises:
        SimulationError: It failed; the text has what it said.
    """
    with tempfile.TemporaryDirectory(prefix="rpcsim-") as folder:
        out, written = Path(folder) / "out", Path(folder) / "run.tape"
        if tape is not None:
            written.write_text(tape.dumps(), "utf-8")
        job = {
            **subject.plain(),
            "tape": None if tape is None else str(written),
            "junk": junk,
            "wanted": wanted,
            "out": str(out),
        }
        # Modules are found there as they are found here.
        path = os.pathsep.join(entry for entry in sys.path if entry)
        done = subprocess.run(
            [
                *(sys.executable, "-c"),
                "from rpcsim.explore import fresh_main; fresh_main()",
                json.dumps(job),
            ],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=subject.seconds,
            check=False,
        )
        if done.returncode != 0 or not out.exists():
            said = done.stderr.strip().splitlines()
            raise SimulationError(
                f"running {subject.name} in a new interpreter failed "
                f"(exit {done.returncode}): {said[-1] if said else 'it said nothing'}"
            )
        return _read(out.read_bytes())


def fresh_main() -> None:
    """Run a job in this interpreter: the other end of `run_fresh`.

    Takes the job, as JSON, from the command line.
    """
    job: dict[str, Any] = json.loads(sys.argv[1])
    what = job.get("scenario") or job["program"]
    subject = subject_of(what, seed=job["seed"], policy=job.get("policy", "random"))
    tape = None
    if job["tape"] is not None:
        tape = Tape.loads(Path(job["tape"]).read_text("utf-8"))
    held = clutter() if job["junk"] else None
    probe = None if job["wanted"] is None else Probe(job["wanted"])
    if probe is not None:
        probe.start()
    seen = subject.run(tape)
    sightings = () if probe is None else probe.stop()
    del held
    told = (
        str(seen.seed),
        [dataclasses.astuple(record) for record in seen.records],
        seen.digest,
        seen.schedule_digest,
        seen.tape.dumps(),
        dict(seen.draws),
        seen.outcome,
        [dataclasses.astuple(sighting) for sighting in sightings],
    )
    # Not JSON: records may hold bytes.
    Path(job["out"]).write_bytes(msgspec.msgpack.encode(told))


def _read(told: bytes) -> Observed:
    seed, records, digest, schedule_digest, tape, draws, outcome, sightings = (
        msgspec.msgpack.decode(told)
    )
    return Observed(
        seed=int(seed),
        records=tuple(
            Record(n, t_ns, kind, host, strand, cause, tuple(map(tuple, data)))
            for n, t_ns, kind, host, strand, cause, data in records
        ),
        digest=digest,
        schedule_digest=schedule_digest,
        tape=Tape.loads(tape),
        draws=draws,
        outcome=outcome,
        sightings=tuple(Sighting(*fields) for fields in sightings),
    )
