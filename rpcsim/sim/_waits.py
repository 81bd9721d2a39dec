"""Telling a person what every task waits for, when nothing can go on."""

from __future__ import annotations

import asyncio
import gc
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rpcsim.ports import Call, endpoint
from rpcsim.sim._compat import awaited_by
from rpcsim.sim._sockets import SimServer
from rpcsim.sim._task import SimTask

if TYPE_CHECKING:
    from types import FrameType

    from rpcsim.sim._fiber import Fiber
    from rpcsim.sim._sim import Sim

__all__ = ["Waiting", "deadlock_text", "listing", "place_of", "waiting_tasks"]

# Frames of these modules are the machine's, not the user's.
_INNER: Final = ("rpcsim.", "asyncio.")
# At most so many tasks are told of one by one.
MOST: Final = 50


@dataclass(frozen=True, slots=True)
class Waiting:
    """One task that waits.

    Attributes:
        task: The task.
        place: file:line of the innermost frame of the user's code.
        what: What it waits for, by kind and name.
        on: The task that would have to act, where that is known.
    """

    task: SimTask
    place: str
    what: str
    on: SimTask | None = None

    def __str__(self) -> str:
        fiber = " (blocking code)" if self.task.fiber is not None else ""
        told = f"{self.task.get_name()}{fiber} waits for {self.what}, at {self.place}"
        life = self.task.life
        if life.shut and not life.dead:
            told += f"; its host {life.host} is paused, `resume()` lets it go on"
        return told


def _frames(task: SimTask) -> list[FrameType]:
    """Give the frames of a suspended task, outermost first, its fibers' included."""
    frames: list[FrameType] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        frame = frame or getattr(awaited, "ag_frame", None)
        if frame is not None:
            frames.append(frame)
            fiber: Fiber | None = frame.f_locals.get("fiber")
            if frame.f_code.co_name == "_drive" and fiber is not None:
                stack: list[FrameType] = []
                inner = fiber.frame
                while inner is not None:
                    stack.append(inner)
                    inner = inner.f_back
                frames += reversed(stack)
        awaited = _inner(awaited)
    return frames


def _inner(awaited: Any) -> Any:
    return getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


def _is_user(frame: FrameType) -> bool:
    return not frame.f_globals.get("__name__", "").startswith(_INNER)


def place_of(task: SimTask) -> str:
    """Give file:line of the innermost user frame of a suspended task."""
    frames = _frames(task)
    for frame in reversed(frames):
        if _is_user(frame):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
    if frames:
        return f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}"
    return "an unknown place"


class _Report:
    """What one deadlock report knows: names given to things, and who holds them."""

    def __init__(self, sim: Sim) -> None:
        self._sim = sim
        # Things the program calls the same in two places are told apart by a number.
        self._called: dict[str, list[object]] = {}
        self._held: list[tuple[object, SimTask]] | None = None

    def told(self, task: SimTask) -> tuple[str, SimTask | None]:
        """Say what a task waits for, and which task would have to act, if known."""
        frames = _frames(task)
        told: tuple[str, SimTask | None] | None = None
        # From the inside out to the user's code: a queue says more than the event in it.
        for frame in reversed(frames):
            if told is not None and _is_user(frame):
                break
            told = self._tell_frame(frame, frames) or told
        if told is not None:
            return told
        future = awaited_by(task)
        if isinstance(future, SimTask):
            return f"task {future.get_name()}", future
        if future is None:
            return "nothing known", None
        return "a future nobody completed", None

    def _tell_frame(
        self, frame: FrameType, frames: list[FrameType]
    ) -> tuple[str, SimTask | None] | None:
        owner = frame.f_locals.get("self")
        for value in (*frame.f_locals.values(), getattr(owner, "call", None)):
            if isinstance(value, Call):
                return self._tell_call(value), None
        where = frame.f_code.co_name
        if isinstance(owner, asyncio.Lock) and where == "acquire":
            return self._tell_lock(owner, frames)
        for kind, type_, verbs in _PRIMITIVES:
            if isinstance(owner, type_) and where in verbs:
                return f"{kind}{self._name(owner, frames)}", None
        if isinstance(owner, asyncio.Queue) and where in ("get", "put", "join"):
            size = owner.qsize()
            return (
                f"queue{self._name(owner, frames)} to {where} (it holds {size})",
                None,
            )
        if isinstance(owner, asyncio.TaskGroup) and where in ("__aexit__", "_aexit"):
            return "the tasks of its group", None
        if isinstance(owner, SimServer) and where == "serve_forever":
            places = ", ".join(endpoint(place) for place in owner.addresses)
            return f"connections at {places}", None
        if isinstance(owner, asyncio.StreamReader):
            transport: Any = getattr(owner, "_transport", None)
            label = transport and transport.get_extra_info("connection")
            return f"data on connection {label or '(unknown)'}", None
        return None

    def _tell_call(self, call: Call) -> str:
        number = next(
            (
                record.get("no")
                for record in reversed(self._sim.trace)
                if record.kind == "call.request" and record.get("id") == call.id
            ),
            None,
        )
        counted = f"call {number} of " if isinstance(number, int) else ""
        return f"the reply to {counted}{call.path}() from {call.target}"

    def _tell_lock(
        self, lock: asyncio.Lock, frames: list[FrameType]
    ) -> tuple[str, SimTask | None]:
        told = f"lock{self._name(lock, frames)}"
        for thing, task in self._holders():
            # A task that still waits to enter has begun its `async with` too.
            if thing is lock and not _waits_in(task, lock):
                life = task.life
                down = f" of crashed host {life.host}" if life.dead else ""
                return f"{told}, which {task.get_name()}{down} holds", task
        return told, None

    def _holders(self) -> list[tuple[object, SimTask]]:
        """Find every `async with` that tasks are inside of, living and parked."""
        if self._held is None:
            graves = [task for life in self._sim.graves for task in life.parked]
            tasks = [t for t in graves if isinstance(t, SimTask)]
            tasks += self._sim.loop.tasks()
            self._held = [
                (thing, task)
                for task in dict.fromkeys(tasks)
                for thing in _entered(task)
            ]
        return self._held

    def _name(self, thing: object, frames: list[FrameType]) -> str:
        """Name a thing as the program does, with a number if two share the name."""
        name = _name_in(thing, frames)
        if not name:
            return ""
        same = self._called.setdefault(name, [])
        if not any(thing is known for known in same):
            same.append(thing)
        number = next(n for n, known in enumerate(same, 1) if known is thing)
        return f" `{name}`" if number == 1 else f" `{name}` (#{number} of that name)"


