"""The way in: what the console script calls."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process.

    Args:
        argv: Arguments in place of the process's own.
    """
    try:
        # Here and not above: loading the parser takes a while, and Ctrl-C meanwhile
        # is to end as it does later.
        from rpcsim.cli._app import main as run
    except KeyboardInterrupt:
        print("rpcsim: interrupted; run it again", file=sys.stderr)  # noqa: T201 - the command line
        sys.exit(INTERRUPTED)
    run(argv)
