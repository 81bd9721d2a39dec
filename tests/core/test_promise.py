from __future__ import annotations

import asyncio

import pytest

from rpcsim.core import Ended, Promise
from rpcsim.errors import CallTimeout
from rpcsim.ports import current
from rpcsim.sim import Sim


def test_it_is_settled_once_for_everybody() -> None:
    """Waiters before and after get the first outcome; later ones change nothing."""

    async def main() -> list[str]:
        promise: Promise[str] = Promise(current().bridge, name="greeting")

        async def wait() -> str:
            return await promise

        early = [asyncio.ensure_future(wait()) for _ in range(2)]
        current().clock.call_later(1, lambda _: promise.settle(Ended("first")))
        told = [await task for task in early]
        assert not promise.settle(Ended("second"))
        return [*told, await promise, promise.result()]

    with Sim(seed=1) as sim:
        assert sim.run(main) == ["first"] * 4


def test_blocking_code_waits_with_or_without_a_limit() -> None:
    """`result` raises CallTimeout at its limit and can be asked again."""
    with Sim(seed=1) as sim:

        def main() -> str:
            promise: Promise[str] = Promise(current().bridge, name="greeting")
            current().clock.call_later(2, lambda _: promise.settle(Ended("hi")))
            with pytest.raises(CallTimeout, match="greeting"):
                promise.result(timeout=1)
            assert not promise.done()
            assert "pending" in repr(promise)
            return promise.result()

        assert sim.run(main) == "hi"
        assert sim.clock.now_ns() == 2_000_000_000


def test_a_rejected_promise_raises_for_each_who_asks() -> None:
    """The error is raised, not returned."""
    with Sim(seed=1) as sim:
        promise: Promise[None] = Promise(sim.bridge)
        promise.settle(Ended(error=KeyError("k")))
        for _ in range(2):
            with pytest.raises(KeyError):
                promise.result()
        assert "rejected" in repr(promise)


def test_a_waiter_that_gives_up_is_forgotten() -> None:
    """Cancelling one waiter leaves the promise and the others alone."""

    async def main() -> str:
        promise: Promise[str] = Promise(current().bridge)
        quitter = asyncio.ensure_future(promise.wait())
        await asyncio.sleep(0)
        quitter.cancel()
        await asyncio.wait([quitter])
        promise.settle(Ended("kept"))
        return await promise

    with Sim(seed=1) as sim:
        assert sim.run(main) == "kept"
