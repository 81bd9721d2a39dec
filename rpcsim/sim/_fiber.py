"""Fibers: blocking code on the simulated loop, and the bridge in both directions.

A fiber is a greenlet run inside a task of the loop. When its code blocks, it switches
back into the task's step with what it waits for; the task awaits that as any coroutine
would, and switches in again with the outcome. So cancellation, time limits, context
and the current task come for free, and a crash parks fiber and task together. This is
the one file that imports greenlet.
"""

from __future__ import annotations

import asyncio
import inspect
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from rpcsim.errors import (
    BlockingInCoroutine,
    DeadlockError,
    FiberKilled,
    HostDown,
    SimulationError,
)
from rpcsim.ports import to_ns
from rpcsim.sim._compat import set_running_loop
from rpcsim.sim._fences import caller_place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import FrameType

    from rpcsim.ports import Duration
    from rpcsim.sim._loop import SimLoop
    from rpcsim.sim._sim import Sim
    from rpcsim.sim._strand import Life
    from rpcsim.sim._task import SimTask

__all__ = ["Fiber", "SimBridge", "SimWorker", "current_fiber"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

T = TypeVar("T")


# Idle carriers kept by a run: a few, as most runs have few fibers at a time.
IDLE: Final = 16


class _Carrier(greenlet):
    """A greenlet that runs one fiber after the other.

    A new greenlet maps memory for its Python frames and unmaps it at its end, which
    takes 7 us; a switch into one that is there takes 0.2 us.
    """

    fiber: Fiber | None = None

    def __init__(self) -> None:
        super().__init__()
        home = getcurrent()
        while home.parent is not None:
            home = home.parent
        # Its parent while idle, so that it keeps none of its last callers alive.
        self.home = home

    def run(self) -> None:
        while True:
            fiber = self.fiber
            assert fiber is not None
            try:
                fiber.value = fiber.code()
            except GreenletExit:
                raise  # the run is over
            except BaseException as error:  # noqa: BLE001 - crosses as it is
                fiber.error = error
            fiber.ended = True
            # Nothing of it stays behind in this frame.
            self.fiber = fiber = None
            parent = self.parent
            assert parent is not None
            parent.switch()
            del parent


class Fiber:
    """Blocking code in the middle of its run.

    Attributes:
        name: Name of the task that owns it.
        host: Host it runs for.
        worker: The serial worker it belongs to, if any.
        killed: Whether `FiberKilled` is to be raised at its next blocking point.
        waiting: What its code waits for; `None` while it runs.
        made: The tasks made for that wait, which end with it.
        ended: Whether its code is through, with `value` or `error`.
    """

    __slots__ = (
        "carrier",
        "code",
        "ended",
        "error",
        "killed",
        "made",
        "sim",
        "task",
        "value",
        "waiting",
        "worker",
    )

    def __init__(
        self, code: Callable[[], Any], sim: Sim, worker: SimWorker | None
    ) -> None:
        self.code = code
        self.value: Any = None
        self.error: BaseException | None = None
        self.ended = False
        idle = sim.carriers
        self.carrier: _Carrier = idle.pop() if idle else _Carrier()
        self.carrier.fiber = self
        # As `to_thread` does: it sees the caller's values, its own stay inside.
        self.carrier.gr_context = copy_context()
        self.sim = sim
        self.worker = worker
        self.killed = False
        self.waiting: asyncio.Future[Any] | None = None
        self.made: tuple[asyncio.Future[Any], ...] = ()
        self.task: SimTask = asyncio.current_task(sim.loop)  # type: ignore[assignment]  # made inside a task's step
        sim.fibers += 1

    @property
    def name(self) -> str:
        """Name of the task that owns it."""
        return self.task.get_name()

    @property
    def host(self) -> str:
        """Host it runs for."""
        return self.task.life.host

    @property
    def frame(self) -> FrameType | None:
        """Where its code stands while it waits."""
        frame: FrameType | None = self.carrier.gr_frame
        return frame

    def block(self, future: asyncio.Future[Any]) -> Any:
        """From inside: let the loop go on until `future` is done."""
        if self.killed:
            raise FiberKilled(f"{self.name} was killed")
        parent = self.carrier.parent
        assert parent is not None
        self.waiting = future
        try:
            return parent.switch(future)
        finally:
            self.waiting = None
            self.made = ()


def current_fiber() -> Fiber | None:
    """Give the fiber that is running, or `None` in coroutines and plain code."""
    running = getcurrent()
    return running.fiber if isinstance(running, _Carrier) else None


async def _drive(fiber: Fiber) -> Any:
    """Run a fiber to its end inside the current task."""
    loop = fiber.sim.loop
    task = fiber.task
    outer, task.fiber = task.fiber, fiber
    carrier = fiber.carrier
    switch: Callable[..., Any] = carrier.switch
    value: tuple[Any, ...] = ()
    try:
        while True:
            # Inside a fiber no loop counts as running, as in a thread, so that code
            # choosing between its sync and async forms chooses the same in both modes.
            carrier.parent = getcurrent()
            set_running_loop(None)
            try:
                result = switch(*value)
            finally:
                set_running_loop(loop)
            if fiber.ended:
                return _outcome(fiber)
            try:
                value = (await result,)
            except BaseException as error:  # noqa: BLE001 - it crosses unchanged
                if fiber.killed and isinstance(error, asyncio.CancelledError):
                    error = FiberKilled(f"{fiber.name} was killed")
                # With its traceback, which greenlet would begin anew otherwise.
                switch = carrier.throw
                value = (type(error), error, error.__traceback__)
            else:
                switch = carrier.switch
    finally:
        task.fiber = outer
        fiber.sim.fibers -= 1


def _outcome(fiber: Fiber) -> Any:
    """Take what an ended fiber left, and its carrier for the next one."""
    idle = fiber.sim.carriers
    if len(idle) < IDLE:
        fiber.carrier.parent = fiber.carrier.home
        idle.append(fiber.carrier)
    else:
        _end_carrier(fiber.carrier)
    error, fiber.error = fiber.error, None
    if error is None:
        return fiber.value
    try:
        raise error
    finally:
        del error  # its traceback leads here


async def _limited(future: asyncio.Future[T], seconds: float, owned: bool) -> T:
    """Await a future at most so long; cancel it on expiry if it was made for us."""
    try:
        done, _ = await asyncio.wait([future], timeout=seconds)
    except asyncio.CancelledError:
        if owned:
            future.cancel()
        raise
    if done:
        return future.result()
    if owned:
        future.cancel()
    raise TimeoutError(f"not done within {seconds:g} s")


class SimSpawned:
    """A fiber started on its own; awaiting it gives its outcome."""

    def __init__(self, task: SimTask) -> None:
        self._task = task

    def __repr__(self) -> str:
        return f"<spawned {self.name}: {'done' if self.done() else 'running'}>"

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._task.__await__()

    @property
    def name(self) -> str:
        """Its name."""
        return self._task.get_name()

    def done(self) -> bool:
        """Whether it has ended."""
        return self._task.done()

    def kill(self, *, hard: bool = False) -> None:
        """Raise `FiberKilled` at its next blocking point; `hard`: never run it again."""
        task = self._task
        if task.done():
            return
        if hard:
            _bury(task)
            return
        fiber: Fiber | None = task.fiber
        if fiber is not None:
            fiber.killed = True
        task.cancel()


def _bury(task: SimTask) -> None:
    """Park a task, as a crash does: nothing of it runs any more."""
    loop: SimLoop = task.get_loop()  # type: ignore[assignment]  # it is ours
    grave = loop.sim.graveyard
    grave.parked.append(task)
    task.life = grave
    if task.line is not None:  # scope "host": its steps are in its host's line
        loop.unline(task)
    loop.drop(grave)
    fiber: Fiber | None = task.fiber
    if fiber is not None:
        for made in fiber.made:
            if not made.done():
                _bury(made)  # type: ignore[arg-type]  # made by us


class SimWorker:
    """A serial worker: blocking items run one at a time, in the order given."""

    def __init__(self, bridge: SimBridge, name: str) -> None:
        self.name: Final = name
        self._bridge = bridge
        self._last: asyncio.Future[Any] | None = None
        self._queued: list[asyncio.Future[Any]] = []
        self._stopped = False

    def __repr__(self) -> str:
        return f"<worker {self.name}>"

    def submit(self, fn: Callable[..., T], /, *args: Any) -> asyncio.Future[T]:
        """Queue an item; the future gives its outcome."""
        if self._stopped:
            raise RuntimeError(f"worker {self.name!r} is stopped; make a new one")
        loop = self._bridge.sim.loop
        before = self._last

        async def item() -> T:
            if before is not None and not before.done():
                await asyncio.wait([before])
            return await self._bridge.run_blocking(fn, args, {}, self)

        task = loop.make_task(item(), name=self.name)
        self._last = task
        self._queued = [t for t in self._queued if not t.done()] + [task]
        return task

    def holds(self, awaitable: object) -> bool:
        """Whether an awaitable is one of its items that has not ended."""
        return any(awaitable is item for item in self._queued)

    async def stop(self) -> None:
        """Take no more items; wait until what was queued has run."""
        self._stopped = True
        if self._last is not None and not self._last.done():
            await asyncio.wait([self._last])


class _Main:
    """What runs outside every fiber, as `Bridge.current` tells it."""

    worker: Final = None

    def __init__(self, name: str, host: str) -> None:
        self.name = name
        self.host = host

    def __repr__(self) -> str:
        return f"<{self.name} on {self.host}>"


class SimBridge:
    """The blocking bridge of one host in simulation."""

    def __init__(self, sim: Sim, life: Life) -> None:
        self.sim: Final = sim
        self._life = life

    def __repr__(self) -> str:
        return f"<bridge of {self._life.host}>"

    def may_block(self) -> bool:
        """Whether `wait` would be allowed here."""
        return current_fiber() is not None or not self.sim.loop.pumping

    def wait(self, awaitable: Awaitable[T], timeout: Duration | None = None) -> T:
        """Block until done: a fiber switches, synchronous code pumps."""
        sim = self.sim
        fiber = current_fiber()
        if fiber is None or fiber.sim is not sim or sim.loop.fenced:
            wrong = self.refusal(awaitable)
            if wrong is not None:
                if inspect.iscoroutine(awaitable):
                    awaitable.close()
                raise wrong
            return sim.complete(self._as_future(awaitable, timeout)[0])
        if fiber.worker is not None and fiber.worker.holds(awaitable):
            raise DeadlockError(
                f"worker {fiber.worker.name!r} waits for its own queue, which would "
                "never end; submit from another fiber, or do not wait"
            )
        future, fiber.made = self._as_future(awaitable, timeout)
        return fiber.block(future)  # type: ignore[no-any-return]

    def _as_future(
        self, awaitable: Awaitable[T], timeout: Duration | None
    ) -> tuple[asyncio.Future[T], tuple[asyncio.Future[Any], ...]]:
        """Give the future to wait for, and the tasks made to have it."""
        loop = self.sim.loop
        limit = None if timeout is None else to_ns(timeout) / 1e9
        made: tuple[asyncio.Future[Any], ...] = ()
        if asyncio.isfuture(awaitable):
            future: asyncio.Future[T] = awaitable
        else:
            coro = awaitable if inspect.iscoroutine(awaitable) else _await(awaitable)
            future = loop.make_task(coro)
            made = (future,)
        if limit is not None:
            future = loop.make_task(_limited(future, limit, bool(made)))
            made = (future, *made)
        return future, made

    def refusal(self, awaitable: object) -> SimulationError | None:
        """Give the error for a wait that may not be made here, if so."""
        sim = self.sim
        loop = sim.loop
        if loop.fenced:
            return HostDown(f"host {self._life.host!r} is gone and its run is over")
        fiber = current_fiber()
        if fiber is not None and fiber.sim is sim:
            return None
        wrong = sim.misplaced("a blocking call")
        if wrong is not None:
            return wrong
        if not loop.pumping:
            return sim.host_down(self._life.host) if self._life.dead else None
        what = getattr(awaitable, "__qualname__", None) or type(awaitable).__name__
        error = BlockingInCoroutine(
            f"a blocking call ({what}) at {caller_place()} inside {loop.strand.label} "
            f"on host {loop.strand.life.host!r} at {loop.now_ns / 1e9:.9g} s could "
            "never return; await its async form, or run the caller with "
            "`await bridge.call_blocking(fn)` (asyncio.to_thread does the same)"
        )
        sim.keep(error)
        return error

    async def call_blocking(
        self, fn: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> T:
        """Run `fn` in a fiber of the current task."""
        return await self.run_blocking(fn, args, kwargs, None)

    async def run_blocking(
        self,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        worker: SimWorker | None,
    ) -> T:
        """Run `fn` in a fiber that may belong to a worker."""
        if args or kwargs:
            fiber = Fiber(lambda: fn(*args, **kwargs), self.sim, worker)
        else:
            fiber = Fiber(fn, self.sim, worker)
        return await _drive(fiber)  # type: ignore[no-any-return]

    def spawn(
        self, fn: Callable[..., T], /, *args: Any, name: str | None = None
    ) -> SimSpawned:
        """Start `fn` as an independent fiber of this host."""
        loop = self.sim.loop
        coro = self.run_blocking(fn, args, {}, None)
        return SimSpawned(loop.make_task(coro, name=name))

    def worker(self, name: str) -> SimWorker:
        """Make a serial worker."""
        return SimWorker(self, name)

    def current(self) -> Any:
        """Give the running fiber, else the task or main program."""
        fiber = current_fiber()
        if fiber is not None:
            return fiber
        strand = self.sim.loop.strand
        return _Main(strand.label, strand.life.host)


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def close_fiber(fiber: Fiber) -> None:
    """End a fiber that will never run again; what it raises meanwhile is dropped."""
    if not fiber.ended:
        fiber.carrier.parent = getcurrent()
        fiber.carrier.throw(GreenletExit)


def close_carriers(sim: Sim) -> None:
    """End the greenlets that no fiber uses any more."""
    while sim.carriers:
        _end_carrier(sim.carriers.pop())


def _end_carrier(carrier: _Carrier) -> None:
    """End an idle greenlet: it holds on to itself, so dropping it would not do."""
    carrier.parent = getcurrent()
    carrier.throw(GreenletExit)
