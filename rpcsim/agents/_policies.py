"""What a caller does with a call: wait for its result, or send it and go on.

A policy consumes the events of an exchange, wherever they come from, and gives an
outcome as a value. The states of the synchronous one are the table of gofer.md 4.1.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol, final

from rpcsim.agents._errors import RequestTimeout
from rpcsim.agents._options import Limits, limits_of
from rpcsim.core import Deadline, Ended
from rpcsim.errors import RemoteProtocolError
from rpcsim.ports import (
    Accepted,
    Cancelled,
    Failed,
    Lost,
    Progress,
    Raised,
    Rejected,
    Returned,
    Started,
    duration_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rpcsim.ports import Call, CallPort, Event, Ports

__all__ = ["FireAndForget", "Policy", "Synchronous", "policy_of"]

log = logging.getLogger("rpcsim.agents")


class Policy(Protocol):
    """How calls through one stub are made."""

    def deadline_ns(self, now_ns: int) -> int | None:
        """Give the latest end of a call that begins now; `None` for none."""

    async def send(self, ports: Ports, port: CallPort, call: Call) -> Ended:
        """Make the call and give its outcome."""


def policy_of(options: Mapping[str, Any]) -> Policy:
    """Choose the policy that options ask for.

    Raises:
        ValueError, TypeError: `timeout` has a form of its own.
    """
    if options.get("async_"):
        return FireAndForget()
    return Synchronous(limits_of(options.get("timeout")), options.get("progress"))


def _invoke(ports: Ports, call: Call) -> None:
    ports.trace.emit(
        "call.invoke",
        (
            ("system", "agent"),
            ("method", call.path),
            ("id", call.id),
            ("target", call.target),
        ),
    )


def _outcome(
    ports: Ports, call: Call, kind: str, error: BaseException | None = None
) -> Ended:
    name = "" if error is None else type(error).__name__
    ports.trace.emit(
        "call.outcome",
        (
            ("system", "agent"),
            ("method", call.path),
            ("id", call.id),
            ("outcome", kind),
            ("error", name),
        ),
    )
    return Ended(error=error)


@final
class FireAndForget:
    """Sends the request and gives its serial number; no reply is wanted."""

    __slots__ = ()

    def deadline_ns(self, now_ns: int) -> int | None:
        """Give `None`: nobody waits."""
        return None

    async def send(self, ports: Ports, port: CallPort, call: Call) -> Ended:
        """Send it; only errors of our own side reach the caller."""
        _invoke(ports, call)
        exchange = port.open(call)
        sn = call.id
        try:
            async for event in exchange:
                if isinstance(event, (Failed, Rejected)):
                    return _outcome(ports, call, "no", event.error)
                if isinstance(event, Lost):
                    return _outcome(ports, call, "maybe", event.error)
                if isinstance(event, Accepted):
                    sn = event.id
                break
        finally:
            await exchange.aclose()
        _outcome(ports, call, "maybe")
        return Ended(sn)


@final
class Synchronous:
    """Waits for the result, within two limits.

    Args:
        limits: For the start, and from there for the completion.
        progress: Called with each report; anything not callable is ignored.
    """

    __slots__ = ("_limits", "_progress")

    def __init__(self, limits: Limits, progress: Any = None) -> None:
        self._limits = limits
        self._progress = progress if callable(progress) else None

    def deadline_ns(self, now_ns: int) -> int | None:
        """Give the moment when both limits are spent."""
        start, complete = self._limits.start, self._limits.complete
        if start is None or complete is None:
            return None
        return now_ns + start + complete

    async def send(self, ports: Ports, port: CallPort, call: Call) -> Ended:
        """Wait for the final event, or for a limit."""
        _invoke(ports, call)
        limits = self._limits
        start = limits.start
        deadline = Deadline(
            ports.clock, None if start is None else ports.clock.now_ns() + start
        )
        exchange = port.open(call)
        running = False
        try:
            async with deadline:
                async for event in exchange:
                    if not running and isinstance(event, (Started, Progress)):
                        running = True
                        complete = limits.complete
                        deadline.move(
                            None
                            if complete is None
                            else ports.clock.now_ns() + complete
                        )
                    if isinstance(event, Progress):
                        await self._tell(ports, event)
                        continue
                    ended = _ended(ports, call, event)
                    if ended is not None:
                        return ended
        except TimeoutError:
            if not deadline.expired:
                raise
            return self._timed_out(ports, call, running)
        finally:
            await exchange.aclose()
        unfinished = RemoteProtocolError(f"{call.path}() ended without an outcome")
        return _outcome(ports, call, "maybe", unfinished)

    async def _tell(self, ports: Ports, event: Progress) -> None:
        if self._progress is None:
            return
        try:
            await ports.bridge.call_blocking(self._progress, dict(event.report))
        except Exception:
            log.exception("the progress callback raised")

    def _timed_out(self, ports: Ports, call: Call, running: bool) -> Ended:
        index = 1 if running else 0
        ports.trace.emit(
            "call.timeout",
            (
                ("system", "agent"),
                ("method", call.path),
                ("id", call.id),
                ("index", index),
            ),
        )
        limit = self._limits.complete if running else self._limits.start
        what = "complete" if running else "start"
        hint = (
            "it began and may still be running"
            if running
            else "is the agent running, connected to the broker and not busy?"
        )
        when = ports.clock.now().isoformat(timespec="milliseconds")
        error = RequestTimeout(
            call.id,
            index,
            f"agent {call.target!r} did not {what} {call.path}() within "
            f"{duration_text(limit or 0)} (request {call.id}, given up at {when}): "
            f"{hint}; the limits are the option timeout=(start, complete)",
        )
        return _outcome(ports, call, "maybe", error)


def _ended(ports: Ports, call: Call, event: Event) -> Ended | None:
    """Give the outcome an event means; `None` if the call goes on."""
    match event:
        case Returned(value):
            _outcome(ports, call, "ok")
            return Ended(value)
        case Raised(error):
            return _outcome(ports, call, "raised", error)
        case Failed(error) | Rejected(error):
            return _outcome(ports, call, "no", error)
        case Lost(error):
            return _outcome(ports, call, "maybe", error)
        case Cancelled(error):
            told = error or RemoteProtocolError(f"{call.path}() was cancelled")
            return _outcome(ports, call, "maybe", told)
    return None
