"""Keep-alive of TCP connections, as `SO_KEEPALIVE` asks for (RFC 1122, 4.2.3.6).

A probe to a peer that is there changes nothing, so none is sent: what it would find is
looked up. Probes are background work: they neither hinder idleness nor excuse a
deadlock.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from rpcsim.ports import NANOS
from rpcsim.sim._flow import RST
from rpcsim.sim._strand import Strand

if TYPE_CHECKING:
    from rpcsim.sim._tcp import Endpoint

__all__ = ["KeepAlive"]

# Linux: `tcp_keepalive_time`, `tcp_keepalive_intvl`, `tcp_keepalive_probes`. The
# numbers of the options too, since not every platform has the names.
IDLE: Final = (getattr(socket, "TCP_KEEPIDLE", 4), 7_200)
INTERVAL: Final = (getattr(socket, "TCP_KEEPINTVL", 5), 75)
COUNT: Final = (getattr(socket, "TCP_KEEPCNT", 6), 9)


class KeepAlive:
    """Probes one end of a connection sends while it hears nothing."""

    __slots__ = ("_answered_ns", "_end", "_options", "_strand", "_unanswered", "on")

    def __init__(self, end: Endpoint, options: dict[tuple[int, int], Any]) -> None:
        self._end = end
        self._options = options
        label = f"{end.life.host}/{end.label} keep-alive"
        self._strand: Final = Strand(label, end.life, background=True)
        self._answered_ns = end.net.loop.now_ns
        self._unanswered = 0
        self.on = True
        self._look_in(self._ns(IDLE))

    def __repr__(self) -> str:
        return f"<keep-alive of {self._end.label}: {self._unanswered} unanswered>"

    def _ns(self, option: tuple[int, int]) -> int:
        number, usual = option
        return int(self._options.get((socket.IPPROTO_TCP, number), usual)) * NANOS

    def _look_in(self, ns: int) -> None:
        loop = self._end.net.loop
        loop.at(loop.now_ns + ns, self._strand, self._look, ())

    def _look(self) -> None:
        end = self._end
        if end.lost or end.closing or not self.on:
            return
        now = end.net.loop.now_ns
        heard = max(self._answered_ns, min(end.peer.out.last_due, now))
        left = heard + self._ns(IDLE) - now
        if left > 0:
            self._unanswered = 0
            self._look_in(left)
        elif self._unanswered >= int(self._ns(COUNT) // NANOS):
            end.fail(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
        else:
            self._probe(now)

    def _probe(self, now: int) -> None:
        end = self._end
        out, back = end.out.link, end.peer.out.link
        if out.cut or back.cut or end.peer.life.dead:
            if not (out.cut or back.cut) and end.net.answers_for(end.peer):
                # The machine is up again and does not know the connection.
                due = now + out.delay() + back.delay()
                end.net.loop.at(due, end.strand, end.arrive, (RST, now))
                return
            self._unanswered += 1
            self._look_in(self._ns(INTERVAL))
            return
        self._answered_ns, self._unanswered = now, 0
        self._look_in(self._ns(IDLE))
