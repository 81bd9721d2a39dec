"""Clients at work: steps in order, at their times, after what they wait for."""

from __future__ import annotations

import asyncio
import fnmatch
import json
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from rpcsim.check import outcome_of
from rpcsim.errors import CallTimeout, HostDown
from rpcsim.harness._context import StepContext
from rpcsim.harness._result import StepOutcome
from rpcsim.ports import NANOS, current, duration_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.harness._plan import ClientPlan, StepPlan, Trigger
    from rpcsim.ports import Machine, Ports
    from rpcsim.trace import Record

__all__ = ["Story"]

# A value in the trace is told up to this many characters.
TOLD: Final = 160

# The step whose code is running. Records made on its behalf, in whatever task or
# fiber, are made in a copy of its context: so calls find their step without a label
# on the wire.
_running: ContextVar[str | None] = ContextVar("rpcsim.step", default=None)


@dataclass(slots=True)
class _Hook:
    """A wish to be told of the nth matching record."""

    trigger: Trigger
    fire: Callable[[], None]
    left: int


@dataclass(slots=True)
class Story:
    """The clients of one run, what they did, and what waits for what.

    Attributes:
        machine: The machine of the run.
        clients: What they are to do.
        outcomes: Step id to outcome, in the order steps began; filled as they end.
        origin_ns: When the run began, on the monotonic clock.
        trace_origin_ns: The same as the trace counts, which has a zero of its own.
    """

    machine: Machine
    clients: tuple[ClientPlan, ...]
    outcomes: dict[str, StepOutcome] = field(default_factory=dict)
    origin_ns: int = 0
    trace_origin_ns: int = 0
    _begun: asyncio.Event = field(default_factory=asyncio.Event)
    _open: dict[str, tuple[str, int]] = field(default_factory=dict)
    _marks: dict[tuple[str, str], asyncio.Event] = field(default_factory=dict)
    _ended: dict[str, asyncio.Event] = field(default_factory=dict)
    _hooks: list[_Hook] = field(default_factory=list)
    _calls: dict[str, str] = field(default_factory=dict)
    # Request to the host that executes it; "" while it is on its way.
    _pending: dict[str, str] = field(default_factory=dict)
    _tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    _wake: Callable[[Callable[[], None]], object] = field(default=lambda fn: fn())

    def __post_init__(self) -> None:
        self._ended = {client.name: asyncio.Event() for client in self.clients}

    # -- the run's side ----------------------------------------------------------------

    def begin(self) -> None:
        """Let the clients go; called in the run's main program."""
        if self.machine.mode == "real":
            # There records are made in threads as well, which may not touch the loop.
            self._wake = asyncio.get_running_loop().call_soon_threadsafe
        self.origin_ns = self.machine.clock.now_ns()
        trace = self.machine.trace
        number = self.machine.ports.trace.emit("phase", (("name", "begin"),))
        self.trace_origin_ns = trace[number].t_ns if number >= 0 else 0
        self.machine.trace.watch(self._watch)
        self._begun.set()

    async def wait_ended(self) -> None:
        """Wait until every client has done its last step."""
        for ended in self._ended.values():
            await ended.wait()

    def host_down(self, name: str) -> None:
        """Note that a host crashed: its clients are gone, their open steps unknown."""
        for client in self.clients:
            if client.host != name or self._ended[client.name].is_set():
                continue
            now = self.now_ns()
            for ident in [
                i for i, (who, _t) in self._open.items() if who == client.name
            ]:
                _who, began = self._open.pop(ident)
                error = HostDown(
                    f"host {name!r} crashed while step {ident} ran, at "
                    f"{now / NANOS:.3f} s; whether it was done is not known"
                )
                self._settle(ident, client.name, began, error=error, system="?")
            self._ended[client.name].set()

    def give_up(self) -> list[str]:
        """End all clients where they are; gives the ids of their open steps."""
        left = self.close_open()
        for task in self._tasks:
            task.cancel()
        return left

    def close_open(self) -> list[str]:
        """Give every step that is still open the outcome `maybe`; gives their ids."""
        left = list(self._open)
        for ident in left:
            client, began = self._open.pop(ident)
            self._settle(ident, client, began, error=None, kind="maybe")
        return left

    def when(self, trigger: Trigger) -> asyncio.Event:
        """Give an event that is set at the nth record a trigger matches."""
        event = asyncio.Event()
        self._hooks.append(_Hook(trigger, event.set, trigger.nth))
        return event

    def now_ns(self) -> int:
        """Give the time since the run began."""
        return self.machine.clock.now_ns() - self.origin_ns

    def busy(self) -> bool:
        """Whether a request is on its way or being executed, as far as records tell."""
        return bool(self._pending)

    def _watch(self, record: Record) -> None:
        if record.kind == "host.crash":
            self._pending = {
                ident: host
                for ident, host in self._pending.items()
                if host != record.host
            }
        if not record.kind.startswith("call."):
            return
        self._match_step(record)
        self._count(record)
        for hook in list(self._hooks):
            if not _matches(hook.trigger, record):
                continue
            hook.left -= 1
            if hook.left == 0:
                self._hooks.remove(hook)
                self._wake(hook.fire)

    def _match_step(self, record: Record) -> None:
        ident = str(record.get("id", ""))
        if record.kind == "call.invoke":
            step = _running.get()
            if step is not None:
                self._calls[ident] = step
        elif record.kind in ("call.request", "call.exec_start", "call.started"):
            step = self._calls.get(ident)
            phase = "sent" if record.kind == "call.request" else "started"
            if step is not None:
                self._wake(self._mark(step, phase).set)

    def _count(self, record: Record) -> None:
        ident = str(record.get("id", ""))
        if record.kind == "call.request":
            self._pending[ident] = ""
        elif record.kind == "call.exec_start":
            self._pending[ident] = record.host
        elif record.kind in ("call.exec_end", "call.discarded"):
            self._pending.pop(ident, None)
        elif (
            record.kind == "call.outcome"
            and self._pending.get(ident) == ""
            # Fire and forget ends at once, with the request still on its way.
            and (record.get("error") or record.get("outcome") != "maybe")
        ):
            del self._pending[ident]

    def _mark(self, step: str, phase: str) -> asyncio.Event:
        return self._marks.setdefault((step, phase), asyncio.Event())

    # -- a client's side -----------------------------------------------------------------

    async def run_client(self, client: ClientPlan) -> None:
        """Do all steps of a client, on the host whose context this runs in."""
        ports = current()
        task = asyncio.current_task()
        assert task is not None  # a coroutine runs in a task
        self._tasks.append(task)
        await self._begun.wait()
        await self._until(ports, client.start_ns)
        behind = [
            task for step in client.steps if (task := await self._turn(client, step))
        ]
        if behind:
            await asyncio.wait(behind)
        self._ended[client.name].set()

    async def _turn(
        self, client: ClientPlan, step: StepPlan
    ) -> asyncio.Task[None] | None:
        """Do a step, or start it in the background and give its task."""
        if not step.background:
            await self._step(client, step)
            return None
        return asyncio.create_task(self._step(client, step), name=step.id)

    async def _step(self, client: ClientPlan, step: StepPlan) -> None:
        ports = current()
        for ident, phase in step.after:
            await self._mark(ident, phase).wait()
        if step.at_ns is not None:
            await self._until(ports, step.at_ns)
        if step.times is None:
            await self._once(client, step, step.id)
        else:
            await self._repeat(client, step, step.times)
        self._mark(step.id, "done").set()

    async def _repeat(self, client: ClientPlan, step: StepPlan, times: int) -> None:
        ports = current()
        first = self.now_ns()
        gate = asyncio.Semaphore(step.parallel)
        tasks: list[asyncio.Task[None]] = []

        async def one(ident: str) -> None:
            try:
                await self._once(client, step, ident)
            finally:
                gate.release()
            self._mark(ident, "done").set()

        for index in range(times):
            await self._until(ports, first + index * step.every_ns)
            await gate.acquire()
            ident = f"{step.id}[{index}]"
            tasks.append(asyncio.create_task(one(ident), name=ident))
        await asyncio.wait(tasks)

    async def _until(self, ports: Ports, when_ns: int) -> None:
        left = when_ns - self.now_ns()
        if left > 0:
            await ports.clock.sleep(f"{left}ns")

    async def _once(self, client: ClientPlan, step: StepPlan, ident: str) -> None:
        ports = current()
        _running.set(ident)
        began = self.now_ns()
        self._open[ident] = (client.name, began)
        told = (("step", ident), ("client", client.name), ("told", step.told))
        ports.trace.emit("client.begin", told)
        value, error = None, None
        try:
            value = await self._attempts(client, step, ident)
        except Exception as caught:  # noqa: BLE001 - an outcome like any other
            error = caught
        if self._open.pop(ident, None) is None:
            return  # the run gave it up meanwhile
        kind = None if step.sure or error is not None else "maybe"
        self._settle(
            ident, client.name, began, value, error, system=step.system, kind=kind
        )
        self._tell(ports, ident)

    def _settle(
        self,
        ident: str,
        client: str,
        began: int,
        value: Any = None,
        error: BaseException | None = None,
        *,
        system: str = "",
        kind: Any = None,
    ) -> None:
        self.outcomes[ident] = StepOutcome(
            id=ident,
            client=client,
            kind=kind or outcome_of(system, error),
            value=value,
            error=error,
            began_ns=began,
            ended_ns=self.now_ns(),
        )

    def _tell(self, ports: Ports, ident: str) -> None:
        outcome = self.outcomes[ident]
        error = outcome.error
        ports.trace.emit(
            "client.end",
            (
                ("step", ident),
                ("client", outcome.client),
                ("outcome", outcome.kind),
                ("error", "" if error is None else type(error).__name__),
                (
                    "told",
                    tell_value(outcome.value) if error is None else tell_error(error),
                ),
            ),
        )

    async def _attempts(self, client: ClientPlan, step: StepPlan, ident: str) -> Any:
        for attempt in range(step.retries + 1):
            try:
                return await self._limited(client, step, ident)
            except Exception as error:
                names = {kind.__name__ for kind in type(error).__mro__}
                if attempt == step.retries or names.isdisjoint(step.retry_on):
                    raise
            await current().clock.sleep(f"{step.retry_delay_ns}ns")
        raise AssertionError("a step is tried at least once")

    async def _limited(self, client: ClientPlan, step: StepPlan, ident: str) -> Any:
        work = self._act(client, step, ident)
        if step.give_up_ns is None:
            return await work
        try:
            async with asyncio.timeout(step.give_up_ns / NANOS) as limit:
                return await work
        except TimeoutError as error:
            if not limit.expired():
                raise
            text = f"step {ident} was given up after {duration_text(step.give_up_ns)}"
            raise CallTimeout(text) from error

    async def _act(self, client: ClientPlan, step: StepPlan, ident: str) -> Any:
        if step.action is None:
            tasks = [
                asyncio.create_task(self._step(client, member), name=member.id)
                for member in step.members
            ]
            await asyncio.wait(tasks)
            return None
        ports = current()
        context = StepContext(
            client=client.name,
            step=ident,
            ports=ports,
            machine=self.machine,
            draws=ports.entropy.stream(f"workload/{client.name}"),
            outcomes=self.outcomes,
        )
        return await step.action(context)


def tell_value(value: Any) -> str:
    """Write a value short enough for a line."""
    try:
        told = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        told = f"a {type(value).__name__}"
    return told if len(told) <= TOLD else told[: TOLD - 3] + "..."


def tell_error(error: BaseException) -> str:
    """Write the first line of an error's text."""
    lines = str(error).strip().splitlines()
    told = lines[0] if lines else ""
    return told if len(told) <= TOLD else told[: TOLD - 3] + "..."


def _matches(trigger: Trigger, record: Record) -> bool:
    return (
        record.kind == trigger.event
        and fnmatch.fnmatchcase(str(record.get("method", "")), trigger.method)
        and fnmatch.fnmatchcase(record.host, trigger.host)
    )
