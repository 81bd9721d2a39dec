"""The house as a whole: contracts between rooms, the front door, the documents."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rpcsim

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "rpcsim"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = sorted(
    module.name for module in pkgutil.iter_modules([str(SOURCE)]) if module.ispkg
)
SEPARATE = ("errors", "trace", "pytest_plugin")


def room(name: str) -> ModuleType:
    return importlib.import_module(f"rpcsim.{name}")


def readme_command(mark: str) -> str:
    """Give the fenced block after a mark of the README."""
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"^<!-- {mark} -->\n```sh\n(.*?)\n```$", text, re.M | re.S)
    assert found, f"README.md has no command marked <!-- {mark} -->"
    return found[1]


def run_python(code: str) -> str:
    """Run code in a fresh interpreter that cannot have loaded anything before."""
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


# -- contracts -------------------------------------------------------------------------


def test_rooms_keep_their_contracts() -> None:
    """Import-linter finds every contract of pyproject.toml kept."""
    code = (
        "import sys; from importlinter.cli import lint_imports_command as lint; lint()"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    contracts = len(PROJECT["tool"]["importlinter"]["contracts"])
    assert child.returncode == 0, child.stdout + child.stderr
    assert f"{contracts} kept, 0 broken" in child.stdout


def test_every_room_has_its_layer() -> None:
    """The layers contract names exactly the rooms and modules there are."""
    layers, *_ = PROJECT["tool"]["importlinter"]["contracts"]
    named = [name for line in layers["layers"] for name in line.split(" | ")]
    present = {m.name for m in pkgutil.iter_modules([str(SOURCE)])} - {"__main__"}
    assert sorted(named) == sorted(present)


def test_the_architecture_page_draws_the_same_layers() -> None:
    """ARCHITECTURE.md shows the layers in the contract's order."""
    layers, *_ = PROJECT["tool"]["importlinter"]["contracts"]
    page = (ROOT / "ARCHITECTURE.md").read_text()
    drawing = page.split("```")[1].strip().splitlines()
    drawn = [re.split(r"  +", line)[0] for line in drawing]
    assert drawn == layers["layers"]


def imports_of(path: Path) -> set[str]:
    """Give the top-level names of the modules a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_one_file_knows_greenlet() -> None:
    """Fibers are made in one place; nothing else depends on how."""
    users = [p for p in sorted(SOURCE.rglob("*.py")) if "greenlet" in imports_of(p)]
    assert [p.relative_to(SOURCE).as_posix() for p in users] == ["sim/_fiber.py"]


def test_one_file_of_the_simulation_knows_the_ambient_modules() -> None:
    """What is replaced during steps is imported in one file, and chance in one more."""
    ambient = {"time", "random", "uuid", "secrets"}
    users = {
        path.name: imports_of(path) & ambient
        for path in sorted((SOURCE / "sim").glob("*.py"))
        if imports_of(path) & ambient
    }
    streams = users.pop("_streams.py", set())
    assert streams <= {"random", "uuid"}
    assert list(users) == ["_ambient.py"]


# -- the front door --------------------------------------------------------------------


def test_every_name_of_the_front_door_resolves() -> None:
    """Each name of `rpcsim.__all__` is what its room calls so."""
    for name in rpcsim.__all__:
        if name != "__version__":
            home = rpcsim._HOME[name]
            assert getattr(rpcsim, name) is getattr(room(home), name), name
    assert dir(rpcsim) == sorted(rpcsim.__all__)


def test_the_front_door_says_the_same_three_times() -> None:
    """What type checkers see, where names are found, and `__all__` agree."""
    typed: dict[str, list[str]] = {}
    for node in ast.walk(ast.parse((SOURCE / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "rpcsim."
        ):
            _, _, home = str(node.module).partition(".")
            typed[home] = sorted(alias.name for alias in node.names)
    assert typed == {home: sorted(names) for home, names in rpcsim._ROOMS.items()}
    assert sorted(rpcsim._HOME) == sorted(set(rpcsim.__all__) - {"__version__"})


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name of the front door fails like any other attribute."""
    with pytest.raises(AttributeError, match="'Agnet'"):
        getattr(rpcsim, "Agnet")  # noqa: B009 - the type checker would refuse it


