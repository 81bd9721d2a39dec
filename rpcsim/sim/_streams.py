"""Named streams of draws, all derived from one seed.

Stream seeds are a keyed hash of the label, never `hash()`. Only `random()` and
`getrandbits()` of the generator are used; choices and shuffles are our own code, since
the library's may change between versions.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, MutableSequence, Sequence

    from rpcsim.sim._taping import Tap

__all__ = ["SimEntropy", "SimStream", "TapedStream", "stream_seed"]

T = TypeVar("T")

# Streams that are on no tape: the policy's choices are written down instead of its
# draws, and ids follow from the seed alone, so that a zero makes no two of them equal.
UNTAPED: Final = frozenset({"schedule", "ids", "ambient", "ambient-bytes"})
# A float has this many bits, all of them drawn (random.random, documented).
_FLOAT: Final = 1 << 53


def stream_seed(seed: int, label: str) -> int:
    """Give the seed of one stream: BLAKE2b-128 of the label, keyed with the seed."""
    key = seed.to_bytes((seed.bit_length() + 8) // 8 or 1, "little", signed=True)
    digest = hashlib.blake2b(label.encode(), key=key[:64], digest_size=16).digest()
    return int.from_bytes(digest, "little")


class SimStream:
    """One stream; counts its draws."""

    __slots__ = ("_bits", "_random", "draws", "label")

    def __init__(self, seed: int, label: str) -> None:
        generator = random.Random(stream_seed(seed, label))
        self._random = generator.random
        self._bits = generator.getrandbits
        self.label = label
        self.draws = 0

    def __repr__(self) -> str:
        return f"<stream {self.label}: {self.draws} draws>"

    def random(self) -> float:
        """Draw a float, 0 <= x < 1."""
        self.draws += 1
        return self._random()

    def getrandbits(self, k: int) -> int:
        """Draw `k` random bits."""
        self.draws += 1
        return self._bits(k)

    def below(self, n: int) -> int:
        """Draw an integer, 0 <= i < n."""
        if n < 1:
            raise ValueError(f"below() needs a positive range, not {n}")
        self.draws += 1
        # 53 bits of the float are far more than any range of choices here, and one
        # call is cheaper than the library's rejection loop.
        if n < 1 << 32:
            return int(self._random() * n)
        return self._bits(n.bit_length() + 64) % n

    def chooser(self) -> Callable[[int], int]:
        """Give a lean `below`, for the one place that draws on every turn."""
        return Drawing(self, self._random)

    def choice(self, items: Sequence[T]) -> T:
        """Draw one of the items."""
        return items[self.below(len(items))]

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Put the items into a drawn order, in place (Fisher and Yates)."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]


class Drawing:
    """Draws an index below n; the scheduler draws by `uniform` itself, a call less.

    Attributes:
        stream: Where the draws are counted.
        uniform: Draws a float, 0 <= x < 1.
    """

    __slots__ = ("stream", "uniform")

    def __init__(self, stream: SimStream, uniform: Callable[[], float]) -> None:
        self.stream = stream
        self.uniform = uniform

    def __call__(self, n: int) -> int:
        self.stream.draws += 1
        return int(self.uniform() * n)


class TapedStream(SimStream):
    """A stream whose draws pass the tape: written down, or taken from it."""

    __slots__ = ("_tap",)

    def __init__(self, seed: int, label: str, tap: Tap) -> None:
        super().__init__(seed, label)
        self._tap = tap

    def random(self) -> float:
        """Draw a float, 0 <= x < 1; on the tape, as its 53 bits."""
        drawn = int(super().random() * _FLOAT)
        return self._tap.pick(self.label, _FLOAT, drawn) / _FLOAT

    def getrandbits(self, k: int) -> int:
        """Draw `k` random bits."""
        return self._tap.pick(self.label, 1 << k, super().getrandbits(k))

    def below(self, n: int) -> int:
        """Draw an integer, 0 <= i < n."""
        return self._tap.pick(self.label, n, super().below(n))

    def chooser(self) -> Callable[[int], int]:
        """Give `below`: a lean one would pass the tape by."""
        return self.below


class SimEntropy:
    """All streams of one run.

    Args:
        seed: What they derive from.
        tap: What their draws pass, if the run has a tape.
    """

    __slots__ = ("_counts", "_ids", "_streams", "_tap", "seed")

    def __init__(self, seed: int, tap: Tap | None = None) -> None:
        self.seed = seed
        self._tap = tap
        self._streams: dict[str, SimStream] = {}
        self._counts: dict[str, int] = {}
        self._ids: SimStream | None = None

    def __repr__(self) -> str:
        return f"<entropy of seed {self.seed}: {list(self._streams.values())}>"

    def stream(self, label: str) -> SimStream:
        """Give the stream of that name."""
        stream = self._streams.get(label)
        if stream is None:
            tap = self._tap
            if tap is None or label in UNTAPED:
                stream = SimStream(self.seed, label)
            else:
                stream = TapedStream(self.seed, label, tap)
            self._streams[label] = stream
        return stream

    @property
    def ids(self) -> SimStream:
        """The stream ids are drawn from."""
        if self._ids is None:
            self._ids = self.stream("ids")
        return self._ids

    def token_bytes(self, n: int) -> bytes:
        """Draw `n` bytes."""
        return self.ids.getrandbits(8 * n).to_bytes(n, "little") if n else b""

    def uuid4(self) -> UUID:
        """Draw a version 4 UUID."""
        return UUID(int=self.ids.getrandbits(128), version=4)

    def sequence(self, label: str) -> int:
        """Count: 1, 2, 3, ... for each label."""
        count = self._counts[label] = self._counts.get(label, 0) + 1
        return count

    def draws(self) -> dict[str, int]:
        """Give the number of draws of each stream, in order of first use."""
        return {label: stream.draws for label, stream in self._streams.items()}
