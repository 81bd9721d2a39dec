"""What an error says about whether the remote code ran."""

from __future__ import annotations

import pytest

from rpcsim.agents import ClassNotFound, NotFound, RemoteException, RequestTimeout
from rpcsim.check import OUTCOMES, OutcomeKind, outcome_of
from rpcsim.errors import Disconnected


def rebuilt() -> KeyError:
    error = KeyError("x")
    error.trace = "Traceback ..."  # type: ignore[attr-defined]  # as a rebuilt one has
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (None, "ok"),
        (RequestTimeout("sn", 0), "maybe"),
        (RequestTimeout("sn", 1), "maybe"),
        (Disconnected("lost"), "maybe"),
        (ClassNotFound("Dog"), "no"),
        (NotFound("web01"), "no"),
        (RemoteException("Traceback ..."), "raised"),
        (rebuilt(), "raised"),
        (KeyError("x"), "maybe"),
    ],
)
def test_errors_of_agents(error: BaseException | None, kind: str) -> None:
    """Each cell of the table; what is not listed is doubtful, hence `maybe`."""
    assert outcome_of("agent", error) == kind


def test_own_code_surely_ran() -> None:
    """An error of a client's own code is no riddle."""
    assert outcome_of("", ValueError()) == "raised"


def test_a_system_of_ones_own_can_be_added() -> None:
    """The table is data."""
    mine: dict[str, OutcomeKind] = {"ValueError": "no"}
    table = {**OUTCOMES, "mine": mine}
    assert outcome_of("mine", ValueError(), table=table) == "no"
    assert outcome_of("mine", UnicodeError(), table=table) == "no"
