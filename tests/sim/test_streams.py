"""Named streams: pinned values, uniform choices, no unseeded draw."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcsim.sim._streams import SimEntropy, SimStream, stream_seed


def test_stream_seeds_are_pinned() -> None:
    """The derivation is a promise: these values hold on every platform (10.1)."""
    assert stream_seed(0, "schedule") == 0xD1C601DFCAAA7F0607DF805F46E4B86E
    assert stream_seed(7, "net/a>b") == 0x1A15734FEE005C55484AD19B07E786C0


def test_draws_are_pinned() -> None:
    """As are the choices made from them."""
    stream = SimStream(7, "user/a")
    assert [stream.below(100) for _ in range(6)] == [2, 72, 55, 98, 61, 14]
    items = list("abcdef")
    stream.shuffle(items)
    assert "".join(items) == "fdaceb"
    assert stream.draws == 11


@given(st.integers(), st.integers(), st.text(max_size=20), st.text(max_size=20))
@settings(deadline=None, derandomize=True)
def test_seeds_and_labels_give_different_streams(
    one: int, two: int, label: str, other: str
) -> None:
    """Any whole number is a seed; equal pairs agree, others do not."""
    assert stream_seed(one, label) == stream_seed(one, label)
    if (one, label) != (two, other):
        assert stream_seed(one, label) != stream_seed(two, other)


def test_choices_are_even() -> None:
    """Every index is drawn about equally often."""
    stream = SimStream(1, "even")
    counts = Counter(stream.below(7) for _ in range(7_000))
    assert set(counts) == set(range(7))
    assert all(850 < count < 1150 for count in counts.values())
    assert 0 <= stream.below(10**30) < 10**30
    with pytest.raises(ValueError, match="positive range, not 0"):
        stream.below(0)
    assert stream.choice("x") == "x"
    assert repr(stream) == "<stream even: 7002 draws>"


def test_ids() -> None:
    """Bytes, valid version 4 UUIDs, and counters per label."""
    entropy = SimEntropy(3)
    assert entropy.token_bytes(0) == b""
    assert len(entropy.token_bytes(16)) == 16
    drawn = entropy.uuid4()
    assert isinstance(drawn, UUID)
    assert (drawn.version, drawn.variant) == (4, UUID(int=0, version=4).variant)
    assert [entropy.sequence("a"), entropy.sequence("b"), entropy.sequence("a")] == [
        *(1, 1, 2)
    ]
    assert entropy.stream("x") is entropy.stream("x")
    assert entropy.draws() == {"ids": 2, "x": 0}