def test_importing_the_package_loads_nothing_else() -> None:
    """`import rpcsim` loads no room, no test library, no dependency."""
    code = (
        "import sys; before = set(sys.modules); import rpcsim; "
        "print(*sorted({n for n in set(sys.modules) - before if n != 'rpcsim'}))"
    )
    loaded = {name.split(".")[0] for name in run_python(code).split()}
    assert "rpcsim" not in loaded
    assert not loaded & {"pytest", "hypothesis", "msgspec", "greenlet", "asyncio"}


def test_a_world_needs_no_test_library() -> None:
    """A simulation runs without pytest, hypothesis, freezegun or the command line."""
    code = (
        "import sys, rpcsim\n"
        "with rpcsim.simulate() as world: world.sleep(1)\n"
        "heavy = {'pytest', 'hypothesis', 'freezegun', 'responses', 'typer', 'rich'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    assert run_python(code) == ""


# -- names and their texts -------------------------------------------------------------


@pytest.mark.parametrize("name", ROOMS)
def test_every_room_has_its_text(name: str) -> None:
    """A room opens with a few sentences: what lives here, what to read first."""
    text = room(name).__doc__
    assert text
    assert len(text.split()) > 20, text


@pytest.mark.parametrize("name", [*ROOMS, *SEPARATE])
def test_public_names_exist_and_are_told(name: str) -> None:
    """What a room exports is there, sorted, and has a docstring, members included."""
    module = room(name)
    exported = getattr(module, "__all__", ())
    assert sorted(exported) == sorted(set(exported))
    silent = [
        told
        for public in exported
        for told in silent_parts(getattr(module, public), f"{name}.{public}")
    ]
    assert not silent


def silent_parts(value: Any, label: str) -> list[str]:
    """Name what has no docstring: a class or function of ours, its public members."""
    if not str(getattr(value, "__module__", "")).startswith("rpcsim."):
        return []
    if inspect.isfunction(value):
        return [] if value.__doc__ else [label]
    if not inspect.isclass(value):
        return []
    silent = [] if value.__doc__ else [label]
    for name, member in vars(value).items():
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if not name.startswith("_") and inspect.isfunction(function):
            documented = inspect.getdoc(getattr(value, name, function))
            silent += [] if documented else [f"{label}.{name}"]
    return silent


# -- documents -------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["run", "test"])
def test_the_gate_runs_the_readme_commands(mark: str) -> None:
    """`.ci/run` takes its commands from the README, word for word."""
    shown = subprocess.run(
        [str(ROOT / ".ci" / "run"), "--show", mark],
        capture_output=True,
        text=True,
        check=True,
    )
    command = readme_command(mark)
    assert shown.stdout == command + "\n"
    assert "\n" not in command
    assert command.startswith("python3 -m venv .venv && ")


def test_the_version_is_told_once() -> None:
    """The package and the project file name one version."""
    assert rpcsim.__version__ == PROJECT["project"]["version"]


def test_documented_extras_exist() -> None:
    """Each extra the documents name is one of the project's."""
    extras = set(PROJECT["project"]["optional-dependencies"])
    page = (ROOT / "ARCHITECTURE.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("Extras ("))
    assert set(re.findall(r"`([a-z-]+)`", line)) <= extras


def test_the_documents_name_things_that_exist() -> None:
    """Files and modules the contributor's page sends people to are there."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for path in ("tests/bench/_rows.py", "tests/bench/test_floors.py", ".ci/run"):
        assert path in page
        assert (ROOT / path).exists()
    assert "python3 -m tests.bench" in page
    assert (ROOT / "tests" / "bench" / "__main__.py").exists()
