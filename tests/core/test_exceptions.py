from __future__ import annotations

import json
import sys
import types
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcsim.core import ErrorRecord, allow_exceptions, describe, rebuild
from rpcsim.errors import RemoteError


class Custom(Exception):
    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{code} because {why}")
        self.code = code
        self.why = why


class Documented(Exception):
    pass


class Stubborn(Exception):
    def __new__(cls, one: int, two: int) -> Self:
        return super().__new__(cls, one, two)


class Impostor(Exception):
    def __new__(cls, *args: object) -> Any:
        return object.__new__(object)


def caught(fn: Any, *args: Any) -> BaseException:
    try:
        fn(*args)
    except BaseException as error:  # noqa: BLE001 - looked at by the test
        return error
    raise AssertionError("it did not raise")


def raises(error: BaseException) -> None:
    raise error


def fallback(record: ErrorRecord) -> Exception:
    return RemoteError(record.name, record.trace)


def back(record: ErrorRecord, **options: Any) -> Exception:
    return rebuild(record, own={"Documented": Documented}, fallback=fallback, **options)


def there_and_back(error: BaseException) -> Exception:
    record = describe(caught(raises, error))
    carried = json.loads(json.dumps([record.args, record.state]))
    return back(
        ErrorRecord(
            name=record.name,
            module=record.module,
            args=carried[0],
            state=carried[1],
            trace=record.trace,
        )
    )


def test_a_builtin_arrives_as_itself_with_the_remote_traceback() -> None:
    """Class, args, `.trace` and a note; `except KeyError` works."""
    error: Any = there_and_back(KeyError("rex"))
    assert type(error).__name__ == "KeyError"
    assert error.args == ("rex",)
    assert "in raises" in error.trace
    assert error.trace.endswith("KeyError: 'rex'\n")
    assert error.__notes__ == [f"Remote traceback:\n{error.trace.rstrip()}"]


def test_a_custom_exception_keeps_attributes_without_its_init() -> None:
    """Its `__init__` needs arguments we do not have, and is not called."""
    error = there_and_back(Custom(3, why="no reason"))
    assert isinstance(error, Custom)
    assert (error.code, error.why, str(error)) == (
        3,
        "no reason",
        "3 because no reason",
    )


def test_an_oserror_keeps_what_its_arguments_tell() -> None:
    """errno and strerror come out of the arguments, as in Python."""
    error = there_and_back(FileNotFoundError(2, "No such file", "x"))
    assert isinstance(error, FileNotFoundError)
    assert error.errno == 2


def test_a_class_with_a_demanding_new_is_rebuilt_from_its_args() -> None:
    """`__new__` gets the arguments; if it will not do, the fallback is raised."""
    assert there_and_back(Stubborn(1, 2)).args == (1, 2)
    odd = ErrorRecord(name="Stubborn", module=__name__, args=(1,))
    assert isinstance(back(odd), RemoteError)
    assert isinstance(back(ErrorRecord(name="Impostor", module=__name__)), RemoteError)


def test_documented_errors_win_over_the_module_named() -> None:
    """Whatever module the peer says, its name decides."""
    assert type(back(ErrorRecord(name="Documented", module="far.away"))) is Documented


def test_a_module_that_cannot_be_imported_falls_to_builtins() -> None:
    """Python 2's `exceptions` module so maps to builtins."""
    error = back(ErrorRecord(name="ValueError", module="exceptions", args=("v",)))
    assert type(error) is ValueError


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("SystemExit", "builtins"),
        ("KeyboardInterrupt", "builtins"),
        ("print", "builtins"),
        ("Popen", "subprocess"),
        ("Unknown", __name__),
        ("Unknown", "no.such.module"),
        ("", None),
    ],
)
def test_only_exception_classes_are_made(name: Any, module: Any) -> None:
    """Anything else a peer names gives the fallback: it must not end us, or run code."""
    assert type(back(ErrorRecord(name=name, module=module))) is RemoteError


def test_a_module_is_imported_only_if_allowed(tmp_path: Any, monkeypatch: Any) -> None:
    """A peer's word imports nothing; the user's does."""
    for name in ("peer_said", "user_said"):
        text = "class Odd(Exception):\n    pass\n"
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("rpcsim.core._exceptions._allowed", ["rpcsim"])
    assert isinstance(back(ErrorRecord(name="Odd", module="peer_said")), RemoteError)
    assert "peer_said" not in sys.modules
    allow_exceptions("user_said")
    try:
        assert type(back(ErrorRecord(name="Odd", module="user_said"))).__name__ == "Odd"
        any_one = back(ErrorRecord(name="Odd", module="peer_said"), import_any=True)
        assert type(any_one).__name__ == "Odd"
    finally:
        sys.modules.pop("user_said", None)
        sys.modules.pop("peer_said", None)


def test_a_module_that_fails_to_import_is_no_error_of_ours(
    tmp_path: Any, monkeypatch: Any
) -> None:
    """Whatever its import raises, the fallback is raised instead."""
    (tmp_path / "broken_here.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    record = ErrorRecord(name="Odd", module="broken_here")
    assert isinstance(back(record, import_any=True), RemoteError)


def test_the_traceback_tells_causes_and_leaves_out_our_own_frames() -> None:
    """Chains are told as Python does; frames of rpcsim before the user's are not."""

    def outer() -> None:
        try:
            raises(KeyError("inner"))
        except KeyError as error:
            raise ValueError("outer") from error

    trace = describe(caught(outer)).trace
    assert trace.index("KeyError: 'inner'") < trace.index("direct cause")
    assert trace.endswith("ValueError: outer\n")
    assert "^" not in trace

    namespace = types.ModuleType("rpcsim.inner")
    exec("def ours(fn):\n    fn()\n", vars(namespace))
    error = caught(namespace.ours, outer)
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # as if rpcsim had called it
    wrapped = describe(error).trace
    assert "in ours" not in wrapped
    assert "in outer" in wrapped


def test_a_deep_recursion_gives_a_short_traceback() -> None:
    """Its document must stay below the size limit."""

    def deeper() -> None:
        deeper()

    trace = describe(caught(deeper)).trace
    assert "frames left out" in trace
    assert len(trace) < 20_000


def test_an_exception_that_cannot_be_told_is_told_so() -> None:
    """A broken `__str__` does not hide the error; neither do odd notes."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    error = Mute()
    error.__notes__ = ["a note", 3]  # type: ignore[list-item]  # what a peer may do
    trace = describe(error).trace
    assert "its __str__ raised" in trace
    assert "a note" in trace


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
names = st.sampled_from(
    ["KeyError", "OSError", "UnicodeDecodeError", "ExceptionGroup", "Custom", "Odd"]
)
states = st.dictionaries(
    st.sampled_from(["__notes__", "args", "__class__", "trace", "errno", "x"]), values
)


@given(name=names | st.text(), args=st.lists(values), state=states)
@settings(deadline=None, max_examples=150, derandomize=True)
def test_whatever_a_peer_sends_an_exception_comes_out(
    name: Any, args: Any, state: Any
) -> None:
    """Any name, arguments and attributes give some exception that can be shown."""
    record = ErrorRecord(
        name=name, module=__name__, args=args, state=state, trace="Traceback"
    )
    error = back(record)
    assert isinstance(error, Exception)
    assert error.__dict__["trace"] == "Traceback"
    assert isinstance(describe(error).trace, str)
