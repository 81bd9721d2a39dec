from __future__ import annotations

import types
from typing import Any

import pytest

from rpcsim.core import Catalogue, Marks, Unresolved, mark, marks_of, near


def remote(fn: Any) -> Any:
    return mark(fn, Marks())


class Animal:
    @remote
    def breathe(self) -> str:
        return "in, out"


class Dog(Animal):
    def __init__(self, name: str = "rex") -> None:
        self.name = name

    @remote
    def bark(self, msg: str, loud: bool = False) -> str:
        return f"{self.name}: {msg}"

    @remote
    @staticmethod
    def kind() -> str:
        return "dog"

    @classmethod
    @remote
    def make(cls) -> str:
        return cls.__name__

    @remote
    async def fetch(self) -> str:
        return "ball"

    @remote
    def _secret(self) -> str:
        return "never"

    def sleep(self) -> str:
        return "zzz"

    age = 7


def test_a_decorated_callable_stays_itself() -> None:
    """Marks sit on the function; calling it here works as before."""
    assert Dog().bark("hi") == "rex: hi"
    assert marks_of(Dog.bark) == Marks()
    assert marks_of(Dog.sleep) is None


@pytest.mark.parametrize(
    ("name", "args", "value"),
    [("bark", ("hi",), "bo: hi"), ("kind", (), "dog"), ("make", (), "Dog")],
)
def test_a_class_gives_a_fresh_instance_each_time(
    name: Any, args: Any, value: Any
) -> None:
    """Constructor arguments are those of this call; static and class methods work."""
    procedure = Catalogue([Dog]).resolve("Dog", name)
    assert procedure.marks is not None
    assert procedure.bind((("bo",), {}))(*args) == value


def test_what_callers_may_pass_and_how_it_runs_can_be_told() -> None:
    """The signature leaves out self; coroutine functions are known as such."""
    catalogue = Catalogue([Dog])
    assert str(catalogue.resolve("Dog", "bark").signature) == (
        "(msg: 'str', loud: 'bool' = False) -> 'str'"
    )
    assert str(catalogue.resolve("Dog", "kind").signature) == "() -> 'str'"
    assert catalogue.resolve("Dog", "fetch").is_async
    assert not catalogue.resolve("Dog", "bark").is_async


def test_inherited_methods_are_offered_and_undecorated_ones_found_unmarked() -> None:
    """An inherited decorated method counts; an undecorated one is found without marks."""
    catalogue = Catalogue([Dog])
    assert catalogue.resolve("Dog", "breathe").marks is not None
    assert catalogue.resolve("Dog", "sleep").marks is None


@pytest.mark.parametrize("name", ["_secret", "__init__", "age", "nothing"])
def test_private_names_and_data_are_not_found(name: Any) -> None:
    """Names with an underscore are refused even if decorated; data is no method."""
    with pytest.raises(Unresolved) as caught:
        Catalogue([Dog]).resolve("Dog", name)
    assert caught.value.missing == "name"


def test_the_error_names_what_is_near() -> None:
    """A misspelt class or method is answered with the nearest one offered."""
    catalogue = Catalogue([Dog])
    with pytest.raises(Unresolved, match="did you mean 'bark'"):
        catalogue.resolve("Dog", "brak")
    with pytest.raises(Unresolved, match=r"did you mean 'Dog'.*offered: Dog") as caught:
        catalogue.resolve("Dgo", "bark")
    assert caught.value.missing == "namespace"
    assert near("zebra", ["dog"]) == ""


def test_a_class_that_offers_nothing_is_said_to() -> None:
    """Forgetting the decorator is told apart from a wrong name."""

    class Plain:
        def bark(self) -> None: ...

    with pytest.raises(Unresolved, match="Plain has no decorated method"):
        Catalogue([Plain]).resolve("Plain", "bark")


def test_a_module_offers_its_classes_and_functions() -> None:
    """Functions are found under the last part of the module's name."""
    module = types.ModuleType("pkg.tools")

    def echo(x: object) -> object:
        return x

    module.__dict__.update(Dog=Dog, echo=remote(echo), size=3, len=len, str=str)
    catalogue = Catalogue([module])
    assert catalogue.names() == ["Dog", "tools"]
    assert catalogue.resolve("tools", "echo").bind()(3) == 3
    assert str(catalogue.resolve("tools", "echo").signature).startswith("(x")
    with pytest.raises(Unresolved):
        catalogue.resolve("tools", "size")


def test_the_first_plugin_with_a_name_wins() -> None:
    """Across plugins the first in load order serves a class."""
    first, second = types.ModuleType("a"), types.ModuleType("b")
    other = type("Dog", (), {"bark": remote(lambda self: "b")})
    first.__dict__["Dog"] = Dog
    second.__dict__["Dog"] = other
    procedure = Catalogue([first, second]).resolve("Dog", "bark")
    assert procedure.owner is Dog


def test_only_classes_and_modules_are_plugins() -> None:
    """An instance is refused with the reason."""
    wrong: Any = Dog()
    with pytest.raises(TypeError, match="pass the class itself"):
        Catalogue([wrong])
