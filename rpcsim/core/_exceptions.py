"""How an exception travels: described as plain data there, rebuilt as itself here.

The rules are those of gofer.md section 11. A peer names the class and module of what
we are to raise, so this file decides what it may reach: only subclasses of `Exception`,
and only in builtins, rpcsim, modules already loaded and modules the user allowed.
"""

from __future__ import annotations

import builtins
import importlib
import linecache
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType, TracebackType

__all__ = ["ErrorRecord", "allow_exceptions", "describe", "rebuild"]

# Packages whose modules may be imported to rebuild an exception. One list per process,
# as imports are; see `allow_exceptions`.
_allowed: Final[list[str]] = ["rpcsim"]
# A traceback longer than this keeps its two ends: a recursion error has a thousand
# frames, and its document must stay below the size limit.
_MAX_FRAMES: Final = 60
_FRAME: Final = '  File "'


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRecord:
    """An exception as plain data.

    Attributes:
        name: Name of its class.
        module: Module that defines the class; `None` if unknown.
        args: Its `args`.
        state: Its attributes.
        trace: Its traceback as text.
    """

    name: str
    module: str | None = None
    args: Sequence[Any] = ()
    state: Mapping[str, Any] = field(default_factory=dict)
    trace: str = ""


def allow_exceptions(*packages: str) -> None:
    """Let modules of these packages be imported when a peer names their exceptions.

    It holds for the whole process, for good: name packages you would import anyway.
    """
    _allowed.extend(package for package in packages if package not in _allowed)


def describe(error: BaseException) -> ErrorRecord:
    """Turn an exception into data; `args` and `state` are as they are, not copied."""
    kind = type(error)
    return ErrorRecord(
        name=kind.__name__,
        module=kind.__module__,
        args=error.args,
        state=dict(getattr(error, "__dict__", {})),
        trace=_trace_of(error),
    )


def rebuild(
    record: ErrorRecord,
    *,
    own: Mapping[str, type[Exception]],
    fallback: Callable[[ErrorRecord], Exception],
    import_any: bool = False,
) -> Exception:
    """Make the exception a record tells of, without calling its `__init__`.

    Args:
        record: What the peer sent.
        own: The family's documented errors by name; they win over the record's module.
        fallback: Makes what is raised when no class qualifies.
        import_any: Import whatever module the peer names. A peer can then run code
            that importing runs.

    Returns:
        The exception, with the remote traceback as `.trace` and as a note.
    """
    kind = own.get(record.name) or _class_of(record, import_any)
    error = None if kind is None else _instance(kind, record)
    if error is None:
        error = fallback(record)
    elif isinstance(getattr(error, "__notes__", []), list):
        pass
    else:
        del error.__dict__[
            "__notes__"
        ]  # a peer's idea of notes that Python cannot hold
    if record.trace:
        error.__dict__["trace"] = record.trace
        # A refusal has no frames of the user's: its text says all there is.
        if _FRAME in record.trace:
            error.add_note(f"Remote traceback:\n{record.trace.rstrip()}")
    return error


def _instance(kind: type[Exception], record: ErrorRecord) -> Exception | None:
    for args in (tuple(record.args), ()):
        try:
            # OSError and its like keep what they show in `__new__`'s arguments.
            error = kind.__new__(kind, *args)
        except Exception:  # noqa: BLE001 - any class's own __new__
            continue
        if isinstance(error, kind):
            error.__dict__.update(record.state)
            if not isinstance(error.__dict__.get("__notes__", []), list):
                del error.__dict__["__notes__"]  # Python could not add one to it
            error.args = tuple(record.args)
            return error
    return None


def _class_of(record: ErrorRecord, import_any: bool) -> type[Exception] | None:
    module = _module(record.module, import_any) if record.module else None
    found = vars(module or builtins).get(record.name)
    # Not BaseException: a peer must not end the caller by naming SystemExit.
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    return None


def _module(name: str, import_any: bool) -> ModuleType | None:
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    if import_any or any(
        name == package or name.startswith(f"{package}.") for package in _allowed
    ):
        try:
            return importlib.import_module(name)
        except Exception:  # noqa: BLE001 - whatever a module raises, it is not usable
            return None
    return None


# -- tracebacks as text --------------------------------------------------------------
# Not `traceback.format_exception`: its carets and multi-line statements differ between
# Python minors, the text goes into documents, and runs must be equal across minors.


def _trace_of(error: BaseException) -> str:
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    joint = ""
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        parts.append(_one(current) + joint)
        if current.__cause__ is not None:
            current, joint = current.__cause__, _CAUSE
        elif current.__context__ is not None and not current.__suppress_context__:
            current, joint = current.__context__, _CONTEXT
        else:
            break
    return "".join(reversed(parts))


_CAUSE: Final = (
    "\nThe above exception was the direct cause of the following exception:\n\n"
)
_CONTEXT: Final = (
    "\nDuring handling of the above exception, another exception occurred:\n\n"
)


def _one(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the error
        text = "<its __str__ raised>"
    notes = getattr(error, "__notes__", ())
    lines = [
        "Traceback (most recent call last):\n",
        *_frames(error.__traceback__),
        f"{name}: {text}\n" if text else f"{name}\n",
        *(f"{note}\n" for note in notes if isinstance(note, str)),
    ]
    return "".join(lines)


def _frames(traceback: TracebackType | None) -> list[str]:
    frames: list[str] = []
    while traceback is not None:
        frame = traceback.tb_frame
        # Our own frames on the way to the user's code tell the user nothing.
        if frames or not _is_ours(frame.f_globals.get("__name__")):
            code = frame.f_code
            frames.append(
                f'{_FRAME}{code.co_filename}", line {traceback.tb_lineno}, '
                f"in {code.co_name}\n{_source(code.co_filename, traceback.tb_lineno)}"
            )
        traceback = traceback.tb_next
    if len(frames) > _MAX_FRAMES:
        half = _MAX_FRAMES // 2
        left_out = f"  ... {len(frames) - 2 * half} frames left out ...\n"
        frames = [*frames[:half], left_out, *frames[-half:]]
    return frames


def _is_ours(module: object) -> bool:
    return isinstance(module, str) and module.startswith("rpcsim.")


def _source(filename: str, line: int) -> str:
    text = linecache.getline(filename, line).strip()
    return f"    {text}\n" if text else ""
