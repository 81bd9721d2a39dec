"""Running a procedure, whatever its colour, to an outcome that is a value."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rpcsim.core._procedures import Cntr, Procedure
    from rpcsim.ports import Bridge

__all__ = ["Ended", "perform"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True


class Ended(msgspec.Struct, frozen=True):
    """How a procedure ended.

    Attributes:
        value: What it returned; `None` if it raised.
        error: What it raised; `None` if it returned.
    """

    value: Any = None
    error: BaseException | None = None

    def take(self) -> Any:
        """Return the value or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


async def perform(
    procedure: Procedure,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    cntr: Cntr = None,
    bridge: Bridge,
) -> Ended:
    """Make the instance, call the procedure, and give what came of it.

    Synchronous code runs through the bridge, where it may block; coroutines are
    awaited here. Errors of the constructor and of a wrong argument count are outcomes
    like any other. What is not an error of the procedure (its cancellation, the end of
    its host) passes through.
    """
    kwargs = kwargs or {}
    if not procedure.is_async:
        ended = await bridge.call_blocking(
            _caught, _call, procedure, cntr, args, kwargs
        )
        if ended.error is None and inspect.isawaitable(ended.value):
            return await _awaited(ended.value)
        return ended
    if _constructs_by_itself(procedure.owner):
        ended = await bridge.call_blocking(_caught, procedure.bind, cntr)
    else:
        ended = _caught(procedure.bind, cntr)
    if ended.error is not None:
        return ended
    called = _caught(ended.value, *args, **kwargs)
    return called if called.error is not None else await _awaited(called.value)


def _constructs_by_itself(owner: Any) -> bool:
    """Say whether making an instance runs code of the user's, which may block."""
    return isinstance(owner, type) and any(
        "__init__" in vars(kind) or "__new__" in vars(kind)
        for kind in owner.__mro__[:-1]
    )


def _call(
    procedure: Procedure, cntr: Cntr, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    return procedure.bind(cntr)(*args, **kwargs)


def _caught(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Ended:
    # Outcomes cross the bridge as values: a StopIteration cannot be set on a future,
    # and a SystemExit would end the loop instead of the call.
    try:
        return Ended(fn(*args, **kwargs))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - carried to the caller
        return Ended(error=error)


async def _awaited(awaitable: Any) -> Ended:
    try:
        return Ended(await awaitable)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - carried to the caller
        return Ended(error=error)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return Ended(error=error)  # the procedure raised it, nobody cancelled us
