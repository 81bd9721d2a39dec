"""The broker as a call port: a call becomes a request document, documents events."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Self, final

from msgspec import UNSET

from rpcsim.agents._broker import Unroutable, broker_for
from rpcsim.agents._errors import (
    DISPATCH,
    DispatchError,
    DocumentError,
    NotFound,
    RemoteException,
)
from rpcsim.agents._native import NativeBroker
from rpcsim.agents._options import start_of
from rpcsim.core import ErrorRecord, rebuild
from rpcsim.errors import (
    Disconnected,
    LimitExceeded,
    LocalProtocolError,
    RemoteProtocolError,
    RpcError,
)
from rpcsim.ports import (
    Accepted,
    Failed,
    Lost,
    MessageInfo,
    Progress,
    QueueOptions,
    Raised,
    Rejected,
    Returned,
    Started,
)
from rpcsim.wire import (
    CLASSIC,
    Invocation,
    ReplyDocument,
    Result,
    decode_reply,
    encode_document,
    request_document,
)

if TYPE_CHECKING:
    from rpcsim.ports import Answer, Broker, Call, Delivery, Event, Ports

__all__ = ["BrokerCalls", "broker_calls", "broker_url"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

log = logging.getLogger("rpcsim.agents")

DEFAULT_URL: Final = "rpcsim://localhost:5670"
# gofer.md 17: non-durable; exclusive where caller and reader share a connection.
_REPLIES: Final = QueueOptions(durable=False, exclusive=True)
# Calls waiting for replies over one connection (simulation.md 12): beyond it a caller is
# told, instead of memory growing with a peer that never answers.
PENDING_LIMIT: Final = 10_000
_MS: Final = 1_000_000


def broker_url(ports: Ports, url: str | None) -> str:
    """Give the broker's URL: the one asked for, the world's own, or the local one."""
    return url or ports.services.get("broker") or DEFAULT_URL


def broker_calls(ports: Ports, url: str | None) -> BrokerCalls:
    """Give the call port of a host to a broker, made on first use."""
    address = broker_url(ports, url)
    return ports.resources.obtain(
        ("agents.calls", address), lambda: BrokerCalls(ports, address)
    )


@final
class BrokerCalls:
    """Carries the agent calls of one host over one broker connection.

    The reference makes a reply queue for each call and removes it afterwards. Here all
    calls of a connection share one exclusive queue, because declaring, consuming and
    deleting cost eight frames a call, twice as much as the call itself. What the
    queue's removal was for holds all the same: replies are told apart by their serial
    number, one that nobody waits for is acknowledged and dropped, and the queue is gone
    with the connection.
    """

    def __init__(self, ports: Ports, url: str) -> None:
        self.ports = ports
        self.url = url
        self.pending: dict[str, _BrokerExchange] = {}
        self._replies: tuple[Broker, str] | None = None
        self._attaching: asyncio.Task[tuple[Broker, str]] | None = None

    def __repr__(self) -> str:
        return f"<BrokerCalls {self.url}: {len(self.pending)} pending>"

    def open(self, call: Call) -> _BrokerExchange:
        """Begin a call; nothing is sent before the first event is awaited."""
        return _BrokerExchange(self, call)

    async def attach(self) -> tuple[Broker, str]:
        """Give the broker and the reply queue; connect if there is none.

        Raises:
            Disconnected: Nobody answers there; the text says how to start a broker.
        """
        if self._replies is not None:
            return self._replies
        if self._attaching is None:
            self._attaching = asyncio.ensure_future(self._attach())
            self._attaching.add_done_callback(self._attached)
        # Shielded: a caller whose time is up must not take the others' connection away.
        return await asyncio.shield(self._attaching)

    def _attached(self, task: asyncio.Task[tuple[Broker, str]]) -> None:
        self._attaching = None
        if not task.cancelled():
            task.exception()  # seen, even if every waiter has left meanwhile

    async def _attach(self) -> tuple[Broker, str]:
        broker = await broker_for(self.ports, self.url)
        if isinstance(broker, NativeBroker):
            broker.on_answered = self._on_answered
        queue = str(self.ports.entropy.uuid4())
        await broker.declare(queue, _REPLIES)
        await broker.consume(
            queue, self._on_message, auto_ack=True, on_lost=self._on_lost
        )
        self._replies = broker, queue
        return self._replies

    def _on_lost(self, error: BaseException) -> None:
        self._replies = None
        lost = Disconnected(
            f"the connection to the broker at {self.url} was lost while the call was "
            f"under way ({error}); whether it ran is not known"
        )
        for exchange in list(self.pending.values()):
            exchange.put(Lost(lost))

    def _on_answered(self, info: MessageInfo, answer: Answer) -> None:
        """A fault rule answered in the agent's place."""
        exchange = self.pending.get(info.call_id)
        if exchange is not None:
            error = answer.error
            exchange.put(Returned(answer.value) if error is None else Raised(error))

    def _on_message(self, delivery: Delivery) -> None:
        try:
            document = decode_reply(delivery.body)
        except RemoteProtocolError as error:
            log.warning("dropped a document on %s: %s", delivery.queue, error)
            return
        exchange = self.pending.get(document.sn)
        if exchange is None:
            # Its call has ended, or was never ours (gofer.md 4.1).
            self.ports.trace.emit(
                "call.late", (("system", "agent"), ("id", document.sn))
            )
            return
        event = _event(document, exchange.call)
        if event is not None:
            exchange.put(event)


