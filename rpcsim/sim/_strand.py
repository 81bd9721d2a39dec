"""Strands: what keeps its order under every schedule, and the lives they belong to.

A strand is a queue of runnable entries that never overtake each other: a task's steps,
one endpoint's protocol callbacks, the callbacks one callback scheduled. The ready list
of the loop holds one mention of a strand per runnable entry; whichever mention is
chosen, the strand's oldest entry runs. Tasks are their own strands (`_task.py`).
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from contextvars import Context

__all__ = ["BACKGROUND", "Entry", "Life", "Strand", "StrandLike", "in_background"]

# (function, arguments, number of the trace record that led here)
Entry: TypeAlias = "tuple[Callable[..., Any], tuple[Any, ...], int]"


# Whether what is made in a context is expected to stay, as `sim.background()` says.
BACKGROUND: Final[ContextVar[bool]] = ContextVar("rpcsim.background", default=False)


def in_background(context: Context | None = None) -> bool:
    """Say whether a context (the running one if none is given) is a background one."""
    if context is None:
        return BACKGROUND.get()
    return context.get(BACKGROUND, False) is True


class StrandLike(Protocol):
    """What the loop needs of a strand; `SimTask` has the same slots."""

    label: str
    life: Life
    background: bool
    first: Entry | None
    more: deque[Entry] | None
    # Set by a policy that looks at strands, on first sight; nobody else pays for it.
    priority: int


class Strand:
    """A strand that is not a task."""

    __slots__ = ("background", "first", "label", "life", "more", "priority")

    priority: int

    def __init__(self, label: str, life: Life, *, background: bool = False) -> None:
        self.label = label
        self.life = life
        self.background = background
        self.first: Entry | None = None
        # Most strands never have two entries at once: the queue is made on demand.
        self.more: deque[Entry] | None = None

    def __repr__(self) -> str:
        return f"<strand {self.label}>"


class Life:
    """One incarnation of a host: what is alive with it, and what died.

    Attributes:
        host: Name of the host.
        shut: Whether entries of its strands must not run: paused or dead.
        background: Whether its work is expected to go on for ever (a server that
            polls), so that it neither hinders idleness nor excuses a deadlock.
        dead: Whether it crashed; then nothing of it ever runs again.
        shelf: Entries that came up while shut, in order.
        context: Context in which the host's code begins; set by the host.
    """

    __slots__ = (
        "background",
        "context",
        "dead",
        "endpoints",
        "host",
        "incarnation",
        "listeners",
        "parked",
        "ports",
        "shelf",
        "shut",
        "strand",
    )

    def __init__(
        self, host: str, incarnation: int = 0, *, background: bool = False
    ) -> None:
        self.host = host
        self.incarnation = incarnation
        self.background = background
        self.shut = False
        self.dead = False
        self.shelf: list[tuple[Any, Entry]] = []
        # Strong references to what a crash left behind, so that no destructor of the
        # dead host runs within the run.
        self.parked: list[Any] = []
        # Connection ends and listeners by number: dicts, to keep one order.
        self.endpoints: dict[int, Any] = {}
        self.listeners: dict[int, Any] = {}
        self.ports: Any = None
        self.context: Context | None = None
        self.strand = Strand(host, self)

    def __repr__(self) -> str:
        state = "dead" if self.dead else "shut" if self.shut else "open"
        return f"<life {self.incarnation} of {self.host}: {state}>"
