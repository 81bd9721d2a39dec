"""Fault rules: what they match, and the order in which they are asked.

One `RuleBook` per layer of a run (packets, messages), the same on both machines: it
knows no socket and no loop, only a clock and named streams it is given. The law: rules
are asked in the order they were added, and the first that does not answer `Pass`
decides. A rule draws only when its probability is neither 0 nor 1, from a stream of its
own, so that adding one shifts no other draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from rpcsim.errors import RuleError
from rpcsim.ports._durations import duration_text, to_ns
from rpcsim.ports._verdicts import Pass

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.ports._durations import Duration
    from rpcsim.ports._entropy import Stream
    from rpcsim.ports._verdicts import Verdict

__all__ = ["Rule", "RuleBook"]

T = TypeVar("T")


class Rule(Generic[T]):
    """A rule in force; the end of its `with` block, or `remove`, takes it away.

    Attributes:
        name: What the trace and the report call it.
        seen: Things it matched while it was in force.
        used: How often it decided.
        verdict: What it decides, or the function that says so.
    """

    __slots__ = (
        "_after",
        "_book",
        "_count",
        "_during",
        "_matches",
        "_probability",
        "name",
        "seen",
        "used",
        "verdict",
    )

    def __init__(
        self,
        book: RuleBook[T],
        matches: Callable[[T], bool],
        verdict: Verdict | Callable[[T], Verdict],
        *,
        name: str,
        count: int | None,
        after: int,
        probability: float,
        during: tuple[Duration, Duration] | None,
    ) -> None:
        self.name: Final = name
        self.seen = 0
        self.used = 0
        self._book = book
        self._matches = matches
        self.verdict: Final = verdict
        self._count = _checked_count(count)
        if type(after) is not int or after < 0:
            raise RuleError(f"after= is how many to let pass, from 0, not {after!r}")
        self._after = after
        if not 0 <= probability <= 1:
            raise RuleError(f"a probability is 0 to 1, not {probability!r}")
        self._probability = probability
        self._during = None if during is None else _span(during)

    def __repr__(self) -> str:
        state = "" if self.active else ", removed"
        return f"<rule {self.name}: seen {self.seen}, used {self.used}{state}>"

    @property
    def active(self) -> bool:
        """Whether it is still asked."""
        return self._book.has(self)

    def remove(self) -> None:
        """Take it away; doing so twice does nothing."""
        self._book.remove(self)

    undo = remove  # as every fault is lifted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def decide(self, thing: T, now_ns: int) -> Verdict | None:
        """Ask it about one thing; `None` leaves the thing to the next rule."""
        if self._during is not None and not self._during[0] <= now_ns < self._during[1]:
            return None
        if not self._matches(thing):
            return None
        self.seen += 1
        if self.seen <= self._after or not self._lucky():
            return None
        verdict = self.verdict
        told = verdict(thing) if callable(verdict) else verdict
        if isinstance(told, Pass):
            return None
        self._book.check(told, self.name)
        self.used += 1
        if self.used == self._count:
            self.remove()
        return told

    def _lucky(self) -> bool:
        p = self._probability
        return p == 1 or (p > 0 and self._book.stream(f"fault/{self.name}") < p)


class RuleBook(Generic[T]):
    """The rules of one layer of one run, in the order they were added.

    Args:
        noun: What the rules decide about: `packet`, `message`.
        verdicts: Verdict classes that make sense for it.
        now_ns: Gives nanoseconds since the start of the run.
        streams: Gives the stream of a name.
    """

    __slots__ = ("_all", "_now_ns", "_rules", "_streams", "_verdicts", "noun")

    def __init__(
        self,
        noun: str,
        verdicts: tuple[type[Any], ...],
        *,
        now_ns: Callable[[], int],
        streams: Callable[[str], Stream],
    ) -> None:
        self.noun: Final = noun
        self._verdicts: tuple[type[Any], ...] = (Pass, *verdicts)
        self._now_ns = now_ns
        self._streams = streams
        self._rules: list[Rule[T]] = []
        self._all: dict[str, Rule[T]] = {}

    def __repr__(self) -> str:
        return f"<{len(self._rules)} {self.noun} rules>"

    def __bool__(self) -> bool:
        return bool(self._rules)

    def add(
        self,
        matches: Callable[[T], bool],
        verdict: Verdict | Callable[[T], Verdict],
        *,
        name: str = "",
        count: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        during: tuple[Duration, Duration] | None = None,
    ) -> Rule[T]:
        """Add a rule; it is asked after those that are there.

        Args:
            matches: Whether it is about a thing.
            verdict: What becomes of it, or a function of the thing that says so.
            name: For the trace, the report and the rule's stream; by default
                `message-1`, `message-2`, ... in order of adding.
            count: How often it decides at most; `None` for no limit.
            after: How many matching things it lets pass first.
            probability: Share of the matching things it decides about, 0 to 1.
            during: From and until when, since the start of the run.

        Raises:
            RuleError: The arguments contradict each other or the layer.
        """
        name = name or f"{self.noun}-{len(self._all) + 1}"
        if name in self._all:
            raise RuleError(f"there is a rule {name!r} already; names are unique")
        if not callable(verdict):
            self.check(verdict, name)
        rule = Rule(
            self,
            matches,
            verdict,
            name=name,
            count=count,
            after=after,
            probability=probability,
            during=during,
        )
        self._rules.append(rule)
        self._all[name] = rule
        return rule

    def check(self, verdict: object, name: str) -> None:
        """Refuse a verdict that cannot be carried out on this layer."""
        if isinstance(verdict, self._verdicts):
            return
        known = ", ".join(one.__name__ for one in self._verdicts)
        raise RuleError(
            f"rule {name!r} cannot decide {verdict!r} about a {self.noun} (known: {known})"
        )

    def has(self, rule: Rule[T]) -> bool:
        """Whether a rule is in force."""
        return any(one is rule for one in self._rules)

    def remove(self, rule: Rule[T]) -> None:
        """Take a rule away."""
        self._rules = [one for one in self._rules if one is not rule]

    def stream(self, label: str) -> float:
        """Draw from the stream of a rule."""
        return self._streams(label).random()

    def ask(self, thing: T) -> tuple[Rule[T], Verdict] | None:
        """Have the rules decide; `None`: nothing special happens.

        Raises:
            RuleError: A rule's own function raised, or decided nonsense.
        """
        now = self._now_ns()
        for rule in self._rules:
            try:
                verdict = rule.decide(thing, now)
            except RuleError:
                raise
            except Exception as error:
                raise RuleError(
                    f"rule {rule.name!r} raised {type(error).__name__} about "
                    f"{thing!r} at {duration_text(now)}: {error}"
                ) from error
            if verdict is not None:
                return rule, verdict
        return None

    def unreached(self) -> list[str]:
        """Name the rules that never matched anything, in order of adding."""
        return [name for name, rule in self._all.items() if not rule.seen]


def _checked_count(count: int | None) -> int | None:
    if count is not None and (type(count) is not int or count < 1):
        raise RuleError(f"count= is how often it decides, from 1, not {count!r}")
    return count


def _span(during: tuple[Duration, Duration]) -> tuple[int, int]:
    begin, end = map(to_ns, during)
    if not 0 <= begin < end:
        raise RuleError(
            f"during= is (from, until) with 0 <= from < until, not {during!r}"
        )
    return begin, end
