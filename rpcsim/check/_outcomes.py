"""What an error says about whether the remote code ran (scenario.md 3.3)."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OUTCOMES", "OutcomeKind", "outcome_of"]

# `ok`: it gave a value. `raised`: the remote code ran and raised. `no`: it surely did
# not run. `maybe`: not known.
OutcomeKind: TypeAlias = Literal["ok", "raised", "no", "maybe"]

# System to error name to kind; names of base classes count for their children. A name
# that is not listed is `maybe`: a doubtful error must never count as "did not happen".
OUTCOMES: Final[Mapping[str, Mapping[str, OutcomeKind]]] = MappingProxyType(
    {
        "agent": MappingProxyType(
            {
                "RequestTimeout": "maybe",
                "RemoteError": "raised",
                "RemoteException": "raised",
                "NotFound": "no",
                "DispatchError": "no",
                "DocumentError": "no",
                "WindowMissed": "no",
                "LocalProtocolError": "no",
            }
        ),
    }
)


def outcome_of(
    system: str,
    error: BaseException | None,
    *,
    table: Mapping[str, Mapping[str, OutcomeKind]] = OUTCOMES,
) -> OutcomeKind:
    """Tell what an error means for an operation of a system.

    Args:
        system: `agent`, ...; `""` for code of the client's own, which surely ran.
        error: What was raised; `None` for a value.
        table: In place of `OUTCOMES`, for systems of your own.
    """
    if error is None:
        return "ok"
    if not system:
        return "raised"
    known = table.get(system, {})
    for kind in type(error).__mro__:
        if kind.__name__ in known:
            return known[kind.__name__]
    # An exception of the remote code, rebuilt as itself, brings its remote traceback.
    return "raised" if isinstance(getattr(error, "trace", None), str) else "maybe"
