"""Running a main program of any kind as a host."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from rpcsim.ports import use

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.ports import Bridge, Main, Ports

__all__ = ["run_main"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True


def run_main(ports: Ports, main: Main) -> Any:
    """Run `main` as the host of `ports`, from a thread that may block.

    Args:
        ports: Of the host.
        main: An awaitable, a coroutine function, or a function that may block; the
            last runs in a thread of the pool.
    """
    with use(ports):
        if inspect.isawaitable(main):
            return ports.bridge.wait(main)
        if inspect.iscoroutinefunction(main):
            return ports.bridge.wait(main())
        return ports.bridge.wait(_blocking(ports.bridge, main))


async def _blocking(bridge: Bridge, main: Callable[[], Any]) -> Any:
    made = await bridge.call_blocking(main)
    # A lambda or partial around a coroutine function tells only by its result.
    return await made if inspect.isawaitable(made) else made
