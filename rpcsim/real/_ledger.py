"""What a real run could only approximate, told in its report (simulation.md 8.2).

A fault that is not exact here is noted when it is put in force, with the reason, and
with what was measured when that is possible. A strict run refuses it at that moment,
before it takes effect.
"""

from __future__ import annotations

from typing import Final

from rpcsim.errors import InexactFault
from rpcsim.ports import Inexact, duration_text

__all__ = ["REASONS", "Ledger"]

# The rows of simulation.md 8.2 that are not exact on real sockets: fault to reason.
REASONS: Final[dict[str, str]] = {
    "latency": "a lower bound: the machine may be later",
    "bandwidth": "a lower bound of the time it takes: the machine may be later",
    "rpc delay": "a lower bound: the machine may be later",
    "loss": "a stream has no packets here: a lost segment is emulated as a stall",
    "slicer": "not offered: the system may join and cut the pieces of a stream",
    "crash": (
        "hosts share the process: connections are reset, tasks cancelled, and finally "
        "blocks run"
    ),
    "kill": "a thread cannot be parked: its finally blocks run",
}


class Ledger:
    """The inexact faults of one run, in order of first use.

    Args:
        strict: Whether an inexact fault is refused.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict: Final = strict
        self._reasons: dict[tuple[str, str], None] = {}
        self._late_ns: dict[str, int] = {}

    def __repr__(self) -> str:
        told = ", ".join(fault for fault, _ in self._reasons) or "all exact"
        return f"<ledger: {told}>"

    def fault(self, name: str, asked: str) -> None:
        """Note an inexact fault that is about to be put in force.

        Args:
            name: Of `REASONS`; any other is not offered at all.
            asked: The call that asks for it, for the error.

        Raises:
            InexactFault: The run is strict.
        """
        reason = REASONS.get(name, "not offered on real sockets")
        if self.strict:
            raise InexactFault(
                f"{asked} cannot be exact on real sockets ({name}: {reason}). Run it in "
                "simulation, or make the runtime without strict=True"
            )
        self._reasons[name, reason] = None

    def note(self, name: str, reason: str) -> None:
        """Note something about the machine that no fault asked for."""
        self._reasons[name, reason] = None

    def late(self, name: str, late_ns: int) -> None:
        """Note how late something delayed happened."""
        self._late_ns[name] = max(self._late_ns.get(name, 0), late_ns)

    def entries(self) -> tuple[Inexact, ...]:
        """Give the report's lines."""
        return tuple(
            Inexact(name, reason, self._measured(name))
            for name, reason in self._reasons
        )

    def _measured(self, name: str) -> str:
        late = self._late_ns.get(name)
        return "" if late is None else f"at most {duration_text(late)} late"
