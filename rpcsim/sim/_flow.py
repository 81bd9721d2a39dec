"""One direction of a TCP stream: from what was written to what is on the wire.

The laws: bytes of one direction arrive in order, never altered or duplicated. A packet
that is lost makes the stream stall: it is sent again after 200 ms, doubling (RFC 6298
bounds), until the link lets it pass or 924 s are over (Linux `tcp_retries2` = 15).

A plain link only delays (`_transmit`); on any other, packets take the long way
(`_special`): cut by the slicer, judged by rules, lost, queued, held.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Final

from rpcsim.ports import NANOS, Copies, Deliver, Drop, Hold, Reset

if TYPE_CHECKING:
    from rpcsim.sim._inflight import Transit
    from rpcsim.sim._links import Link
    from rpcsim.sim._net import SimNet
    from rpcsim.sim._strand import Strand, StrandLike
    from rpcsim.sim._tcp import Endpoint

__all__ = ["ACK", "FIN", "RST", "Flow"]

FIRST_RETRY_NS: Final = 200_000_000
LONGEST_RETRY_NS: Final = 120 * NANOS

# What travels: data is bytes, the rest are these marks.
FIN: Final = "fin"
RST: Final = "rst"
ACK: Final = "ack"


class Flow:
    """One direction of a connection: what was written and has not left yet."""

    __slots__ = (
        "_retry_ns",
        "_since",
        "_sliced",
        "_stalled",
        "_waiting",
        "back",
        "buffered",
        "dst",
        "in_flight",
        "last_due",
        "link",
        "net",
        "parked",
        "pending",
        "src",
        "strand",
    )

    def __init__(
        self, net: SimNet, src: Endpoint, dst: Endpoint, link: Link, back: Link
    ) -> None:
        self.net = net
        self.src = src
        self.dst = dst
        self.strand: StrandLike = src.strand
        self.link = link
        self.back = back
        self.pending: deque[bytes | str] = deque()
        self.buffered = 0  # bytes in `pending`
        self.in_flight = 0  # bytes sent and not arrived
        self.last_due = 0  # when the last packet arrives: none overtakes it
        # Packets held, and those that must not overtake them; see `_inflight`.
        self.parked: deque[Transit] | None = None
        self._sliced = 0  # how many items of `pending` the slicer has cut
        self._stalled = False  # a packet was lost; `_retry` goes on
        self._waiting = False  # for room in the queue; `_go_on` goes on
        self._retry_ns = FIRST_RETRY_NS
        self._since = 0

    def __repr__(self) -> str:
        told = f"{self.buffered} bytes waiting, {self.in_flight} in flight"
        return f"<flow {self.link.src} -> {self.link.dst} of {self.src.label}: {told}>"

    def send(self, item: bytes | str) -> None:
        """Send a piece of data or a mark, after all that was sent before."""
        rest = item if self.pending else self._transmit(item)
        if rest is not None:
            self.pending.append(rest)
            if rest.__class__ is not str:
                self.buffered += len(rest)
            if rest is not item and self.link.special:
                self._go_on_in(0)  # a part was taken; it finds out what it waits for

    def _transmit(self, item: bytes | str) -> bytes | str | None:
        """Put one item on the wire; gives what the link or the window kept back."""
        link, dst = self.link, self.dst
        if link.special or dst.life.dead:
            return self._special(item)
        loop = self.net.loop
        now = loop.now_ns
        rest: bytes | str | None = None
        if item.__class__ is not str:
            if dst.reading_paused:
                room = link.receive_buffer - dst.unread - self.in_flight
                if room <= 0:
                    return item  # `window_opened` goes on
                if len(item) > room:
                    item, rest = item[:room], item[room:]
            self.in_flight += len(item)
            link.bytes += len(item)
        link.sent += 1
        due = now + link.delay()
        if due <= self.last_due:
            due = self.last_due  # never overtake what was sent before
        self.last_due = due
        if due > now:
            loop.at(due, dst.strand, dst.arrive, (item, now))
        else:
            loop.push(dst.strand, dst.arrive, (item, now))
        return rest

    # -- the long way ------------------------------------------------------------------

    def _special(self, item: bytes | str) -> bytes | str | None:
        link, dst = self.link, self.dst
        if link.cut or dst.life.dead:
            return self._barred(item)
        if self._stalled or self._waiting:
            return item
        if item.__class__ is not str and link.slicer != "write" and not self._sliced:
            # It is cut together with whatever else this instant writes.
            self._go_on_in(0)
            return item
        return self._put(item)

    def _put(self, item: bytes | str) -> bytes | str | None:
        """Put one packet on a link that does more than delay."""
        link, net = self.link, self.net
        now = net.loop.now_ns
        rest: bytes | str | None = None
        size = 0
        if item.__class__ is not str:
            size = self._room(len(item))
            if not size:
                return item
            if size < len(item):
                item, rest = item[:size], item[size:]
        link.count(size)
        extra, held = 0, 0
        if link.watched:
            kind = "data" if size else str(item)
            match net.traffic.judge(link, kind, self.src.label, size):
                case Drop():
                    return self._lose(item, rest)
                case Reset():
                    self.discard(size)
                    net.reset_ends(self.src, self.dst)
                    return rest
                case Deliver(after_ns=extra):
                    pass
                case Copies(after_ns=afters):
                    # The receiver's system drops all but the first.
                    extra = min(afters)
                    link.duplicated += len(afters) - 1
                case Hold():
                    held = net.traffic.holder
        if link.loss and link.loses():
            return self._lose(item, rest)
        self._retry_ns = FIRST_RETRY_NS
        self.in_flight += size
        due = max(link.leaves(size, now) + link.delay() + extra, self.last_due)
        if held or self.parked:
            net.traffic.park_item(self, item, due, held)
        else:
            self.last_due = due
            net.loop.at(due, self.dst.strand, self.dst.arrive, (item, now))
        return rest

    def _room(self, size: int) -> int:
        """Give how many bytes may leave now; if none, something goes on later."""
        link, dst, now = self.link, self.dst, self.net.loop.now_ns
        if dst.reading_paused:
            window = link.receive_buffer - dst.unread - self.in_flight
            if window <= 0:
                return 0  # `window_opened` goes on
            size = min(size, window)
        room = link.takes(size, now)
        if room < size and link.queued(now):
            self._go_on_in(link.room_in(size, now))
            return 0
        return room

    def _lose(self, item: bytes | str, rest: bytes | str | None) -> bytes | str | None:
        self.link.dropped += 1
        if not self._stall():
            return None
        return item if rest is None else item + rest  # type: ignore[operator]  # both bytes

    def _barred(self, item: bytes | str) -> bytes | str | None:
        dst = self.dst
        if dst.life.dead and not self.link.cut and self.net.answers_for(dst):
            # The machine is up again (or only the process died): its system does not
            # know the connection, and says so after one round trip.
            if item.__class__ is not str:
                self.discard(len(item))
                self._reset_back()
            return None
        if not self._stalled:
            self.link.count(0 if item.__class__ is str else len(item))
            self.link.dropped += 1
            if not self._stall():
                return None
        return item

    def _reset_back(self) -> None:
        if self.back.cut:
            return
        loop = self.net.loop
        due = loop.now_ns + self.link.delay() + self.back.delay()
        loop.at(due, self.strand, self.src.arrive, (RST, loop.now_ns))

    def _stall(self) -> bool:
        """A packet was lost: send it again later; false when that was tried too long."""
        now = self.net.loop.now_ns
        if self._retry_ns == FIRST_RETRY_NS:
            self._since = now
        elif now - self._since >= self.link.retransmit_timeout:
            self.drop_pending()
            self.src.fail(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
            return False
        self._stalled = True
        self.net.loop.at(now + self._retry_ns, self.strand, self._retry, ())
        self._retry_ns = min(self._retry_ns * 2, LONGEST_RETRY_NS)
        return True

    def _retry(self) -> None:
        # A closed end is flushed by its system all the same.
        if not self._stalled:
            return
        self._stalled = False
        self.flush()
        if not self._stalled:
            self._retry_ns = FIRST_RETRY_NS

    def _go_on_in(self, ns: int) -> None:
        self._waiting = True
        loop = self.net.loop
        loop.at(loop.now_ns + ns, self.strand, self._go_on, ())

    def _go_on(self) -> None:
        self._waiting = False
        self.flush()

    def _slice(self) -> None:
        """Join what waits, and cut it as the slicer says."""
        pending = self.pending
        if self.link.slicer == "write" or self._sliced:
            return
        waiting: list[bytes] = []
        while pending and pending[0].__class__ is not str:
            waiting.append(pending.popleft())  # type: ignore[arg-type]  # not a mark
        data = b"".join(waiting)
        ends = self.link.cuts(len(data)) if data else []
        begins = [0, *ends]
        pieces = [data[a:b] for a, b in zip(begins, ends, strict=False)]
        pending.extendleft(reversed(pieces))
        self._sliced = len(pieces)

    # -- what sets it going --------------------------------------------------------------

    def flush(self) -> None:
        """Send what is pending, as far as it may go."""
        pending = self.pending
        if pending and self.link.special:
            self._slice()
        while pending:
            item = pending[0]
            rest = self._transmit(item)
            if not pending:
                return  # given up
            if item.__class__ is not str:
                self.buffered -= len(item) - len(rest or b"")
            if rest is not None:
                pending[0] = rest
                if rest is item or not self.link.special:
                    break
                continue  # a full queue or window tells itself
            pending.popleft()
            if self._sliced:
                self._sliced -= 1
        self.src.drained()

    def window_opened(self) -> None:
        """The reader took bytes: the sender learns it one latency later."""
        loop = self.net.loop
        due = loop.now_ns + self.back.delay()
        loop.at(due, self.strand, self.flush, ())

    def outlive(self, strand: Strand) -> None:
        """Go on without the program: its system sends what is left, and closes.

        Args:
            strand: What it runs on from now, as the program's own never runs again.
        """
        self.strand = strand
        if self.src.unread:
            self.src.send_reset()
        elif not self.src.eof_sent:
            self.src.eof_sent = True
            self.send(FIN)
        self._stalled = self._waiting = False
        self.flush()

    def reset(self) -> None:
        """Tell the peer that the connection is over."""
        self.drop_pending()
        link, dst, loop = self.link, self.dst, self.net.loop
        if dst.life.dead:
            return
        # A reset overtakes nothing that is on the wire, but waits for nothing.
        if link.special:
            self.net.traffic.carry(
                link,
                RST,
                self.src.label,
                strand=dst.strand,
                fn=dst.arrive,
                args=(RST, loop.now_ns),
                after_ns=self.last_due,
            )
            return
        link.sent += 1
        due = max(loop.now_ns + link.delay(), self.last_due)
        loop.at(due, dst.strand, dst.arrive, (RST, loop.now_ns))

    def drop_pending(self) -> None:
        """Forget what has not left."""
        self.discard(self.buffered)
        self.pending.clear()
        self.buffered = 0
        self._sliced = 0

    def discard(self, size: int) -> None:
        """Throw bytes away that were written; debug mode counts them."""
