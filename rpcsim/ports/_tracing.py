"""Telling the trace, and naming moments faults can be tied to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rpcsim.ports._network import MessageInfo
    from rpcsim.trace import Data

__all__ = ["Points", "TraceSink", "message_data"]


class TraceSink(Protocol):
    """Where a host's records go."""

    def emit(self, kind: str, data: Data = (), cause: int | None = None) -> int:
        """Record that something happened, here and now.

        Args:
            kind: A dotted word, such as `call.request`.
            data: (name, value) pairs, in an order fixed by the kind; values are
                text, whole numbers, truth values, `None` or short bytes.
            cause: Number of the record that led here; `None` takes the running
                step's.

        Returns:
            The number of the record; -1 when the trace is off.
        """


class Points(Protocol):
    """Named moments in production code; they do nothing unless a plan arms them."""

    def point(self, name: str, **labels: str) -> None:
        """Pass the moment `name`."""

    def buggify(self, name: str) -> bool:
        """Whether a rare branch is to be taken: false unless a plan turns it on."""


def message_data(info: MessageInfo) -> Data:
    """Give what the trace tells of a message: `call.<kind>` records carry this."""
    data: Data = (
        ("system", info.system),
        ("method", info.method),
        ("id", info.call_id),
        ("no", info.call_no),
        ("src", info.src),
        ("dst", info.dst),
    )
    return (*data, *info.labels) if info.labels else data