_PRIMITIVES: Final = (
    ("semaphore", asyncio.Semaphore, ("acquire",)),
    ("event", asyncio.Event, ("wait",)),
    ("condition", asyncio.Condition, ("wait",)),
    ("barrier", asyncio.Barrier, ("wait",)),
)


def _name_in(thing: object, frames: list[FrameType]) -> str:
    """Find what the program calls an object: a local, an attribute, a global."""
    for frame in reversed([frame for frame in frames if _is_user(frame)]):
        owner = frame.f_locals.get("self")
        for prefix, names in (
            ("", frame.f_locals),
            ("self.", getattr(owner, "__dict__", {})),
            ("", frame.f_globals),
        ):
            for name, value in names.items():
                if value is thing:
                    return f"{prefix}{name}"
                if isinstance(value, (list, tuple)):
                    for index, item in enumerate(value):
                        if item is thing:
                            return f"{prefix}{name}[{index}]"
                elif isinstance(value, dict):
                    for key, item in value.items():
                        if item is thing and isinstance(key, (str, int)):
                            return f"{prefix}{name}[{key!r}]"
    return ""


def _waits_in(task: SimTask, thing: object) -> bool:
    return any(
        frame.f_code.co_name == "acquire" and frame.f_locals.get("self") is thing
        for frame in _frames(task)
    )


def _entered(task: SimTask) -> list[object]:
    """Give the objects whose `async with` blocks a suspended task is inside of.

    The interpreter keeps the bound `__aexit__` of each on the frame's stack, which the
    collector can see; no wrapper around the library's locks is needed.
    """
    found: list[object] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        for thing in gc.get_referents(awaited):
            if getattr(thing, "__name__", None) == "__aexit__":
                owner = getattr(thing, "__self__", None)
                if owner is not None:
                    found.append(owner)
        awaited = _inner(awaited)
    return found


def waiting_tasks(sim: Sim) -> list[Waiting]:
    """Give every task that waits and can still run, in order of creation."""
    report = _Report(sim)
    told = []
    for task in sim.loop.tasks():
        if task.life.dead or inspect.getcoroutinestate(task.get_coro()) != (  # type: ignore[arg-type]
            inspect.CORO_SUSPENDED
        ):
            continue
        what, on = report.told(task)
        told.append(Waiting(task, place_of(task), what, on))
    return told


def _cycles(waits: list[Waiting]) -> list[str]:
    after = {id(wait.task): wait for wait in waits}
    found: list[str] = []
    seen: list[int] = []
    for wait in waits:
        path: list[Waiting] = []
        step: Waiting | None = wait
        while step is not None and id(step.task) not in seen:
            seen.append(id(step.task))
            path.append(step)
            step = after.get(id(step.on)) if step.on is not None else None
            if step in path:
                ring = path[path.index(step) :]
                names = [w.task.get_name() for w in [*ring, ring[0]]]
                found.append(" -> ".join(names))
                break
    return found


def deadlock_text(sim: Sim, waiting_for: str) -> str:
    """Say that nothing can go on, and what everybody waits for."""
    return listing(
        sim,
        f"nothing can run and nothing is due at {sim.loop.now_ns / 1e9:.9g} s of "
        f"simulated time, but {waiting_for} is not done",
    )


def listing(sim: Sim, headline: str) -> str:
    """Tell what everybody waits for, below a line that says why it is told."""
    waits = waiting_tasks(sim)
    lines = [headline]
    ordinary = [wait for wait in waits if not wait.task.background]
    shown = (ordinary or waits)[:MOST]
    lines += [f"    {wait}" for wait in shown]
    if len(waits) > len(shown):
        lines.append(f"    ... and {len(waits) - len(shown)} more in the background")
    lines += [f"    cycle: {cycle}" for cycle in _cycles(waits)]
    for life in sim.graves:
        parked = sum(isinstance(thing, SimTask) for thing in life.parked)
        lines.append(
            f"    {parked} tasks of crashed host {life.host} (incarnation "
            f"{life.incarnation}) will never run"
        )
    lines.append(
        "Give the wait a timeout, complete what it waits for, or restart the host "
        "that should answer."
    )
    return "\n".join(lines)
