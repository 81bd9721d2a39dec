"""Calls that would leave the simulation: each raises `EscapeError` at once.

The error names the call, the caller's place, host, task and simulated time, and what to
do instead; it is also kept on the run, so that swallowing it still fails the run.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.errors import EscapeError

__all__ = ["Fences", "caller_place"]

_SOCKETS: Final = (
    "use loop.create_connection, loop.create_server or asyncio streams, which run on "
    "the simulated network"
)
_PROCESSES: Final = "run the program's work as a host or in `call_blocking`"
_FENCED: Final = {
    "add_reader": _SOCKETS,
    "remove_reader": _SOCKETS,
    "add_writer": _SOCKETS,
    "remove_writer": _SOCKETS,
    "connect_accepted_socket": _SOCKETS,
    "connect_read_pipe": _SOCKETS,
    "connect_write_pipe": _SOCKETS,
    "create_datagram_endpoint": _SOCKETS,
    "create_unix_connection": _SOCKETS,
    "create_unix_server": _SOCKETS,
    "sendfile": _SOCKETS,
    "sock_accept": _SOCKETS,
    "sock_connect": _SOCKETS,
    "sock_recv": _SOCKETS,
    "sock_recv_into": _SOCKETS,
    "sock_recvfrom": _SOCKETS,
    "sock_recvfrom_into": _SOCKETS,
    "sock_sendall": _SOCKETS,
    "sock_sendfile": _SOCKETS,
    "sock_sendto": _SOCKETS,
    "start_tls": "TLS is not part of the simulated network in this version",
    "subprocess_exec": _PROCESSES,
    "subprocess_shell": _PROCESSES,
    "add_signal_handler": "hosts of a simulation get no signals in this version",
    "remove_signal_handler": "hosts of a simulation get no signals in this version",
}


def caller_place() -> str:
    """Give file:line of the nearest caller outside rpcsim's machine and asyncio."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("rpcsim.sim", "rpcsim.ports", "asyncio")):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class Fences:
    """The fenced half of the loop's interface."""

    escape: Callable[[str, str], EscapeError]


def _fence(name: str, instead: str) -> Callable[..., Any]:
    def fenced(self: Fences, *args: object, **options: object) -> Any:
        raise self.escape(f"loop.{name}", instead)

    fenced.__name__ = name
    fenced.__qualname__ = f"SimLoop.{name}"
    fenced.__doc__ = f"Leave the simulation: refused; {instead}."
    return fenced


for _name, _instead in _FENCED.items():
    setattr(Fences, _name, _fence(_name, _instead))
