"""What is in flight through the proxy, and what is held there until it is released.

Pieces of a stream and connects that are being made are both flights, numbered in the
order they were sent. A held piece holds everything behind it in its direction: the
order of a stream is never changed.
"""

from __future__ import annotations

import asyncio
import errno
import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from rpcsim.ports import NANOS, Packet

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.real._engine import Engine

__all__ = ["Flight", "Flights", "Hold"]

Which: TypeAlias = "Callable[[Packet], bool]"
# When a lost SYN is sent again (RFC 6298, section 2).
SYN_AGAIN_SECONDS: Final = 1.0


class Hold:
    """A hold in force."""

    __slots__ = ("active", "matches")

    def __init__(self, matches: Which) -> None:
        self.matches = matches
        self.active = True


class Flight:
    """One thing on its way.

    Attributes:
        n: Its number.
        data: Bytes; `None` for the end of the stream or a connect; an error, a reset.
        due_ns: When it may arrive; 0 for now.
        faults: Why it is not now, by the report's names.
        hold: What holds it, or `None`.
        dropped: Whether it is never to arrive.
    """

    __slots__ = (
        "connection",
        "data",
        "dropped",
        "dst",
        "due_ns",
        "faults",
        "hold",
        "kind",
        "n",
        "sent_ns",
        "src",
        "wake",
    )

    def __init__(
        self,
        n: int,
        kind: str,
        src: str,
        dst: str,
        connection: str,
        data: bytes | ConnectionError | None = None,
    ) -> None:
        self.n: Final = n
        self.kind = kind
        self.src = src
        self.dst = dst
        self.connection = connection
        self.data = data
        self.sent_ns = time.monotonic_ns()
        self.due_ns = 0
        self.faults: tuple[str, ...] = ()
        self.hold: Hold | None = None
        self.dropped = False
        # Of a held connect: how it goes on.
        self.wake: asyncio.Future[OSError | None] | None = None

    @property
    def size(self) -> int:
        """Bytes of data."""
        return len(self.data) if isinstance(self.data, bytes) else 0

    @property
    def held(self) -> bool:
        """Whether a hold that was not lifted keeps it."""
        return self.hold is not None and self.hold.active

    def packet(self, start_ns: int) -> Packet:
        """Tell of it."""
        due = None
        if not self.held and self.due_ns:
            due = (self.due_ns - start_ns) / NANOS
        return Packet(
            n=self.n,
            kind=self.kind,
            src=self.src,
            dst=self.dst,
            connection=self.connection,
            size=self.size,
            sent_at=(self.sent_ns - start_ns) / NANOS,
            due_at=due,
            held=self.held,
        )


class Flights:
    """Everything in flight in one run; used on the loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._flights: dict[Flight, None] = {}
        self._holds: list[Hold] = []
        self._numbers = 0

    def __repr__(self) -> str:
        return f"<{len(self._flights)} in flight, {len(self._holds)} holds>"

    def add(
        self,
        kind: str,
        src: str,
        dst: str,
        connection: str,
        data: bytes | ConnectionError | None = None,
    ) -> Flight:
        """Number something that sets out, and see whether it is held."""
        self._numbers += 1
        flight = Flight(self._numbers, kind, src, dst, connection, data)
        self._flights[flight] = None
        if self._holds:
            self._catch(flight)
        return flight

    def landed(self, flight: Flight) -> None:
        """It arrived, or never will."""
        self._flights.pop(flight, None)

    def _catch(self, flight: Flight) -> None:
        packet = flight.packet(self._engine.start_ns)
        for hold in self._holds:
            if hold.matches(packet):
                flight.hold = hold
                return

    @property
    def holding(self) -> bool:
        """Whether something is held, or may be."""
        return bool(self._holds) or any(flight.held for flight in self._flights)

    # -- holds -------------------------------------------------------------------------

    def begin(self, hold: Hold) -> None:
        """Hold what matches, in flight now or later."""
        self._holds.append(hold)
        for flight in self._flights:
            if not flight.held:
                self._catch(flight)

    def end(self, hold: Hold) -> None:
        """Lift a hold: what it holds goes on."""
        hold.active = False
        if hold in self._holds:
            self._holds.remove(hold)
        for flight in list(self._flights):
            if flight.hold is hold:
                self._go_on(flight)

    def packets(self) -> list[Packet]:
        """Tell of everything in flight, in the order of sending."""
        return [flight.packet(self._engine.start_ns) for flight in self._flights]

    def pick(self, which: int | Which | None, kinds: tuple[str, ...] = ()) -> list[Any]:
        """Give held flights: one by its number, those that match, or all."""
        held = [f for f in self._flights if f.held and (not kinds or f.kind in kinds)]
        if which is None:
            return held
        if isinstance(which, int):
            return [flight for flight in held if flight.n == which]
        return [f for f in held if which(f.packet(self._engine.start_ns))]

    def oldest(self, n: int | None) -> Flight | None:
        """Give one in flight: by its number, or a held one first, then the oldest."""
        if n is not None:
            return next((flight for flight in self._flights if flight.n == n), None)
        held = [flight for flight in self._flights if flight.held]
        return next(iter(held or self._flights), None)

    def release(self, flight: Flight) -> None:
        """Let one held thing go on."""
        flight.hold = None
        self._go_on(flight)

    def refuse(self, flight: Flight) -> None:
        """Answer a held connect with a refusal."""
        flight.hold = None
        self._go_on(
            flight,
            ConnectionRefusedError(
                errno.ECONNREFUSED, f"Connect call to {flight.connection} was refused"
            ),
        )

    def drop(self, flight: Flight) -> None:
        """Lose one held thing, as a segment or a SYN is lost: it is sent again."""
        flight.hold = None
        flight.dropped = True
        self._go_on(flight)

    def _go_on(self, flight: Flight, error: OSError | None = None) -> None:
        if flight.wake is not None and not flight.wake.done():
            flight.wake.set_result(error)

    # -- connects ------------------------------------------------------------------------

    async def connect(self, src: str, dst: str, label: str) -> None:
        """Pass as the SYN of a connect does: through the holds there are.

        Raises:
            ConnectionRefusedError: It was held, and then refused.
        """
        while self._holds:
            flight = self.add("syn", src, dst, label)
            try:
                if not flight.held:
                    return
                flight.wake = self._engine.loop.create_future()
                error = await flight.wake
            finally:
                self.landed(flight)
            if error is not None:
                raise error
            if not flight.dropped:
                return
            await asyncio.sleep(SYN_AGAIN_SECONDS)
