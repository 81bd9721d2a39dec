"""Decorators that say what may be called from afar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from rpcsim.core import Marks, mark, marks_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["remote"]

F = TypeVar("F", bound="Callable[..., Any]")


@overload
def remote(fn: F, /) -> F: ...
@overload
def remote() -> Callable[[F], F]: ...
def remote(fn: F | None = None, /) -> F | Callable[[F], F]:
    """Let a function or method be called from afar: `@remote` or `@remote()`.

    The function itself is given back, so that it can be called here as before.
    """
    if fn is None:
        return _marked
    return _marked(fn)


def _marked(fn: F) -> F:
    # Decorators stack in any order: what others have put there stays.
    return mark(fn, marks_of(fn) or Marks())
