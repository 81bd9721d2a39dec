"""The clock figures are taken with: bound here, before any loop replaces its own.

Seconds that pass, unless `RPCSIM_BENCH_CLOCK=cpu` (`--cpu`) asks for seconds of this
process's work: those hardly change when other programs run beside it.
"""

from __future__ import annotations

import os
from time import perf_counter, process_time

__all__ = ["CLOCK", "now"]

CLOCK = "RPCSIM_BENCH_CLOCK"

now = process_time if os.environ.get(CLOCK) == "cpu" else perf_counter
