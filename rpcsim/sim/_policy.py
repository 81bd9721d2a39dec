"""Which of several runnable entries goes next.

A policy is asked for an index among n runnable entries, 0 being the oldest. The loop
swaps that entry with the head, so all zeros is exactly first in, first out, and the
cost does not depend on n. A single runnable entry is no choice.

A policy is a value that may serve many runs; what it needs during one run is made by
`bind`. Read `Policy` first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias

from rpcsim.sim._taping import TapePlayer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.sim._scheduler import Scheduler
    from rpcsim.sim._streams import SimStream
    from rpcsim.sim._tape import Tape
    from rpcsim.sim._taping import Choices, Rest

__all__ = [
    "POLICIES",
    "Chooser",
    "Fifo",
    "Owned",
    "Pct",
    "Policy",
    "Random",
    "Replay",
    "Scope",
    "owned",
    "pct",
    "policy_of",
    "portfolio",
    "replay",
]

Scope: TypeAlias = Literal["task", "host"]
# Given the number of runnable entries (2 or more), gives the index of the next.
Chooser: TypeAlias = "Callable[[int], int]"

POLICIES: Final = ("fifo", "random", "pct", "portfolio")
SCOPES: Final = ("task", "host")
# What "auto" stands for until a first-in-first-out run was measured: small systems
# of a few hosts and calls make some hundred choices.
AUTO_HORIZON: Final = 1_000
# A strand that was chosen so often in a row, others waiting, loses its priority: code
# that polls with `sleep(0)` would else keep from running what it waits for.
PATIENCE: Final = 1_000
_TEXT: Final = re.compile(r"\s*([A-Za-z_]+)\s*(?:\(([^()]*)\))?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How the simulation chooses among what could run next.

    Attributes:
        scope: `"task"` lets tasks overtake each other, `"host"` only hosts; `None`
            leaves it to the run.
    """

    name: ClassVar[str] = ""
    scope: Scope | None = None

    def __post_init__(self) -> None:
        _known("scope", self.scope, (None, *SCOPES))

    def __str__(self) -> str:
        return _called(self.name, scope=self.scope)

    def bind(
        self, scheduler: Scheduler, stream: Callable[[], SimStream]
    ) -> Chooser | None:
        """Give the chooser for one run; `None` for first in, first out.

        Args:
            scheduler: What it chooses for; knows the strands.
            stream: Gives the stream `schedule`; a policy that draws nothing does not
                ask for it.
        """
        return None

    def source(self) -> Choices | None:
        """Give where the choices of one run come from, if not from its seed."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fifo(Policy):
    """The oldest goes first, always; nothing is drawn."""

    name: ClassVar[str] = "fifo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Random(Policy):
    """Each is as likely as any other."""

    name: ClassVar[str] = "random"

    def bind(
        self, scheduler: Scheduler, stream: Callable[[], SimStream]
    ) -> Chooser | None:
        """Give a chooser that draws an index."""
        return stream().chooser()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pct(Policy):
    """Strands have drawn priorities; the highest runs, and loses it at drawn moments.

    Probabilistic concurrency testing (Burckhardt et al., ASPLOS 2010): a bug that
    needs `depth` ordering decisions in a program of n strands and k choices is met
    with a probability of at least 1 / (n * k ** (depth - 1)).

    Attributes:
        depth: Ordering decisions to look for, at least 1; at `depth - 1` drawn
            choices the strand that would run drops to the lowest priority.
        horizon: Within how many choices these are drawn; `"auto"` is what a first
            run measured where somebody does so, else 1 000.
    """

    name: ClassVar[str] = "pct"
    depth: int = 3
    horizon: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        # Not super(): the class made with slots is another one than this cell's.
        Policy.__post_init__(self)
        if not _whole(self.depth) or self.depth < 1:
            raise ValueError(f"pct: depth is at least 1, not {self.depth!r}")
        if self.horizon != "auto" and (not _whole(self.horizon) or self.horizon < 1):
            raise ValueError(
                f"pct: horizon is 'auto' or at least 1 choice, not {self.horizon!r}"
            )

    def __str__(self) -> str:
        horizon = None if self.horizon == "auto" else self.horizon
        return _called("pct", depth=self.depth, horizon=horizon, scope=self.scope)

    def bind(
        self, scheduler: Scheduler, stream: Callable[[], SimStream]
    ) -> Chooser | None:
        """Give a chooser that looks at the strands; its cost grows with their number."""
        horizon = AUTO_HORIZON if self.horizon == "auto" else self.horizon
        return _Priorities(scheduler, stream(), self.depth, horizon)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay(Policy):
    """The choices of a tape; see `replay`."""

    name: ClassVar[str] = "replay"
    tape: Tape
    strict: bool = True
    rest: Rest = "fifo"

    def __post_init__(self) -> None:
        Policy.__post_init__(self)
        if not hasattr(self.tape, "tracks"):
            raise TypeError(
                f"replay() follows a Tape, not {self.tape!r}; read a file's text with "
                "Tape.loads(text)"
            )
        _known("rest", self.rest, ("fifo", "zero", "seed"))

    def __str__(self) -> str:
        return "replay"

    def bind(
        self, scheduler: Scheduler, stream: Callable[[], SimStream]
    ) -> Chooser | None:
        """Give what chooses where the tape is silent."""
        return stream().chooser() if self.rest == "seed" else None

    def source(self) -> Choices:
        """Give a player at the beginning of the tape."""
        return TapePlayer(self.tape, strict=self.strict, rest=self.rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned(Policy):
    """Choices that somebody else makes; see `owned`."""

    name: ClassVar[str] = "owned"
    choices: Choices = field(compare=False)

    def __post_init__(self) -> None:
        Policy.__post_init__(self)
        if not hasattr(self.choices, "draw"):
            raise TypeError(
                f"owned() needs an object with draw(label, n), not {self.choices!r}"
            )

    def __str__(self) -> str:
        return "owned"

    def source(self) -> Choices:
        """Give the owner."""
        return self.choices


def pct(
    depth: int = 3,
    *,
    horizon: int | Literal["auto"] = "auto",
    scope: Scope | None = None,
) -> Policy:
    """Look for bugs of a known depth; `Pct` tells how."""
    return Pct(depth=depth, horizon=horizon, scope=scope)


def replay(tape: Tape, *, strict: bool = True, rest: Rest = "fifo") -> Policy:
    """Follow a tape; where it is silent, or too short, go on as told.

    Args:
        tape: What to follow; its scope becomes the run's.
        strict: Whether a choice among another number of alternatives than recorded
            is `ReplayError`; else the recorded one is cut to the last alternative.
        rest: What choices that are not on the tape are: `"fifo"` takes those of the
            schedule as 0 and draws the others from the seed, `"zero"` takes all as
            0, `"seed"` draws all.
    """
    scope: Scope | None = getattr(tape, "scope", None)
    return Replay(tape=tape, strict=strict, rest=rest, scope=scope)


def owned(choices: Choices, *, scope: Scope | None = None) -> Policy:
    """Let somebody else make the choices of the run, such as a property-based test.

    Args:
        choices: Asked for every choice by stream and range; may leave some to the
            seed, which for the schedule is first in, first out.
        scope: Which strands may overtake each other.
    """
    return Owned(choices=choices, scope=scope)


def portfolio(seed: int) -> Policy:
    """Give the policy of a seed in a campaign: neither kind finds all.

    Seed 0 is fifo. Of every five others three are random (every fourth of those in
    scope `"host"`), two pct of depths 2, 3, 4, 5 in turn.
    """
    if seed == 0:
        return Fifo()
    block, place = divmod(seed - 1, 5)
    nth, is_pct = divmod(place, 2)
    if is_pct:
        return Pct(depth=2 + (block * 2 + nth) % 4)
    return Random(scope="host" if (block * 3 + nth) % 4 == 3 else None)


def policy_of(given: str | Policy, seed: int) -> Policy:
    """Read what a user gives as a policy.

    Args:
        given: A policy, or its text, such as `"random"`, `"pct(depth=2)"`.
        seed: The run's, by which `"portfolio"` decides.
    """
    if isinstance(given, Policy):
        return given
    if not isinstance(given, str):
        raise TypeError(
            f"a policy is a text such as 'random', or replay(tape), not {given!r}"
        )
    plain = _PLAIN.get(given)
    if plain is not None:
        return plain
    match = _TEXT.fullmatch(given)
    name = match[1] if match else given
    if name in ("replay", "owned"):
        raise ValueError(
            f"policy {name!r} needs more than its name: give an object, as in "
            f"policy={'replay(tape)' if name == 'replay' else 'owned(choices)'}"
        )
    if match is None or name not in POLICIES:
        raise ValueError(f"unknown policy {given!r}{_hint(name, POLICIES)}")
    if name == "portfolio":
        _arguments(name, match[2], {})
        return portfolio(seed)
    made: dict[str, tuple[type[Policy], dict[str, Any]]] = {
        "fifo": (Fifo, {"scope": str}),
        "random": (Random, {"scope": str}),
        "pct": (Pct, {"depth": int, "horizon": _horizon, "scope": str}),
    }
    kind, options = made[name]
    return kind(**_arguments(name, match[2], options))


class _Priorities:
    """The chooser of `Pct` for one run."""

    __slots__ = (
        "_again",
        "_choices",
        "_drops",
        "_last",
        "_lowest",
        "_runnable",
        "_stream",
    )

    def __init__(
        self, scheduler: Scheduler, stream: SimStream, depth: int, horizon: int
    ) -> None:
        self._runnable = scheduler.runnable
        self._stream = stream
        # Latest first, to be taken from the end.
        drops = [stream.below(horizon) for _ in range(depth - 1)]
        self._drops = sorted(drops, reverse=True)
        self._choices = 0
        self._lowest = 0
        # The number of the last choice's priority, and how often it came in a row.
        self._last = -1
        self._again = 0

    def __call__(self, n: int) -> int:
        """Give the index of the highest strand's oldest mention."""
        strands = self._runnable(n)
        index = self._highest(strands)
        drops = self._drops
        while drops and drops[-1] <= self._choices:
            drops.pop()
            index = self._drop(strands, index)
        self._choices += 1
        priority: int = strands[index].priority
        if priority != self._last:
            self._last, self._again = priority, 0
        self._again += 1
        if self._again > PATIENCE:
            index = self._drop(strands, index)
        return index

    def _highest(self, strands: list[Any]) -> int:
        best, found = 0, None
        for index, strand in enumerate(strands):
            try:
                priority = strand.priority
            except AttributeError:  # first seen: the slot costs nobody else anything
                # Above every dropped one.
                priority = strand.priority = 1 + self._stream.below(1 << 48)
            if found is None or priority > found:
                best, found = index, priority
        return best

    def _drop(self, strands: list[Any], index: int) -> int:
        self._lowest -= 1
        strands[index].priority = self._lowest
        return self._highest(strands)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _called(name: str, **options: object) -> str:
    told = [f"{key}={value}" for key, value in options.items() if value is not None]
    return f"{name}({', '.join(told)})" if told else name


def _hint(given: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(given, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (known: {', '.join(known)})"


def _known(option: str, value: object, known: tuple[str | None, ...]) -> None:
    if value not in known:
        names = tuple(name for name in known if name is not None)
        raise ValueError(f"unknown {option} {value!r}{_hint(str(value), names)}")


def _horizon(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _arguments(name: str, text: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Read `key=value, ...` of a policy's text."""
    found: dict[str, Any] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        key, equals, value = (
            piece.strip().strip("'\"") for piece in part.partition("=")
        )
        if not equals or key not in options:
            raise ValueError(
                f"policy {name!r} has no option {part.strip()!r}"
                + _hint(key, tuple(options))
            )
        try:
            found[key] = options[key](value)
        except ValueError:
            raise ValueError(
                f"policy {name!r}: {key} is a number, not {value!r}"
            ) from None
    return found


# Ten thousand runs a second begin with one of these.
_PLAIN: Final[dict[str, Policy]] = {"fifo": Fifo(), "random": Random()}
