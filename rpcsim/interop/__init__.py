"""Foreign libraries on our runs: freezegun, which follows the simulated clock.

What adapts somebody else's library to a run lives here, and loads that library on first
use; what a run offers by itself is in `sim` and `real`. Read `_freeze.py`.
"""

from rpcsim.interop._freeze import FrozenClock, freeze, frozen_start

__all__ = ["FrozenClock", "freeze", "frozen_start"]
