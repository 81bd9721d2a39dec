"""Exit codes, and errors as one line with a next step (scenario.md 10)."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CliError", "Exit", "worst"]


class Exit(enum.IntEnum):
    """What the process ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    SURROUNDINGS = 3
    UNDECIDED = 4
    NOT_DETERMINISTIC = 5
    INTERNAL = 70
    INTERRUPTED = 130


# Several apply: the first of these.
_ORDER = (
    Exit.INTERNAL,
    Exit.USAGE,
    Exit.SURROUNDINGS,
    Exit.NOT_DETERMINISTIC,
    Exit.FAILED,
    Exit.UNDECIDED,
)


def worst(codes: Iterable[Exit]) -> Exit:
    """Give the exit code that tells most of several."""
    found = set(codes)
    return next((code for code in _ORDER if code in found), Exit.OK)


class CliError(Exception):
    """A verb cannot go on.

    Args:
        problem: What is wrong, naming the thing.
        step: The next thing to try.
        exit: What the process ends with.
        details: More lines for stderr, and data for `--json`.
    """

    def __init__(
        self,
        problem: str,
        step: str = "",
        *,
        exit: Exit = Exit.USAGE,  # noqa: A002 - the word for it
        details: str = "",
        data: Any = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.step = step
        self.exit = exit
        self.details = details
        self.data = data

    def line(self, verb: str) -> str:
        """Write it in one line."""
        name = f"rpcsim {verb}" if verb else "rpcsim"
        told = " ".join(self.problem.split())
        return f"{name}: {told}" + (f"; {self.step}" if self.step else "")
