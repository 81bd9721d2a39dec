"""Procedures: callables that may be named from afar, and where they are found.

A catalogue holds namespaces (classes and modules), a namespace holds procedures. A
class gives a fresh instance per call, because remote objects have no state; a module's
functions are used directly.
"""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "Catalogue",
    "Cntr",
    "Marks",
    "Namespace",
    "Procedure",
    "Unresolved",
    "mark",
    "marks_of",
    "near",
]

F = TypeVar("F")
# Constructor arguments `(args, kwargs)`; `None` if never given.
Cntr: TypeAlias = "tuple[Sequence[Any], Mapping[str, Any]] | None"

# The attribute a decorated function carries; the function itself is not wrapped.
_MARKS: Final = "__rpcsim_marks__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """The policy a callable was decorated with.

    Attributes:
        requirements: What a caller must pass, innermost decorator first; empty for
            nothing.
        shared: Callable through every identity of the agent, not only its plugin's.
        model: Where it runs: `direct` is the serving process itself.
    """

    requirements: tuple[Any, ...] = ()
    shared: bool = True
    model: str = "direct"


def mark(fn: F, marks: Marks) -> F:
    """Put marks on a callable and give it back."""
    setattr(fn, _MARKS, marks)
    return fn


def marks_of(fn: Any) -> Marks | None:
    """Give the marks of a callable; `None` if it was not decorated."""
    found = getattr(fn, _MARKS, None)
    if found is None:  # `@staticmethod` on top of the decorator hides them one deeper
        found = getattr(getattr(fn, "__func__", None), _MARKS, None)
    return found if isinstance(found, Marks) else None


def near(name: str, names: Iterable[str]) -> str:
    """Write `; did you mean 'x'?` for the nearest of the names, or nothing."""
    close = difflib.get_close_matches(name, sorted(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class Unresolved(LookupError):
    """A path names no procedure.

    Attributes:
        namespace: First part of the path.
        name: Last part of the path.
        missing: Which of the two was not found: `namespace` or `name`.
    """

    def __init__(self, text: str, *, namespace: str, name: str, missing: str) -> None:
        super().__init__(text)
        self.namespace = namespace
        self.name = name
        self.missing = missing


class Procedure(msgspec.Struct, frozen=True):
    """A named callable with its policy.

    Attributes:
        path: Dotted name by which it was found: `Dog.bark`.
        owner: The class or module it belongs to.
        fn: The function, or what stands for it in the owner.
    """

    path: str
    owner: type | ModuleType
    fn: Any

    @property
    def marks(self) -> Marks | None:
        """Its policy; `None` if it was not decorated."""
        return marks_of(self.fn)

    @property
    def is_async(self) -> bool:
        """Whether calling it gives a coroutine rather than running it."""
        return inspect.iscoroutinefunction(getattr(self.fn, "__func__", self.fn))

    @property
    def signature(self) -> inspect.Signature | None:
        """What callers may pass; `None` if that cannot be told."""
        fn = getattr(self.fn, "__func__", self.fn)
        try:
            signature = inspect.signature(fn)
        except (TypeError, ValueError):
            return None
        if isinstance(self.owner, ModuleType) or isinstance(self.fn, staticmethod):
            return signature
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def bind(self, cntr: Cntr = None) -> Callable[..., Any]:
        """Make the instance, if the owner is a class, and give what to call.

        Runs the class's constructor, so it raises what that raises.
        """
        name = self.path.rpartition(".")[2]
        if isinstance(self.owner, ModuleType):
            return self.fn  # type: ignore[no-any-return]  # a function of the module
        args, kwargs = cntr or ((), {})
        bound: Callable[..., Any] = getattr(self.owner(*args, **kwargs), name)
        return bound


@final
class Namespace:
    """A class or module under the name callers know it by."""

    __slots__ = ("name", "owner")

    def __init__(self, name: str, owner: type | ModuleType) -> None:
        self.name = name
        self.owner = owner

    def __repr__(self) -> str:
        kind = "module" if isinstance(self.owner, ModuleType) else "class"
        return f"<Namespace {self.name}: {kind}>"

    def find(self, name: str) -> Procedure | None:
        """Give the callable of that name, decorated or not; private ones never.

        It is looked up each time, so that a function replaced by a test is found.
        """
        if name.startswith("_"):
            return None
        fn = _static(self.owner, name)
        if isinstance(self.owner, ModuleType):
            callable_ = isinstance(fn, FunctionType)
        else:
            callable_ = callable(fn) or isinstance(fn, classmethod)
        return Procedure(f"{self.name}.{name}", self.owner, fn) if callable_ else None

    def names(self) -> list[str]:
        """Give the names of its decorated callables, sorted."""
        return sorted(
            name
            for name in dir(self.owner)
            if not name.startswith("_")
            and marks_of(_static(self.owner, name)) is not None
        )


def _static(owner: type | ModuleType, name: str) -> Any:
    """Look a name up without running descriptors; `None` if it is not there."""
    if isinstance(owner, ModuleType):
        return vars(owner).get(name)
    for kind in owner.__mro__:
        if name in vars(kind):
            return vars(kind)[name]
    return None


@final
class Catalogue:
    """Everything one server offers, plugin by plugin in load order.

    Args:
        plugins: Classes, or modules with classes and functions.
    """

    __slots__ = ("_plain", "_spaces")

    def __init__(self, plugins: Iterable[type | ModuleType] = ()) -> None:
        self._spaces: dict[str, Namespace] = {}
        # Classes given to us that offer nothing, to say so when one is asked for.
        self._plain: set[str] = set()
        for plugin in plugins:
            self.add(plugin)

    def __repr__(self) -> str:
        return f"<Catalogue {list(self._spaces)}>"

    def add(self, plugin: type | ModuleType) -> None:
        """Offer a plugin; a name that an earlier one offers stays with that one.

        Raises:
            TypeError: It is neither a class nor a module.
        """
        if isinstance(plugin, ModuleType):
            found = _spaces_of(plugin)
        elif isinstance(plugin, type):
            found = [Namespace(plugin.__name__, plugin)]
        else:
            raise TypeError(
                f"a plugin is a class or a module, not {type(plugin).__name__}; "
                "pass the class itself: a fresh instance is made for every call"
            )
        for space in found:
            if space.names():
                self._spaces.setdefault(space.name, space)
            else:
                self._plain.add(space.name)

    def names(self) -> list[str]:
        """Give the names of all namespaces, in load order."""
        return list(self._spaces)

    def resolve(self, namespace: str, name: str) -> Procedure:
        """Find a callable, decorated or not.

        Raises:
            Unresolved: There is none; the text names what is near.
        """
        space = self._spaces.get(namespace)
        if space is None:
            raise Unresolved(
                self._no_namespace(namespace),
                namespace=namespace,
                name=name,
                missing="namespace",
            )
        procedure = space.find(name)
        if procedure is None:
            told = f"{namespace} has no method {name!r}{near(name, space.names())}"
            raise Unresolved(told, namespace=namespace, name=name, missing="name")
        return procedure

    def _no_namespace(self, name: str) -> str:
        if name in self._plain:
            return f"{name} has no decorated method; put @remote on what may be called"
        offered = ", ".join(self._spaces) or "nothing"
        return f"{name!r} is not offered here{near(name, self._spaces)} (offered: {offered})"


def _spaces_of(module: ModuleType) -> list[Namespace]:
    """Sort a module's decorated callables into classes and the module itself.

    gofer.md 8.4: each class in the module's globals of which a decorated function is a
    method; decorated plain functions under the module's last name.
    """
    values = list(vars(module).values())
    classes: dict[str, type] = {}
    for value in values:
        if isinstance(value, type) and Namespace(value.__name__, value).names():
            classes[value.__name__] = value  # a later definition wins
    spaces = [Namespace(name, owner) for name, owner in classes.items()]
    if any(isinstance(fn, FunctionType) and marks_of(fn) for fn in values):
        spaces.append(Namespace(module.__name__.rpartition(".")[2], module))
    return spaces
