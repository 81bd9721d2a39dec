"""Why two runs of one program differ: the evidence, and the verdict.

The program is run some more times in new interpreters: twice under the same
circumstances, once under another hash seed, once with a disturbed heap, once watched
by a probe. What agrees with what tells the causes apart (simulation.md 10.3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from rpcsim.explore._compare import Mismatch, first_mismatch
from rpcsim.explore._subject import run_fresh
from rpcsim.trace import Difference

if TYPE_CHECKING:
    from rpcsim.explore._probe import Sighting
    from rpcsim.explore._subject import Observed, Subject
    from rpcsim.trace import Record

__all__ = ["Cause", "Laboratory"]

HASH_SEEDS: Final = ("4242", "77")
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{4,}")


@dataclass(frozen=True, slots=True)
class Cause:
    """Why two runs differ.

    Attributes:
        kind: `hash order`, `addresses`, `state`, `real`, `extra draw`, `finaliser`
            or `unknown`.
        told: The same to a person, with the evidence.
        places: Where the differing record was made, `file:line in function`.
    """

    kind: str
    told: str
    places: tuple[str, ...] = ()

    def __str__(self) -> str:
        made = "".join(f"\n  made at {place}" for place in self.places)
        return f"{self.told}{made}"


class Laboratory:
    """Runs a subject again and again, each kind of run once, when asked for.

    Args:
        subject: What differs.
        first: The run it differs from.
    """

    def __init__(self, subject: Subject, first: Observed) -> None:
        self._subject = subject
        self._first = first

    @cached_property
    def _one(self) -> Observed:
        return run_fresh(self._subject, hash_seed=HASH_SEEDS[0])

    @cached_property
    def _repeats(self) -> bool:
        return self._equals(run_fresh(self._subject, hash_seed=HASH_SEEDS[0]))

    @cached_property
    def _minds_hashes(self) -> bool:
        return not self._equals(run_fresh(self._subject, hash_seed=HASH_SEEDS[1]))

    @cached_property
    def _minds_heap(self) -> bool:
        other = run_fresh(self._subject, hash_seed=HASH_SEEDS[0], junk=True)
        return not self._equals(other)

    def _equals(self, other: Observed) -> bool:
        return first_mismatch(self._one, other) is None

    def cause(
        self, found: Difference | Mismatch, second: Observed, *, here: bool
    ) -> Cause:
        """Find the cause of a difference.

        Args:
            found: The first difference.
            second: The run that differs from the first.
            here: Whether that was a run in this process.
        """
        records = [found.left, found.right] if isinstance(found, Difference) else []
        wanted = [(r.kind, r.host) for r in records if r is not None]
        seen = run_fresh(
            self._subject, hash_seed=HASH_SEEDS[0], wanted=wanted
        ).sightings
        at = found.index if isinstance(found, Difference) else len(second.records)
        places = _places(seen, at)
        kind, told = self._verdict(found, second, seen, at, here=here)
        return Cause(kind, told, places)

    def _verdict(
        self,
        found: Difference | Mismatch,
        second: Observed,
        seen: tuple[Sighting, ...],
        at: int,
        *,
        here: bool,
    ) -> tuple[str, str]:
        if _masked_equal(found):
            return "addresses", (
                "a text with an address in it (`repr` of an object without one of its "
                "own): give the class a `__repr__`, or name the thing"
            )
        finaliser = _finaliser(found, seen)
        if finaliser is not None:
            return "finaliser", (
                f"finaliser timing: the record was made in a destructor, at "
                f"{finaliser.place}; when that runs depends on the collector: close the "
                "thing by hand, or with a `with` block"
            )
        if self._repeats:
            # First the heap: another hash seed moves objects too.
            if self._minds_heap:
                return "addresses", (
                    "order by address (`id`, a set of objects): a run on a disturbed "
                    "heap differs; order by a name or a number instead"
                )
            if self._minds_hashes:
                return "hash order", (
                    "order of hashes: runs under one PYTHONHASHSEED agree, under two "
                    "they differ; something iterates over a set of text: sort it"
                )
            return "state", (
                "state left in the process (a cache, a counter in a module): runs in "
                "new interpreters agree; set it up anew in every run"
            )
        calls = [s for s in seen if s.what == "call" and s.at <= at]
        if calls:
            told = {f"{call.name} at {call.place}": None for call in calls}
            names = "; ".join(list(told)[:3])
            return "real", (
                "wall clock, real entropy, real I/O or a thread: not even two runs "
                f"under equal circumstances agree, and before the difference was "
                f"called {names}"
            )
        extra = _extra_draw(self._first, second, seen)
        if extra:
            return "extra draw", extra
        if here or self._minds_heap:
            return "addresses", (
                "order by address (`id`, a set of objects): no two runs agree, and "
                "nothing real was called"
            )
        return "unknown", (
            "unknown: not even two runs under equal circumstances agree, and nothing "
            "known was seen; keep both traces, and compare them"
        )


def _masked_equal(found: Difference | Mismatch) -> bool:
    """Whether both sides have an address, and are equal without."""
    if isinstance(found, Mismatch):
        left, right = found.first, found.second
    else:
        left, right = _text(found.left), _text(found.right)
    one, two = _ADDRESS.sub("0x", left), _ADDRESS.sub("0x", right)
    return one == two and one != left


def _text(record: Record | None) -> str:
    return "" if record is None else repr(record)


def _finaliser(
    found: Difference | Mismatch, seen: tuple[Sighting, ...]
) -> Sighting | None:
    if isinstance(found, Mismatch):
        return None
    names = {f"{r.kind} {r.host}" for r in (found.left, found.right) if r is not None}
    made = (s for s in seen if s.what == "finaliser" and s.name in names)
    return next(made, None)


def _places(seen: tuple[Sighting, ...], at: int) -> tuple[str, ...]:
    """Give where the differing record was made: those of its kind, the nearest first."""
    made = [s for s in seen if s.what in ("record", "finaliser")]
    made.sort(key=lambda s: abs(s.at - at))
    return tuple(dict.fromkeys(s.place for s in made[:1]))


def _extra_draw(first: Observed, second: Observed, seen: tuple[Sighting, ...]) -> str:
    """Tell of the first stream that one run drew from more often."""
    for label in {**first.draws, **second.draws}:
        one, two = first.draws.get(label, 0), second.draws.get(label, 0)
        if one == two or label == "schedule":
            continue
        sites = [s.place for s in seen if s.what == "draw" and s.name == label]
        nth = min(one, two)
        place = f", the extra one at {sites[min(nth, len(sites) - 1)]}" if sites else ""
        return (
            f"extra draw: stream {label!r} was drawn from {one} times in one run, {two} "
            f"in the other{place}"
        )
    return ""
