from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rpcsim.real import Runtime

if TYPE_CHECKING:
    from rpcsim.ports import Entropy


def draws(entropy: Entropy, label: str) -> list[int]:
    stream = entropy.stream(label)
    items = list(range(10))
    stream.shuffle(items)
    return [stream.below(1000), stream.getrandbits(64), stream.choice(items), *items]


def test_named_streams_follow_the_seed() -> None:
    """Same seed and name, same draws; another seed or name, others."""
    assert draws(Runtime(seed=7).entropy, "user") == draws(
        Runtime(seed=7).entropy, "user"
    )
    assert draws(Runtime(seed=7).entropy, "user") != draws(
        Runtime(seed=8).entropy, "user"
    )
    assert draws(Runtime(seed=7).entropy, "user") != draws(
        Runtime(seed=7).entropy, "net"
    )


def test_one_draw_more_changes_no_other_stream() -> None:
    """Streams do not share state, and each name has one stream."""
    one, other = Runtime(seed=7).entropy, Runtime(seed=7).entropy
    one.stream("a").random()
    assert draws(one, "b") == draws(other, "b")
    assert one.stream("a") is one.stream("a")


def test_draws_stay_in_range() -> None:
    """`below` gives every value of small and large ranges only, and refuses none."""
    stream = Runtime().entropy.stream("user")
    assert {stream.below(3) for _ in range(100)} == {0, 1, 2}
    assert 0 <= stream.below(1 << 100) < 1 << 100
    assert 0 <= stream.random() < 1
    with pytest.raises(ValueError, match="positive range"):
        stream.below(0)


def test_ids_are_the_systems() -> None:
    """Two runs of one seed never make the same id: real peers keep them apart."""
    one, other = Runtime(seed=7).entropy, Runtime(seed=7).entropy
    assert one.uuid4() != other.uuid4()
    assert one.uuid4().version == 4
    assert len(one.token_bytes(16)) == 16
    assert one.token_bytes(16) != other.token_bytes(16)
    assert [one.sequence("n"), one.sequence("n"), one.sequence("m")] == [1, 2, 1]
