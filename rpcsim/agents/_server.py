"""An agent: takes requests from its queue, runs them, answers.

A request's message stays unacknowledged at the broker until its reply was handed to
the transport. That is the agent's only memory of it: after a crash the broker delivers
it again, and it runs again (at least once, gofer.md section 13).

Reply and acknowledgement leave in one piece, and no confirm is waited for: what the
broker gets first is the reply. If both are lost with their connection, the request
comes again, and the answer that was kept is given again: redelivery alone runs nothing
twice, see `_on_message`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import msgspec

from rpcsim.agents._broker import Unroutable, broker_for
from rpcsim.agents._calls import broker_url
from rpcsim.agents._errors import (
    ClassNotFound,
    DispatchError,
    MethodNotFound,
    NotPermitted,
)
from rpcsim.agents._replies import (
    progress_body,
    rejected_body,
    result_body,
    started_body,
)
from rpcsim.core import (
    Catalogue,
    Context,
    Deadline,
    Ended,
    Procedure,
    ProgressReport,
    Unresolved,
    perform,
)
from rpcsim.errors import Disconnected, RemoteProtocolError, RpcError
from rpcsim.ports import MessageInfo, QueueOptions, current, to_ns
from rpcsim.wire import CLASSIC, InvalidRequest, Invocation, decode_request

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from types import ModuleType

    from rpcsim.ports import Broker, Consumer, Delivery, Duration, Ports
    from rpcsim.wire import RequestDocument

__all__ = ["AgentServer"]

log = logging.getLogger("rpcsim.agents")

# gofer.md 17: the properties both sides must agree on.
_REQUESTS: Final = QueueOptions(durable=True)
# Seconds between attempts to reach the broker, doubling up to the last one. At start
# the broker may be coming up beside us; later it is down for a while.
_FIRST_PAUSE: Final = 0.1
_LOST_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 30.0
# Seconds that running methods have to end when their agent is stopped; well below what
# hosts give their software by default, so that several agents end in order.
STOP_GRACE: Final = 1.0
# Finished requests whose answers are kept, in case they are delivered again: how many,
# and how many bytes of answers. A request that was forgotten runs again.
_REMEMBERED: Final = 1000
_REMEMBERED_BYTES: Final = 8 << 20
_MS: Final = 1_000_000


@dataclass(slots=True, eq=False)
class _Link:
    """One connection to the broker, from attaching to loss."""

    broker: Broker
    consumer: Consumer | None = None


@dataclass(slots=True, eq=False)
class _Request:
    """One request that was received and is not finished."""

    document: RequestDocument
    path: str
    no: int
    delivery: Delivery
    link: _Link | None
    expires_ns: int | None
    context: Context | None = None
    task: asyncio.Task[None] | None = None

    @property
    def sn(self) -> str:
        return self.document.sn


class _Answer(msgspec.Struct, frozen=True):
    """How a request was answered: phase of the call, and document."""

    kind: str
    body: bytes


@final
class AgentServer:
    """Serves the `@remote` methods of plugins under one agent id.

    `start` and `stop` make it the software of a host:
    `sim.host("jortel", lambda: AgentServer("jortel", Dog))`.

    Args:
        id: The agent's id, the name of its queue.
        plugins: Classes with `@remote` methods, or modules with such classes and
            functions. Where two offer one name, the first wins.
        broker: The broker's URL; `None` takes the world's own or the local one.
        threads: How many requests run at once.

    Raises:
        TypeError: A plugin is neither a class nor a module.
        ValueError: `threads` is below 1.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - the documented name
        /,
        *plugins: type | ModuleType,
        broker: str | None = None,
        threads: int = 1,
    ) -> None:
        if threads < 1:
            raise ValueError(f"an agent needs at least 1 thread, not {threads}")
        self.id: Final = id
        self._catalogue = Catalogue(plugins)
        self._broker = broker
        self._threads = threads
        self._ports: Ports | None = None
        self._link: _Link | None = None
        self._changed = asyncio.Event()
        self._attaching: asyncio.Task[None] | None = None
        self._waiting: deque[_Request] = deque()
        self._known: dict[str, _Request] = {}
        self._finished: OrderedDict[str, _Answer | None] = OrderedDict()
        self._finished_bytes = 0
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._busy = 0
        self._stopping = False

    def __repr__(self) -> str:
        state = "stopping" if self._stopping else "attached" if self._link else "idle"
        return (
            f"<AgentServer {self.id!r} {state}: {self._busy} running, "
            f"{len(self._waiting)} waiting>"
        )

    @property
    def ports(self) -> Ports:
        """The ports it was started on.

        Raises:
            RuntimeError: It was not started.
        """
        if self._ports is None:
            raise RuntimeError(f"agent {self.id!r} was not started")
        return self._ports

    # -- coming and going ------------------------------------------------------------

    async def start(self) -> None:
        """Attach to the broker and serve; waits, and tries again, until it is there.

        Raises:
            RuntimeError: It was started before; make a new one.
        """
        if self._ports is not None:
            raise RuntimeError(f"agent {self.id!r} was started before; make a new one")
        self._ports = current()
        await self._attach(_FIRST_PAUSE)

    async def stop(self, grace: Duration = STOP_GRACE) -> None:
        """Take no more requests, let those that run end and answer, then detach.

        Running methods see `Context.current().cancelled()`. What still runs after the
        grace is cancelled; its requests stay with the broker, as those that wait do.

        Args:
            grace: Seconds of the host's clock.
        """
        self._stopping = True
        self._waiting.clear()
        for request in self._known.values():
            if request.context is not None:
                request.context.cancel()
        if self._attaching is not None:
            self._attaching.cancel()
        self._pulse()
        if self._tasks:
            await self._end_tasks(grace)
        link, self._link = self._link, None
        if link is not None and link.consumer is not None:
            with contextlib.suppress(Disconnected):
                await link.consumer.cancel()

    async def _end_tasks(self, grace: Duration) -> None:
        clock = self.ports.clock
        try:
            async with Deadline(clock, clock.now_ns() + to_ns(grace)):
                while self._tasks:
                    await asyncio.wait(list(self._tasks))
        except TimeoutError:
            names = ", ".join(task.get_name() for task in self._tasks)
            log.warning("stopping agent %s, these still ran: %s", self.id, names)
            left = list(self._tasks)
            for task in left:
                task.cancel()
            await asyncio.wait(left)
            self._tasks.clear()  # those that had not begun, too

    async def _attach(self, pause: float) -> None:
        url = broker_url(self.ports, self._broker)
        while True:
            try:
                await self._link_up(url)
            except OSError as error:
                log.warning("agent %s: %s", self.id, error)
                await self.ports.clock.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                return

    async def _link_up(self, url: str) -> None:
        link = _Link(await broker_for(self.ports, url))
        await link.broker.declare(self.id, _REQUESTS)
        # Before consuming: the first request may be here before `consume` returns.
        self._link = link
        try:
            link.consumer = await link.broker.consume(
                self.id,
                lambda delivery: self._on_message(link, delivery),
                # Only what can run now is taken, so that other agents on this queue
                # get the rest, and a crash here disturbs no more than that.
                prefetch=self._threads,
                on_lost=lambda error: self._on_lost(link, error),
            )
        except OSError:
            self._link = None
            raise
        self._pulse()

    def _on_lost(self, link: _Link, error: BaseException) -> None:
        log.warning("agent %s lost its broker: %s", self.id, error)
        if self._link is link:
            self._link = None
        # What has not begun will be delivered again. What runs goes on, and answers
        # over the next connection.
        for request in self._waiting:
            del self._known[request.sn]
        self._waiting.clear()
        if not self._stopping:
            self._attaching = asyncio.ensure_future(self._attach_again())

    async def _attach_again(self) -> None:
        await self.ports.clock.sleep(_LOST_PAUSE)
        await self._attach(_LOST_PAUSE * 2)

    def _pulse(self) -> None:
        """Wake those who wait for another connection, or for the end."""
        self._changed.set()
        self._changed.clear()

    # -- requests coming in ----------------------------------------------------------

    def _on_message(self, link: _Link, delivery: Delivery) -> None:
        if self._stopping:
            return  # it goes back to the queue when the consumer is cancelled
        try:
            document = decode_request(delivery.body)
        except InvalidRequest as invalid:
            self._refuse(delivery, invalid)
            return
        except RemoteProtocolError as error:
            self._drop(delivery, "", "undecodable", str(error))
            return
        sn = document.sn
        if document.version != CLASSIC:
            found = f"version {document.version!r}, expected {CLASSIC!r}"
            self._drop(delivery, sn, "version", found)
            return
        known = self._known.get(sn)
        if known is not None and known.link is not link:
            # The message it came with went back to the queue with its connection, and
            # comes again while it still runs: from now on it stands for this one.
            known.delivery, known.link = delivery, link
        elif known is not None:
            self._drop(delivery, sn, "duplicate", "it is pending or running")
        elif delivery.redelivered and sn in self._finished:
            # The acknowledgement was lost, and maybe the answer before it.
            answer = self._finished[sn]
            if answer is not None:
                request = self._request(link, delivery, document)
                again = self._answer_again(request, answer)
                self._spawn(again, f"{self.id}: {request.path}")
            else:
                self._drop(delivery, sn, "finished", "it was done before")
        else:
            self._take(link, delivery, document)

    async def _answer_again(self, request: _Request, answer: _Answer) -> None:
        self._tell("call.discarded", request, ("reason", "finished"))
        if await self._send(request, answer.kind, answer.body, again=True):
            request.delivery.ack()

    def _request(
        self, link: _Link, delivery: Delivery, document: RequestDocument
    ) -> _Request:
        ports = self.ports
        path = f"{document.request.classname}.{document.request.method}"
        ttl = delivery.ttl_ms
        return _Request(
            document=document,
            path=path,
            no=ports.entropy.sequence(f"served/{path}"),
            delivery=delivery,
            link=link,
            expires_ns=None if ttl is None else ports.clock.now_ns() + ttl * _MS,
        )

    def _take(self, link: _Link, delivery: Delivery, document: RequestDocument) -> None:
        request = self._request(link, delivery, document)
        self._tell("call.received", request, ("redelivered", delivery.redelivered))
        self._known[request.sn] = request
        self._waiting.append(request)
        self._pump()

    def _pump(self) -> None:
        while self._waiting and self._busy < self._threads:
            request = self._waiting.popleft()
            self._busy += 1
            name = f"{self.id}: {request.path}"
            task = asyncio.create_task(self._serve(request), name=name)
            if not task.done():  # an eager one may be
                # It takes itself out: a callback would cost every request a turn.
                self._tasks[task] = None
                request.task = task

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._tasks.pop(task, None))

    def _refuse(self, delivery: Delivery, invalid: InvalidRequest) -> None:
        foreign = invalid.version not in (CLASSIC, None)
        reason = "version" if foreign else "invalid"
        if foreign or invalid.replyto is None:
            self._drop(delivery, invalid.sn, reason, str(invalid))
            return
        self._spawn(self._reject(delivery, invalid), f"{self.id}: reject")

    async def _reject(self, delivery: Delivery, invalid: InvalidRequest) -> None:
        info = MessageInfo(
            system="agent",
            kind="error",
            method="",
            call_id=invalid.sn,
            src=self.ports.host,
            dst=invalid.replyto or "",
        )
        link = self._link
        if link is not None and invalid.replyto is not None:
            body = rejected_body(self.id, invalid)
            with contextlib.suppress(RpcError):
                await link.broker.publish(invalid.replyto, body, info=info)
        self._drop(delivery, invalid.sn, "invalid", str(invalid))

    def _drop(self, delivery: Delivery, sn: str, reason: str, told: str) -> None:
        log.warning("agent %s dropped a request (%s): %s", self.id, reason, told)
        self.ports.trace.emit(
            "call.discarded", (("system", "agent"), ("id", sn), ("reason", reason))
        )
        delivery.ack()

    # -- one request -----------------------------------------------------------------

    async def _serve(self, request: _Request) -> None:
        try:
            if await self._execute(request):
                request.delivery.ack()
        finally:
            self._known.pop(request.sn, None)
            # Its progress report leads back to it: cut here, or every request would
            # wait for the garbage collector.
            request.context = None
            if request.task is not None:
                self._tasks.pop(request.task, None)
                request.task = None
            self._busy -= 1
            if not self._stopping:
                self._pump()

    async def _execute(self, request: _Request) -> bool:
        """Run it and answer; `False` if it must be delivered again."""
        ports, document = self.ports, request.document
        expires = request.expires_ns
        if expires is not None and ports.clock.now_ns() > expires:
            self._tell("call.discarded", request, ("reason", "expired"))
            return True
        ports.points.point("agent.before_execute", sn=request.sn, method=request.path)
        if document.replyto is not None:
            body = started_body(self.id, document)
            if not await self._send(request, "started", body, again=False):
                return False
        ended = await self._run(request)
        ports.points.point("agent.after_execute", sn=request.sn, method=request.path)
        if document.replyto is None:
            self._remember(request.sn, None)
            return True
        body = result_body(self.id, document, ended)
        ports.points.point("agent.before_reply", sn=request.sn, method=request.path)
        kind = "reply" if ended.error is None else "error"
        sent = await self._send(request, kind, body, again=True)
        if sent:
            self._remember(request.sn, _Answer(kind, body))
        ports.points.point("agent.after_reply", sn=request.sn, method=request.path)
        return sent

    async def _run(self, request: _Request) -> Ended:
        document = request.document
        try:
            procedure = self._resolve(document.request)
        except DispatchError as error:
            return Ended(error=error)
        context = self._context(request)
        self._tell("call.exec_start", request)
        with context:
            ended = await perform(
                procedure,
                document.request.args or (),
                document.request.keywords,
                cntr=document.request.constructor,
                bridge=self.ports.bridge,
            )
        self._tell(
            "call.exec_end",
            request,
            ("outcome", "ok" if ended.error is None else "raised"),
            ("error", "" if ended.error is None else type(ended.error).__name__),
        )
        await context.progress.flush()
        return ended

    def _resolve(self, request: Invocation) -> Procedure:
        """Find what may be called, checking in the order of gofer.md 10.1."""
        classname, method = request.classname, request.method
        try:
            procedure = self._catalogue.resolve(classname, method)
        except Unresolved as missing:
            error: DispatchError
            if missing.missing == "namespace":
                error = ClassNotFound(classname)
            else:
                error = MethodNotFound(classname, method)
            error.add_note(f"agent {self.id}: {missing}")
            raise error from None
        if procedure.marks is None:
            refused = NotPermitted(procedure.path)
            refused.add_note(f"agent {self.id}: decorate it with @remote to offer it")
            raise refused
        return procedure

    def _context(self, request: _Request) -> Context:
        document = request.document

        async def send(body: bytes) -> None:
            await self._send(request, "progress", body, again=False)

        wanted = document.replyto is not None
        progress = ProgressReport(
            self.ports.bridge,
            (lambda values: progress_body(self.id, document, values))
            if wanted
            else None,
            send,
        )
        request.context = Context(request.sn, request.path, progress)
        return request.context

    async def _send(
        self, request: _Request, kind: str, body: bytes, *, again: bool
    ) -> bool:
        """Hand a document to the transport.

        Args:
            request: Whose.
            kind: Phase of the call it tells of.
            body: The document.
            again: Whether to send it over the next connection if this one is lost.

        Returns:
            Whether it was handed over, or nobody is there to want it.
        """
        document = request.document
        address = document.replyto or ""
        attempt = 0
        while True:
            link = self._link
            if link is not None:
                attempt += 1
                info = _info(self.ports, request, kind, attempt)
                try:
                    # No confirm is waited for: a status the caller can do without, and
                    # a result is given again if its request is delivered again.
                    await link.broker.post(
                        address,
                        body,
                        info=info,
                        on_refused=self._refused if again else None,
                    )
                except Disconnected:
                    pass
                except RpcError as error:  # it does not fit into a frame
                    self._refused(error)
                    return True
                else:
                    return True
            if not again:
                return False
            while self._link is link or self._link is None:
                if self._stopping:
                    return False
                await self._changed.wait()

    def _refused(self, error: Exception) -> None:
        if not isinstance(error, Unroutable):  # else the caller is gone
            log.warning("agent %s could not answer: %s", self.id, error)

    def _remember(self, sn: str, answer: _Answer | None) -> None:
        finished = self._finished
        finished[sn] = answer
        if answer is not None:
            self._finished_bytes += len(answer.body)
        while len(finished) > _REMEMBERED or self._finished_bytes > _REMEMBERED_BYTES:
            _, oldest = finished.popitem(last=False)
            if oldest is not None:
                self._finished_bytes -= len(oldest.body)

    def _tell(self, kind: str, request: _Request, *more: tuple[str, Any]) -> None:
        self.ports.trace.emit(
            kind,
            (
                ("system", "agent"),
                ("method", request.path),
                ("id", request.sn),
                *more,
            ),
        )


def _info(ports: Ports, request: _Request, kind: str, attempt: int) -> MessageInfo:
    document = request.document
    sender = _first(document.routing)
    return MessageInfo(
        system="agent",
        kind=kind,
        method=request.path,
        call_id=request.sn,
        call_no=request.no,
        attempt=attempt,
        src=ports.host,
        dst=sender or document.replyto or "",
        labels=(("queue", document.replyto or ""),),
    )


def _first(routing: Iterable[Any] | None) -> str:
    """Give the sender's id; ours is the name of its host."""
    sender = next(iter(routing or ()), None)
    return sender if isinstance(sender, str) else ""
