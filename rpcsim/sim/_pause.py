"""Pausing a host: its code stands still while its system goes on acknowledging.

What becomes runnable meanwhile goes onto the life's shelf, in order of time. On resume
the shelf is run through in that order under every policy, one entry a turn, before the
host takes part in the schedule again: timers that fell due fire in deadline order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rpcsim.sim._strand import Strand

if TYPE_CHECKING:
    from rpcsim.sim._loop import SimLoop
    from rpcsim.sim._strand import Life

__all__ = ["Pause"]


class Pause:
    """One incarnation standing still, and its way back."""

    __slots__ = ("_life", "_loop", "_readers", "_round", "_strand")

    def __init__(self, loop: SimLoop, life: Life) -> None:
        self._loop: Final = loop
        self._life: Final = life
        # Not the host's own: it runs while the host is still shut.
        self._strand: Final = Strand(f"{life.host}/resume", loop.world_life)
        self._round = 0  # counts the ways back: a new pause ends the one under way
        self._readers: dict[int, Any] = {}

    def begin(self) -> None:
        """Shut the life; its receive buffers fill, and nobody empties them."""
        life = self._life
        life.shut = True
        self._round += 1
        for number, end in life.endpoints.items():
            if not end.reading_paused:
                end.reading_paused = True
                self._readers[number] = end

    def end(self) -> None:
        """Open it again, behind what came up meanwhile."""
        for end in self._readers.values():
            end.reading_paused = False
        self._next(len(self._life.shelf), self._round)

    def _next(self, left: int, number: int) -> None:
        if left:
            self._loop.push(self._strand, self._step, (left, number))
        else:
            self._open()

    def _step(self, left: int, number: int) -> None:
        loop, life = self._loop, self._life
        if number != self._round or life.dead:
            return
        strand, (fn, args, cause) = life.shelf.pop(0)
        self._next(left - 1, number)
        loop.strand, loop.cause = strand, cause
        fn(*args)

    def _open(self) -> None:
        loop, life = self._loop, self._life
        life.shut = False
        self._round += 1
        loop.reshelve(life)
        for end in self._readers.values():
            # Senders that found the buffer full hear that there is room again.
            if not end.lost and not end.reading_paused and end.peer.out.pending:
                loop.push(end.strand, end.read_on, ())
        self._readers.clear()
