"""What a test may do to single packets and connections on real sockets.

`RealNet` is this and `_net.py`: here are holds, resets, half-closes, truncation, silent
deaths, and failures told in advance. State lives on the loop's thread.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from rpcsim.errors import SimulationError
from rpcsim.real._flight import Flights, Hold
from rpcsim.real._shapes import names_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rpcsim.ports import Packet
    from rpcsim.real._engine import Engine
    from rpcsim.real._proxy import Relay

__all__ = ["Connection", "Meddling", "NetFault"]


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection through the proxy.

    Attributes:
        label: Such as `client>server:80#1`.
        ends: The host that dialled, and the one that listens.
        in_flight: Bytes that wait in the proxy, in both directions.
    """

    label: str
    ends: tuple[str, str]
    in_flight: int


@dataclass(slots=True, eq=False)
class _Failing:
    """A failure told in advance."""

    what: str
    host: str
    port: int | None
    left: int
    number: int


class NetFault:
    """A fault of the network in force; leaving its block, or `undo`, lifts it."""

    __slots__ = ("_text", "_undo", "active")

    def __init__(self, text: str, undo: Callable[[], None]) -> None:
        self._text = text
        self._undo = undo
        self.active = True

    def __repr__(self) -> str:
        return f"<{self._text}{'' if self.active else ', undone'}>"

    def undo(self) -> None:
        """Lift it; doing so twice, or after the run, does nothing."""
        if self.active:
            self.active = False
            self._undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()


