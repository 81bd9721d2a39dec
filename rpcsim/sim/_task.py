"""Our Task, Future and handles: hashed by sequence, so sets of them keep one order."""

from __future__ import annotations

import asyncio
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from rpcsim.sim._compat import handle_parts

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Coroutine, Sequence

    from rpcsim.sim._loop import SimLoop
    from rpcsim.sim._strand import Entry, Life, StrandLike

__all__ = ["SimFuture", "SimHandle", "SimTask", "SimTimerHandle"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True


def callback_name(callback: object, args: tuple[Any, ...] = ()) -> str:
    """Name what an entry calls, without addresses."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Handle):
        callback, bound, _ = handle_parts(owner)
        args = tuple(bound)
        owner = getattr(callback, "__self__", None)
    elif isinstance(owner, Context) and args:
        callback, owner = args[0], getattr(args[0], "__self__", None)
    while isinstance(callback, partial):
        callback = callback.func
    if isinstance(owner, SimTask):
        return f"step of task {owner.get_name()}"
    name = getattr(callback, "__qualname__", type(callback).__name__)
    code = getattr(getattr(callback, "__func__", callback), "__code__", None)
    if code is None:
        return str(name)
    return f"{name} ({code.co_filename}:{code.co_firstlineno})"


class SimFuture(asyncio.Future[Any]):
    """A future whose hash is a per-loop number, taken when it is first asked for.

    Asking is part of the program, so the numbers replay; most futures never enter a
    set and never pay for one.
    """

    __slots__ = ("_seq",)

    def __hash__(self) -> int:
        seq: int | None = getattr(self, "_seq", None)
        if seq is None:
            loop: Any = self.get_loop()
            seq = self._seq = loop.next_seq()
        return seq


class SimTask(asyncio.Task[Any]):
    """A task that is its own strand.

    Attributes:
        seq: Number of the task in its loop, from 1; also its hash.
        label: Its name, as reports and traces show it: `host/coroutine-n`.
        life: The incarnation of the host it belongs to.
        line: The strand its steps run on, shared with its host; `None` for its own.
        background: Whether it is expected to stay: a server, a periodic job.
        fiber: The fiber whose blocking code it runs, if any.
    """

    __slots__ = (
        "background",
        "fiber",
        "first",
        "label",
        "life",
        "line",
        "more",
        "priority",
        "seq",
    )

    priority: int

    def __init__(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        loop: SimLoop,
        name: str,
        context: Context | None,
        seq: int,
        life: Life,
        line: StrandLike | None = None,
        eager: bool = False,
    ) -> None:
        # Before the base class: it hashes the task and schedules its first step.
        self.seq = seq
        self.label = name
        self.life = life
        self.first: Entry | None = None
        self.more: deque[Entry] | None = None
        # Not the task itself: a cycle would leave every task to the collector.
        self.line: StrandLike | None = line
        self.background = False
        self.fiber: Any = None
        if eager:  # the first step runs inside this call
            begin: Any = super().__init__
            begin(coro, loop=loop, name=name, context=context, eager_start=True)
        else:
            super().__init__(coro, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self.seq


class _Runs:
    """What both kinds of handle do when their turn comes."""

    __slots__ = ()

    _loop: SimLoop
    _callback: Any
    _args: Sequence[Any]
    _context: Context
    _cancelled: bool

    def run(self) -> None:
        """Call it, unless it was cancelled; what it raises goes to the loop."""
        if self._cancelled:
            return
        callback = self._callback
        try:
            self._context.run(callback, *self._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as asyncio: told, not raised
            self._loop.callback_failed(self, callback, error)
        # A traceback may keep this frame, and with it a failed task that nobody else
        # holds any more and that would tell of itself.
        del self, callback


class SimHandle(_Runs, asyncio.Handle):
    """What `call_soon` gives to user code."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: SimLoop,
        context: Context,
    ) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class SimTimerHandle(_Runs, asyncio.TimerHandle):
    """What `call_later` and `call_at` give to user code."""

    __slots__ = ("background", "cause", "strand", "when_ns")

    def __init__(
        self,
        when: float,
        when_ns: int,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: SimLoop,
        context: Context,
        strand: StrandLike,
        cause: int,
    ) -> None:
        self._when = when
        self.when_ns = when_ns
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._scheduled = True
        self._repr = None
        self._source_traceback = None
        self.strand = strand
        self.cause = cause
        self.background = False

    def cancel(self) -> None:
        """Forget it; its place in the heap stays as a tombstone."""
        if not self._cancelled:
            self._cancelled = True
            # What it would have called may go now, not when it would have been due.
            self._callback = None
            self._args = ()
            if self._scheduled:
                self._scheduled = False
                self._loop.timer_cancelled()
