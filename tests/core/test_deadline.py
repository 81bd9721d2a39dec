from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rpcsim.core import Deadline
from rpcsim.ports import NANOS, current
from rpcsim.sim import Sim


async def sleep_within(limit: float | None, sleep: float) -> str:
    clock = current().clock
    when = None if limit is None else clock.now_ns() + round(limit * NANOS)
    deadline = Deadline(clock, when)
    try:
        async with deadline:
            await clock.sleep(sleep)
    except TimeoutError:
        assert deadline.expired
        return f"timeout at {clock.time()}"
    assert not deadline.expired
    return f"done at {clock.time()}"


@pytest.mark.parametrize(
    ("limit", "sleep", "told"),
    [(2, 1, "done at 1.0"), (1, 2, "timeout at 1.0"), (None, 9, "done at 9.0")],
)
def test_the_block_ends_at_the_limit(limit: Any, sleep: Any, told: Any) -> None:
    """Exactly at the limit, on the host's clock; `None` is no limit."""
    with Sim(seed=1) as sim:
        assert sim.run(lambda: sim.bridge.wait(sleep_within(limit, sleep))) == told


def test_a_moved_deadline_counts_from_where_it_was_moved_to() -> None:
    """Moving replaces the limit; lifting it lets the block go on."""

    async def main() -> list[float]:
        clock = current().clock
        times = []
        async with Deadline(clock, NANOS) as deadline:
            await clock.sleep(0.5)
            deadline.move(3 * NANOS)
            await clock.sleep(2)
            deadline.move(None)
            await clock.sleep(10)
            times.append(clock.time())
        try:
            async with Deadline(clock, None) as late:
                late.move(0)
                await clock.sleep(1)
        except TimeoutError:
            times.append(clock.time())
        return times

    with Sim(seed=1) as sim:
        assert sim.run(main) == [12.5, 12.5]


def test_cancellation_from_outside_stays_cancellation() -> None:
    """A task cancelled while its own limit also passes is cancelled, not timed out."""

    async def main() -> str:
        task = asyncio.ensure_future(sleep_within(1, 5))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        both = asyncio.ensure_future(sleep_within(1, 5))
        current().clock.call_later(1, lambda _: both.cancel())
        await asyncio.wait([both])
        return f"{task.cancelled()} {both.cancelled()}"

    with Sim(seed=1) as sim:
        assert sim.run(main) == "True True"


def test_an_error_in_the_block_is_not_hidden() -> None:
    """Only our own cancellation becomes a TimeoutError."""

    async def main() -> None:
        async with Deadline(current().clock, NANOS):
            raise KeyError("k")

    with Sim(seed=1) as sim, pytest.raises(KeyError):
        sim.run(main)
