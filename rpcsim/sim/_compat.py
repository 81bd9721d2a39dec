"""Every private name of the standard library that the simulation leans on.

Each has a check at import, so that a new interpreter fails here, with the name, and
not somewhere in a run.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import asyncio.tasks
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextvars import Context

__all__ = [
    "OrderedSet",
    "SslProtocol",
    "SslTransport",
    "awaited_by",
    "get_running_loop_or_none",
    "handle_parts",
    "has_unread_failure",
    "mark_read",
    "ordered_task_sets",
    "quiet",
    "set_origin",
    "set_running_loop",
]

# The running-loop slot is public in all but name: `asyncio.events` documents both for
# implementers of event loops.
set_running_loop: Final = asyncio._set_running_loop
get_running_loop_or_none: Final = asyncio._get_running_loop

# TLS over any transport; private in name, and the same since 3.11.
SslProtocol: Any = asyncio.sslproto.SSLProtocol
SslTransport: Any = asyncio.sslproto._SSLProtocolTransport


def has_unread_failure(future: asyncio.Future[Any]) -> bool:
    """Whether it failed and nobody asked for its exception yet."""
    return bool(future._log_traceback)


def mark_read(future: asyncio.Future[Any]) -> None:
    """Count its failure as taken, so that its destructor does not tell it again."""
    future._log_traceback = False


def quiet(task: asyncio.Task[Any]) -> None:
    """Keep the destructor of a task that was left pending from telling about it."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # C attribute


def awaited_by(task: asyncio.Task[Any]) -> asyncio.Future[Any] | None:
    """Give the future a suspended task waits for."""
    waiter: asyncio.Future[Any] | None = task._fut_waiter  # type: ignore[attr-defined]  # C attribute
    return waiter


def handle_parts(handle: Any) -> tuple[Any, Sequence[Any], Context]:
    """Give callback, arguments and context of a handle."""
    return handle._callback, handle._args, handle._context


def set_origin(handle: Any, stack: Any) -> None:
    """Tell a handle where it was made, for its `repr` in debug mode."""
    handle._source_traceback = stack


for _name in ("_log_traceback", "_fut_waiter", "_log_destroy_pending"):
    if not hasattr(asyncio.Task, _name):
        raise ImportError(f"this Python's asyncio.Task has no {_name}")
for _name in ("_callback", "_args", "_context", "_cancelled", "_source_traceback"):
    if not hasattr(asyncio.Handle, _name):
        raise ImportError(f"this Python's asyncio.Handle has no {_name}")

for _name in ("_get_app_transport", "_app_transport_created", "_incoming"):
    if _name not in SslProtocol.__init__.__code__.co_names:
        raise ImportError(f"this Python's SSLProtocol has no {_name}")


class OrderedSet(set[Any]):
    """A `set` that iterates in insertion order.

    The task module keeps tasks and futures in sets, whose order follows memory
    addresses for everything whose hash is not ours (bare coroutines, the result of
    `gather`). While a run is active it sees this class under the name `set`.
    """

    __slots__ = ("_order",)

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._order: dict[Any, None] = dict.fromkeys(items)
        super().__init__(self._order)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._order)

    def add(self, item: Any) -> None:
        """Add an item at the end, unless it is there."""
        self._order[item] = None
        super().add(item)

    def discard(self, item: Any) -> None:
        """Remove an item if it is there."""
        self._order.pop(item, None)
        super().discard(item)

    def remove(self, item: Any) -> None:
        """Remove an item; `KeyError` if it is not there."""
        super().remove(item)
        del self._order[item]

    def pop(self) -> Any:
        """Remove and give the oldest item."""
        for item in self._order:
            self.remove(item)
            return item
        raise KeyError("pop from an empty set")

    def clear(self) -> None:
        """Remove all."""
        self._order.clear()
        super().clear()

    def update(self, *others: Iterable[Any]) -> None:
        """Add the items of others, in their order."""
        for other in others:
            for item in other:
                self.add(item)

    def difference_update(self, *others: Iterable[Any]) -> None:
        """Remove the items of others."""
        for other in others:
            for item in list(other):
                self.discard(item)

    def intersection_update(self, *others: Iterable[Any]) -> None:
        """Keep what is in all others."""
        kept = frozenset(self._order).intersection(*others)
        for item in [item for item in self._order if item not in kept]:
            self.discard(item)

    def symmetric_difference_update(self, other: Iterable[Any]) -> None:
        """Keep what is in exactly one of the two."""
        for item in dict.fromkeys(other):
            if item in self:
                self.discard(item)
            else:
                self.add(item)

    def copy(self) -> OrderedSet:
        """Give an equal set in the same order."""
        return OrderedSet(self._order)

    def __or__(self, other: Any) -> OrderedSet:
        return OrderedSet([*self, *other])

    def __sub__(self, other: Any) -> OrderedSet:
        return OrderedSet(item for item in self._order if item not in other)

    def __and__(self, other: Any) -> OrderedSet:
        return OrderedSet(item for item in self._order if item in other)

    def __xor__(self, other: Any) -> OrderedSet:
        mixed = self.copy()
        mixed.symmetric_difference_update(other)
        return mixed

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def __isub__(self, other: Any) -> Self:
        self.difference_update(other)
        return self

    def __iand__(self, other: Any) -> Self:
        self.intersection_update(other)
        return self

    def __ixor__(self, other: Any) -> Self:
        self.symmetric_difference_update(other)
        return self

    def union(self, *others: Iterable[Any]) -> OrderedSet:
        """Give a set of the items of all, in order."""
        joined = self.copy()
        joined.update(*others)
        return joined

    def difference(self, *others: Iterable[Any]) -> OrderedSet:
        """Give a set of the items that are in none of the others."""
        rest = self.copy()
        rest.difference_update(*others)
        return rest

    def intersection(self, *others: Iterable[Any]) -> OrderedSet:
        """Give a set of the items that are in all others."""
        shared = self.copy()
        shared.intersection_update(*others)
        return shared


class _TaskSets:
    """Counts the runs that need the ordered `set` name in the task module."""

    __slots__ = ("_users",)

    def __init__(self) -> None:
        self._users = 0

    def install(self) -> None:
        """Shadow the name for one more run."""
        self._users += 1
        asyncio.tasks.set = OrderedSet  # type: ignore[attr-defined]  # shadows the builtin

    def remove(self) -> None:
        """Take it off when the last run of the process ends."""
        self._users -= 1
        if not self._users:
            del asyncio.tasks.set  # type: ignore[attr-defined]


# Process-wide by nature: one module, whose name is replaced while any run is active.
ordered_task_sets: Final = _TaskSets()
