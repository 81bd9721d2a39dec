"""One row on one loop, in a process of its own: prints one line of JSON."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata

from tests.bench._rows import row_of
from tests.bench._sampling import sample


def versions(*names: str) -> dict[str, str]:
    """Give the installed versions of some distributions, and of the interpreter."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main(peer: str, row: str, seconds: str, repeats: str) -> None:
    result = sample(peer, row_of(row), seconds=float(seconds), repeats=int(repeats))
    result["versions"] = versions(peer, "greenlet", "msgspec")
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
