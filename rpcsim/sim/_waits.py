"""Telling a person what every task waits for, when nothing can go on."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rpcsim.ports import Call
from rpcsim.sim._compat import awaited_by
from rpcsim.sim._task import SimTask

if TYPE_CHECKING:
    from types import FrameType

    from rpcsim.sim._fiber import Fiber
    from rpcsim.sim._sim import Sim

__all__ = ["Waiting", "deadlock_text", "place_of", "waiting_tasks"]

# Frames of these modules are the machine's, not the user's.
_INNER: Final = ("rpcsim.sim", "rpcsim.ports", "rpcsim.core", "asyncio")
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
        return f"{self.task.get_name()}{fiber} waits for {self.what}, at {self.place}"


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
        awaited = getattr(awaited, "cr_await", None) or getattr(
            awaited, "gi_yieldfrom", None
        )
    return frames


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


def _name_in(thing: object, frames: list[FrameType]) -> str:
    """Find what the program calls an object: a local, an attribute, a global."""
    for frame in reversed([frame for frame in frames if _is_user(frame)]):
        for name, value in frame.f_locals.items():
            if value is thing:
                return f" `{name}`"
        owner = frame.f_locals.get("self")
        for name, value in getattr(owner, "__dict__", {}).items():
            if value is thing:
                return f" `self.{name}`"
        for name, value in frame.f_globals.items():
            if value is thing:
                return f" `{name}`"
    return ""


def _told(task: SimTask) -> tuple[str, SimTask | None]:
    frames = _frames(task)
    for frame in reversed(frames):
        told = _tell_frame(frame, frames)
        if told is not None:
            return told, None
    future = awaited_by(task)
    if isinstance(future, SimTask):
        return f"task {future.get_name()}", future
    if future is None:
        return "nothing known", None
    return "a future nobody completed", None


def _tell_frame(frame: FrameType, frames: list[FrameType]) -> str | None:
    for value in list(frame.f_locals.values()):
        if isinstance(value, Call):
            number = frame.f_locals.get("call_no")
            counted = f" (call {number})" if isinstance(number, int) else ""
            return f"the reply to {value.path}{counted} from {value.target}"
    owner = frame.f_locals.get("self")
    where = frame.f_code.co_name
    if isinstance(owner, asyncio.Lock) and where == "acquire":
        return f"lock{_name_in(owner, frames)}"
    if isinstance(owner, asyncio.Semaphore) and where == "acquire":
        return f"semaphore{_name_in(owner, frames)}"
    if isinstance(owner, asyncio.Event) and where == "wait":
        return f"event{_name_in(owner, frames)}"
    if isinstance(owner, asyncio.Condition) and where == "wait":
        return f"condition{_name_in(owner, frames)}"
    if isinstance(owner, asyncio.Queue) and where in ("get", "put", "join"):
        size = owner.qsize()
        return f"queue{_name_in(owner, frames)} to {where} (it holds {size})"
    if isinstance(owner, asyncio.StreamReader):
        transport: Any = getattr(owner, "_transport", None)
        label = transport and transport.get_extra_info("connection")
        return f"data on connection {label or '(unknown)'}"
    return None


def waiting_tasks(sim: Sim) -> list[Waiting]:
    """Give every task that waits and can still run, in order of creation."""
    told = []
    for task in sim.loop.tasks():
        if task.life.dead or inspect.getcoroutinestate(task.get_coro()) != (  # type: ignore[arg-type]
            inspect.CORO_SUSPENDED
        ):
            continue
        what, on = _told(task)
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
    waits = waiting_tasks(sim)
    lines = [
        f"nothing can run and nothing is due at {sim.loop.now_ns / 1e9:.9g} s of "
        f"simulated time, but {waiting_for} is not done"
    ]
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
