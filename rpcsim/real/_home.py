"""What one incarnation of one host owns, so that a crash or the end finds it all."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from rpcsim.errors import HostDown

if TYPE_CHECKING:
    import asyncio

    from rpcsim.ports import Ports
    from rpcsim.real._clock import RealTimer
    from rpcsim.real._network import RealListener
    from rpcsim.real._pool import Job
    from rpcsim.real._transport import StreamTransport

__all__ = ["Home", "task_label"]


class Home:
    """The belongings of one host in one incarnation, each kind in order of making.

    Touched on the loop's thread only. Dicts stand for ordered sets throughout.

    Attributes:
        host: Name of the host.
        incarnation: How often the host was started when this one began.
        address: Its loopback address; `""` for a program that is no host of a run and
            uses the machine's own addresses.
        ports: What its code sees as `rpcsim.ports.current()`.
        dead: Whether it has ended; its code gets `HostDown` from then on.
    """

    __slots__ = (
        "address",
        "connections",
        "dead",
        "failed",
        "host",
        "incarnation",
        "jobs",
        "listeners",
        "ports",
        "tasks",
        "timers",
    )

    ports: Ports

    def __init__(self, host: str, incarnation: int, address: str) -> None:
        self.host: Final = host
        self.incarnation: Final = incarnation
        self.address: Final = address
        self.dead = False
        self.tasks: dict[asyncio.Task[Any], None] = {}
        # Failed tasks nobody has asked yet. Weakly: a task dropped before reports its
        # failure itself, through the loop's exception handler.
        self.failed: dict[weakref.ref[asyncio.Task[Any]], None] = {}
        self.timers: dict[RealTimer, None] = {}
        self.listeners: dict[RealListener, None] = {}
        self.connections: dict[StreamTransport, None] = {}
        self.jobs: dict[Job, None] = {}

    def __repr__(self) -> str:
        state = "ended" if self.dead else "alive"
        return f"<{self.host}, incarnation {self.incarnation}, {state}>"

    def check_alive(self, what: str) -> None:
        """Refuse a port call of code that outlived its host."""
        if self.dead:
            raise HostDown(
                f"host {self.host!r} is down (incarnation {self.incarnation} ended): "
                f"its code cannot {what}; `host.restart()` starts it anew"
            )

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Own a task until it is done."""
        if task.done():  # an eager one
            self._ended(task)
            return
        self.tasks[task] = None
        task.add_done_callback(self._ended)
        if self.dead:
            task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)
        if nobody_asked(task):
            ref: weakref.ref[asyncio.Task[Any]]
            ref = weakref.ref(task, self._forget_failed)
            self.failed[ref] = None

    def _forget_failed(self, ref: weakref.ref[asyncio.Task[Any]]) -> None:
        self.failed.pop(ref, None)

    def take_failures(self) -> list[tuple[BaseException, str]]:
        """Give the failures of tasks nobody asked, in order of their end."""
        failures = []
        for ref in list(self.failed):
            task = ref()
            if task is not None and nobody_asked(task):
                error = task.exception()
                assert error is not None
                failures.append((error, task_label(task)))
        self.failed.clear()
        return failures

    def lines(self) -> list[str]:
        """Name everything still here, one line each."""
        of = f"of host {self.host}"
        return [
            *(f"{task_label(task)} {of}" for task in self.tasks),
            *(f"{listener.label} {of}" for listener in self.listeners),
            *(
                f"connection {connection.label} {of}"
                for connection in self.connections
                if not connection.is_closing()
            ),
            *(f"{timer.label} {of}" for timer in self.timers if not timer.background),
            *(f"thread {job.thread!r} running {job.name} {of}" for job in self.jobs),
        ]


def task_label(task: asyncio.Task[Any]) -> str:
    """Name a task by its own name and what it runs."""
    name = getattr(task.get_coro(), "__qualname__", "")
    return f"task {task.get_name()!r} ({name})" if name else f"task {task.get_name()!r}"


def nobody_asked(task: asyncio.Task[Any]) -> bool:
    """Whether a task failed and its exception was not retrieved so far.

    asyncio offers no public way to ask without retrieving; every version has this flag
    (its own `__del__` reads it). Without it only dropped tasks would be reported.
    """
    return bool(getattr(task, "_log_traceback", False))
