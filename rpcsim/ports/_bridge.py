"""The bridge between blocking and asynchronous code, in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from rpcsim.ports._durations import Duration

__all__ = ["Bridge", "Running", "Spawned", "Worker"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Running(Protocol):
    """What is executing: a fiber, a thread, or the main program."""

    @property
    def name(self) -> str:
        """Its name, as reports show it."""

    @property
    def host(self) -> str:
        """The host it runs for."""

    @property
    def worker(self) -> Worker | None:
        """The worker it belongs to, if any."""


class Spawned(Protocol[T_co]):
    """Blocking code started on its own; awaiting it gives its outcome."""

    def __await__(self) -> Generator[Any, Any, T_co]:
        """Wait for its return value or exception."""

    @property
    def name(self) -> str:
        """Its name, as reports show it."""

    def done(self) -> bool:
        """Whether it has ended."""

    def kill(self, *, hard: bool = False) -> None:
        """Raise `FiberKilled` at its next blocking point; `hard`: never run it again."""


class Worker(Protocol):
    """A named serial worker: its items run one at a time, first in first out."""

    @property
    def name(self) -> str:
        """Its name."""

    def submit(self, fn: Callable[..., T], *args: Any) -> Awaitable[T]:
        """Queue blocking work; the awaitable gives its outcome."""

    def stop(self) -> Awaitable[None]:
        """Take no more work; done when what was queued has run."""


class Bridge(Protocol):
    """Lets blocking code wait for coroutines, and coroutines run blocking code.

    Every documented blocking API is a thin face over one async implementation
    through `wait`.
    """

    def wait(self, awaitable: Awaitable[T], timeout: Duration | None = None) -> T:
        """Block until done; return or raise its outcome.

        Raises:
            BlockingInCoroutine: Called inside a coroutine or callback, where it could
                never return; `await` instead, or move the caller to `call_blocking`.
            TimeoutError: `timeout` passed; a coroutine given is then cancelled.
            EscapeError: Called from a thread the simulation does not own.
        """

    async def call_blocking(
        self, fn: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> T:
        """Run synchronous `fn` so that it may block, in a copy of this context."""

    def spawn(
        self, fn: Callable[..., T], /, *args: Any, name: str | None = None
    ) -> Spawned[T]:
        """Start `fn` as an independent fiber or thread."""

    def worker(self, name: str) -> Worker:
        """Make a serial worker."""

    def current(self) -> Running:
        """Tell what is running."""

    def may_block(self) -> bool:
        """Whether `wait` would be allowed here (no coroutine step is running)."""
