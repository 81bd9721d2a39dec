"""A thread that waits for something the loop does."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rpcsim.real._engine import Engine

__all__ = ["Waiter"]


class Waiter:
    """One outcome, made on the loop's thread, awaited on another.

    A bare lock and no condition: half the cost, and nothing else is needed when there
    is one setter and one reader.
    """

    __slots__ = ("_engine", "_lock", "_ok", "_value", "settled")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._lock.acquire()
        self._ok = False
        self._value: Any = None
        self.settled = False
        # Known from before the loop hears of it, so that an ending loop wakes it.
        engine.waiting[self] = None

    def forget(self) -> None:
        """Nobody will settle it: it was never handed to the loop."""
        self._engine.waiting.pop(self, None)

    def settle(self, *, ok: bool, value: Any) -> None:
        """Set the outcome and wake the thread; only the first one counts."""
        if self.settled:
            return
        self.settled = True
        self._ok, self._value = ok, value
        self._engine.waiting.pop(self, None)
        self._lock.release()

    def block(self, seconds: float = -1) -> bool:
        """Wait until settled; at most `seconds`, unless negative."""
        return self._lock.acquire(timeout=seconds)

    def result(self) -> Any:
        """Wait, and give or raise the outcome."""
        self.block()
        return self.outcome()

    def outcome(self) -> Any:
        """Give or raise what was settled."""
        if self._ok:
            return self._value
        error = self._value
        try:
            raise error
        finally:
            # A traceback holds this frame, the frame would hold the error: a cycle.
            del error
            self._value = None
