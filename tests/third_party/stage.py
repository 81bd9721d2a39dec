"""A server and a client host, run twice: what both runs must agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rpcsim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def play(
    server: Callable[[], Awaitable[None]],
    client: Callable[[Sim], Awaitable[Any]],
    **options: Any,
) -> tuple[Any, str | None, str | None]:
    """Run a client against a server; give its result and both digests."""
    with Sim(**options) as sim:
        sim.host("server", server, background=True)
        host = sim.host("client")
        sim.net.link("client", "server", latency="2ms")
        result = host.run(lambda: client(sim))
    assert sim.leftovers == ()
    return result, sim.trace.digest, sim.trace.schedule_digest


def play_twice(
    server: Callable[[], Awaitable[None]],
    client: Callable[[Sim], Awaitable[Any]],
    **options: Any,
) -> Any:
    """Run it twice; give the result if the runs are one run."""
    first = play(server, client, **options)
    second = play(server, client, **options)
    assert first == second
    return first[0]
