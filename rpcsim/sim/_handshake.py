"""How a connection comes about: SYN, its answer, and again until there is one."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, final

from rpcsim.ports import NANOS
from rpcsim.sim._tcp import ACK, Endpoint, Flow

if TYPE_CHECKING:
    import asyncio

    from rpcsim.sim._host import SimHost
    from rpcsim.sim._links import Link
    from rpcsim.sim._net import SimNet

__all__ = ["Handshake"]

# Linux `tcp_syn_retries` = 6: after 1, 2, 4, ... s, given up after 127 s.
FIRST_SYN_NS: Final = NANOS
SYN_TIMEOUT_NS: Final = 127 * NANOS


@final
class Handshake:
    """One connect under way, from the side that asks.

    Everything runs on the strand of the asking end, the answer of the other machine's
    system too: a crash over there takes no packet of ours with it.
    """

    __slots__ = (
        "_back",
        "_deadline_ns",
        "_done",
        "_far",
        "_near",
        "_net",
        "_out",
        "_target",
        "_timer",
        "_wait_ns",
    )

    def __init__(
        self, net: SimNet, near: Endpoint, target: SimHost, out: Link, back: Link
    ) -> None:
        self._net = net
        self._near = near
        self._target = target
        self._out = out
        self._back = back
        self._far: Endpoint | None = None
        self._wait_ns = FIRST_SYN_NS
        self._deadline_ns = net.loop.now_ns + SYN_TIMEOUT_NS
        self._done: asyncio.Future[None] = net.loop.create_future()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Return when the connection stands at this side.

        Raises:
            OSError: Refused, or nobody answered in time.
        """
        self._send_syn()
        try:
            await self._done
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _send_syn(self) -> None:
        loop = self._net.loop
        left = self._deadline_ns - loop.now_ns
        if left <= 0:
            self._refuse("timeout", errno.ETIMEDOUT, "timed out: no answer")
            return
        if not self._out.cut:
            due = loop.now_ns + self._out.delay()
            loop.at(due, self._near.strand, self._syn_arrives, ())
        self._timer = loop.call_later(min(self._wait_ns, left) / NANOS, self._send_syn)
        self._wait_ns *= 2

    def _syn_arrives(self) -> None:
        net, near, far = self._net, self._near, self._far
        if self._done.done() or not self._target.up or self._back.cut:
            return  # given up, no machine there, or its answer is lost
        if far is not None and not far.life.dead:
            return  # answered before
        loop = net.loop
        due = loop.now_ns + self._back.delay()
        listening = net.listening_at(near.remote)
        if listening is None:
            loop.at(due, near.strand, self._refused, ())
            return
        far = Endpoint(net, listening.life, near.label, near.remote, near.local)
        far.context = listening.context.copy()
        far.accept = listening.on_accept
        near.peer, far.peer = far, near
        near.out = Flow(net, near, far, self._out, self._back)
        far.out = Flow(net, far, near, self._back, self._out)
        self._far = far
        loop.at(due, near.strand, self._answered, ())

    def _answered(self) -> None:
        if self._done.done():
            self._near.send_reset()
        else:
            self._near.out.send(ACK)
            self._done.set_result(None)

    def _refused(self) -> None:
        place = f"nobody listens on port {self._near.remote[1]} of host"
        self._refuse(
            "no listener", errno.ECONNREFUSED, f"failed: {place} {self._target.name!r}"
        )

    def _refuse(self, why: str, number: int, text: str) -> None:
        if not self._done.done():
            self._near.trace("conn.refused", ("why", why))
            # OSError picks its subclass by the number.
            self._done.set_exception(
                OSError(number, f"Connect call to {self._near.label} {text}")
            )
