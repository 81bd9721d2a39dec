"""RPC rules: faults of whole messages, acting where a frame is handed to a transport.

They are above the network: a dropped message leaves its connection healthy, a delayed
one is overtaken by later ones. So they are the same on both machines, which share
this file: `MessageRules.send` carries a verdict out through two functions of the
machine's own, one that writes now and one that calls later.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from rpcsim.errors import RuleError
from rpcsim.ports._rules import Rule, RuleBook
from rpcsim.ports._verdicts import AfterDeadline, Answer, Copies, Deliver, Drop, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rpcsim.ports._durations import Duration
    from rpcsim.ports._entropy import Stream
    from rpcsim.ports._network import MessageInfo
    from rpcsim.trace import Data

    # Takes (kind, data) pairs; the machine adds host and moment.
    Tell: TypeAlias = Callable[[str, Data], object]
    Decision: TypeAlias = Verdict | Callable[[MessageInfo], Verdict]
    Install: TypeAlias = Callable[
        [Decision, Callable[[], "MessageRule"]], "MessageRule"
    ]

__all__ = ["Answering", "MessageRule", "MessageRules", "RpcMatch"]

MessageRule: TypeAlias = "Rule[MessageInfo]"

KINDS: Final = (
    *("request", "start", "ack", "started", "progress", "packet", "reply", "error"),
    *("notification", "cancel", "poll"),
)
# What a caller sends of its own accord: only these can be answered in place.
ASKING: Final = ("request", "start", "poll")
_FIELDS: Final = ("system", "method", "call_id", "src", "dst")
# Deadlines of calls are remembered for `after_deadline`; one of so many is forgotten
# long after its call has ended.
_REMEMBERED: Final = 100_000


class Answering(Protocol):
    """A protocol whose calls can be answered in place of the callee."""

    def message_answered(self, info: MessageInfo, answer: Answer) -> None:
        """End the call of a request that was not sent."""


class MessageRules:
    """All RPC rules of one run, and how they are carried out.

    Args:
        now_ns: Gives nanoseconds since the start of the run.
        clock_ns: Gives the monotonic clock deadlines are on.
        streams: Gives the stream of a name.
    """

    __slots__ = ("_clock_ns", "_deadlines", "book")

    def __init__(
        self,
        *,
        now_ns: Callable[[], int],
        clock_ns: Callable[[], int],
        streams: Callable[[str], Stream],
    ) -> None:
        self.book: Final[RuleBook[MessageInfo]] = RuleBook(
            "message",
            (Drop, Deliver, Copies, Answer, AfterDeadline),
            now_ns=now_ns,
            streams=streams,
        )
        self._clock_ns = clock_ns
        self._deadlines: dict[str, int] = {}

    def __repr__(self) -> str:
        return repr(self.book)

    def __bool__(self) -> bool:
        return bool(self.book)

    def send(
        self,
        info: MessageInfo,
        protocol: object,
        *,
        write: Callable[[], object],
        later: Callable[[int, Callable[[], object]], object],
        tell: Tell,
    ) -> bool:
        """Carry out what the rules decide about one message.

        Args:
            info: The message.
            protocol: Of the connection it was written to.
            write: Sends it now.
            later: Calls a function after so many nanoseconds.
            tell: Records what was decided.

        Returns:
            Whether it goes out at all: `False` if it was dropped or answered.

        Raises:
            RuleError: A rule cannot be carried out here.
        """
        if info.deadline_ns is not None:
            self._remember(info.call_id, info.deadline_ns)
        decided = self.book.ask(info)
        if decided is None:
            write()
            return True
        rule, verdict = decided
        tell("rule", (*_told(rule, verdict), *_about(info)))
        match verdict:
            case Deliver(after_ns=after):
                self._write_in(after, write, later)
            case Copies(after_ns=delays):
                for after in delays:
                    self._write_in(after, write, later)
            case AfterDeadline(extra_ns=extra):
                self._write_in(self._until_deadline(info) + extra, write, later)
            case Answer():
                answered = getattr(protocol, "message_answered", None)
                if answered is None:
                    raise RuleError(
                        f"rule {rule.name!r}: calls of system {info.system!r} cannot be "
                        f"answered in place of host {info.dst!r}"
                    )
                # Not at once: the caller has not begun to wait.
                later(0, partial(answered, info, verdict))
                return False
            case _:
                return False
        return True

    def _remember(self, call_id: str, deadline_ns: int) -> None:
        deadlines = self._deadlines
        deadlines[call_id] = deadline_ns
        if len(deadlines) > _REMEMBERED:
            del deadlines[next(iter(deadlines))]

    def _until_deadline(self, info: MessageInfo) -> int:
        """Give what is left of the caller's limit; 0 when none is known."""
        deadline = info.deadline_ns
        if deadline is None:
            deadline = self._deadlines.get(info.call_id)
        return 0 if deadline is None else max(0, deadline - self._clock_ns())

    @staticmethod
    def _write_in(
        after_ns: int,
        write: Callable[[], object],
        later: Callable[[int, Callable[[], object]], object],
    ) -> None:
        if after_ns:
            later(after_ns, write)
        else:
            write()


