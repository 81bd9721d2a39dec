"""A port of a simulated host on which connections are accepted."""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from rpcsim.ports import endpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from rpcsim.ports import Address
    from rpcsim.sim._strand import Life
    from rpcsim.sim._tcp import Endpoint

__all__ = ["Listening"]


class Listening:
    """A port of one host on which connections are accepted."""

    __slots__ = (
        "addresses",
        "backlog",
        "context",
        "factory",
        "life",
        "number",
        "on_accept",
        "waiting",
    )

    def __init__(
        self,
        life: Life,
        number: int,
        addresses: list[Address],
        factory: Callable[[], Any],
        on_accept: Callable[[Endpoint], None],
        backlog: int,
    ) -> None:
        self.backlog = backlog
        # Connections answered and not accepted yet, and some that are by now.
        self.waiting: list[Endpoint] = []
        self.life = life
        self.number = number
        self.addresses = addresses
        self.factory = factory
        self.on_accept = on_accept
        self.context: Context = copy_context()

    def __repr__(self) -> str:
        places = ", ".join(map(endpoint, self.addresses))
        return f"<listening on {places} of {self.life.host}>"

    def full(self) -> bool:
        """Whether no more connections may wait to be accepted."""
        if len(self.waiting) < self.backlog:
            return False
        self.waiting = [end for end in self.waiting if end.accept and not end.lost]
        return len(self.waiting) >= self.backlog
