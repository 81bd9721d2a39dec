"""Which of several runnable entries goes next.

A policy is asked for an index among n runnable entries, 0 being the oldest. The loop
swaps that entry with the head, so all zeros is exactly first in, first out, and the
cost does not depend on n. A single runnable entry is no choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.sim._streams import SimStream

__all__ = ["POLICIES", "Chooser", "Policy", "Scope", "chooser_for"]

Policy: TypeAlias = Literal["fifo", "random"]
Scope: TypeAlias = Literal["task", "host"]
# Given the number of runnable entries (2 or more), gives the index of the next.
Chooser: TypeAlias = "Callable[[int], int]"

POLICIES: Final = ("fifo", "random")


def chooser_for(policy: str, stream: Callable[[], SimStream]) -> Chooser | None:
    """Give the chooser of a policy; `None` for fifo, which makes no choices.

    Args:
        policy: One of `POLICIES`.
        stream: Gives the stream `schedule`; not called for fifo, which draws nothing.
    """
    if policy == "fifo":
        return None
    if policy == "random":
        return stream().chooser()
    known = ", ".join(POLICIES)
    raise ValueError(f"unknown schedule policy {policy!r}; known: {known}")