class RpcMatch:
    """Which messages a rule is about, as `net.rpc(...)` was told; a verb adds the rule.

    Names are globs (`Dog.*`). A method without a dot also means the last part of a
    dotted name. `kind="reply"` covers `error`.

    Args:
        rules: Where the rule goes.
        install: Given a verdict and what adds the rule, has it added where rules may
            be changed (a machine's own thread), or refuses it.
        kind: Phase of the call, or several.
        call_no: Number of the call among those of its method, from 1.
        attempt: Number of the sending, from 1.
        labels: More (name, glob) pairs that must be among the message's.
        fields: Globs of `system`, `method`, `call_id`, `src` and `dst`.

    Raises:
        RuleError: Nothing can ever match that.
    """

    __slots__ = (
        "_attempt",
        "_call_no",
        "_globs",
        "_install",
        "_kinds",
        "_labels",
        "_rules",
    )

    def __init__(
        self,
        rules: MessageRules,
        install: Install,
        *,
        kind: str | Sequence[str] | None = None,
        call_no: int | None = None,
        attempt: int | None = None,
        labels: Mapping[str, str] | None = None,
        **fields: str | None,
    ) -> None:
        self._rules = rules
        self._install = install
        self._kinds = _kinds(kind)
        for what, number in (("call_no", call_no), ("attempt", attempt)):
            if number is not None and (type(number) is not int or number < 1):
                raise RuleError(f"{what}= counts from 1, not {number!r}")
        self._call_no = call_no
        self._attempt = attempt
        self._labels = tuple((labels or {}).items())
        unknown = [name for name in fields if name not in _FIELDS]
        if unknown:
            raise RuleError(
                f"messages have no {unknown[0]!r} (known: {', '.join(_FIELDS)}, kind, "
                "call_no, attempt, labels)"
            )
        self._globs = tuple((k, v) for k, v in fields.items() if v is not None)

    def __repr__(self) -> str:
        told = [f"{name}={glob}" for name, glob in self._globs]
        if self._kinds:
            told.insert(0, f"kind={'|'.join(self._kinds)}")
        return f"<messages with {', '.join(told) or 'anything'}>"

    def __call__(self, info: MessageInfo) -> bool:
        """Whether it is about a message."""
        if self._kinds and info.kind not in self._kinds:
            return False
        if self._call_no is not None and info.call_no != self._call_no:
            return False
        if self._attempt is not None and info.attempt != self._attempt:
            return False
        for name, glob in self._globs:
            value: str = getattr(info, name)
            if name == "method" and "." not in glob:
                value = value.rpartition(".")[2]
            if not fnmatchcase(value, glob):
                return False
        have = info.labels
        return all(
            any(name == key and fnmatchcase(value, glob) for key, value in have)
            for name, glob in self._labels
        )

    # -- the verbs ---------------------------------------------------------------------

    def drop(self, **when: Any) -> MessageRule:
        """Have the messages never arrive.

        Args:
            **when: `count`, `after`, `probability`, `during` and `name` of the rule.
        """
        return self._add(Drop(), when)

    def delay(self, by: Duration, **when: Any) -> MessageRule:
        """Have them arrive later; messages sent after them overtake them."""
        return self._add(Deliver(by), when)

    def duplicate(
        self, after: Duration = 0, copies: int = 1, **when: Any
    ) -> MessageRule:
        """Have them arrive again.

        Args:
            after: How long after the first each copy comes.
            copies: How many more than one.
            **when: As for `drop`; how many to let pass is `skip` here.
        """
        if type(copies) is not int or copies < 1:
            raise RuleError(f"copies= is how many more, from 1, not {copies!r}")
        if "skip" in when:
            when["after"] = when.pop("skip")
        return self._add(Copies([0, *[after] * copies]), when)

    def answer(
        self, value: Any = None, *, error: Exception | None = None, **when: Any
    ) -> MessageRule:
        """Answer in place of the callee, which never sees the request.

        Raises:
            RuleError: They are no requests, or it would be a value and an error.
        """
        if value is not None and error is not None:
            raise RuleError("answer with a value or with an error, not with both")
        kinds = self._kinds or ASKING
        if any(kind not in ASKING for kind in kinds):
            raise RuleError(
                f"only a request can be answered in place, not {' or '.join(kinds)}; "
                "say kind='request'"
            )
        self._kinds = kinds
        return self._add(Answer(value, error), when)

    def after_deadline(self, extra: Duration = "1ms", **when: Any) -> MessageRule:
        """Have them arrive when the caller has given up.

        Args:
            extra: How long after its time limit.
            **when: As for `drop`.
        """
        return self._add(AfterDeadline(extra), when)

    def decide(self, fn: Callable[[MessageInfo], Verdict], **when: Any) -> MessageRule:
        """Have a function decide about each message; what it raises ends the run."""
        return self._add(fn, when)

    def _add(
        self,
        verdict: Decision,
        when: dict[str, Any],
    ) -> MessageRule:
        unknown = [name for name in when if name not in _WHEN]
        if unknown:
            raise RuleError(f"rules have no {unknown[0]!r} (known: {', '.join(_WHEN)})")
        return self._install(
            verdict, lambda: self._rules.book.add(self, verdict, **when)
        )


_WHEN: Final = ("count", "after", "probability", "during", "name")


def _kinds(kind: str | Sequence[str] | None) -> tuple[str, ...]:
    kinds = (kind,) if isinstance(kind, str) else tuple(kind or ())
    for one in kinds:
        if one not in KINDS:
            raise RuleError(
                f"there are no messages of kind {one!r} (known: {', '.join(KINDS)})"
            )
    if "reply" in kinds and "error" not in kinds:
        kinds = (*kinds, "error")
    return kinds


def _told(rule: MessageRule, verdict: Verdict) -> tuple[tuple[str, str], ...]:
    return ("rule", rule.name), ("do", str(verdict))


def _about(info: MessageInfo) -> Data:
    return (
        ("kind", info.kind),
        ("method", info.method),
        ("id", info.call_id),
        ("src", info.src),
        ("dst", info.dst),
    )
