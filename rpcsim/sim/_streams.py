"""Named streams of draws, all derived from one seed.

Stream seeds are a keyed hash of the label, never `hash()`. Only `random()` and
`getrandbits()` of the generator are used; choices and shuffles are our own code, since
the library's may change between versions.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, MutableSequence, Sequence

__all__ = ["SimEntropy", "SimStream", "stream_seed"]

T = TypeVar("T")


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
        draw = self._random

        def choose(n: int) -> int:
            self.draws += 1
            return int(draw() * n)

        return choose

    def choice(self, items: Sequence[T]) -> T:
        """Draw one of the items."""
        return items[self.below(len(items))]

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Put the items into a drawn order, in place (Fisher and Yates)."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]


class SimEntropy:
    """All streams of one run."""

    __slots__ = ("_counts", "_ids", "_streams", "seed")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, SimStream] = {}
        self._counts: dict[str, int] = {}
        self._ids: SimStream | None = None

    def __repr__(self) -> str:
        return f"<entropy of seed {self.seed}: {list(self._streams.values())}>"

    def stream(self, label: str) -> SimStream:
        """Give the stream of that name."""
        stream = self._streams.get(label)
        if stream is None:
            stream = self._streams[label] = SimStream(self.seed, label)
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
