"""Test remote calls whole: agents, broker and clients in one deterministic run.

The front door: the names a first user needs, each resolved on first use, so that
importing the package loads nothing else. Everything more is one room away
(`rpcsim.sim`, `rpcsim.agents`, ...).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rpcsim.agents import Agent, Context, remote
    from rpcsim.errors import (
        BlockingInCoroutine,
        CallTimeout,
        DeadlockError,
        Disconnected,
        EscapeError,
        LivelockError,
        LocalProtocolError,
        NondeterminismError,
        RemoteError,
        RemoteProtocolError,
        ReplayError,
        RpcError,
        RpcSimError,
        ScenarioError,
        SimulationError,
        UnhandledErrors,
    )
    from rpcsim.harness import World, derive_seed, simulate, world
    from rpcsim.real import Runtime
    from rpcsim.sim import Sim

_ROOMS = {
    "agents": ("Agent", "Context", "remote"),
    "errors": (
        "BlockingInCoroutine",
        "CallTimeout",
        "DeadlockError",
        "Disconnected",
        "EscapeError",
        "LivelockError",
        "LocalProtocolError",
        "NondeterminismError",
        "RemoteError",
        "RemoteProtocolError",
        "ReplayError",
        "RpcError",
        "RpcSimError",
        "ScenarioError",
        "SimulationError",
        "UnhandledErrors",
    ),
    "harness": ("World", "derive_seed", "simulate", "world"),
    "real": ("Runtime",),
    "sim": ("Sim",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "Agent",
    "BlockingInCoroutine",
    "CallTimeout",
    "Context",
    "DeadlockError",
    "Disconnected",
    "EscapeError",
    "LivelockError",
    "LocalProtocolError",
    "NondeterminismError",
    "RemoteError",
    "RemoteProtocolError",
    "ReplayError",
    "RpcError",
    "RpcSimError",
    "Runtime",
    "ScenarioError",
    "Sim",
    "SimulationError",
    "UnhandledErrors",
    "World",
    "__version__",
    "derive_seed",
    "remote",
    "simulate",
    "world",
]


def __getattr__(name: str) -> Any:
    room = _HOME.get(name)
    if room is None:
        raise AttributeError(f"module 'rpcsim' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"rpcsim.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
