"""Running a scenario by path or object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpcsim.scenario._scenario import Scenario

if TYPE_CHECKING:
    import os

    from rpcsim.harness import RunResult
    from rpcsim.ports import Mode
    from rpcsim.trace import Level

__all__ = ["run"]


def run(
    scenario: Scenario | str | os.PathLike[str],
    *,
    mode: Mode = "sim",
    seed: int | None = None,
    trace: Level = "protocol",
) -> RunResult:
    """Run a scenario, loading it first if a path is given.

    Args:
        scenario: A scenario, or the path of its file.
        mode: `sim` or `real`.
        seed: In place of the scenario's own.
        trace: How much is recorded: `"protocol"` or `"steps"`.

    Raises:
        ScenarioError: It is not a good scenario, or does not run in this mode.
    """
    story = scenario if isinstance(scenario, Scenario) else Scenario.load(scenario)
    return story.run(mode=mode, seed=seed, trace=trace)
