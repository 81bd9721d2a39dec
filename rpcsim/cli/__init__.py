"""The command line: thin verbs over the other rooms.

A verb reads its options, calls one function of a room, and says what came of it; exit
codes and the shape of error lines are in `_errors.py`. Rooms are imported when a verb
runs, so that `--help` answers at once. Read `_app.py` first.
"""

from rpcsim.cli._entry import main

__all__ = ["main"]
