"""Many runs of one scenario: is it deterministic, which seeds fail, what is minimal.

Here live the loops over runs and their comparison. A single run is driven by `harness`,
a scenario is read by `scenario`. Read `_determinism.py` first: what is run again is in
`_subject.py`, why two runs differ in `_causes.py`.
"""

from rpcsim.explore._causes import Cause
from rpcsim.explore._compare import Mismatch
from rpcsim.explore._determinism import WAYS, Finding, check, check_determinism
from rpcsim.explore._shrink import Shrunk, shrink_tape
from rpcsim.explore._subject import fresh_main

__all__ = [
    "WAYS",
    "Cause",
    "Finding",
    "Mismatch",
    "Shrunk",
    "check",
    "check_determinism",
    "fresh_main",
    "shrink_tape",
]
