"""Agents that offer methods through a broker, and callers of those methods (GOFER).

Here live what users write with (`Agent`, `remote`, `AgentServer`), the documented
errors, and the native client of the broker. The broker itself is in `fakes`, documents
as bytes are in `wire`, how procedures are found and run is in `core`. Read `_agent.py`
and `_policies.py` for the caller, `_server.py` for the agent.
"""

from rpcsim.agents._agent import Agent, Method, Stub, agent
from rpcsim.agents._calls import BrokerCalls, broker_calls
from rpcsim.agents._decorators import remote
from rpcsim.agents._errors import (
    AuthMethod,
    ClassNotFound,
    DispatchError,
    DocumentError,
    MemberNotFound,
    MethodNotFound,
    ModelError,
    NamespaceNotFound,
    NotAuthenticated,
    NotAuthorized,
    NotFound,
    NotPermitted,
    NotShared,
    PasswordRequired,
    RemoteException,
    RequestTimeout,
    SecretNotMatched,
    SecretRequired,
    UserNotAuthorized,
    UserRequired,
    VersionError,
)
from rpcsim.agents._server import AgentServer
from rpcsim.core import Context, allow_exceptions

__all__ = [
    "Agent",
    "AgentServer",
    "AuthMethod",
    "BrokerCalls",
    "ClassNotFound",
    "Context",
    "DispatchError",
    "DocumentError",
    "MemberNotFound",
    "Method",
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
    "Stub",
    "UserNotAuthorized",
    "UserRequired",
    "VersionError",
    "agent",
    "allow_exceptions",
    "broker_calls",
    "remote",
]
