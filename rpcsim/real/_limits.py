"""How much a real runtime takes on at one time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rpcsim.ports import NANOS, to_ns

if TYPE_CHECKING:
    from rpcsim.ports import Duration

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What connections of a runtime may cost.

    Attributes:
        connections: Accepted and open at one time, for each listener; one more is
            closed before any of our code sees it.
        write_buffer: Bytes written and not sent before a writer is paused.
        handshake: How long a TLS handshake may take.
        connect: How long a connect may take whose caller gives no limit of its own.
    """

    connections: int = 1_000
    write_buffer: int = 1 << 20
    handshake: Duration = 10
    connect: Duration = 10

    def __post_init__(self) -> None:
        if type(self.connections) is not int or self.connections < 1:
            raise ValueError(
                f"connections= is a number from 1 on, not {self.connections!r}"
            )
        if type(self.write_buffer) is not int or self.write_buffer < 0:
            raise ValueError(
                f"write_buffer= is a number of bytes, not {self.write_buffer!r}"
            )
        for name in ("handshake", "connect"):
            if to_ns(getattr(self, name)) <= 0:
                raise ValueError(
                    f"{name}= is a time above 0, not {getattr(self, name)!r}"
                )

    @property
    def handshake_seconds(self) -> float:
        """The limit of a handshake, in seconds."""
        return to_ns(self.handshake) / NANOS
