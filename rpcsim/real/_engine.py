"""One run's event loop and its books: who owns what, what failed, how to get there.

Everything here that changes state runs on the loop's thread; `do`, `post` and
`submit` are the three ways in for other threads. The laws: a thread that waits is
always woken, at the latest when the loop ends; a task belongs to the host whose ports
were current when it was made.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rpcsim.errors import Disconnected, SimulationError
from rpcsim.ports import Ports, current_or_none, use
from rpcsim.real._bridge import RealBridge
from rpcsim.real._clock import RealClock
from rpcsim.real._directory import Directory
from rpcsim.real._disk import Disks, RealDisk
from rpcsim.real._entropy import RealEntropy
from rpcsim.real._home import Home
from rpcsim.real._ledger import Ledger
from rpcsim.real._limits import Limits
from rpcsim.real._net import RealNet
from rpcsim.real._network import RealNetwork
from rpcsim.real._pool import Pool
from rpcsim.real._tracing import RealSink, UnarmedPoints
from rpcsim.real._transport import Wire
from rpcsim.real._waiting import Waiter
from rpcsim.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from rpcsim.trace import Level

__all__ = ["TEST", "Engine"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

T = TypeVar("T")

TEST: Final = "test"
# On a loop that is not ours alone (`async with`), tells our tasks from the rest: set
# for the block, and inherited by whatever is started in it.
_inside: ContextVar[object] = ContextVar("rpcsim.real.inside", default=None)


class Engine:
    """What all parts of one run of a runtime share.

    Args:
        seed: What named streams derive from.
        level: Of the trace.
        faults: Whether connections between hosts go through the fault proxy.
        max_threads: Blocking calls at one time.
        strict: Whether faults that cannot be exact here are refused.
        limits: Of connections.
        keep_errors: Whether failures nobody took wait for the end of the run; else
            they go to asyncio's own handler, which logs them.
        address: Loopback address of host `test`; `""` for the machine's own.
        host: Name of the host code outside every host belongs to.
    """

    def __init__(
        self,
        *,
        seed: int,
        level: Level,
        faults: bool,
        max_threads: int,
        strict: bool = False,
        limits: Limits | None = None,
        keep_errors: bool = True,
        address: str = "127.0.0.1",
        host: str = TEST,
    ) -> None:
        self.trace: Final = Trace(level=level)
        self.entropy: Final = RealEntropy(seed)
        self.services: Final[dict[str, str]] = {}
        self.directory: Final = Directory(whole_machine=not address)
        self.keep_errors: Final = keep_errors
        self.kept: list[Exception] = []
        self.ledger: Final = Ledger(strict=strict)
        self.limits: Final = limits or Limits()
        self.fatal: BaseException | None = None
        self.refusing = False  # new waits from outside are turned away
        self.over = True  # no loop: not yet, or no more
        self.loop: asyncio.AbstractEventLoop
        self.waiting: dict[Waiter, None] = {}  # threads that wait for this loop
        self.calls: dict[asyncio.Future[Any], None] = {}  # ... from outside the pool
        self.stuck: list[str] = []  # what would not end, one line each
        self.hurry: asyncio.Future[None]  # done when the end must not wait any more
        self.homes: Final[dict[Ports, Home]] = {}
        self._points = UnarmedPoints()
        self._trace_lock = threading.Lock()
        self.start_ns = time.monotonic_ns()
        self._thread_id = 0
        self._shared_loop = False
        self._foreign_factory = False
        self._restore: Callable[[], None] = _nothing
        self._max_threads = max_threads
        self.pool: Final = Pool(self, max_threads)
        self.disks: Final = Disks()
        self.net: Final = RealNet(self, faults=faults)
        # Proxies and the shutdown run as this one: nobody's leftovers.
        self.backstage: Final = self.new_home("backstage", 0, address)
        self.test: Final = self.new_home(host, 1, address)
        if address:
            self.directory.add(host, address)

    def __repr__(self) -> str:
        state = "over" if self.over else "closing" if self.refusing else "running"
        return f"<engine, {state}, {len(self.homes)} incarnations>"

    # -- the loop ------------------------------------------------------------------------

    def attach(self, loop: asyncio.AbstractEventLoop, *, shared: bool) -> None:
        """Take a loop; called on the thread that runs it.

        Args:
            loop: The loop.
            shared: Whether other code uses it too: then only what was started inside
                the block is ours.
        """
        self.loop = loop
        self.over = False
        self._shared_loop = shared
        self._thread_id = threading.get_ident()
        self.hurry = loop.create_future()
        make, handle = loop.get_task_factory(), loop.get_exception_handler()
        self._foreign_factory = make is not None

        def factory(
            of: asyncio.AbstractEventLoop, coro: Any, **options: Any
        ) -> asyncio.Future[Any]:
            if make is None:
                task: Any = asyncio.Task(coro, loop=of, **options)
            else:
                task = make(of, coro, **options)
            self._adopt(task, options.get("context"))
            return task  # type: ignore[no-any-return]  # a factory may give any task

        def handler(of: asyncio.AbstractEventLoop, told: dict[str, Any]) -> None:
            if self._take_report(told):
                return
            if handle is not None:
                handle(of, told)
            else:
                of.default_exception_handler(told)

        def restore() -> None:
            # Whoever put something over ours keeps it; ours lets everything through.
            if loop.get_task_factory() is factory:
                loop.set_task_factory(make)
            if loop.get_exception_handler() is handler:
                loop.set_exception_handler(handle)

        loop.set_task_factory(factory)
        loop.set_exception_handler(handler)
        self._restore = restore

    def detach(self) -> None:
        """Let go of the loop, and wake every thread that still waits."""
        self.over = self.refusing = True
        self._restore()
        for waiter in list(self.waiting):
            waiter.settle(ok=False, value=self.fatal or self.over_error("the call"))
        self.waiting.clear()

    def mark_inside(self) -> object:
        """Make what this context starts on a shared loop ours; gives what was set."""
        before = _inside.get()
        _inside.set(self)
        return before

    def unmark_inside(self, before: object) -> None:
        """Undo `mark_inside`."""
        _inside.set(before)

    def _adopt(self, task: Any, context: Context | None) -> None:
        if self.over:
            return
        here = self.home_here
        home = here() if context is None else context.run(here)  # an empty one is false
        if home is not None and isinstance(task, asyncio.Task):
            home.adopt(task)

    def home_here(self) -> Home | None:
        """Give the home the running context belongs to; `None` for strangers."""
        if self._shared_loop and _inside.get() is not self:
            return None
        ports = current_or_none()
        return self.homes.get(ports, self.test) if ports is not None else self.test

    # -- ways in from any thread -----------------------------------------------------------

    @property
    def on_loop(self) -> bool:
        """Whether this is the loop's thread."""
        return threading.get_ident() == self._thread_id and not self.over

    def post(
        self, fn: Callable[..., object], *args: Any, context: Context | None = None
    ) -> bool:
        """Run `fn` on the loop's thread, here at once if this is it; waits for nothing.

        Returns:
            Whether it will run: not when the loop is over.
        """
        if self.on_loop:
            fn(*args)
            return True
        if not self.over:
            with contextlib.suppress(RuntimeError):  # closed a moment ago
                self.loop.call_soon_threadsafe(fn, *args, context=context)
                return True
        return False

    def do(self, fn: Callable[..., T], *args: Any) -> T:
        """Run `fn` on the loop's thread, in this context, and give its outcome."""
        if self.on_loop:
            return fn(*args)
        waiter = Waiter(self)
        context = copy_context()

        def run() -> None:
            try:
                value = fn(*args)
            except BaseException as error:  # noqa: BLE001 - raised in the caller
                waiter.settle(ok=False, value=error)
            else:
                waiter.settle(ok=True, value=value)

        if not self.post(run, context=context):
            waiter.forget()
            raise self.over_error(getattr(fn, "__name__", "the call"))
        return waiter.result()  # type: ignore[no-any-return]  # outcomes of any type

    def backstage_task(
        self, work: Coroutine[Any, Any, T], name: str
    ) -> asyncio.Task[T]:
        """Start a task that belongs to the machine, not to a host."""
        context = self.context_of(self.backstage)
        return self.loop.create_task(work, name=name, context=context)

    def eager_task(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Start a task whose first step is made at once (Python 3.12 and later)."""
        if self._foreign_factory:
            return self.loop.create_task(work)
        make: Any = asyncio.Task  # `eager_start` is not there on 3.11
        task: asyncio.Task[T] = make(work, loop=self.loop, eager_start=True)
        if not task.done():
            self._adopt(task, None)
        return task

    def check_loop(self, what: str) -> None:
        """Refuse coroutines of this runtime on a loop that is another's."""
        running = asyncio.get_running_loop()
        if running is not self.loop:
            raise SimulationError(
                f"{what} was awaited on another event loop than its runtime's; enter "
                "`async with Runtime()` in that loop, or use the blocking form"
            )

    def over_error(self, what: str) -> Disconnected:
        """What a call gets that comes too late."""
        return Disconnected(
            f"{what}: the runtime is shutting down or has ended; make calls inside its "
            "`with` block"
        )

    # -- homes -----------------------------------------------------------------------------

    def new_home(self, host: str, incarnation: int, address: str) -> Home:
        """Begin an incarnation: a home with ports of its own."""
        home = Home(host, incarnation, address)
        home.ports = Ports(
            host=host,
            clock=RealClock(self, home),
            network=RealNetwork(self, home),
            entropy=self.entropy,
            disk=RealDisk(self.disks, home),
            bridge=RealBridge(self, home),
            points=self._points,
            trace=RealSink(self.trace, host, self.start_ns, self._trace_lock),
            services=self.services,
        )
        self.homes[home.ports] = home
        return home

    def drop_home(self, home: Home) -> None:
        """Forget an incarnation whose belongings are all gone."""
        self.homes.pop(home.ports, None)

    def context_of(self, home: Home) -> Context:
        """Make a fresh context in which code belongs to a home."""
        context = Context()
        context.run(use(home.ports).__enter__)
        context.run(_inside.set, self)
        return context

    def context_here(self, home: Home) -> Context:
        """Copy this context; one that is not of this run becomes the home's."""
        context = copy_context()
        if current_or_none() not in self.homes:
            context.run(use(home.ports).__enter__)
        if self._shared_loop:
            context.run(_inside.set, self)
        return context

    def home_of_caller(self, home: Home) -> Home:
        """Give the home of the running context, or the one given for strangers."""
        ports = current_or_none()
        return home if ports is None else self.homes.get(ports, home)

    # -- failures --------------------------------------------------------------------------

    def keep(self, error: BaseException, where: str) -> None:
        """Remember a failure nobody took, to be raised at the end of the run."""
        if not self.keep_errors:
            told = {"message": f"{where} failed", "exception": error}
            self.loop.default_exception_handler(told)
            return
        if not isinstance(error, Exception):
            wrapped = SimulationError(f"{where} ended with {type(error).__name__}")
            wrapped.__cause__ = error
            error = wrapped
        if all(known is not error for known in self.kept):
            error.add_note(f"raised in {where}; nobody took it")
            self.kept.append(error)

    def _take_report(self, told: dict[str, Any]) -> bool:
        """Keep what the loop reports, if it is ours and is a failure."""
        error = told.get("exception")
        if error is None or not self.keep_errors or self.over:
            return False
        if self._shared_loop and not self._is_ours(told):
            return False
        if isinstance(error, OSError) and isinstance(told.get("protocol"), Wire):
            return True  # a peer that broke off its handshake is no failure of ours
        thing = told.get("task") or told.get("future")
        where = told.get("message", "a callback")
        if isinstance(thing, asyncio.Task):
            where = f"task {thing.get_name()!r}"
        self.keep(error, where)
        return True

    def _is_ours(self, told: dict[str, Any]) -> bool:
        # The handler runs in the failing thing's context from 3.12 on, not before:
        # what can be told apart on every version is a connection of ours.
        return isinstance(told.get("protocol"), Wire) or _inside.get() is self

    def end_with(self, error: BaseException) -> None:
        """An exit was asked for in a task or callback: let all outside callers go."""
        self.fatal = self.fatal or error
        for call in list(self.calls):
            call.cancel()

    def hasten(self) -> None:
        """Have the end wait for nothing that can be cut short."""
        if not self.hurry.done():
            self.hurry.set_result(None)


def _nothing() -> None:
    """Restore nothing: no loop was attached."""
