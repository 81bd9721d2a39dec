"""How a broker's URL becomes a connection, shared by everybody on a host.

`broker_for` opens one connection per host and URL, however many ask at once. A lost
one is forgotten; whoever asks next opens another. `_native.py` is what it opens.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import urlsplit

from rpcsim.agents._native import BrokerFull, BrokerRefused, NativeBroker, Unroutable
from rpcsim.errors import Disconnected
from rpcsim.ports import endpoint
from rpcsim.wire import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from rpcsim.ports import Address, Broker, Ports

    Opener: TypeAlias = Callable[[Ports, Address], Coroutine[Any, Any, NativeBroker]]

__all__ = ["BrokerFull", "BrokerRefused", "NativeBroker", "Unroutable", "broker_for"]

# Scheme to what opens a connection. `sim` is the name gofer.md 17 gives to a world's
# own broker, which is reached like any other.
_OPENERS: Final[dict[str, Opener]] = {
    "rpcsim": NativeBroker.open,
    "sim": NativeBroker.open,
}
_AMQP: Final = ("amqp", "amqps", "tcp", "ssl")


async def broker_for(ports: Ports, url: str) -> Broker:
    """Give the connection this host shares for a URL, opened on first use.

    It belongs to `ports.resources`, which closes it with the host: do not close it.

    Args:
        ports: Of the host that asks.
        url: `rpcsim://host:port`; port 5670 if there is none.

    Raises:
        ValueError: It is no such URL.
        Disconnected: Nobody answers there.
    """
    opener, address = _parse(url)
    key = ("broker", address)
    shared: _Shared = ports.resources.obtain(
        key, lambda: _Shared(ports, key, opener, address)
    )
    return await shared.wait() if shared.broker is None else shared.broker


class _Shared:
    """One connection on its way, or there, for everybody on a host who asks."""

    def __init__(
        self,
        ports: Ports,
        key: tuple[str, Address],
        opener: Opener,
        address: Address,
    ) -> None:
        self.broker: NativeBroker | None = None
        self._resources = ports.resources
        self._key = key
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._error: BaseException | None = None
        # A task of its own: whoever came first may leave before it is done.
        self._opening = asyncio.get_running_loop().create_task(
            opener(ports, address), name=f"open broker {endpoint(address)}"
        )
        self._opening.add_done_callback(self._opened)
        self._resources.on_close(key, self._close)

    def __repr__(self) -> str:
        what = self._opening.get_name() if self.broker is None else repr(self.broker)
        return f"<shared {what}>"

    async def wait(self) -> NativeBroker:
        """Wait until it is open."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            await waiter
        finally:
            del self._waiters[waiter]
            if not self._waiters and not self._opening.done():
                # Nobody wants it any more; a later one starts afresh.
                self._forget()
                self._opening.cancel()
        if self.broker is not None:
            return self.broker
        error = self._error
        assert error is not None
        if not isinstance(error, Disconnected):
            raise error
        # One error each: a shared one would collect everybody's traceback.
        cause = error.__cause__
        raise Disconnected(str(error)) from (error if cause is None else cause)

    def _opened(self, task: asyncio.Task[NativeBroker]) -> None:
        if task.cancelled():
            self._error = Disconnected(f"{task.get_name()}: its host is ending")
        elif (error := task.exception()) is not None:
            self._error = error
            self._forget()
        else:
            self.broker = task.result()
            self.broker._on_end = self._forget
            if self.broker.closed:
                self._forget()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _forget(self) -> None:
        # Only what is ours: a newer connection may have taken the place.
        if self._resources.obtain(self._key, lambda: self) is self:
            self._resources.forget(self._key)

    async def _close(self) -> None:
        if self.broker is not None:
            await self.broker.close()
        else:
            self._opening.cancel()
            await asyncio.wait([self._opening])


@lru_cache(maxsize=64)
def _parse(url: str) -> tuple[Opener, Address]:
    known = ", ".join(f"{scheme}://" for scheme in _OPENERS)
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    opener = _OPENERS.get(scheme)
    if opener is None:
        if scheme.rpartition("+")[2] in _AMQP:
            raise ValueError(
                f"broker URL {url!r}: the AMQP client is not part of this version; "
                f"known schemes: {known}"
            )
        raise ValueError(f"broker URL {url!r}: unknown scheme; known: {known}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        plain = not (parts.path.strip("/") or parts.query or parts.fragment)
    except ValueError as error:
        raise ValueError(f"broker URL {url!r}: {error}") from error
    if not host or not plain or parts.username is not None:
        raise ValueError(f"broker URL {url!r}: write {scheme}://host or host:port")
    return opener, (host, frames.PORT if port is None else port)
