from __future__ import annotations

from typing import Any

import pytest

from rpcsim import agents
from rpcsim.agents import (
    ClassNotFound,
    DocumentError,
    MethodNotFound,
    NotFound,
    NotPermitted,
    RemoteException,
    RequestTimeout,
)
from rpcsim.errors import CallTimeout, RemoteError, RpcError


@pytest.mark.parametrize(
    ("error", "args", "text"),
    [
        (ClassNotFound("Dgo"), ("Dgo",), "Dgo"),
        (MethodNotFound("Dog", "x"), ("Dog.x(), not found",), "Dog.x(), not found"),
        (NotPermitted("Dog.x"), ("Dog.x(), not permitted",), "Dog.x(), not permitted"),
        (RequestTimeout("sn", 0), ("sn", 0), "request sn was not started in time"),
        (RequestTimeout("sn", 1), ("sn", 1), "request sn was not completed in time"),
        (RequestTimeout("sn", 1, "told"), ("sn", 1), "told"),
        (RemoteException("Trace\nOdd: x"), ("Trace\nOdd: x",), "Trace\nOdd: x"),
        (DocumentError("c", "D", details="e"), ("D : e",), "D : e"),
        (DocumentError("c", "D"), ("D",), "D"),
    ],
)
def test_arguments_and_text_are_as_documented(error: Any, args: Any, text: Any) -> None:
    """Old code reads `args`; people read the text."""
    assert error.args == args
    assert str(error) == text
    assert isinstance(error, RpcError)


def test_the_families_hold() -> None:
    """One except catches what belongs together, in either era's names."""
    assert issubclass(RequestTimeout, CallTimeout)
    assert issubclass(RemoteException, RemoteError)
    assert issubclass(agents.NamespaceNotFound, ClassNotFound)
    assert issubclass(agents.MemberNotFound, MethodNotFound)
    assert issubclass(NotFound, agents.ModelError)
    assert issubclass(agents.VersionError, DocumentError)


def test_a_remote_exception_tells_its_class() -> None:
    """Nothing of what the peer sent is lost."""
    error: Any = RemoteException(
        "Odd: x", xmodule="m", xclass="Odd", xstate={"a": 1}, xargs=["x"]
    )
    assert (error.type, error.message) == ("Odd", "Odd: x")
    assert (error.xmodule, error.xclass) == ("m", "Odd")
    assert (error.xstate, error.xargs) == ({"a": 1}, ("x",))
    assert str(RemoteException("")) == "Exception"
