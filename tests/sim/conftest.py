"""The room's guard: a simulation opens no real socket, starts no thread, never waits."""

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
        raise AssertionError(f"a test of the simulation used {what}")

    return refuse


@pytest.fixture(autouse=True)
def _guard(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(socket.socket, "__init__", _forbidden("a real socket"))
    monkeypatch.setattr(socket, "getaddrinfo", _forbidden("the real resolver"))
    monkeypatch.setattr(time, "sleep", _forbidden("a real sleep"))
    if "a_real_thread" not in request.fixturenames:
        monkeypatch.setattr(threading.Thread, "start", _forbidden("a real thread"))


@pytest.fixture
def a_real_thread() -> Callable[[Callable[[], Any]], BaseException | None]:
    """Run a function in a thread the simulation does not own; give what it raised."""

    def run(fn: Callable[[], Any]) -> BaseException | None:
        raised: list[BaseException] = []

        def body() -> None:
            try:
                fn()
            except BaseException as error:  # noqa: BLE001 - handed to the test
                raised.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        return raised[0] if raised else None

    return run
