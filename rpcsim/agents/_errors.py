"""The documented errors of agents and their callers (gofer.md 4, 10, 11, 16.3).

All are `RpcError`s. Dispatch errors are raised by the agent and rebuilt at the caller
by class name, so `DISPATCH` lists what may be named; their `args` are as documented,
and what helps beyond is in their notes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rpcsim.errors import CallTimeout, RemoteError, RpcError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "DISPATCH",
    "AuthMethod",
    "ClassNotFound",
    "DispatchError",
    "DocumentError",
    "MemberNotFound",
    "MethodNotFound",
    "ModelError",
    "NamespaceNotFound",
    "NotAuthenticated",
    "NotAuthorized",
    "NotFound",
    "NotPermitted",
    "NotShared",
    "PasswordRequired",
    "RemoteException",
    "RequestTimeout",
    "SecretNotMatched",
    "SecretRequired",
    "UserNotAuthorized",
    "UserRequired",
    "VersionError",
]


class RequestTimeout(CallTimeout):
    """A call was not started, or not completed, in time; `args == (sn, index)`.

    Whether the method ran, runs or will run is not known.

    Args:
        sn: Serial number of the request.
        index: 0 for not started in time, 1 for not completed in time.
        told: The story for people; without it, `str()` tells the arguments.
    """

    def __init__(self, sn: str, index: int, told: str = "") -> None:
        super().__init__(sn, index)
        # `args` are documented, so the text lives beside them.
        self.args = (sn, index)
        self.told = told

    def __str__(self) -> str:
        if self.told:
            return self.told
        what = ("started", "completed")[self.index()]
        return f"request {self.sn()} was not {what} in time"

    def sn(self) -> str:
        """Give the serial number of the request."""
        return str(self.args[0])

    def index(self) -> int:
        """Give 0 for not started in time, 1 for not completed in time."""
        return 1 if self.args[1:] == (1,) else 0


class RemoteException(RemoteError):
    """The method raised something whose class is not known, or not allowed, here.

    Attributes:
        exval: The remote traceback as text; also `args[0]`.
        xmodule: Module of its class, if told.
        xclass: Name of its class, if told.
        xstate: Its attributes.
        xargs: Its `args`.
    """

    def __init__(
        self,
        exval: str = "",
        *,
        xmodule: str | None = None,
        xclass: str | None = None,
        xstate: Mapping[str, Any] | None = None,
        xargs: Sequence[Any] = (),
    ) -> None:
        last = exval.rstrip().rpartition("\n")[2]
        super().__init__(xclass or "Exception", last)
        self.args = (exval,)
        self.exval = exval
        self.xmodule = xmodule
        self.xclass = xclass
        self.xstate = dict(xstate or {})
        self.xargs = tuple(xargs)

    def __str__(self) -> str:
        return self.exval or super().__str__()


# -- refused by the agent before the method ran --------------------------------------


class DispatchError(RpcError):
    """The agent would not run the method; it did not run."""


class ClassNotFound(DispatchError):
    """The agent offers no class or module of that name; the message is the name."""


class NamespaceNotFound(ClassNotFound):
    """The modern name of `ClassNotFound`."""


class MethodNotFound(DispatchError):
    """The class has no such method."""

    def __init__(self, classname: str, method: str) -> None:
        super().__init__(f"{classname}.{method}(), not found")


class MemberNotFound(MethodNotFound):
    """The modern name of `MethodNotFound` and `NotPermitted`."""


class NotPermitted(DispatchError):
    """The method is not decorated with `@remote`.

    Args:
        method: Its dotted name: `Dog.bark`.
    """

    def __init__(self, method: str) -> None:
        super().__init__(f"{method}(), not permitted")


class NotAuthorized(DispatchError):
    """The caller did not pass what the method requires."""


class NotShared(NotAuthorized):
    """The method is for requests on its plugin's own identity only."""


class SecretRequired(NotAuthorized):
    """The method requires a secret, and none was passed."""


class SecretNotMatched(NotAuthorized):
    """The secret passed is not the one required, which is never told."""


class UserRequired(NotAuthorized):
    """The method requires a user, and none was passed."""


class PasswordRequired(NotAuthorized):
    """The method requires a password, and none was passed."""


class UserNotAuthorized(NotAuthorized):
    """The method is for another user."""


class NotAuthenticated(NotAuthorized):
    """User and password were not accepted."""


class AuthMethod(NotAuthorized):
    """The method requires something this agent does not support."""


# -- the messaging model -------------------------------------------------------------


class ModelError(RpcError):
    """Messaging itself failed: an address, a document."""


class NotFound(ModelError):
    """No queue of that name: no agent of that id is or was connected."""


class DocumentError(ModelError):
    """A document was refused.

    Attributes:
        code: Such as `model.version`.
        description: What the code means.
        document: The document refused, if we have it.
        details: More, such as the versions expected and found.
        sn: Serial number of the request; `""` if unknown.
    """

    def __init__(
        self,
        code: str,
        description: str,
        document: Any = None,
        details: str | None = None,
        *,
        sn: str = "",
    ) -> None:
        super().__init__(" : ".join(part for part in (description, details) if part))
        self.code = code
        self.description = description
        self.document = document
        self.details = details
        self.sn = sn


class VersionError(DocumentError):
    """A document has another version than ours."""


# By name, whatever module the peer says they are from (gofer.md 11, step 1).
DISPATCH: Final[Mapping[str, type[Exception]]] = {
    kind.__name__: kind
    for kind in (
        DispatchError,
        ClassNotFound,
        NamespaceNotFound,
        MethodNotFound,
        MemberNotFound,
        NotPermitted,
        NotAuthorized,
        NotShared,
        SecretRequired,
        SecretNotMatched,
        UserRequired,
        PasswordRequired,
        UserNotAuthorized,
        NotAuthenticated,
        AuthMethod,
        RemoteException,
    )
}
