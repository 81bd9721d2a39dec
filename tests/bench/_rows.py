"""What is measured, and what we aim at; the goals are simulation.md section 13's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["ROWS", "Goal", "Row", "row_of"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure to reach.

    Attributes:
        value: The figure, in the row's unit; with `of`, a share of that row's result.
        of: Id of another row, or `""`.
    """

    value: float
    of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One benchmark.

    Attributes:
        id: Its name on the command line.
        program: Name of its program, if not the same.
        title: What the table calls it.
        unit: Of the result: operations per second, or microseconds, milliseconds or
            mebibytes. A rate is better when higher, the others when lower.
        goal: Our aim; `None` for rows shown for comparison only.
        smallest: Fewest operations that make sense in one sample.
        fixed: Whether `smallest` is the size of every sample, however long it takes.
        trace: Level of our trace during the row.
        others: Whether the other loops run it too; else it is ours (and asyncio's,
            where `_peers.py` knows an equivalent).
        whole: Whether one operation is one run, from a fresh loop to its closing.
        simulated: Whether it needs a simulated network, which asyncio has not.
    """

    id: str
    title: str
    unit: Literal["/s", "us", "ms", "MiB"] = "/s"
    goal: Goal | None = None
    smallest: int = 1_000
    fixed: bool = False
    trace: Literal["steps", "protocol"] = "protocol"
    others: bool = True
    program: str = ""
    whole: bool = False
    simulated: bool = False

    @property
    def rising(self) -> bool:
        """Whether more is better."""
        return self.unit == "/s"


ROWS: Final = (
    Row(
        id="chain",
        title="steps: call_soon chain",
        goal=Goal(1_000_000),
        trace="steps",
    ),
    Row(
        id="ready_100",
        title="steps: 100 tasks always ready",
        goal=Goal(1_000_000),
        trace="steps",
    ),
    Row(
        id="ready_10000",
        title="steps: 10 000 tasks always ready",
        goal=Goal(0.75, of="ready_100"),
        smallest=20_000,
        trace="steps",
    ),
    Row(
        id="timers",
        title="timers: 100 tasks x 1 000 sleeps",
        goal=Goal(150_000),
        smallest=100_000,
        fixed=True,
        trace="steps",
    ),
    Row(id="rpc_msgspec", title="JSON RPC, protocol, msgspec", goal=Goal(100_000)),
    Row(id="rpc_json", title="JSON RPC, protocol, stdlib json", goal=Goal(45_000)),
    Row(id="streams_1", title="echo, streams, 1 client", goal=Goal(35_000)),
    Row(
        id="streams_50",
        title="echo, streams, 50 clients",
        goal=Goal(35_000),
    ),
    Row(id="empty", title="empty runs", goal=Goal(10_000), smallest=20, whole=True),
    Row(
        id="chaos",
        title="small scenarios with a partition",
        goal=Goal(500),
        smallest=3,
        whole=True,
        simulated=True,
    ),
    Row(
        id="blocking",
        title="blocking call with a timer",
        unit="us",
        goal=Goal(25),
        smallest=100,
        others=False,
    ),
    Row(
        id="nested",
        title="blocking call, nested",
        unit="us",
        goal=Goal(50),
        smallest=100,
        others=False,
    ),
    Row(
        id="agent",
        title="agent call, whole stack, synchronous",
        goal=Goal(8_000),
        smallest=50,
        others=False,
    ),
    Row(
        id="import",
        title="import rpcsim, fresh process",
        unit="ms",
        goal=Goal(60),
        smallest=1,
        fixed=True,
        others=False,
    ),
    Row(
        id="import_world",
        title="from rpcsim import Agent, simulate",
        unit="ms",
        smallest=1,
        fixed=True,
        others=False,
    ),
    Row(
        id="memory",
        title="memory growth over 1 M trace events",
        unit="MiB",
        goal=Goal(50),
        smallest=1_000_000,
        fixed=True,
        others=False,
        trace="steps",
        program="chain",
    ),
)


def row_of(name: str) -> Row:
    """Give the row of that id."""
    for row in ROWS:
        if row.id == name:
            return row
    known = ", ".join(row.id for row in ROWS)
    raise SystemExit(f"no benchmark {name!r}; known: {known}")
