"""What a scenario says: one document as one frozen value, without what is done with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rpcsim.scenario._expects import Expect
from rpcsim.scenario._faults import FAULTS, FAULTS_LATER, Fault
from rpcsim.scenario._kinds import Items, Text, of
from rpcsim.scenario._model import (
    Invariant,
    InvariantKind,
    Limits,
    Requires,
    Schedule,
    SeedKind,
)
from rpcsim.scenario._record import Record, RecordKind, VariantKind
from rpcsim.scenario._steps import Workload
from rpcsim.scenario._topology import Topology

__all__ = ["Document"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Record):
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

    noun: ClassVar[str] = "scenario"
    later: ClassVar[tuple[str, ...]] = ("choices", "found")
    name: str = field(
        metadata=of(
            Text(
                pattern=r"[a-z0-9][a-z0-9-]{0,63}",
                told="a name of small letters, digits and -",
            )
        )
    )
    about: str = field(default="", metadata=of(Text()))
    seed: int = field(default=0, metadata=of(SeedKind()))
    requires: Requires = field(default=Requires(), metadata=of(RecordKind(Requires)))
    limits: Limits = field(default=Limits(), metadata=of(RecordKind(Limits)))
    topology: Topology = field(metadata=of(RecordKind(Topology)))
    workload: Workload = field(metadata=of(RecordKind(Workload)))
    faults: tuple[Fault, ...] = field(
        default=(),
        metadata=of(Items(VariantKind("kind", "fault", FAULTS, FAULTS_LATER))),
    )
    expect: tuple[Expect, ...] = field(
        default=(), metadata=of(Items(RecordKind(Expect)))
    )
    invariants: tuple[Invariant, ...] = field(
        default=(), metadata=of(Items(InvariantKind()))
    )
    schedule: Schedule = field(default=Schedule(), metadata=of(RecordKind(Schedule)))
    # The file it came from: where imports start. No part of what it says.
    origin: str = field(default="", compare=False, repr=False)
