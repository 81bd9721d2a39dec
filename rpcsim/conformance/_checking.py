"""What every check needs: a machine to run on, and a way to say what went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from rpcsim.ports import current, use

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rpcsim.ports import Host, Machine

__all__ = ["Check", "End", "Recorder", "end_of", "expect", "pair", "raises", "run_all"]

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

# Gives a fresh machine, not entered yet, on which faults are possible.
Make: TypeAlias = "Callable[[], Machine]"
Check: TypeAlias = Callable[["Make"], None]

# Loop turns after which something that should have come is given up.
TURNS = 100_000


def run_all(checks: Iterable[Check], make: Make) -> None:
    """Run checks in order, each on machines of its own."""
    for check in checks:
        check(make)


def expect(condition: object, told: str) -> None:
    """Fail with a text that says what the law is and what was seen."""
    if not condition:
        raise AssertionError(told)


def raises(kind: type[E], work: Callable[[], object], told: str) -> E:
    """Expect an exception of a kind; gives it."""
    try:
        outcome = work()
    except kind as error:
        return error
    raise AssertionError(f"{told}: expected {kind.__name__}, got {outcome!r}")


async def araises(kind: type[E], work: Any, told: str) -> E:
    """Expect an exception of a kind from an awaitable; gives it."""
    try:
        outcome = await work
    except kind as error:
        return error
    raise AssertionError(f"{told}: expected {kind.__name__}, got {outcome!r}")


class Recorder(asyncio.Protocol):
    """One end of a connection that notes every call, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.received = b""
        self.transport: Any = None
        self.error: BaseException | None = None
        self.paused = False
        self._changed: list[asyncio.Future[None]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note it."""
        self.transport = transport
        self._note("made")

    def data_received(self, data: bytes) -> None:
        """Note it, neighbours as one."""
        self.received += data
        if not self.calls or self.calls[-1] != "data":
            self._note("data")
        else:
            self._wake()

    def eof_received(self) -> bool | None:
        """Note it, and keep the other direction open."""
        self._note("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        self.error = exc
        self._note("lost")

    def pause_writing(self) -> None:
        """Note it."""
        self.paused = True
        self._note("pause")

    def resume_writing(self) -> None:
        """Note it."""
        self.paused = False
        self._note("resume")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self._wake()

    def _wake(self) -> None:
        waiting, self._changed = self._changed, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def until(self, condition: Callable[[], object], told: str) -> None:
        """Wait until something about this end is so; fail after ten seconds."""
        try:
            async with asyncio.timeout(10):
                while not condition():
                    future = asyncio.get_running_loop().create_future()
                    self._changed.append(future)
                    await future
        except TimeoutError:
            raise AssertionError(
                f"{told}; it never came (calls: {self.calls}, {len(self.received)} "
                "bytes received)"
            ) from None

    async def read(self, size: int) -> bytes:
        """Wait for so many bytes, and take them."""
        await self.until(lambda: len(self.received) >= size, f"{size} bytes are due")
        data, self.received = self.received[:size], self.received[size:]
        return data

    async def lost(self) -> BaseException | None:
        """Wait for the end; gives its reason."""
        await self.until(lambda: "lost" in self.calls, "connection_lost is due")
        return self.error


End: TypeAlias = "tuple[Any, Recorder]"


async def end_of(*ends: Recorder) -> None:
    """Close ends of connections, and wait until all are lost."""
    for end in ends:
        end.transport.close()
    for end in ends:
        await end.lost()


async def on(host: Host, work: Callable[[], Any]) -> Any:
    """Await what `work` gives, as code of a host."""
    with use(host.ports):
        return await asyncio.create_task(work())


async def pair(machine: Machine) -> tuple[Recorder, Recorder]:
    """Connect host `test` to host `server`: the near end and the far end."""
    accepted: asyncio.Queue[Recorder] = asyncio.Queue()

    class Accepting(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            accepted.put_nowait(self)

    [server] = [host for host in machine.hosts if host.name == "server"]

    async def listen() -> Any:
        return await current().network.listen(Accepting, ("", 0))

    listener = await on(server, listen)
    port = listener.addresses[0][1]
    _, near = await current().network.connect(Recorder, ("server", port))
    far = await accepted.get()
    listener.close()
    await listener.wait_closed()
    return near, far