class Meddling:
    """The part of the network that meddles with packets and connections."""

    if TYPE_CHECKING:
        _engine: Engine
        flights: Flights
        relays: dict[Relay, None]

        def changed(self) -> None:
            """Let everything that waits look again."""

        def _need_proxy(self, what: str) -> None: ...

        def _side(self, side: str | Sequence[str]) -> tuple[str, ...]: ...

        def _tell(self, kind: str, what: str, between: str) -> None: ...

    _failing: list[_Failing]

    # -- what is in flight -----------------------------------------------------------------

    def hold(
        self,
        a: str | Sequence[str] | Callable[[Packet], bool],
        b: str | Sequence[str] | None = None,
    ) -> NetFault:
        """Keep what goes between two sides in flight until the fault is undone.

        Args:
            a: A host, several, `"*"`, or a function of a `Packet` that picks.
            b: The other side, unless `a` is a function.

        Raises:
            PlanError: The runtime has no proxy to hold anything in.
        """
        self._need_proxy("hold")
        if callable(a):
            if b is not None:
                raise ValueError("a hold takes two sides, or one condition")
            hold, told = Hold(a), "what a function picks"
        else:
            if b is None:
                raise ValueError("a hold needs two sides, or a condition on the packet")
            left, right = self._side(a), self._side(b)
            hold = Hold(
                lambda packet: (
                    names_pair(packet.src, packet.dst, left, right)
                    or names_pair(packet.dst, packet.src, left, right)
                )
            )
            told = f"{'+'.join(left)} <-> {'+'.join(right)}"

        def begin() -> None:
            self.flights.begin(hold)
            self._tell("hold", "begin", told)

        def end() -> None:
            self.flights.end(hold)
            self._tell("hold", "end", told)

        self._engine.do(begin)
        return NetFault(f"hold {told}", partial(self._after_run, end))

    def inflight(self) -> list[Packet]:
        """Tell of everything that waits in the proxy, in the order of sending."""
        return self._engine.do(self.flights.packets)

    def release(self, which: int | Callable[[Packet], bool] | None = None) -> int:
        """Let held things go on: one by its number, those a function picks, or all.

        Returns:
            How many there were.
        """

        def apply() -> int:
            picked = self.flights.pick(which)
            for flight in picked:
                self.flights.release(flight)
            self.changed()
            return len(picked)

        return self._engine.do(apply)

    def release_one(self) -> bool:
        """Let the oldest held thing go on; false if nothing is held."""
        return self._engine.do(self._first, self.flights.release, ())

    def drop_one(self, n: int | None = None) -> bool:
        """Lose one thing in flight: held ones first, then the oldest; false if none.

        Its stream stalls, a connect is tried again.

        Raises:
            InexactFault: The run is strict: a lost segment is emulated by a stall.
        """
        self._engine.ledger.fault("loss", "drop_one()")

        def apply() -> bool:
            flight = self.flights.oldest(n)
            if flight is None:
                return False
            self.flights.drop(flight)
            self.changed()
            return True

        return self._engine.do(apply)

    def refuse_one(self, connection: str = "*") -> bool:
        """Refuse the oldest held connect; false if there is none.

        Args:
            connection: Glob of the label of the connection it is to open.
        """
        return self._engine.do(self._first, self.flights.refuse, ("syn",), connection)

    def _first(
        self, act: Callable[[Any], None], kinds: tuple[str, ...], label: str = "*"
    ) -> bool:
        for flight in self.flights.pick(None, kinds):
            if fnmatchcase(flight.connection, label):
                act(flight)
                self.changed()
                return True
        return False

    # -- one connection -------------------------------------------------------------------

    def connections(self) -> list[Connection]:
        """Give the connections through the proxy, in order of opening."""
        return self._engine.do(
            lambda: [
                Connection(
                    relay.label, (relay.out.src, relay.out.dst), sum(relay.held())
                )
                for relay in self.relays
            ]
        )

    def reset(self, connection: Any) -> NetFault:
        """Have both ends of connections see a reset, now.

        Args:
            connection: A label, a glob of labels, or a transport.
        """
        return self._meddle("reset", connection, lambda relay: relay.reset())

    def close_half(self, connection: Any, side: str) -> NetFault:
        """End one direction of connections, as if its sender had.

        Args:
            connection: A label, a glob of labels, or a transport.
            side: Host whose sending direction ends.
        """
        return self._meddle(
            f"half-close at {side} of",
            connection,
            lambda relay: relay.lane_from(side).cut_off(0),
        )

    def truncate(self, connection: Any, side: str, size: int) -> NetFault:
        """End one direction of connections after so many bytes more.

        Args:
            connection: A label, a glob of labels, or a transport.
            side: Host that sends.
            size: Bytes that still arrive.
        """
        if type(size) is not int or size < 0:
            raise ValueError(f"size is a number of bytes, not {size!r}")
        return self._meddle(
            f"truncate at {side}",
            connection,
            lambda relay: relay.lane_from(side).cut_off(size),
        )

    def kill_silently(self, connection: Any) -> NetFault:
        """Let connections die without a word: neither end hears anything any more.

        The handle's end brings them back to life, if nobody has given up.

        Args:
            connection: A label, a glob of labels, or a transport.
        """
        return self._meddle(
            "silence of",
            connection,
            lambda relay: relay.silence(True),
            lambda relay: relay.silence(False),
        )

    def _meddle(
        self,
        what: str,
        connection: Any,
        act: Callable[[Relay], None],
        undo: Callable[[Relay], None] | None = None,
    ) -> NetFault:
        self._need_proxy(what)
        if not isinstance(connection, str):
            connection = connection.get_extra_info("connection")

        def apply() -> list[Relay]:
            chosen = [r for r in self.relays if fnmatchcase(r.label, connection)]
            if not chosen:
                known = ", ".join(relay.label for relay in self.relays) or "none"
                raise SimulationError(
                    f"no connection {connection!r} is open (open: {known})"
                )
            for relay in chosen:
                act(relay)
                self._tell("packets", what, relay.label)
            return chosen

        chosen = self._engine.do(apply)

        def lift() -> None:
            for relay in chosen:
                if undo is not None and relay in self.relays:
                    undo(relay)

        return NetFault(f"{what} {connection}", partial(self._after_run, lift))

    def fail_next(
        self,
        *,
        listen: str | None = None,
        connect: str | None = None,
        port: int | None = None,
        count: int = 1,
        error: int | None = None,
    ) -> NetFault:
        """Have the next listens on a host, or connects to it, fail.

        Args:
            listen: Host whose next listen fails, by default with `EADDRINUSE`.
            connect: Host to which the next connect fails, by default `ECONNREFUSED`.
            port: Only this port; `None` is any.
            count: How many fail.
            error: Number of the `OSError` instead.
        """
        named = [host for host in (listen, connect) if host is not None]
        if len(named) != 1:
            raise ValueError("fail_next needs listen= or connect=, and not both")
        if type(count) is not int or count < 1:
            raise ValueError(f"count= is how many fail, from 1, not {count!r}")
        [host] = self._side(named)
        what = "connect" if listen is None else "listen"
        usual = errno.ECONNREFUSED if listen is None else errno.EADDRINUSE
        failing = _Failing(what, host, port, count, error or usual)
        self._engine.do(self._failing.append, failing)

        def lift() -> None:
            if failing in self._failing:
                self._failing.remove(failing)

        return NetFault(
            f"next {count} {what} of {host} fail", partial(self._after_run, lift)
        )

    def fail_if_told(self, what: str, host: str, port: int) -> None:
        """Raise a failure that was told in advance."""
        for failing in self._failing:
            if (
                failing.what == what
                and failing.host in (host, "*")
                and failing.port in (None, port)
            ):
                failing.left -= 1
                if not failing.left:
                    self._failing.remove(failing)
                self._tell("packets", f"fail {what}", f"{host}:{port}")
                raise OSError(
                    failing.number,
                    f"{what} at host {host!r}, port {port}, failed by a fault",
                )

    def _after_run(self, act: Callable[[], object]) -> None:
        # After the run there is nothing left to repair, nor a loop to do it.
        if not self._engine.over:
            self._engine.do(act)
