"""The simulated event loop: asyncio's interface over the scheduler."""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
import traceback
import warnings
import weakref
from collections import deque
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rpcsim.errors import EscapeError, ForeignTaskWarning, HostDown, SimulationError
from rpcsim.ports._runtime import CURRENT
from rpcsim.sim._compat import (
    get_running_loop_or_none,
    has_unread_failure,
    quiet,
    set_origin,
    set_running_loop,
)
from rpcsim.sim._eager import is_eager_factory
from rpcsim.sim._fences import Fences, caller_place
from rpcsim.sim._loop_net import LoopNet
from rpcsim.sim._scheduler import Scheduler
from rpcsim.sim._signals import LoopSignals
from rpcsim.sim._strand import in_background
from rpcsim.sim._task import (
    SimFuture,
    SimHandle,
    SimTask,
    SimTimerHandle,
    callback_name,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from contextvars import Context

    from rpcsim.sim._net import SimNet
    from rpcsim.sim._policy import Chooser
    from rpcsim.sim._scheduler import Limits
    from rpcsim.sim._sim import Sim
    from rpcsim.sim._strand import Entry, Life
    from rpcsim.trace import Trace

__all__ = ["SimLoop"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

T = TypeVar("T")

# Ready work that runs, without time moving, after the remaining tasks were cancelled.
CLOSING_TURNS: Final = 10_000
# Sweep dead entries out of the task register when it has grown by this many.
REGISTER_SWEEP: Final = 1_000


def _muted() -> None:
    """Stand in for the step of a task that was taken out of its line."""


async def _nothing() -> None:
    """The probe whose step tells the type C tasks give to `call_soon`."""


def _step_type() -> type:
    seen: list[type] = []

    class Probe:
        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            seen.append(type(callback))

        def get_debug(self) -> bool:
            return False

    coro = _nothing()
    probe: Any = Probe()
    task = asyncio.Task(coro, loop=probe)
    quiet(task)
    coro.close()
    return seen[0]


# What `call_soon` gets for the first and later steps of a task.
_STEP: Final = _step_type()
# ... and, by name, for its wake-ups.
_WAKEUP: Final = "task_wakeup"


class SimLoop(Fences, LoopNet, LoopSignals, Scheduler, asyncio.AbstractEventLoop):  # type: ignore[misc]  # fences take anything
    """An event loop of its own: no selector, no self-pipe, no real clock.

    Args:
        sim: The simulation it belongs to.
        chooser: The schedule policy's choice; `None` is first in, first out.
        trace: Where records go.
        limits: How far the run may go.
        host: Name of the host that code outside every host belongs to.
    """

    def __init__(
        self,
        sim: Sim,
        *,
        chooser: Chooser | None,
        trace: Trace,
        limits: Limits,
        host: str,
    ) -> None:
        self.sim: Final = sim
        super().__init__(chooser=chooser, trace=trace, limits=limits, host=host)
        self.create_future: Callable[[], SimFuture] = partial(  # one C call
            SimFuture, loop=self
        )
        # What callbacks and tasks raised and nobody took, in order of occurrence.
        self.failures: list[Exception] = []
        # Whether a host is one strand (scope "host"), so that only hosts reorder.
        self.per_host = False
        # Set when dead code is released after the run: everything is refused to it.
        self.fenced = False
        self.net: SimNet
        self._register: dict[int, weakref.ref[SimTask]] = {}
        self._sweep_at = REGISTER_SWEEP
        self._names: dict[str, int] = {}
        self._task_seq = 0
        self._closed = False
        self._debug = False
        self._stopping = False
        self._exception_handler: Any = None
        self._task_factory: Any = None
        self._eager_factory = False
        # Whether eager tasks begin inside the creating step; else as ordinary ones.
        self.starts_eager = True
        self._asyncgens: dict[int, tuple[Life, weakref.ref[Any]]] = {}
        self._foreign_warned = False
        self._shadows: dict[str, Callable[..., Any]] = {}

    def __repr__(self) -> str:
        state = "closed" if self._closed else "running" if self.pumping else "idle"
        return f"<SimLoop {state} at {self.now_ns / 1e9:.9g} s>"

    # One loop a key: never an address. Asked twice a turn, so both are C functions.
    __hash__ = (0).__hash__
    __eq__ = object.__eq__

    # -- scheduling ------------------------------------------------------------------

    def call_soon(  # type: ignore[override]  # task steps discard the handle
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.Handle | None:
        """Run `callback` in this instant, after what is already runnable of its strand."""
        if self._closed:
            self._refuse_closed(callback)
        kind = callback.__class__
        owner = getattr(callback, "__self__", None)
        if owner.__class__ is SimTask and (
            kind is _STEP or callback.__name__ == _WAKEUP
        ):
            # A step belongs to its task's strand. The C code drops the handle, so none
            # is made: this is half the cost of a step.
            call = (callback, *args) if args else (callback,)
            entry: Entry = (context.run, call, self.cause)  # type: ignore[union-attr]
            strand = owner.line or owner
            # As `push`, without the call: most turns of a run pass here.
            if strand.first is None:
                strand.first = entry
            elif strand.more is None:
                strand.more = deque((entry,))
            else:
                strand.more.append(entry)
            self._ready.append(strand)
            return None
        if context is None:
            context = copy_context()
        handle = SimHandle(callback, args, self, context)
        self.push(self.strand, handle.run, ())
        return handle

    def call_soon_threadsafe(  # type: ignore[override]  # as call_soon
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.Handle | None:
        """Equal to `call_soon`; from another thread an escape, or under `external`."""
        outside = self.sim.outside
        if outside.open:
            posted = outside.post(callback, args, context)
            if posted is not None:
                return posted
        self.sim.check_thread("loop.call_soon_threadsafe")
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]  # any arguments
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run `callback` after `delay` simulated seconds."""
        if self._closed:
            self._refuse_closed(callback)
        if delay <= 0:
            delay = 0
        elif delay != delay or delay == math.inf:
            return self.call_at(delay, callback, *args, context=context)
        when_ns = self.now_ns + round(delay * 1e9)
        if context is None:
            context = copy_context()
        # The deadline as a float follows from the integer, so repeated sleeps do not
        # drift: time() at its firing is exactly this.
        return self.timer_at(when_ns / 1e9, when_ns, callback, args, context)

    def call_at(  # type: ignore[override]  # any arguments
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run `callback` when `time()` is `when`; infinity never fires."""
        if self._closed:
            self._refuse_closed(callback)
        if when != when:
            raise ValueError("a timer needs a time, not NaN")
        if context is None:
            context = copy_context()
        if when == math.inf:
            # Never due and never pending: it is not put into the heap.
            handle = SimTimerHandle(
                when, 0, callback, args, self, context, self.strand, self.cause
            )
            handle._scheduled = False
            return handle
        when_ns = max(round(when * 1e9), self.now_ns) if when > 0 else self.now_ns
        return self.timer_at(when, when_ns, callback, args, context)

    # -- tasks -----------------------------------------------------------------------

    def life_of(self, context: Context | None = None) -> Life:
        """Give the incarnation on whose behalf code in a context runs."""
        ports = CURRENT.get(None) if context is None else context.get(CURRENT)
        life: Life | None = getattr(ports, "life", None)
        if life is None or getattr(ports, "loop", None) is not self:
            return self.strand.life
        return life

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: object = None,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[T]:
        """Make a task, named `host/coroutine-n` unless told."""
        eager = self._eager_factory or bool(options.get("eager_start"))
        if self._task_factory is not None and not self._eager_factory:
            made: asyncio.Task[T] = self._from_factory(coro, name, context, options)
            return made
        return self.make_task(coro, name=name, context=context, eager=eager)

    def make_task(
        self,
        coro: Any,
        *,
        name: object = None,
        context: Context | None = None,
        eager: bool = False,
    ) -> SimTask:
        """Make one of our tasks, whatever factory is set."""
        if self._closed:
            self._refuse_closed(coro)
        life = self.life_of(context)
        host = life.host
        count = self._names[host] = self._names.get(host, 0) + 1
        what = getattr(coro, "__name__", "") or type(coro).__name__
        self._task_seq = seq = self._task_seq + 1
        if eager:
            # In a fiber no loop counts as running: there it begins like any other.
            eager = self.starts_eager and get_running_loop_or_none() is self
            if eager and self.trace.level == "steps":
                told = (("task", f"{host}/{what}-{count}"),)
                self.trace.append(
                    self.now_ns, "task.eager", host, self.strand.label, self.cause, told
                )
        task = SimTask(
            coro,
            loop=self,
            name=f"{host}/{what}-{count}",
            context=context,
            seq=seq,
            life=life,
            line=life.strand if self.per_host else None,
            eager=eager,
        )
        if name is not None:
            task.set_name(name)
        if self.knows_background and in_background(context):
            task.background = True
        self._register[seq] = weakref.ref(task)
        if len(self._register) >= self._sweep_at:
            self._sweep()
        if self.trace.level == "steps" and not eager:
            self.trace.append(
                self.now_ns, "task.start", host, task.label, self.cause, ()
            )
        return task

    def _from_factory(
        self, coro: Any, name: object, context: Context | None, options: Any
    ) -> Any:
        if context is not None:
            options["context"] = context
        task = self._task_factory(self, coro, **options)
        if not isinstance(task, SimTask) and not self._foreign_warned:
            self._foreign_warned = True
            warnings.warn(
                f"the task factory makes {type(task).__name__} objects: their order in "
                "sets follows memory addresses, so this run may not replay; make "
                "tasks with loop.create_task",
                ForeignTaskWarning,
                stacklevel=3,
            )
        if name is not None:
            task.set_name(name)
        return task

    def _sweep(self) -> None:
        alive = {seq: ref for seq, ref in self._register.items() if ref() is not None}
        self._register = alive
        self._sweep_at = len(alive) * 2 + REGISTER_SWEEP

    def all_tasks(self) -> list[SimTask]:
        """Give the tasks somebody still holds, done ones too, in order of creation."""
        found = [ref() for ref in self._register.values()]
        return [task for task in found if task is not None]

    def tasks(self) -> list[SimTask]:
        """Give the tasks that are not done, in order of creation."""
        return [task for task in self.all_tasks() if not task.done()]

    def collect_failures(self) -> None:
        """Take the failures of tasks whose result nobody read, in order."""
        for task in self.all_tasks():
            if task.done() and has_unread_failure(task):
                error = task.exception()
                if error is not None:
                    self.keep_failure(error, f"in task {task.get_name()}")

    def set_task_factory(self, factory: Any) -> None:
        """Have tasks made by `factory(loop, coro, **options)`; `None` for ours."""
        if factory is not None and not callable(factory):
            raise TypeError("task factory must be a callable or None")
        self._task_factory = factory
        self._eager_factory = is_eager_factory(factory)

    def get_task_factory(self) -> Any:
        """Give the factory set, or `None`."""
        return self._task_factory

    def unline(self, task: SimTask) -> None:
        """Take a task that must not run any more out of the line it shares."""
        line, task.line = task.line, None
        assert line is not None

        def muted(entry: Entry) -> Entry:
            owner = getattr(entry[1][0], "__self__", None) if entry[1] else None
            return (_muted, (), -1) if owner is task else entry

        if line.first is not None:
            line.first = muted(line.first)
        if line.more is not None:
            line.more = deque(map(muted, line.more))

    # -- running ---------------------------------------------------------------------

    def run_pump(self, until: Callable[[], bool] | None, **bounds: Any) -> bool:
        """Pump with this loop as the running one, and its generator hooks."""
        before = get_running_loop_or_none()
        if before is not None:
            raise SimulationError(
                "another event loop is running in this thread; start the simulation "
                "from synchronous code"
            )
        hooks = sys.get_asyncgen_hooks()
        set_running_loop(self)
        sys.set_asyncgen_hooks(self._asyncgen_born, self._asyncgen_gone)
        try:
            return self.pump(until, **bounds)
        finally:
            sys.set_asyncgen_hooks(*hooks)
            set_running_loop(None)

    def run_forever(self) -> None:
        """Run until `stop()` is called, or nothing is left to do."""
        self._check_closed()
        if self._stopping:  # stop() came first: what is ready now runs, as in asyncio
            self.sim.pump(None, turns=max(len(self._ready), 1), jump=False)
        else:
            self.sim.pump(lambda: self._stopping)
        self._stopping = False

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        """Run until `future` is done; give or raise its outcome.

        Raises:
            RuntimeError: `stop()` was called before.
        """
        self._check_closed()
        waited = asyncio.ensure_future(future, loop=self)  # type: ignore[arg-type]  # old-style coroutines
        try:
            return self.sim.complete(waited, lambda: self._stopping or waited.done())
        finally:
            self._stopping = False

    def stop(self) -> None:
        """End `run_forever` after the running turn."""
        self._stopping = True

    def is_running(self) -> bool:
        """Whether turns are being run."""
        return self.pumping

    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """Close it; nothing can be scheduled any more. Closing twice does nothing."""
        if self.pumping:
            raise RuntimeError("Cannot close a running event loop")
        self._closed = True
        self._ready.clear()
        self._heap.clear()
        self._register.clear()

    def _check_closed(self) -> None:
        if self._closed:
            raise RuntimeError("Event loop is closed")

    def _refuse_closed(self, what: Any) -> None:
        if inspect.iscoroutine(what):
            what.close()
        if self.fenced:
            raise HostDown("the host is gone and its run is over; nothing can be done")
        raise RuntimeError("Event loop is closed")

    def _asyncgen_born(self, generator: Any) -> None:
        number = self.next_seq()
        forget = self._asyncgens.pop
        ref = weakref.ref(generator, lambda _: forget(number, None))
        self._asyncgens[number] = self.life_of(), ref

    def _asyncgen_gone(self, generator: Any) -> None:
        if not self._closed:
            self.make_task(generator.aclose(), name="asyncgen aclose")

    def has_asyncgens(self) -> bool:
        """Whether asynchronous generators were begun since the last shutdown."""
        return bool(self._asyncgens)

    async def shutdown_asyncgens(self) -> None:
        """Close the asynchronous generators still open, in order of creation."""
        born, self._asyncgens = list(self._asyncgens.values()), {}
        for life, ref in born:
            generator = ref()
            if generator is not None and not life.dead:
                try:
                    await generator.aclose()
                except Exception as error:  # noqa: BLE001 - told like asyncio does
                    self.keep_failure(error, "closing an asynchronous generator")

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Do nothing: executors are fibers here, and end by themselves."""

    # -- errors ----------------------------------------------------------------------

    def callback_failed(
        self, handle: object, callback: object, error: BaseException
    ) -> None:
        """Tell of an exception that came out of a callback."""
        if isinstance(error, asyncio.CancelledError):
            # A done-callback that read the outcome of a cancelled task: nothing failed.
            # Streams of 3.11 do so whenever a connection's handler is cancelled.
            return
        self.call_exception_handler(
            {
                "message": f"Exception in callback {callback_name(callback)}",
                "exception": error,
                "handle": handle,
            }
        )

    def set_exception_handler(self, handler: Any) -> None:
        """Have `handler(loop, context)` called for failures; it takes them."""
        if handler is not None and not callable(handler):
            raise TypeError("exception handler must be a callable or None")
        self._exception_handler = handler

    def get_exception_handler(self) -> Any:
        """Give the handler set, or `None`."""
        return self._exception_handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep the failure on the run; it is raised at its end."""
        error = context.get("exception")
        message = context.get("message") or "unhandled failure"
        task = context.get("task") or context.get("future")
        if isinstance(task, asyncio.Task):
            message = f"in task {task.get_name()}" if error else f"{message} ({task!r})"
        if error is None:
            error = SimulationError(message)
        self.keep_failure(error, message)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand a failure to the user's handler, else keep it on the run."""
        if self._exception_handler is None:
            self.default_exception_handler(context)
            return
        # In the context of what failed, where the interpreter tells it (3.12 and later).
        failed = context.get("task") or context.get("future") or context.get("handle")
        of_failed = getattr(failed, "get_context", copy_context)
        try:
            of_failed().copy().run(self._exception_handler, self, context)
        except Exception as error:  # noqa: BLE001 - a handler that fails is told too
            self.keep_failure(error, "in the exception handler")

    def keep_failure(self, error: BaseException, place: str) -> None:
        """Keep a failure nobody took."""
        if not isinstance(error, Exception):
            wrapped = SimulationError(f"{type(error).__name__}: {error}")
            wrapped.__cause__ = error
            error = wrapped
        if any(error is kept for kept in self.failures):
            return
        error.add_note(f"{place}, at {self.now_ns / 1e9:.9g} s of simulated time")
        self.failures.append(error)

    def get_debug(self) -> bool:
        """Whether debug mode is on."""
        return self._debug

    def shadow(self, **methods: Callable[..., Any]) -> None:
        """Put others in the place of methods, so that runs without them do not pay."""
        self._shadows.update(methods)
        self.set_debug(self._debug)

    def unshadow(self, *names: str) -> None:
        """Put the loop's own methods back."""
        for name in names:
            if self._shadows.pop(name, None) is not None:
                self.__dict__.pop(name, None)
        self.set_debug(self._debug)

    def shadowed(self, name: str) -> bool:
        """Whether a method has another in its place."""
        return name in self._shadows

    def set_debug(self, enabled: bool) -> None:
        """Switch debug mode; it never changes the trace."""
        self._debug = bool(enabled)
        self.__dict__.update(self._shadows)
        # Checks shadow the methods, so that without them nobody pays.
        for name in ("call_soon", "call_at", "call_later", "create_task"):
            if name not in self._shadows:
                self.__dict__.pop(name, None)
            if self._debug:
                self.__dict__[name] = self._checked(getattr(self, name))

    def _checked(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Have a method refuse other threads, and handles know where they are from."""

        def checked(*args: Any, **options: Any) -> Any:
            self.sim.check_thread(f"loop.{method.__name__}")
            made = method(*args, **options)
            if isinstance(made, asyncio.Handle):
                origin = sys._getframe(1)
                set_origin(made, traceback.extract_stack(origin, limit=10))
            return made

        return checked

    # -- blocking code -----------------------------------------------------------------

    def run_in_executor(  # type: ignore[override]  # inline: any executor is ignored
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run `func` in a fiber, so that it may block; no thread is started."""
        self._check_closed()
        return self.make_task(self.sim.bridge_here().call_blocking(func, *args))

    def set_default_executor(self, executor: Any) -> None:
        """Accept and ignore it: executors are fibers here."""

    def escape(self, call: str, instead: str) -> EscapeError:
        """Make, and keep on the run, the error for a call that leaves it."""
        error = EscapeError(
            f"{call} at {caller_place()} leaves the simulation "
            f"(host {self.strand.life.host!r}, {self.strand.label}, "
            f"{self.now_ns / 1e9:.9g} s); {instead}"
        )
        self.sim.keep(error)
        return error
