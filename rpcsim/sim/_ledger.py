"""In debug mode: what was written is delivered, under way, or was discarded; no more.

The two classes count what passes through their bases, and check the sum for each
direction of a connection when one of its ends is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rpcsim.ports import NANOS
from rpcsim.sim._flow import Flow
from rpcsim.sim._tcp import Endpoint

if TYPE_CHECKING:
    from rpcsim.sim._links import Link
    from rpcsim.sim._net import SimNet

__all__ = ["CountedEndpoint", "CountedFlow"]


class CountedFlow(Flow):
    """A direction of a connection that counts its bytes.

    Attributes:
        written: Bytes given to it.
        delivered: Bytes the protocol at the far end got.
        discarded: Bytes a reset, a close or a time limit threw away.
    """

    __slots__ = ("delivered", "discarded", "written")

    def __init__(
        self, net: SimNet, src: Endpoint, dst: Endpoint, link: Link, back: Link
    ) -> None:
        super().__init__(net, src, dst, link, back)
        self.written = self.delivered = self.discarded = 0

    def send(self, item: bytes | str) -> None:
        if item.__class__ is not str:
            self.written += len(item)
        super().send(item)

    def discard(self, size: int) -> None:
        self.discarded += size

    def check(self) -> None:
        """Compare what was written with what became of it."""
        waiting = sum(len(i) for i in self.pending if i.__class__ is not str)
        assert waiting == self.buffered, f"{self!r} miscounts its {waiting} bytes"
        unread = sum(len(i) for i in self.dst.unread_items())
        found = self.delivered + self.discarded + self.in_flight + waiting + unread
        assert self.written == found, (
            f"{self!r} at {self.net.loop.now_ns / NANOS:.9g} s: {self.written} bytes "
            f"written, but {self.delivered} delivered, {self.discarded} discarded, "
            f"{self.in_flight} in flight, {waiting} waiting and {unread} unread"
        )


class CountedEndpoint(Endpoint):
    """An end of a connection that counts what it delivers and throws away."""

    __slots__ = ()

    @property
    def _incoming(self) -> Any:
        return self.peer.out

    def _deliver(self, item: bytes | str) -> None:
        if item.__class__ is not str:
            self._incoming.delivered += len(item)
        super()._deliver(item)

    def refuse_item(self, item: bytes | str) -> None:
        if item.__class__ is not str:
            self._incoming.discard(len(item))
        super().refuse_item(item)

    def forget_unread(self) -> None:
        if hasattr(self, "peer"):
            self._incoming.discard(sum(len(item) for item in self.unread_items()))
        super().forget_unread()

    def lose(self, error: Exception | None) -> None:
        super().lose(error)
        out: Any = getattr(self, "out", None)
        if out is not None:
            out.check()
            self._incoming.check()
