"""The trace of a run as a file that grows with it, so that memory does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpcsim.trace import environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

    from rpcsim.sim._sim import Sim

__all__ = ["TraceWriter"]


class TraceWriter:
    """Writes one run's trace, from the beginning of its block to the end.

    Args:
        path: The file; one that is there is replaced.
        options: What the header tells of the run's options.
    """

    def __init__(self, path: str | Path, options: Mapping[str, object]) -> None:
        self._path = Path(path)
        self._options = options
        self._file: BinaryIO | None = None

    def __repr__(self) -> str:
        return f"<trace file {self._path.name}>"

    def begin(self, sim: Sim) -> None:
        """Open the file and write what is known."""
        # Opened outside every step, where the run's fences do not look.
        self._file = self._path.open("wb")
        header: dict[str, Any] = {
            **environment(),
            "seed": sim.seed,
            "policy": sim.policy,
            "scope": sim.scope,
            "wall_start": sim.clock.now().isoformat(),
            "level": sim.trace.level,
            "options": self._options,
        }
        sim.trace.stream_to(self._file.write, header)

    def end(self, sim: Sim, *, failed: bool) -> None:
        """Write the rest and the last line, and close the file."""
        file, self._file = self._file, None
        if file is None:
            return  # its block was never entered
        with file:
            sim.trace.finish_stream(
                {
                    "outcome": "failed" if failed else "passed",
                    "sim_time_ns": sim.loop.now_ns,
                    "steps": sim.loop.steps,
                    "draws": sim.entropy.draws(),
                    "inexact": [item.fault for item in sim.inexact],
                }
            )
