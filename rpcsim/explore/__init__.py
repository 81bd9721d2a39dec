"""Many runs of one scenario: is it deterministic, which seeds fail, what is minimal.

Here live the loops over runs and their comparison. A single run is driven by `harness`,
a scenario is read by `scenario`. Read `_determinism.py` first.
"""

from rpcsim.explore._determinism import (
    WAYS,
    Finding,
    check_determinism,
    fresh_main,
)

__all__ = ["WAYS", "Finding", "check_determinism", "fresh_main"]
