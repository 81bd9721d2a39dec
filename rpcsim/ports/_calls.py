"""The call seam: one remote call as data, before any byte is produced.

Each client object turns a user's action into one frozen `Call` and hands it to a
`CallPort`, which answers with an `Exchange`, a sequence of events. A transport and a
mock registry both implement it; the client's logic above (handles, promises, time
limits) is the same with either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

__all__ = [
    "Accepted",
    "Activations",
    "Call",
    "CallPort",
    "Cancelled",
    "Event",
    "Exchange",
    "Failed",
    "Lost",
    "Part",
    "Progress",
    "Raised",
    "Rejected",
    "Returned",
    "Started",
    "activations",
]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One remote invocation made by a client object.

    Attributes:
        family: `agent`, `job`, `direct`, `api`, `function` or `http`.
        caller: Host in whose context the call is made.
        target: Agent id, host name, peer name or `host:port` addressed.
        path: Dotted name of what is called: `Dog.bark`.
        args: Positional arguments.
        kwargs: Keyword arguments.
        cntr: Constructor arguments `(args, kwargs)`; `None` if never given.
        options: The client's effective options, by their documented names.
        deadline_ns: Latest end on the caller's monotonic clock; `None` for none.
        id: The id chosen by the caller (a serial number); `""` lets the port choose.
    """

    family: str
    caller: str
    target: str
    path: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = msgspec.field(default_factory=dict)
    cntr: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)
    deadline_ns: int | None = None
    id: str = ""


class Accepted(msgspec.Struct, frozen=True):
    """The call has left us (or was stored over there).

    Attributes:
        id: The family's id of the call, such as a serial number.
        status: Whether the far side said so, rather than our own transport.
    """

    id: str
    status: bool = False


class Started(msgspec.Struct, frozen=True):
    """The far side began to execute it."""


class Progress(msgspec.Struct, frozen=True):
    """A progress report.

    Attributes:
        report: The family's own fields: `total`, `completed`, `details`, ...
    """

    report: Mapping[str, Any]


class Part(msgspec.Struct, frozen=True):
    """One item of a stream."""

    value: Any


class Returned(msgspec.Struct, frozen=True):
    """The call ended with a value."""

    value: Any


class Raised(msgspec.Struct, frozen=True):
    """The far side's code raised; `error` is the rebuilt exception."""

    error: BaseException


class Failed(msgspec.Struct, frozen=True):
    """The system refused or could not do it; the code did not run to an outcome."""

    error: BaseException


class Rejected(msgspec.Struct, frozen=True):
    """The document was refused before execution."""

    error: BaseException


class Cancelled(msgspec.Struct, frozen=True):
    """The call was cancelled."""

    error: BaseException | None = None


class Lost(msgspec.Struct, frozen=True):
    """The connection the answer would have come on is gone; the outcome is unknown."""

    error: BaseException


Event: TypeAlias = (
    "Accepted | Started | Progress | Part | Returned | Raised | Failed | Rejected "
    "| Cancelled | Lost"
)


class Exchange(Protocol):
    """What became of one call: events in order, the last one final."""

    def __aiter__(self) -> AsyncIterator[Event]:
        """Yield `Accepted` first, then what happens, up to one final event."""

    async def aclose(self) -> None:
        """Take no more events; what they would have come on is released."""


class CallPort(Protocol):
    """Carries calls: a transport, or a mock registry."""

    def open(self, call: Call) -> Exchange:
        """Begin a call; nothing is sent before the first event is awaited."""


class Activations:
    """The stack of call ports that replace the real ones, innermost last.

    The stack is per process, so that threads of the code under test see it.
    """

    __slots__ = ("_stack",)

    def __init__(self) -> None:
        self._stack: list[CallPort] = []

    def push(self, port: CallPort) -> None:
        """Make `port` the one that calls go to."""
        self._stack.append(port)

    def remove(self, port: CallPort) -> None:
        """Take `port` off, wherever it stands; `ValueError` if it does not."""
        self._stack.remove(port)

    def top(self) -> CallPort | None:
        """Give the active port, or `None` when calls are real."""
        return self._stack[-1] if self._stack else None


# The one process-wide list of this room: mock.md 3.3 asks for it by name.
activations = Activations()