@final
class _BrokerExchange:
    """One call on its way: its events in order."""

    __slots__ = ("_calls", "_events", "_over", "_sent", "_waiter", "call")

    def __init__(self, calls: BrokerCalls, call: Call) -> None:
        self.call = call
        self._calls = calls
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._sent = False
        self._over = False

    def __repr__(self) -> str:
        return f"<Exchange {self.call.target} {self.call.path} {self.call.id}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        if not self._sent:
            self._sent = True
            event = await self._send()
        else:
            while not self._events:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            event = self._events.popleft()
        self._over = isinstance(event, _FINAL)
        return event

    def put(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def aclose(self) -> None:
        """Take no more events; replies that still come are dropped."""
        self._over = True
        self._calls.pending.pop(self.call.id, None)

    async def _send(self) -> Event:
        call, calls = self.call, self._calls
        try:
            broker, queue = await calls.attach()
        except RpcError as error:
            return Failed(error)
        wants_reply = not call.options.get("async_")
        try:
            body = _request(call, queue if wants_reply else None)
        except LocalProtocolError as error:
            error.add_note(f"in {call.path}() of agent {call.target!r}")
            return Failed(error)
        if wants_reply:
            if len(calls.pending) >= PENDING_LIMIT:
                return Failed(
                    LimitExceeded(
                        f"{call.path}() of agent {call.target!r} was not sent: "
                        f"{PENDING_LIMIT} calls of host {call.caller!r} wait for "
                        f"replies over its connection to {calls.url}; wait for some, "
                        "or give them shorter timeouts"
                    )
                )
            calls.pending[call.id] = self
        try:
            ttl_ms, info = _ttl_ms(call), _info(call, calls.ports)
            if wants_reply:
                # The reply is the confirm: only a refusal is told by itself.
                await broker.post(
                    call.target,
                    body,
                    ttl_ms=ttl_ms,
                    info=info,
                    on_refused=self._on_refused,
                )
            else:
                await broker.publish(call.target, body, ttl_ms=ttl_ms, info=info)
        except Unroutable as error:
            return Failed(_not_found(call, calls.url, error))
        except Disconnected as error:
            return Lost(error)
        except RpcError as error:  # refused: too long, or the queue is full
            return Failed(error)
        return Accepted(call.id)

    def _on_refused(self, error: Exception) -> None:
        if isinstance(error, Unroutable):
            error = _not_found(self.call, self._calls.url, error)
        self.put(Failed(error))


_FINAL: Final = (Returned, Raised, Failed, Rejected, Lost)


def _not_found(call: Call, url: str, error: BaseException) -> NotFound:
    return NotFound(
        f"no agent {call.target!r} at the broker {url} ({error}); "
        f"{call.path}() was not sent. Start the agent under that id, or correct the id"
    )


# -- calls to documents --------------------------------------------------------------


def _request(call: Call, replyto: str | None) -> bytes:
    classname, _, method = call.path.rpartition(".")
    options = call.options
    user = options.get("user")
    return encode_document(
        request_document(
            sn=call.id,
            version=CLASSIC,
            # The agent tells us apart by host, as rules and traces do.
            sender=call.caller,
            target=call.target,
            replyto=replyto,
            user_data=options.get("any"),
            window=options.get("window"),
            secret=options.get("secret"),
            pam={"user": user, "password": options.get("password")} if user else None,
            request=Invocation(
                classname=classname,
                method=method,
                args=call.args,
                kws=call.kwargs,
                cntr=call.cntr,
            ),
        )
    )


def _ttl_ms(call: Call) -> int | None:
    """Give the message's time to live: the start limit (gofer.md 4.1, 5.2)."""
    options = call.options
    if options.get("async_") and options.get("timeout") is None:
        return None
    start = start_of(options.get("timeout"))
    # At least 1: a limit below a millisecond must not mean that there is none.
    return None if start is None else max(start // _MS, 1)


def _info(call: Call, ports: Ports) -> MessageInfo:
    return MessageInfo(
        system="agent",
        kind="request",
        method=call.path,
        call_id=call.id,
        call_no=ports.entropy.sequence(f"call/{call.path}"),
        src=call.caller,
        dst=call.target,
        deadline_ns=call.deadline_ns,
    )


# -- documents to events -------------------------------------------------------------


def _event(document: ReplyDocument, call: Call) -> Event | None:
    result = document.result
    if isinstance(result, Result):
        if result.retval is not UNSET:
            return Returned(result.retval)
        error = _error(result, bool(call.options.get("import_exceptions")))
        # A dispatch error says that the method did not run.
        return Failed(error) if isinstance(error, DispatchError) else Raised(error)
    match document.status:
        case "accepted":
            return Accepted(document.sn, status=True)
        case "started":
            return Started()
        case "progress":
            return Progress(_report(document))
        case "rejected":
            return Rejected(
                DocumentError(
                    str(_given(document.code, "")),
                    str(_given(document.description, "")),
                    details=_given(document.details),
                    sn=document.sn,
                )
            )
    log.warning("dropped a status of unknown kind %r", document.status)
    return None


def _given(value: Any, default: Any = None) -> Any:
    return default if value is UNSET or value is None else value


def _report(document: ReplyDocument) -> dict[str, Any]:
    data = document.user_data
    return {
        "sn": document.sn,
        "any": data,
        "data": data,
        "total": _given(document.total, 0),
        "completed": _given(document.completed, 0),
        "details": _given(document.details, {}),
    }


def _error(result: Result, import_any: bool) -> Exception:
    state, args = _given(result.xstate), _given(result.xargs)
    module, name = _given(result.xmodule), _given(result.xclass)
    record = ErrorRecord(
        name=name if isinstance(name, str) else "",
        module=module if isinstance(module, str) else None,
        args=args if isinstance(args, list) else (),
        state=state if isinstance(state, dict) else {},
        trace=_given(result.exval, ""),
    )
    return rebuild(record, own=DISPATCH, fallback=_foreign, import_any=import_any)


def _foreign(record: ErrorRecord) -> RemoteException:
    return RemoteException(
        record.trace,
        xmodule=record.module,
        xclass=record.name or None,
        xstate=record.state,
        xargs=record.args,
    )
