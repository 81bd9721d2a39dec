"""The public exceptions of rpcsim, in families under one root.

`RpcError` and its children are what callers of remote procedures handle in production.
`SimulationError` is about the run itself: a deadlock, a call that escaped, a limit.
Errors documented by one system (`agents.RequestTimeout`, ...) live in that room and
derive from these, so that one `except` works in every family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BlockingInCoroutine",
    "CallTimeout",
    "DeadlockError",
    "Disconnected",
    "EscapeError",
    "ExternalWorkWarning",
    "FiberKilled",
    "ForeignTaskWarning",
    "HostDown",
    "HostStateError",
    "InexactFault",
    "LimitExceeded",
    "LivelockError",
    "LocalProtocolError",
    "NondeterminismError",
    "PlanError",
    "PoolExhausted",
    "RealTimeLimitError",
    "RemoteError",
    "RemoteProtocolError",
    "ReplayError",
    "RpcError",
    "RpcSimError",
    "RuleError",
    "ScenarioError",
    "SimLimitError",
    "SimulationError",
    "StalledError",
    "StepLimitError",
    "TimeLimitError",
    "TraceFormatError",
    "UnhandledErrors",
]


class RpcSimError(Exception):
    """Root of every error rpcsim raises on purpose."""


# -- RPC errors: callers handle these, in simulation and in production ---------------


class RpcError(RpcSimError):
    """A remote call did not give a value; real callers must expect it."""


class CallTimeout(RpcError, TimeoutError):
    """The caller's own time limit passed before the call ended."""


class Disconnected(RpcError, ConnectionError):
    """The connection the call needed is gone or could not be made."""


class RemoteError(RpcError):
    """The far side ran the call and raised.

    Attributes:
        type: Name of the exception's class at the far side.
        message: Its text.
        data: What else the family transports, or `None`.
    """

    def __init__(self, type: str, message: str = "", data: Any = None) -> None:  # noqa: A002 - the documented attribute name
        super().__init__(type, message, data)
        self.type = type
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class LocalProtocolError(RpcError):
    """We were asked to send something the protocol cannot carry."""


class RemoteProtocolError(RpcError):
    """The far side sent something the protocol does not allow."""


class LimitExceeded(RpcError, RuntimeError):
    """A configured limit (frame size, pending calls, connections) was passed."""


class PoolExhausted(RpcError, RuntimeError):
    """Blocking calls are nested deeper than the runtime has threads for."""


# -- Simulation errors: about the run ------------------------------------------------


class SimulationError(RpcSimError):
    """Something about the run itself; kept on the run and raised again at its end."""


class DeadlockError(SimulationError):
    """Nothing can run, nothing is pending, and the main program still waits."""


class StalledError(DeadlockError):
    """Only background work ran for the whole stall limit while main waited."""


class SimLimitError(SimulationError):
    """A limit of the run was reached."""


class LivelockError(SimLimitError):
    """Too many turns ran without simulated time moving."""


class StepLimitError(SimLimitError):
    """The run took more turns than `max_steps`."""


class TimeLimitError(SimLimitError):
    """The run passed `max_time` seconds of simulated time."""


class RealTimeLimitError(SimLimitError):
    """The run took more than `max_real` seconds of real time."""


class EscapeError(SimulationError, RuntimeError):
    """Code under simulation tried to leave it: a thread, a real socket, a fenced call."""


class BlockingInCoroutine(SimulationError, RuntimeError):
    """A blocking call was made inside a coroutine or a loop callback."""


class HostDown(SimulationError):
    """The host is crashed or stopped; its code cannot run."""


class HostStateError(SimulationError):
    """A host was asked for something its present state does not allow."""


class ReplayError(SimulationError):
    """A replay asked for another choice than the one recorded.

    Attributes:
        stream: Label of the stream the choice belongs to.
        index: Number of the choice in its stream, from 0.
        recorded: How many alternatives it had when recorded; `None` if unknown.
        found: How many it has now.
    """

    def __init__(
        self,
        message: str,
        *,
        stream: str = "",
        index: int = -1,
        recorded: int | None = None,
        found: int | None = None,
    ) -> None:
        super().__init__(message)
        self.stream = stream
        self.index = index
        self.recorded = recorded
        self.found = found


class NondeterminismError(SimulationError):
    """Two runs of one program and seed differed."""


class RuleError(SimulationError):
    """A fault rule is contradictory, or its function raised."""


class PlanError(SimulationError, ValueError):
    """A fault plan is contradictory."""


class InexactFault(SimulationError):
    """A strict run on real sockets contains a fault that cannot be exact there."""


class TraceFormatError(SimulationError, ValueError):
    """A trace or tape file cannot be read; the message has the line number."""


class UnhandledErrors(SimulationError, ExceptionGroup[Exception]):
    """Failures of callbacks and tasks that nobody took, in order of occurrence."""

    def derive(self, excs: Sequence[Exception]) -> UnhandledErrors:  # type: ignore[override]  # narrower on purpose
        """Keep the class when the group is split."""
        return UnhandledErrors(self.message, excs)


class FiberKilled(BaseException):
    """Raised inside a fiber at its next blocking point after `kill()`."""


class ForeignTaskWarning(UserWarning):
    """A task factory of the user's makes tasks whose order may not replay."""


class ExternalWorkWarning(UserWarning):
    """The run did real work in a real thread and is not promised to replay."""


# -- Scenario errors -----------------------------------------------------------------


class ScenarioError(RpcSimError, ValueError):
    """A scenario file or object is wrong.

    Attributes:
        problems: Everything found, sorted by position; each has `path`, `line`,
            `column`, `message` and `hint`.
    """

    def __init__(self, message: str, problems: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
