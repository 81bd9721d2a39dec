"""Which ports are current, and the things a host's clients share."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from contextvars import copy_context
from typing import Any, cast

import pytest

from rpcsim.ports import (
    Activations,
    Call,
    CallPort,
    Ports,
    Resources,
    current,
    current_or_none,
    endpoint,
    enter,
    leave,
    use,
)


def ports(host: str) -> Ports:
    """Make ports that only tell whose they are."""
    nothing: Any = None
    return Ports(
        host=host,
        clock=nothing,
        network=nothing,
        entropy=nothing,
        disk=nothing,
        bridge=nothing,
        points=nothing,
        trace=nothing,
        services={},
    )


def test_a_missing_port_is_an_error_at_construction() -> None:
    """Not a surprise later (simulation.md 2)."""
    make: Any = Ports
    with pytest.raises(TypeError, match="network"):
        make(host="a", clock=None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ports("a").host = "b"  # type: ignore[misc]


def test_the_innermost_world_or_block_is_current() -> None:
    """Worlds nest; a block restores what was before."""
    assert current_or_none() is None
    outer, inner, other = ports("outer"), ports("inner"), ports("other")
    first = enter(outer)
    assert current() is outer
    second = enter(inner)
    with use(other) as used:
        assert used is current() is other
    assert current() is inner
    leave(inner, second)
    assert current() is outer
    leave(outer, first)
    assert current_or_none() is None


def test_a_world_that_ends_early_leaves_the_later_one_current() -> None:
    """Two may live side by side, and end in any order."""

    def program() -> None:
        outer, inner = ports("outer"), ports("inner")
        first, second = enter(outer), enter(inner)
        leave(outer, first)
        assert current() is inner
        leave(inner, second)

    copy_context().run(program)
    assert current_or_none() is None


def test_a_thread_finds_the_newest_world() -> None:
    """Its own context is empty; a world entered elsewhere can be left there."""
    found: list[Any] = []
    mine = ports("mine")
    context = copy_context()
    token = context.run(enter, mine)
    thread = threading.Thread(target=lambda: found.append(current_or_none()))
    thread.start()
    thread.join()
    assert found == [mine]
    leave(mine, token)
    assert current_or_none() is None


def test_resources_are_made_once_and_closed_newest_first() -> None:
    """`obtain`, `forget`, `on_close`, `aclose`."""
    shared, log = Resources(), []

    def closer(name: str) -> Any:
        async def close() -> None:
            log.append(name)

        return close

    assert not shared
    for name in ("a", "b", "c"):
        assert shared.obtain(name, lambda name=name: [name]) == [name]  # type: ignore[misc]
        shared.on_close(name, closer(name))
    assert shared.obtain("a", list) == ["a"]
    shared.forget("b")
    assert repr(shared) == "<Resources ['a', 'c']>"
    asyncio.run(shared.aclose())
    assert log == ["c", "a"]
    assert not shared


def test_endpoints_are_written_as_in_error_texts() -> None:
    """Numeric IPv6 addresses in brackets."""
    assert endpoint(("dog", 80)) == "dog:80"
    assert endpoint(("fd00::1", 80)) == "[fd00::1]:80"


def test_the_stack_of_call_ports() -> None:
    """Innermost last; taken off wherever it stands."""
    stack = Activations()
    one, two = (cast("CallPort", object()) for _ in range(2))
    assert stack.top() is None
    stack.push(one)
    stack.push(two)
    assert stack.top() is two
    stack.remove(one)
    assert stack.top() is two
    with pytest.raises(ValueError, match="not in list"):
        stack.remove(one)
    stack.remove(two)
    call = Call(family="agent", caller="a", target="b", path="Dog.bark")
    assert (call.args, dict(call.kwargs), call.cntr, call.id) == ((), {}, None, "")
