"""The room's guard: libraries may make sockets, but none is used; no thread starts."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


def _forbidden(what: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError(f"a library in the simulation used {what}")

    return refuse


class _Unused(socket.socket):
    """A socket that is made and closed, and nothing else."""

    connect = _forbidden("a real connect")
    connect_ex = _forbidden("a real connect")
    listen = _forbidden("a real listener")
    recv = _forbidden("a real socket")
    send = _forbidden("a real socket")


@pytest.fixture(autouse=True)
def _guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", _Unused)
    monkeypatch.setattr(socket, "getaddrinfo", _forbidden("the real resolver"))
    monkeypatch.setattr(time, "sleep", _forbidden("a real sleep"))
    monkeypatch.setattr(threading.Thread, "start", _forbidden("a real thread"))
