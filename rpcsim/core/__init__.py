"""What one remote call is made of, whatever the family: see DESIGN section 4.

Here live procedures and how they are found and run, the context of a running call,
deadlines, promises, and how exceptions travel. Addresses, documents and the documented
client APIs do not: they are in the families. Nothing here knows which machine runs it.
Read `_procedures.py`, then `_running.py`.
"""

from rpcsim.core._context import Context, ProgressReport
from rpcsim.core._deadline import Deadline
from rpcsim.core._exceptions import (
    ErrorRecord,
    allow_exceptions,
    describe,
    rebuild,
)
from rpcsim.core._periodic import OnError, Periodic
from rpcsim.core._procedures import (
    Catalogue,
    Marks,
    Namespace,
    Procedure,
    Unresolved,
    mark,
    marks_of,
    near,
)
from rpcsim.core._promise import Promise
from rpcsim.core._running import Ended, perform

__all__ = [
    "Catalogue",
    "Context",
    "Deadline",
    "Ended",
    "ErrorRecord",
    "Marks",
    "Namespace",
    "OnError",
    "Periodic",
    "Procedure",
    "ProgressReport",
    "Promise",
    "Unresolved",
    "allow_exceptions",
    "describe",
    "mark",
    "marks_of",
    "near",
    "perform",
    "rebuild",
]
