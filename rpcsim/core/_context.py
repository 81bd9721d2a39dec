"""The call that is running: who asks, how far it is, whether it is still wanted."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextvars import Token

    from rpcsim.ports import Bridge

__all__ = ["Context", "ProgressReport"]

log = logging.getLogger("rpcsim.core")


@final
class ProgressReport:
    """How far a call is; `report()` tells the caller.

    Args:
        bridge: Lets a blocking method wait until its report was sent.
        encode: Turns `total`, `completed` and `details` into a message, at once, since
            the method may change them afterwards; `None` if nobody wants reports.
        send: Sends one message.
    """

    def __init__(
        self,
        bridge: Bridge,
        encode: Callable[[Mapping[str, Any]], bytes] | None,
        send: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._bridge = bridge
        self._encode = encode
        self._send = send
        # Most calls report nothing, so what sending needs is made with the first report.
        self._outbox: deque[bytes] = deque()
        self._sending: asyncio.Lock | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._values: dict[str, Any] = {"total": 0, "completed": 0, "details": {}}
        self.auto = False

    def __repr__(self) -> str:
        return f"<ProgressReport {self.completed}/{self.total}>"

    @property
    def total(self) -> Any:
        """How much there is to do, in units of the method's own."""
        return self._values["total"]

    @total.setter
    def total(self, value: Any) -> None:
        self._values["total"] = value

    @property
    def completed(self) -> Any:
        """How much is done; with `auto`, setting it reports."""
        return self._values["completed"]

    @completed.setter
    def completed(self, value: Any) -> None:
        self._set("completed", value)

    @property
    def details(self) -> Any:
        """Anything JSON can carry; with `auto`, setting it reports."""
        return self._values["details"]

    @details.setter
    def details(self, value: Any) -> None:
        self._set("details", value)

    def _set(self, name: str, value: Any) -> None:
        self._values[name] = value
        if self.auto:
            self.report()

    def reset(self, total: Any) -> None:
        """Begin anew: `total` to do, nothing completed, no details."""
        self._values = {"total": total, "completed": 0, "details": {}}

    def increment(self, n: int = 1, details: Any = None) -> None:
        """Add to `completed` and report."""
        self._values["completed"] += n
        if details is not None:
            self._values["details"] = details
        self.report()

    def report(self) -> None:
        """Send a report; without an address for it, do nothing.

        Returns when it was sent, or at once inside a coroutine, where it is sent
        before anything later. An error of sending is logged and never raised.
        """
        if self._encode is None:
            return
        try:
            self._outbox.append(self._encode(self._values))
        except Exception:
            log.exception("a progress report was not sent")
            return
        if self._bridge.may_block():
            self._bridge.wait(self.flush())
        elif self._flusher is None or self._flusher.done():
            self._flusher = asyncio.ensure_future(self.flush())

    async def flush(self) -> None:
        """Send what waits, in order."""
        if not self._outbox and self._sending is None:
            return
        if self._sending is None:
            self._sending = asyncio.Lock()
        async with self._sending:
            while self._outbox:
                try:
                    await self._send(self._outbox.popleft())
                except Exception:
                    log.exception("a progress report was not sent")


@final
class Context:
    """The call being executed; `Context.current()` gives it inside a remote method.

    Attributes:
        sn: Serial number of the call.
        path: Dotted name of what is called.
        progress: How far it is.
    """

    _running: ClassVar[ContextVar[Context | None]] = ContextVar(
        "rpcsim.context", default=None
    )

    def __init__(self, sn: str, path: str, progress: ProgressReport) -> None:
        self.sn = sn
        self.path = path
        self.progress = progress
        self._cancelled = False
        self._token: Token[Context | None] | None = None

    def __repr__(self) -> str:
        state = " cancelled" if self._cancelled else ""
        return f"<Context {self.path} {self.sn}{state}>"

    @classmethod
    def current(cls) -> Context | None:
        """Give the running call; `None` outside one, and in threads it starts."""
        return cls._running.get()

    def cancelled(self) -> bool:
        """Whether the call need not go on; a long method asks this now and then."""
        return self._cancelled

    def cancel(self) -> None:
        """Have `cancelled()` be true from now on."""
        self._cancelled = True

    def __enter__(self) -> Context:
        self._token = self._running.set(self)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._token is not None:
            self._running.reset(self._token)
