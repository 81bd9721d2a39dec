"""How a connection comes about: SYN, its answer, and again until there is one."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final, final

from rpcsim.ports import NANOS
from rpcsim.sim._flow import ACK, Flow
from rpcsim.sim._inflight import Told
from rpcsim.sim._ledger import CountedEndpoint, CountedFlow
from rpcsim.sim._tcp import Endpoint

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from rpcsim.sim._host import SimHost
    from rpcsim.sim._links import Link
    from rpcsim.sim._net import SimNet

__all__ = ["Handshake"]

# Linux `tcp_syn_retries` = 6: after 1, 2, 4, ... s, given up after 127 s.
FIRST_SYN_NS: Final = NANOS


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
        "_net",
        "_out",
        "_sent_ns",
        "_target",
        "_timer",
        "_wait_ns",
        "near",
    )

    def __init__(
        self, net: SimNet, near: Endpoint, target: SimHost, out: Link, back: Link
    ) -> None:
        self._net = net
        self.near = near
        self._target = target
        self._out = out
        self._back = back
        self._far: Endpoint | None = None
        self._wait_ns = FIRST_SYN_NS
        self._sent_ns = net.loop.now_ns
        self._deadline_ns = net.loop.now_ns + out.syn_timeout
        self._done: asyncio.Future[None] = net.loop.create_future()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<connect {self.near.label}>"

    async def run(self) -> None:
        """Return when the connection stands at this side.

        Raises:
            OSError: Refused, or nobody answered in time.
        """
        net, near = self._net, self.near
        attempt = net.note_attempt(
            near.label, near.life.host, self._target.name, near.remote[1]
        )
        net.connecting[near.number] = self
        self._send_syn()
        try:
            await self._done
            attempt[-1] = "open"
        except BaseException as error:
            attempt[-1] = type(error).__name__
            raise
        finally:
            del net.connecting[near.number]
            if self._timer is not None:
                self._timer.cancel()

    def _send_syn(self) -> None:
        net, out, loop = self._net, self._out, self._net.loop
        left = self._deadline_ns - loop.now_ns
        if left <= 0:
            self._refuse("timeout", errno.ETIMEDOUT, "timed out: no answer")
            return
        self._sent_ns = loop.now_ns
        if out.unreachable == "icmp" and (out.cut or not self._target.up):
            # A router on the way says so.
            due = loop.now_ns + out.delay() + self._back.delay()
            loop.at(due, self.near.strand, self._no_route, ())
        elif out.special:
            if not net.traffic.holds(self):
                self._carry(out, "syn", self._syn_arrives)
        else:
            out.sent += 1
            due = loop.now_ns + out.delay()
            loop.at(due, self.near.strand, self._syn_arrives, ())
        self._timer = loop.call_later(min(self._wait_ns, left) / NANOS, self._send_syn)
        self._wait_ns *= 2

    def _carry(self, link: Link, kind: str, fn: Callable[[], object]) -> None:
        fate = self._net.traffic.carry(
            link, kind, self.near.label, strand=self.near.strand, fn=fn, args=()
        )
        if fate == "reset":
            self._net.loop.push(self.near.strand, self.refused, ())

    def _syn_arrives(self) -> None:
        net, near, far, back = self._net, self.near, self._far, self._back
        if self._done.done() or not self._target.up or back.cut:
            return  # given up, no machine there, or its answer is lost
        if far is not None and not far.life.dead:
            self._answer("synack", self._answered)  # once more: it may be lost
            return
        listening = net.listening_at(near.remote)
        if listening is None:
            self._answer("rst", self.refused)
            return
        if listening.full():
            if self._out.backlog_full == "refuse":
                self._answer("rst", self._turned_away)
            return  # dropped: it is sent again
        counted = isinstance(near, CountedEndpoint)
        made = CountedEndpoint if counted else Endpoint
        far = made(net, listening.life, near.label, near.remote, near.local)
        far.context = listening.context.copy()
        far.accept = listening.on_accept
        listening.waiting.append(far)
        near.peer, far.peer = far, near
        flow = CountedFlow if counted else Flow
        near.out = flow(net, near, far, self._out, back)
        far.out = flow(net, far, near, back, self._out)
        self._far = far
        self._answer("synack", self._answered)

    def _answer(self, kind: str, fn: Callable[[], object]) -> None:
        loop, back = self._net.loop, self._back
        if back.special:
            self._carry(back, kind, fn)
            return
        back.sent += 1
        loop.at(loop.now_ns + back.delay(), self.near.strand, fn, ())

    def tell_packet(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Told | None:
        """Tell what an entry of the loop brings, if it is a packet."""
        ours = {
            Handshake._syn_arrives: ("syn", self._out),
            Handshake._answered: ("synack", self._back),
            Handshake.refused: ("rst", self._back),
            Handshake._turned_away: ("rst", self._back),
        }
        found = ours.get(getattr(fn, "__func__", None))  # type: ignore[arg-type]  # it may be any
        if found is None:
            return None
        return Told(*found, self.near.label, 0, self._sent_ns)

    def _answered(self) -> None:
        if not self._done.done():
            self.near.out.send(ACK)
            self._done.set_result(None)
        elif self._done.cancelled() or self._done.exception() is not None:
            self.near.send_reset()  # given up

    def refused(self) -> None:
        """Nobody is there, as the other system says."""
        place = f"nobody listens on port {self.near.remote[1]} of host"
        self._refuse(
            "no listener", errno.ECONNREFUSED, f"failed: {place} {self._target.name!r}"
        )

    def turned_down(self) -> None:
        """Refuse it, as a fault."""
        self._refuse("fault", errno.ECONNREFUSED, "failed: refused by a fault")

    def _turned_away(self) -> None:
        told = f"failed: the backlog of host {self._target.name!r} is full"
        self._refuse("backlog", errno.ECONNREFUSED, told)

    def _no_route(self) -> None:
        told = f"failed: no route to host {self._target.name!r}"
        self._refuse("unreachable", errno.EHOSTUNREACH, told)

    def _refuse(self, why: str, number: int, text: str) -> None:
        if not self._done.done():
            self.near.trace("conn.refused", ("why", why))
            # OSError picks its subclass by the number.
            self._done.set_exception(
                OSError(number, f"Connect call to {self.near.label} {text}")
            )
