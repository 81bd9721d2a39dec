"""Making a `World`: `simulate()` for the simulation, `world()` for either mode."""

from __future__ import annotations

import hashlib
from typing import Any

from rpcsim.harness._world import SimWorld, World
from rpcsim.interop import frozen_start
from rpcsim.real import Runtime
from rpcsim.sim import Sim

__all__ = ["derive_seed", "simulate", "world"]

# A run under the harness ends by itself: simulation.md 3.6.
MAX_STEPS = 10_000_000


def simulate(*, seed: int | None = None, **options: Any) -> SimWorld:
    """Make a simulated world, for a `with` block.

    Args:
        seed: What every draw derives from; by default that of a replayed tape, else 0.
        **options: Options of `rpcsim.Sim`: `policy`, `trace`, `max_time`, ...
            Inside a time that freezegun froze, `wall_start` is that time.
    """
    options.setdefault("max_steps", MAX_STEPS)
    frozen = frozen_start()
    if frozen is not None:
        options.setdefault("wall_start", frozen)
    return SimWorld(Sim(seed=seed, **options))


def world(mode: str = "sim", *, seed: int | None = None, **options: Any) -> World:
    """Make a world in a mode, for a `with` block.

    Args:
        mode: `"sim"`, or `"real"` for loopback sockets and the machine's clock.
        seed: What draws derive from; by default as in `simulate`.
        **options: Options of `rpcsim.Sim` or `rpcsim.Runtime`; a real world takes
            part in faults (`faults=True`) unless told otherwise.
    """
    if mode == "sim":
        return simulate(seed=seed, **options)
    if mode == "real":
        options.setdefault("faults", True)
        return World(Runtime(seed=seed or 0, **options))
    raise ValueError(f"a world has mode 'sim' or 'real', not {mode!r}")


def derive_seed(base: int, name: str) -> int:
    """Derive the seed of one test from a base seed and its name (63 bits).

    Args:
        base: Seed of the whole session.
        name: Node id of the test, without the mode.
    """
    key = base.to_bytes((base.bit_length() + 8) // 8 or 1, "little", signed=True)
    digest = hashlib.blake2b(name.encode(), key=key[:64], digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
