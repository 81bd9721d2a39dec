"""Chance on the real machine: system randomness for ids, seeded streams by name."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import MutableSequence, Sequence

__all__ = ["RealEntropy", "SeededStream"]

T = TypeVar("T")


def _stream_seed(seed: int, label: str) -> int:
    """Give the seed of one stream: BLAKE2b-128 of the label, keyed with the seed.

    The derivation is the simulation's, so that a user's stream draws the same values
    on both machines.
    """
    key = seed.to_bytes((seed.bit_length() + 8) // 8 or 1, "little", signed=True)
    digest = hashlib.blake2b(label.encode(), key=key[:64], digest_size=16).digest()
    return int.from_bytes(digest, "little")


class SeededStream:
    """One named stream; only `random()` and `getrandbits()` of its generator are used.

    The library's `choice` and `shuffle` may change between versions, ours do not.
    """

    __slots__ = ("_bits", "_random", "label")

    def __init__(self, seed: int, label: str) -> None:
        generator = random.Random(_stream_seed(seed, label))
        self._random = generator.random
        self._bits = generator.getrandbits
        self.label = label

    def __repr__(self) -> str:
        return f"<stream {self.label}>"

    def random(self) -> float:
        """Draw a float, 0 <= x < 1."""
        return self._random()

    def getrandbits(self, k: int) -> int:
        """Draw `k` random bits."""
        return self._bits(k)

    def below(self, n: int) -> int:
        """Draw an integer, 0 <= i < n."""
        if n < 1:
            raise ValueError(f"below() needs a positive range, not {n}")
        if n < 1 << 32:
            return int(self._random() * n)
        return self._bits(n.bit_length() + 64) % n

    def choice(self, items: Sequence[T]) -> T:
        """Draw one of the items."""
        return items[self.below(len(items))]

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Put the items into a drawn order, in place (Fisher and Yates)."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]


class RealEntropy:
    """Chance of one runtime; safe to use from several threads."""

    __slots__ = ("_counts", "_lock", "_streams", "seed")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, SeededStream] = {}
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<entropy of seed {self.seed}: {list(self._streams)}>"

    def stream(self, label: str) -> SeededStream:
        """Give the stream of that name; the same object each time."""
        with self._lock:
            stream = self._streams.get(label)
            if stream is None:
                stream = self._streams[label] = SeededStream(self.seed, label)
            return stream

    def token_bytes(self, n: int) -> bytes:
        """Give `n` bytes of the system's randomness."""
        return os.urandom(n)

    def uuid4(self) -> uuid.UUID:
        """Give a version 4 UUID of the system's randomness."""
        return uuid.uuid4()

    def sequence(self, label: str) -> int:
        """Count: 1, 2, 3, ... for each label."""
        with self._lock:
            count = self._counts[label] = self._counts.get(label, 0) + 1
            return count
