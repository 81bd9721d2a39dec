"""The scenario itself: one document as one frozen value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpcsim.errors import ScenarioError
from rpcsim.harness import run_plan
from rpcsim.scenario._check import check_whole, warn_about
from rpcsim.scenario._document import Document
from rpcsim.scenario._dump import dump_json, dump_yaml, named_code
from rpcsim.scenario._kinds import node_of
from rpcsim.scenario._lower import lower
from rpcsim.scenario._problems import Problems, Source
from rpcsim.scenario._reading import FORMAT, read_document, source_of
from rpcsim.scenario._record import RecordKind, plain_record

if TYPE_CHECKING:
    import os

    from rpcsim.harness import RunResult
    from rpcsim.ports import Mode
    from rpcsim.sim import Policy
    from rpcsim.trace import Level

__all__ = ["Scenario"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario(Document):
    """One story about a system: who is there, what is done, what goes wrong.

    Attributes:
        name: Short name, unique in its directory.
        about: One sentence: system, hardship, invariant.
        seed: What all draws derive from.
        requires: What a run needs.
        limits: When a run is given up.
        topology: The machines.
        workload: What clients do.
        faults: What goes wrong.
        expect: What must come of it.
        invariants: Rules over the whole run.
        schedule: How the simulation chooses what runs next.
    """

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Scenario:
        """Read a file (`.yaml`, `.yml` or `.json`) and check it; nothing is imported.

        Raises:
            ScenarioError: It is not a good scenario; all problems are told.
            OSError: It cannot be read.
        """
        found = cls.read(source_of(Path(path)))
        return dataclasses.replace(found, origin=str(path))

    @classmethod
    def loads(cls, text: str, *, kind: str = "yaml", name: str = "<text>") -> Scenario:
        """Read a text and check it.

        Args:
            text: The document.
            kind: `yaml` or `json`.
            name: What messages call it.

        Raises:
            ScenarioError: It is not a good scenario; all problems are told.
        """
        return cls.read(Source(name, text, kind))

    @classmethod
    def read(cls, source: Source) -> Scenario:
        """Read a source and check it; `ScenarioError` tells all problems."""
        into = Problems(source=source)
        scenario = read_document(cls, source, into)
        if isinstance(scenario, Scenario):
            check_whole(scenario, into)
        into.raise_if_any()
        assert isinstance(scenario, Scenario)  # else a problem was reported
        return scenario

    def dump(self, *, header: bool = False) -> str:
        """Write the canonical YAML form: `Scenario.loads(s.dump()) == s`.

        Args:
            header: Begin with the comment by which editors find the schema.

        Raises:
            ScenarioError: It is not a good scenario, or holds code without a name.
        """
        return dump_yaml(self.plain(), header=header)

    def to_json(self) -> str:
        """Write the same as JSON."""
        return dump_json(self.plain())

    def plain(self) -> dict[str, Any]:
        """Give it as plain data: keys in order, defaults left out.

        Raises:
            ScenarioError: It is not a good scenario, or holds code without a name.
        """
        self.validate()
        return {"rpcsim": FORMAT, **named_code(plain_record(self))}

    def validate(self) -> None:
        """Check it, as a file is checked.

        Raises:
            ScenarioError: All problems, each with its path.
        """
        into = Problems(root=node_of(plain_record(self)))
        found = RecordKind(Scenario).read(into.root, (), into)
        if isinstance(found, Scenario):
            check_whole(found, into)
        into.raise_if_any()

    def warnings(self) -> list[str]:
        """Say what is suspicious and harmless, one line each."""
        into = Problems(root=node_of(plain_record(self)))
        warn_about(self, into)
        return [str(problem) for problem in into.warnings]

    def replace(self, **changes: Any) -> Scenario:
        """Give a copy with other values, such as `seed=6`."""
        return dataclasses.replace(self, **changes)

    def run(
        self,
        *,
        mode: Mode = "sim",
        seed: int | None = None,
        trace: Level = "protocol",
        policy: str | Policy | None = None,
        record: bool = False,
    ) -> RunResult:
        """Run it.

        Args:
            mode: `sim` or `real`.
            seed: In place of the scenario's own.
            trace: How much is recorded: `"protocol"` or `"steps"`.
            policy: In place of the scenario's own, such as `replay(tape)`; of no
                meaning in real mode.
            record: Whether a simulated run writes its choices down.

        Raises:
            ScenarioError: It is not a good scenario, or does not run in this mode.
        """
        self.validate()
        if mode not in self.requires.modes:
            modes = " or ".join(self.requires.modes)
            raise ScenarioError(
                f"scenario {self.name} does not run in mode {mode}: its requires.modes "
                f"says {modes}"
            )
        plan = dataclasses.replace(lower(self, seed=seed), record=record)
        if policy is not None:
            plan = dataclasses.replace(plan, policy=policy)
        return run_plan(plan, mode=mode, trace=trace)
