"""The standard library's own tests of asyncio, run on the simulated loop (check 14).

They make their loops by `asyncio.Runner`, `asyncio.new_event_loop` and the
`new_test_loop` of their helper; each of these gives the loop of a fresh simulation
here. What cannot pass is written down, with the reason, in `stdlib_exceptions.toml`,
and that list is exact: a test on it that passes fails this suite too.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import sys
import tomllib
import unittest
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from rpcsim.errors import SimulationError
from rpcsim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACKAGE = "test.test_asyncio"
MINOR = ".".join(map(str, sys.version_info[:2]))
RELEASE = ".".join(map(str, sys.version_info[:3]))
# What tests of another release than the list was written for may fail with, unlisted.
FENCED = ("a test of the simulation used", "EscapeError")
MODULES = [
    "test_futures2",
    "test_locks",
    "test_pep492",
    "test_queues",
    "test_streams",
    "test_taskgroups",
    "test_tasks",
    "test_timeouts",
    "test_waitfor",
]
if sys.version_info >= (3, 12):
    MODULES.append("test_eager_task_factory")

SHIPPED = importlib.util.find_spec("test") is not None and bool(
    importlib.util.find_spec(PACKAGE)
)
needs_the_package = pytest.mark.skipif(
    not SHIPPED, reason="this interpreter ships without the standard library's tests"
)


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """Import them before the room's guard is up: they look for IPv6 when imported."""
    if SHIPPED:
        for module in MODULES:
            importlib.import_module(f"{PACKAGE}.{module}")


@dataclass(frozen=True, slots=True)
class Listed:
    """Tests that cannot pass, or cannot be run, and why.

    Attributes:
        pattern: Matches `module.Class.test`.
        reason: Why.
        runs: Whether they are run, and fail.
    """

    pattern: str
    reason: str
    runs: bool

    def __contains__(self, name: str) -> bool:
        return fnmatchcase(name, self.pattern)


@cache
def written() -> dict[str, Any]:
    path = Path(__file__).with_name("stdlib_exceptions.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def exact() -> bool:
    """Whether the list was written for this very release."""
    return RELEASE in written()["releases"]


@cache
def listed() -> tuple[Listed, ...]:
    """Give the written list, as far as it is about this interpreter."""
    groups = written()["exception"]
    return tuple(
        Listed(pattern, group["reason"], group.get("runs", True))
        for group in groups
        if MINOR in group.get("python", [MINOR])
        for pattern in group["tests"]
    )


class Loops:
    """Gives a test the loops it asks for, each of a fresh simulation.

    One simulation runs per thread at a time: the one before ends when its loop does
    not run any more. What asyncio only logs (failures nobody took) is not held against
    the test; an error of the simulation is.
    """

    def __init__(self) -> None:
        self._sim: Sim | None = None

    def new(self) -> asyncio.AbstractEventLoop:
        if self._sim is not None and not self._sim.loop.is_running():
            self.end()
        sim = Sim(max_steps=100_000)
        sim.__enter__()
        self._sim = sim
        return sim.loop_factory()

    def end(self) -> None:
        sim, self._sim = self._sim, None
        if sim is not None:
            sim.take_failures()
            sim.close()

    def for_helper(self, case: Any, gen: object = None) -> asyncio.AbstractEventLoop:
        """Stand in for the helper's `new_test_loop`, whose script of times is not needed."""
        loop = self.new()
        case.set_event_loop(loop)
        return loop

    def patches(self) -> Iterator[Any]:
        helper = importlib.import_module(f"{PACKAGE}.utils").TestCase

        def new_test_loop(case: Any, gen: object = None) -> Any:
            return self.for_helper(case, gen)

        yield mock.patch.object(asyncio, "new_event_loop", self.new)
        yield mock.patch.object(asyncio.events, "new_event_loop", self.new)
        yield mock.patch.object(helper, "new_test_loop", new_test_loop)
        # The helper's own looks at a private attribute of the base loop.
        yield mock.patch.object(helper, "close_loop", staticmethod(close_loop))


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.close()


def cases_of(module: str) -> dict[str, unittest.TestCase]:
    """Give the tests of a module by name, in the order of the loader."""

    def leaves(suite: Iterable[Any]) -> Iterator[Any]:
        for one in suite:
            if isinstance(one, unittest.TestCase):
                yield one
            else:
                yield from leaves(one)

    loaded = importlib.import_module(f"{PACKAGE}.{module}")
    suite = unittest.defaultTestLoader.loadTestsFromModule(loaded)
    return {case.id().removeprefix(f"{PACKAGE}."): case for case in leaves(suite)}


def outcome(case: unittest.TestCase) -> str | None:
    """Run one test; give what it failed with, or `None`."""
    result, loops = unittest.TestResult(), Loops()
    with ExitStack() as stack:
        for patch in loops.patches():
            stack.enter_context(patch)
        try:
            case.run(result)
        finally:
            try:
                loops.end()
            except SimulationError as error:
                result.errors.append((case, f"{type(error).__name__}: {error}"))
    told = [text for _, text in result.errors + result.failures]
    return told[0].strip() if told else None


@pytest.fixture
def _their_garbage() -> Iterator[None]:
    """Keep to this test what theirs leave behind: coroutines nobody awaited, and such."""
    with (
        warnings.catch_warnings(),
        mock.patch.object(sys, "unraisablehook"),
    ):
        warnings.simplefilter("ignore")
        yield
        gc.collect()


@needs_the_package
@pytest.mark.usefixtures("_their_garbage")
@pytest.mark.parametrize("module", MODULES)
def test_it_passes_on_the_simulated_loop(module: str) -> None:
    """Every test of the module passes, but for those on the list, which do not."""
    wrong: list[str] = []
    ran = 0
    cases = cases_of(module)
    for name in list(cases):
        case = cases.pop(name)  # it holds its loop, and what that holds
        about = [entry for entry in listed() if name in entry]
        if not all(entry.runs for entry in about):
            continue
        failure = outcome(case)
        ran += 1
        fenced = failure is not None and any(text in failure for text in FENCED)
        if failure is not None and not about and (exact() or not fenced):
            wrong.append(f"{name} fails: {failure.splitlines()[-1]}")
        elif failure is None and about:
            wrong.append(f"{name} passes, but is listed: {about[0].reason}")
    assert not wrong, "\n".join(wrong)
    assert ran


@needs_the_package
def test_the_list_is_about_tests_there_are() -> None:
    """Every line of the list names a test of this interpreter, once, with a reason."""
    names = [name for module in MODULES for name in cases_of(module)]
    for entry in listed():
        there = any(name in entry for name in names)
        assert there or not exact(), entry.pattern
        assert len(entry.reason.split()) >= 3, entry.pattern
    twice = [name for name in names if sum(name in entry for entry in listed()) > 1]
    assert twice == []
