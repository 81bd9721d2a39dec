"""A value that will be there later: awaited by coroutines, waited for by others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar, final

from rpcsim.errors import CallTimeout

if TYPE_CHECKING:
    from collections.abc import Generator

    from rpcsim.core._running import Ended
    from rpcsim.ports import Bridge, Duration

__all__ = ["Promise"]

T = TypeVar("T")


@final
class Promise(Generic[T]):
    """Settled once, with a value or an error; then the same for all who ask.

    It is settled on the loop that its waiters run on.

    Args:
        bridge: Lets blocking code wait.
        name: What is promised, for texts.
    """

    __slots__ = ("_bridge", "_ended", "_waiters", "name")

    def __init__(self, bridge: Bridge, *, name: str = "") -> None:
        self._bridge = bridge
        self._ended: Ended | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self.name = name

    def __repr__(self) -> str:
        state = "pending"
        if self._ended is not None:
            state = "resolved" if self._ended.error is None else "rejected"
        return f"<Promise {self.name} {state}>"

    def done(self) -> bool:
        """Whether it is settled."""
        return self._ended is not None

    def settle(self, ended: Ended) -> bool:
        """Fix the outcome; `False`, and no effect, if it was fixed before."""
        if self._ended is not None:
            return False
        self._ended = ended
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        return True

    async def wait(self) -> Ended:
        """Wait until it is settled and give the outcome as a value."""
        if self._ended is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        assert self._ended is not None
        return self._ended

    def __await__(self) -> Generator[object, object, T]:
        """Wait for the value or the error."""
        ended = yield from self.wait().__await__()
        value: T = ended.take()
        return value

    def result(self, timeout: Duration | None = None) -> T:
        """Block until settled; return the value or raise the error.

        Args:
            timeout: Seconds, or text such as `"250ms"`; `None` waits for ever.

        Raises:
            CallTimeout: `timeout` passed first; the promise stays as it is.
        """
        if self._ended is None:
            try:
                self._bridge.wait(self.wait(), timeout)
            except TimeoutError:
                if self._ended is None:
                    raise CallTimeout(
                        f"no outcome of {self.name or 'the call'} within {timeout!r}; "
                        "the promise can be asked again"
                    ) from None
        assert self._ended is not None
        value: T = self._ended.take()
        return value
