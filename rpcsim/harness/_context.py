"""What the code of a step sees of the run it is part of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.harness._result import StepOutcome
    from rpcsim.ports import Machine, Ports, Stream

__all__ = ["StepContext"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What the code of a step sees.

    Attributes:
        client: The client's name.
        step: The step's id.
        ports: The ports of the client's host.
        machine: The machine of the run: hosts, network, clock.
        draws: The stream of site `workload/<client>`.
        outcomes: Step id to outcome, of all steps that have one.
    """

    client: str
    step: str
    ports: Ports
    machine: Machine
    draws: Stream
    outcomes: dict[str, StepOutcome]

    async def blocking(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Run blocking code, such as a documented client API, and give its value."""
        return await self.ports.bridge.call_blocking(fn, *args, **kwargs)

    async def sleep(self, seconds: float) -> None:
        """Let time pass on the client's host."""
        await self.ports.clock.sleep(seconds)
