"""RPC rules on real sockets: carried out where a frame is written, with no proxy.

They are exact in kind and count. A delay is a lower bound, whose lateness is measured.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from rpcsim.errors import RuleError
from rpcsim.ports import (
    NANOS,
    AfterDeadline,
    Copies,
    Deliver,
    MessageRules,
    RpcMatch,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.ports import MessageInfo, MessageRule
    from rpcsim.real._engine import Engine
    from rpcsim.real._transport import StreamTransport

__all__ = ["Messages"]

RULE: Final = "rpc delay"


class Messages:
    """The RPC rules of one run, made by the first `net.rpc`."""

    __slots__ = ("_engine", "rules")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.rules = MessageRules(
            now_ns=lambda: time.monotonic_ns() - engine.start_ns,
            clock_ns=time.monotonic_ns,
            streams=engine.entropy.stream,
        )

    def __repr__(self) -> str:
        return repr(self.rules)

    def match(self, **match: Any) -> RpcMatch:
        """Choose messages for a rule."""
        return RpcMatch(self.rules, self._install, **match)

    def _install(
        self,
        verdict: Verdict | Callable[[MessageInfo], Verdict],
        add: Callable[[], MessageRule],
    ) -> MessageRule:
        if is_timed(verdict):
            self._engine.ledger.fault(RULE, f"a rule to {verdict}")
        return self._engine.do(add)

    def send(self, end: StreamTransport, frame: bytes, info: MessageInfo) -> bool:
        """Let the rules decide about a message; says whether it goes out."""
        engine = self._engine
        try:
            return self.rules.send(
                info,
                end.get_protocol(),
                write=partial(end.write, frame),
                later=self._later,
                tell=engine.test.ports.trace.emit,
            )
        except RuleError as error:
            engine.keep(error, f"a rule about {info.kind} of {info.method}")
            raise

    def _later(self, after_ns: int, fn: Callable[[], object]) -> None:
        loop = self._engine.loop
        if not after_ns:
            loop.call_soon(fn)
            return
        due = time.monotonic_ns() + after_ns

        def call() -> None:
            # asyncio fires up to one clock tick early, uvloop counts in milliseconds:
            # never before its time.
            left = due - time.monotonic_ns()
            if left > 0:
                loop.call_later(left / NANOS, call)
                return
            self._engine.ledger.late(RULE, -left)
            fn()

        loop.call_later(after_ns / NANOS, call)


def is_timed(verdict: Verdict | Callable[..., Verdict]) -> bool:
    """Whether a verdict, known beforehand, asks for a moment in time."""
    if isinstance(verdict, Copies):
        return any(verdict.after_ns)
    return isinstance(verdict, Deliver | AfterDeadline)
