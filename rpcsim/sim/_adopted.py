"""Sockets the caller made and handed to the loop: their peers are simulated.

Libraries that race several addresses make a socket themselves, `sock_connect` it, and
then hand it to `create_connection`. The socket is *adopted*: what it is connected to is
remembered here, and its descriptor is never used.
"""

from __future__ import annotations

import asyncio
import errno
import weakref
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rpcsim.sim._loop import SimLoop
    from rpcsim.sim._tcp import Endpoint

__all__ = ["NOT_OURS", "Adopted"]

NOT_OURS: Final = (
    "the socket is bound or connected on the real machine; give host and port, or a "
    "socket that was only connected with loop.sock_connect"
)
MOST_WAITING: Final = 64 * 1024


class _ByHand(asyncio.Protocol):
    """Keeps what arrives until somebody asks for it."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.waiting = bytearray()
        self.over = False
        self.error: BaseException | None = None
        self.transport: Any = None
        self._wake: asyncio.Future[None] | None = None
        self.paused = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        if len(self.waiting) >= MOST_WAITING:
            self.transport.pause_reading()
        self.changed()

    def eof_received(self) -> bool:
        self.over = True
        self.changed()
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self.over = True
        self.error = exc
        self.changed()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.changed()

    def changed(self) -> None:
        """Wake who waits for a change."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def change(self) -> None:
        """Wait for the next change."""
        if self._wake is None or self._wake.done():
            self._wake = self._loop.create_future()
        await asyncio.shield(self._wake)

    def take(self, size: int) -> bytes:
        """Give at most `size` bytes of what waits."""
        data = bytes(self.waiting[:size])
        del self.waiting[:size]
        if len(self.waiting) < MOST_WAITING:
            self.transport.resume_reading()
        return data


class Adopted:
    """The connections behind sockets of one loop."""

    __slots__ = ("_ends", "_loop")

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        # A socket that is dropped closes its connection, as the system would.
        self._ends: dict[int, tuple[weakref.ref[Any], Endpoint]] = {}

    def __repr__(self) -> str:
        return f"<{len(self._ends)} adopted sockets>"

    async def connect(self, sock: Any, host: str, port: int) -> None:
        """Connect a socket that has no peer yet."""
        loop = self._loop
        if id(sock) in self._ends:
            raise OSError(errno.EISCONN, "Transport endpoint is already connected")
        if _is_connected(sock):
            raise loop.escape("loop.sock_connect", NOT_OURS)
        end = await loop.dial(host, port)
        if sock.fileno() < 0:
            end.close()
            raise OSError(errno.EBADF, "the socket was closed while it connected")
        number = id(sock)

        def gone(_: object) -> None:
            _, left = self._ends.pop(number)
            if not loop.is_closed():
                left.close()

        self._ends[number] = weakref.ref(sock, gone), end

    def take(self, sock: Any, call: str) -> Endpoint:
        """Give the connection of a socket to a transport; its descriptor is closed."""
        end = self._find(sock, call)
        del self._ends[id(sock)]
        sock.close()
        return end

    def _find(self, sock: Any, call: str) -> Endpoint:
        known = self._ends.get(id(sock))
        if known is None:
            raise self._loop.escape(call, NOT_OURS)
        return known[1]

    def _by_hand(self, sock: Any, call: str) -> _ByHand:
        end = self._find(sock, call)
        if end.protocol is None:
            end.begin(_ByHand(self._loop))
        protocol: _ByHand = end.protocol
        return protocol

    async def receive(self, sock: Any, size: int, call: str) -> bytes:
        """Wait for bytes; none means the end."""
        protocol = self._by_hand(sock, call)
        while not protocol.waiting:
            if protocol.error is not None:
                raise protocol.error
            if protocol.over:
                return b""
            await protocol.change()
        return protocol.take(size)

    async def send(self, sock: Any, data: Any, call: str) -> None:
        """Send bytes; return when the system has taken most of them."""
        protocol = self._by_hand(sock, call)
        if protocol.error is not None:
            raise protocol.error
        if protocol.transport.is_closing():
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        protocol.transport.write(bytes(data))
        while protocol.paused and not protocol.over:
            await protocol.change()


def _is_connected(sock: Any) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
