"""Eager tasks, and tasks made by the class: both become tasks of the simulation.

Libraries that want a task to begin at once call the class, `asyncio.Task(coro,
loop=loop, eager_start=True)`, or set one of the standard library's eager factories.
Tasks of the plain class would be unknown to the run: named by a process-wide counter,
hashed by address, not cancelled at its end.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from rpcsim.sim._compat import get_running_loop_or_none

__all__ = ["is_eager_factory", "task_name"]

_PLAIN: Final = asyncio.Task
_FACTORY: Final = "create_eager_task_factory.<locals>.factory"


def is_eager_factory(factory: Any) -> bool:
    """Whether it is a standard eager factory that makes tasks of the plain class."""
    if factory is None or getattr(factory, "__qualname__", "") != _FACTORY:
        return False
    cells = factory.__closure__ or ()
    return any(cell.cell_contents in (_PLAIN, _TaskName) for cell in cells)


class _ByLoop(type):
    """Decides by the loop which class makes a task."""

    def __call__(cls, coro: Any, *args: Any, **options: Any) -> Any:
        if cls is not _TaskName:
            return super().__call__(coro, *args, **options)
        loop: Any = options.get("loop") or get_running_loop_or_none()
        make = getattr(loop, "make_task", None)
        if make is None:
            return _PLAIN(coro, *args, **options)
        return make(
            coro,
            name=options.get("name"),
            context=options.get("context"),
            eager=bool(options.get("eager_start")),
        )

    def __instancecheck__(cls, instance: Any) -> bool:
        if cls is _TaskName:
            return isinstance(instance, _PLAIN)
        return super().__instancecheck__(instance)

    def __subclasscheck__(cls, other: type) -> bool:
        if cls is _TaskName:
            return issubclass(other, _PLAIN)
        return super().__subclasscheck__(other)


class _TaskName(asyncio.Task[Any], metaclass=_ByLoop):
    """What `asyncio.Task` means while a run is active."""


class _Name:
    """Counts the runs that need the name."""

    __slots__ = ("_users",)

    def __init__(self) -> None:
        self._users = 0

    def install(self) -> None:
        """Put it in place for one more run."""
        self._users += 1
        asyncio.Task = _TaskName  # type: ignore[misc]  # shadows the class

    def remove(self) -> None:
        """Take it off when the last run of the process ends."""
        self._users -= 1
        if not self._users:
            asyncio.Task = _PLAIN  # type: ignore[misc]  # puts it back


# Process-wide by nature: one module, one name of which is replaced during runs.
task_name: Final = _Name()
