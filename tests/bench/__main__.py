"""Run the benchmarks: `python -m tests.bench [--quick] [--python PATH]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.bench._clock import CLOCK
from tests.bench._peers import RUNNERS
from tests.bench._rows import ROWS, row_of
from tests.bench._sampling import has
from tests.bench._scratch import ROOT, Scratch
from tests.bench._table import render

RESULTS: Final = Path(__file__).parent / "results"
# (seconds per sample, samples)
FULL: Final = (0.5, 5)
QUICK: Final = (0.05, 3)
# A loop that needs longer for one row is told as too slow for it.
CHILD_SECONDS: Final = 240

NOTES: Final = """\
ratio: rpcsim against plain asyncio (loopback TCP for the network rows; threads for
blocking calls); to best peer: against the best simulated loop. More is better.
rpcsim, simloop and simloom draw the order of ready work from the seed; seedloop keeps
first in, first out, and its network rows carry messages, not byte streams. rpcsim
records every step in the scheduling and timer rows, the protocol's events elsewhere."""


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small samples, for CI")
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="PATH",
        help="interpreter to measure on (3.12 or later for all loops)",
    )
    parser.add_argument(
        "--cpu", action="store_true", help="count work, not time: on a busy machine"
    )
    parser.add_argument("--rows", default="", help="only these, separated by commas")
    parser.add_argument("--peers", default="", help="only these loops")
    return parser.parse_args()


def busy() -> float:
    """Give the load of the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def run_child(
    scratch: Scratch, peer: str, row: str, pace: tuple[float, int]
) -> dict[str, Any]:
    """Measure one row on one loop in a fresh process."""
    command = [scratch.python, "-m", "tests.bench._child", peer, row]
    command += [str(number) for number in pace]
    try:
        child = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {CHILD_SECONDS} s"}
    if child.returncode:
        *_, last = child.stderr.strip().splitlines() or ["no message"]
        return {"failed": last}
    result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return result


def main() -> int:
    options = read_arguments()
    pace = QUICK if options.quick else FULL
    chosen = [row_of(name) for name in options.rows.split(",") if name] or list(ROWS)
    if options.cpu:
        os.environ[CLOCK] = "cpu"  # for the children
    scratch = Scratch(options.python)
    wanted = options.peers.split(",") if options.peers else list(RUNNERS)
    peers = [peer for peer in scratch.peers if peer in wanted]
    results: dict[str, dict[str, Any]] = {}
    versions: dict[str, str] = {}
    problems = list(scratch.left_out)
    load = [busy()]
    for row in chosen:
        results[row.id] = {}
        for peer in peers:
            if not has(peer, row):
                continue
            print(f"  {row.id} on {peer} ...", file=sys.stderr, flush=True)
            result = run_child(scratch, peer, row.id, pace)
            versions |= result.pop("versions", {})
            results[row.id][peer] = result
            if "failed" in result:
                problems.append(f"{row.id} on {peer}: {result['failed']}")
    load.append(busy())
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(render(results, peers))
    print(f"\n{NOTES}\n{told}; {platform.platform()}, {os.cpu_count()} cores")
    print(f"busy programs at the start {load[0]:.1f}, at the end {load[1]:.1f}")
    if load[0] > 0.5 or load[1] > 1.5:
        print("other programs ran meanwhile: measure again on an idle machine")
    if options.cpu:
        print("counted in seconds of work (--cpu), not of time, but for the imports")
    for problem in problems:
        print(f"left out: {problem}")
    now = datetime.now(UTC)
    record = {
        "at": now.isoformat(timespec="seconds"),
        "quick": options.quick,
        "cpu": options.cpu,
        "versions": versions,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "load": load,
        "left_out": problems,
        "results": results,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {path.relative_to(ROOT)}")
    return 1 if any("rpcsim" in problem for problem in problems) else 0


if __name__ == "__main__":
    sys.exit(main())
