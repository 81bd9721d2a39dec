"""Chance and identity, by named streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import MutableSequence, Sequence
    from uuid import UUID

__all__ = ["Entropy", "Stream"]

T = TypeVar("T")


class Stream(Protocol):
    """One named source of draws; a draw here changes no other stream."""

    def random(self) -> float:
        """Draw a float, 0 <= x < 1."""

    def getrandbits(self, k: int) -> int:
        """Draw `k` random bits."""

    def below(self, n: int) -> int:
        """Draw an integer, 0 <= i < n; `n` is at least 1."""

    def choice(self, items: Sequence[T]) -> T:
        """Draw one of the items."""

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Put the items into a drawn order, in place."""


class Entropy(Protocol):
    """Where a host gets chance and ids from."""

    def stream(self, label: str) -> Stream:
        """Give the stream of that name; the same object each time."""

    def token_bytes(self, n: int) -> bytes:
        """Draw `n` bytes from the stream `ids`."""

    def uuid4(self) -> UUID:
        """Draw a valid version 4 UUID from the stream `ids`."""

    def sequence(self, label: str) -> int:
        """Count: 1, 2, 3, ... for each label."""
