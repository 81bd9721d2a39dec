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


def caller_place() -> str:
    """Give file:line of the nearest caller outside rpcsim's machine and asyncio."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("rpcsim.", "asyncio.")):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _fence(name: str, instead: str) -> Callable[..., Any]:
    def fenced(self: Fences, *args: object, **options: object) -> Any:
        raise self.escape(f"loop.{name}", instead)

    fenced.__name__ = name
    fenced.__qualname__ = f"SimLoop.{name}"
    fenced.__doc__ = f"Leave the simulation: refused; {instead}."
    return fenced


class Fences:
    """The fenced half of the loop's interface."""

    escape: Callable[[str, str], EscapeError]

    add_reader = _fence("add_reader", _SOCKETS)
    remove_reader = _fence("remove_reader", _SOCKETS)
    add_writer = _fence("add_writer", _SOCKETS)
    remove_writer = _fence("remove_writer", _SOCKETS)
    connect_accepted_socket = _fence("connect_accepted_socket", _SOCKETS)
    connect_read_pipe = _fence("connect_read_pipe", _SOCKETS)
    connect_write_pipe = _fence("connect_write_pipe", _SOCKETS)
    sock_accept = _fence("sock_accept", _SOCKETS)
    sock_recvfrom = _fence("sock_recvfrom", _SOCKETS)
    sock_recvfrom_into = _fence("sock_recvfrom_into", _SOCKETS)
    sock_sendfile = _fence("sock_sendfile", _SOCKETS)
    sock_sendto = _fence("sock_sendto", _SOCKETS)
    subprocess_exec = _fence("subprocess_exec", _PROCESSES)
    subprocess_shell = _fence("subprocess_shell", _PROCESSES)
