"""The pytest plugin: worlds as fixtures, seeds and modes as options, told failures.

It is thin: importing it loads nothing of rpcsim but the front door, and a session that
uses no fixture or option of it is unchanged. The laws of this file:

- Every fixture's own name has the prefix `rpcsim_`; the short one is an alias that a
  project may override.
- All fixtures of one test share one world, kept with the test's `_Run`.
- Whatever else claims an `async def` test, it runs on the world's loop or fails aloud.

Read `_Run` first.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from rpcsim.harness import Case, SimWorld, World
    from rpcsim.ports import Mode, Net
    from rpcsim.sim import SimClock
    from rpcsim.trace import Trace

# Helpers hide their frames from pytest: none of them helps a reader.
__tracebackhide__ = True

MODES: Final = ("sim", "real", "both")
# The fixtures a test can reach, by the names a project cannot take over.
FIXTURES: Final = frozenset(
    {
        *("rpcsim_mode", "rpcsim_seed", "rpcsim_sim", "rpcsim_trace", "rpcsim_world"),
        "rpc_mode",
    }
)
# Two fixtures, not one and an alias: in mode `both` each gets its parameter, and a
# fixture of the session could not take another that has one per test.
MODE_FIXTURES: Final = ("rpcsim_mode", "rpc_mode")
# The fixtures that open a world, and those rpcsim_defaults has options for.
WORLDS: Final = frozenset(
    {
        *("sim", "sim_clock", "sim_net", "rpc_world", "rpc_trace"),
        *("rpcsim_sim", "rpcsim_clock", "rpcsim_net", "rpcsim_world", "rpcsim_trace"),
    }
)
DEFAULTED: Final = ("sim", "rpc_world")
REPRO: Final = "rpcsim repro"
LAST: Final = "rpcsim/seed"  # where pytest's cache keeps the base seed
SEED_BITS: Final = 32  # enough for a session, short enough to be typed


# -- options -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Settings:
    """What the options and ini keys of this session say.

    Attributes:
        base: The seed every test's seed derives from.
        mode: Of worlds: `sim`, `real` or `both`.
        given: Whether somebody asked for anything, so that the header tells it.
    """

    base: int
    mode: str
    given: bool

    def __str__(self) -> str:
        return f"rpcsim: seed {self.base}, mode {self.mode}"


_SETTINGS: Final = pytest.StashKey[_Settings]()


def pytest_plugin_registered(
    plugin: object, plugin_name: str, manager: pytest.PytestPluginManager
) -> None:
    """Keep the entry point and `-p rpcsim.pytest_plugin` from meeting each other."""
    names = {"rpcsim", __name__}
    if plugin is sys.modules[__name__] and plugin_name in names:
        (other,) = names - {plugin_name}
        if not manager.has_plugin(other):
            manager.register(_OtherName(), other)


class _OtherName:
    """Holds the plugin's other name, so that nobody loads it twice."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what exists."""
    group = parser.getgroup("rpcsim", "rpcsim: worlds of remote calls")
    group.addoption(
        "--rpcsim-mode",
        metavar="{sim,real,both}",
        help="how rpc_world runs: simulated, on loopback sockets, or once each "
        "(ini: rpcsim_mode; default: sim)",
    )
    group.addoption(
        "--rpcsim-seed",
        metavar="{N,last,random}",
        help="base seed of the session; 0 is random (ini: rpcsim_seed)",
    )
    parser.addini("rpcsim_mode", "how rpc_world runs: sim, real or both", default="")
    parser.addini("rpcsim_seed", "base seed: a number, last or random", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Read the options, draw the base seed if need be, and hand it to xdist."""
    mode, place = _asked(config, "mode")
    if mode not in ("", *MODES):
        raise pytest.UsageError(f"rpcsim: {place} is sim, real or both, not {mode!r}")
    seed, place = _asked(config, "seed")
    given = bool(mode or seed)
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        base = worker["rpcsim_seed"]
    else:
        base = _base_seed(config, seed, place)
    config.stash[_SETTINGS] = _Settings(base, mode or "sim", given)
    if worker is None and config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Controller(base), "rpcsim-controller")


def _asked(config: pytest.Config, what: str) -> tuple[str, str]:
    """Give what an option, or else its ini key, says; and which of them it was."""
    told = config.getoption(f"rpcsim_{what}")
    if told is not None:
        return str(told), f"--rpcsim-{what}"
    try:
        return str(config.getini(f"rpcsim_{what}")), f"ini key rpcsim_{what}"
    except TypeError as error:  # native TOML, and not text
        raise pytest.UsageError(f"rpcsim: {error}") from None


def _base_seed(config: pytest.Config, told: str, place: str) -> int:
    if told == "last":
        cache = getattr(config, "cache", None)
        if cache is None:
            raise pytest.UsageError(
                f"rpcsim: {place} is last, but pytest's cache is off; give the number"
            )
        base = cache.get(LAST, None)
        if not isinstance(base, int):
            raise pytest.UsageError(
                f"rpcsim: {place} is last, but the cache holds no seed of an earlier "
                "run; give the number"
            )
        return base
    if told in ("", "random"):
        return _random_seed()
    if not (told.isascii() and told.isdigit()) or int(told[:20]) >= 2**63:
        raise pytest.UsageError(
            f"rpcsim: {place} is a whole number below 2**63, last or random, "
            f"not {told!r}"
        )
    return int(told) or _random_seed()


def _random_seed() -> int:
    # The one draw that is not simulated: which run this is.
    return int.from_bytes(os.urandom(SEED_BITS // 8), "big") or 1  # noqa: TID251 - at the edge


class _Controller:
    """Tells xdist's workers the base seed; registered only where xdist is loaded."""

    def __init__(self, base: int) -> None:
        self._base = base

    def pytest_configure_node(self, node: Any) -> None:
        """Put it into what the worker is told."""
        node.workerinput["rpcsim_seed"] = self._base


def pytest_report_header(config: pytest.Config) -> str | None:
    """Tell seed and mode if asked for anything."""
    return str(config.stash[_SETTINGS]) if _in_header(config) else None


def pytest_report_collectionfinish(
    config: pytest.Config, items: Sequence[pytest.Item]
) -> str | None:
    """Tell seed and mode when tests turn out to use them."""
    if _in_header(config) or config.get_verbosity() < 0:
        return None
    if not any(_reaches(item) for item in items):
        return None
    return str(config.stash[_SETTINGS])


def _in_header(config: pytest.Config) -> bool:
    return config.stash[_SETTINGS].given or config.get_verbosity() > 0


def _reaches(item: pytest.Item) -> bool:
    return not FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


# -- fixtures ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def rpcsim_defaults() -> Mapping[str, Mapping[str, Any]]:
    """Default options of worlds, to be overridden in a project's conftest.py.

    A mapping of fixture name to options: those of `sim` for every simulated world,
    those of `rpc_world` for that fixture, in either mode.
    """
    return {}


# Of the session, so that Hypothesis lets a @given test take it; mode `both` parametrises
# it test by test.
@pytest.fixture(scope="session")
def rpcsim_mode(request: pytest.FixtureRequest) -> Mode:
    """The mode of this run: `"sim"` or `"real"`."""
    return _mode_of(request)


def _mode_of(request: pytest.FixtureRequest) -> Mode:
    mode = getattr(request, "param", request.config.stash[_SETTINGS].mode)
    return "real" if mode == "real" else "sim"


@pytest.fixture
def rpcsim_seed(_rpcsim_run: _Run) -> int:
    """The seed of this test: derived from the base seed and the node id."""
    return _rpcsim_run.case.seed


@pytest.fixture
def rpcsim_sim(
    _rpcsim_run: _Run, rpcsim_defaults: Mapping[str, Mapping[str, Any]]
) -> SimWorld:
    """A simulated `World` of this test; closed and checked at its end."""
    return cast("SimWorld", _rpcsim_run.open("sim", rpcsim_defaults))


@pytest.fixture
def rpcsim_world(
    _rpcsim_run: _Run,
    rpcsim_mode: Mode,
    rpcsim_defaults: Mapping[str, Mapping[str, Any]],
) -> World:
    """A `World` in the mode of this run; closed and checked at the test's end."""
    return _rpcsim_run.open(rpcsim_mode, rpcsim_defaults)


@pytest.fixture
def rpcsim_clock(rpcsim_sim: SimWorld) -> SimClock:
    """The clock of `sim`."""
    return rpcsim_sim.clock


@pytest.fixture
def rpcsim_net(rpcsim_sim: SimWorld) -> Net:
    """The network of `sim`."""
    return rpcsim_sim.net


@pytest.fixture
def rpcsim_trace(request: pytest.FixtureRequest) -> Trace:
    """The trace of this test's world; readable after a failure too."""
    taken = "rpcsim_world" in request.fixturenames
    world: World = request.getfixturevalue("rpcsim_world" if taken else "rpcsim_sim")
    return world.trace


@pytest.fixture
def _rpcsim_run(request: pytest.FixtureRequest) -> Iterator[_Run]:
    run = _run_of(request.node)
    yield run
    run.close()


@pytest.fixture
def sim(rpcsim_sim: SimWorld) -> SimWorld:
    """A simulated `World` of this test; closed and checked at its end."""
    return rpcsim_sim


@pytest.fixture
def rpc_world(rpcsim_world: World) -> World:
    """A `World` in the mode of this run; closed and checked at the test's end."""
    return rpcsim_world


@pytest.fixture(scope="session")
def rpc_mode(request: pytest.FixtureRequest) -> Mode:
    """The mode of this run: `"sim"` or `"real"`."""
    return _mode_of(request)


@pytest.fixture
def rpc_seed(rpcsim_seed: int) -> int:
    """The seed of this test: derived from the base seed and the node id."""
    return rpcsim_seed


@pytest.fixture
def rpc_trace(rpcsim_trace: Trace) -> Trace:
    """The trace of this test's world; readable after a failure too."""
    return rpcsim_trace


@pytest.fixture
def sim_clock(rpcsim_clock: SimClock) -> SimClock:
    """The clock of `sim`."""
    return rpcsim_clock


@pytest.fixture
def sim_net(rpcsim_net: Net) -> Net:
    """The network of `sim`."""
    return rpcsim_net


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """In mode `both`, run each test that reaches the mode once in each."""
    names = [name for name in MODE_FIXTURES if name in metafunc.fixturenames]
    if names and _by_mode(metafunc.definition):
        # Last, so that the mode is the end of the id; the scope keeps the two runs of
        # a test next to each other.
        metafunc.parametrize(
            names,
            [[mode] * len(names) for mode in ("sim", "real")],
            indirect=True,
            ids=("sim", "real"),
            scope="function",
        )


def _by_mode(item: pytest.Item) -> bool:
    """Whether we parametrise the test by mode; not where its author did."""
    if item.config.stash[_SETTINGS].mode != "both":
        return False
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else ()
        if isinstance(names, str):
            names = [name.strip() for name in names.split(",")]
        if not set(names).isdisjoint(MODE_FIXTURES):
            return False
    return True


# -- the world of one test ---------------------------------------------------------------


class _Run:
    """What the plugin knows of one test that reaches a fixture of it.

    Attributes:
        item: The test.
        case: Its name, seed and world.
        error: What ended set-up or the test, if anything did.
    """

    def __init__(self, item: pytest.Item) -> None:
        from rpcsim.harness import Case

        settings = item.config.stash[_SETTINGS]
        # Without what xdist appends to the node id.
        name = f"{item.parent.nodeid}::{item.name}" if item.parent else item.nodeid
        mode: Mode = "real" if settings.mode == "real" else "sim"
        params: Mapping[str, Any] = getattr(
            getattr(item, "callspec", None), "params", {}
        )
        for fixture in MODE_FIXTURES:
            if fixture in params:
                mode = params[fixture]
                if _by_mode(item):
                    name = _without_mode(name, mode)
                break
        self.item: Final = item
        self.case: Final[Case] = Case(name, settings.base, mode)
        self.error: BaseException | None = None
        self._test: Any = getattr(item, "obj", None)
        self._runtest = item.runtest
        self._skipped = False
        self._note("rpcsim_seed", self.case.seed)
        self._note("rpcsim_mode", self.case.mode)

    def _note(self, name: str, value: object) -> None:
        """Set a property of the test's reports; a rerun replaces it."""
        kept = [pair for pair in self.item.user_properties if pair[0] != name]
        self.item.user_properties[:] = [*kept, (name, value)]

    # -- set-up ------------------------------------------------------------------------

    def open(self, mode: Mode, defaults: Mapping[str, Mapping[str, Any]]) -> World:
        """Give the test's world; the first fixture that asks makes it."""
        case = self.case
        if case.world is not None:
            if case.world.mode != mode:
                _fail(
                    f"rpcsim: {case.name} takes `sim`, which is always simulated, and "
                    "`rpc_world`, which is real in this run: one test has one world. "
                    "Take one of them, or run it with --rpcsim-mode=sim"
                )
            return case.world
        self._check_test()
        world = case.open(mode, self._options(mode, defaults))
        self.item.runtest = self.runtest  # type: ignore[method-assign]  # of this item
        self._note("rpcsim_mode", mode)
        self._note("rpcsim_seed", world.seed)
        return world

    def _options(
        self, mode: Mode, defaults: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Any]:
        unknown = [name for name in defaults if name not in DEFAULTED]
        if unknown:
            _fail(
                f"rpcsim: rpcsim_defaults has options for {unknown[0]!r}; it knows "
                f"{' and '.join(DEFAULTED)}"
            )
        options: dict[str, Any] = {}
        if mode == "sim":
            options |= defaults.get("sim", {})
        if "rpcsim_world" in getattr(self.item, "fixturenames", ()):
            options |= defaults.get("rpc_world", {})
        return options

    def _check_test(self) -> None:
        """Stop what would not do what it says, before there is a world."""
        told = None
        if getattr(self._test, "is_hypothesis_test", False):
            told = _given_text(self.case.name, self._test)
        elif (claimed_by := self._claimed(self._test)) is not None:
            told = (
                f"rpcsim: the async test {self.case.name} takes a world of rpcsim and should "
                f"run on that world's loop, but {claimed_by} runs it on its own; take "
                "away its marker, or the world"
            )
        if told is not None:
            _fail(told)

    def _claimed(self, test: Any) -> str | None:
        """Name who made a plain function of an `async def` test, if anybody did."""
        item = self.item
        if not isinstance(item, pytest.Function):
            return None
        from unittest import TestCase

        is_async = inspect.iscoroutinefunction(test)
        if is_async and item.cls is not None and issubclass(item.cls, TestCase):
            return "unittest"
        if is_async and item.get_closest_marker("trio") is not None:
            return "pytest-trio"  # written for trio, it cannot run on an asyncio loop
        owner = getattr(item.parent, "obj", None)
        written = getattr(owner, item.originalname, None)
        if is_async or not inspect.iscoroutinefunction(written):
            return None
        globals_of: dict[str, Any] = getattr(test, "__globals__", {})
        return f"plugin {globals_of.get('__name__', type(test).__name__)}"

    # -- the call ----------------------------------------------------------------------

    def runtest(self) -> None:
        """Run the test: on the world's loop if it is async, failures of tasks included.

        It stands in for the item's own `runtest`, so that tests without a world are
        called without a frame of ours.
        """
        item, case = self.item, self.case
        assert case.world is not None  # this method stands in once there is one
        try:
            if inspect.iscoroutinefunction(self._test):
                self._run_async(item, case.world)
            else:
                self._runtest()
        except (Exception, pytest.fail.Exception) as error:
            case.note_failures(error)
            raise
        failures = case.take_failures()
        if failures:
            from rpcsim.errors import UnhandledErrors

            # The one frame there is: pytest complains if all are hidden.
            __tracebackhide__ = _shown
            raise UnhandledErrors("failures in the run that nobody took", failures)

    def _run_async(self, item: Any, world: World) -> None:
        """Have pytest run an async test as a plain function.

        Other plugins look at the function, or bring items of their own class, and would
        start a real loop; a plain function in pytest's own `runtest` passes them.
        """
        test, ran = self._test, []

        @functools.wraps(test)
        def run_in_world(**arguments: Any) -> None:
            ran.append(test)
            world.run(test(**arguments))

        before, item.obj = item.obj, run_in_world
        try:
            pytest.Function.runtest(item)
        finally:
            item.obj = before
        if not ran:
            _fail(
                f"rpcsim: the async test {self.case.name} takes a world of rpcsim, but "
                "another plugin ran it in its own way; take away that plugin's marker, "
                "or the world"
            )

    # -- the end -----------------------------------------------------------------------

    def close(self) -> None:
        """End the world; what it kept or the test left behind is an error here."""
        case = self.case
        if case.world is None:
            return
        from rpcsim.report import left_text

        self.item.runtest = self._runtest  # type: ignore[method-assign]  # as above
        self._note("rpcsim_sim_seconds", case.elapsed)
        try:
            texts = case.close(self.error)
        except Exception as failure:
            if left := left_text(case):
                failure.add_note(left)
            raise
        finally:
            self._note("rpcsim_digest", case.world.trace.digest)
        # The report of the failed test was made already: tell here what is new.
        told = "\n".join(filter(None, [*texts, left_text(case)]))
        if told and not self._skipped:
            _fail(told)

    # -- telling of a failure ------------------------------------------------------------

    def tell(self, report: pytest.TestReport, error: BaseException | None) -> None:
        """Add sections to the report of a failure, or make it one of a skip.

        Args:
            report: What pytest will tell.
            error: What was raised; `None` for a test that passed and must not.
        """
        if report.when != "teardown":
            self.error = error
            used = self.case.needs_sim(error)
            if used is not None:
                self._skipped = True
                path, line, _ = self.item.reportinfo()
                report.outcome = "skipped"
                reason = f"rpcsim: needs mode sim: the test uses {used}"
                report.longrepr = (os.fspath(path), (line or 0) + 1, reason)
                return
        from rpcsim.report import failure_sections, repro_line

        item = self.item
        fixtures = getattr(item, "fixturenames", ())
        named = item.config.pluginmanager.get_plugin(__name__)
        repro = repro_line(
            self.case,
            with_mode=not set(MODE_FIXTURES).isdisjoint(fixtures),
            # Named by hand, perhaps because entry points are off.
            plugin=__name__ if named is sys.modules[__name__] else None,
        )
        report.sections += [(REPRO, repro), *failure_sections(self.case)]


_RUN: Final = pytest.StashKey[_Run]()


def _fail(text: str) -> NoReturn:
    """End the phase with a text and no traceback."""
    # One frame that is not hidden: else pytest tells that all of them are.
    __tracebackhide__ = _shown
    pytest.fail(text, pytrace=False)


def _shown(_: object) -> bool:
    return False


def _run_of(item: pytest.Item) -> _Run:
    if _RUN not in item.stash:
        item.stash[_RUN] = _Run(item)
    return item.stash[_RUN]


def _without_mode(name: str, mode: str) -> str:
    """Cut the mode off the end of a node id: `[a-sim]` to `[a]`, `[sim]` to nothing."""
    if name.endswith(f"-{mode}]"):
        return name.removesuffix(f"-{mode}]") + "]"
    return name.removesuffix(f"[{mode}]")


def _given_text(name: str, test: Any) -> str | None:
    """Show the `with` form if a @given test takes a world directly."""
    taken = [one for one in inspect.signature(test).parameters if one in WORLDS]
    if not taken:
        return None
    form = "rpcsim.simulate()"
    if taken[0] in ("rpc_world", "rpcsim_world"):
        form = "rpcsim.world(rpc_mode)"
    return (
        f"rpcsim: {name} is a @given test and takes {taken[0]!r}, which pytest makes "
        "once for all its examples. Open a fresh world in each example instead:\n\n"
        f"    with {form} as world:\n        ...\n\n"
        "(rpcsim.simulate() is always simulated; the fixtures rpc_mode and rpc_seed may be taken)"
    )


# -- the phases of a test ----------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin to keep account of a test that reaches a fixture of ours."""
    if _reaches(item):
        item.stash[_RUN] = _Run(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add our sections to the report of a failure."""
    report = yield
    run = item.stash.get(_RUN, None)
    if run is not None:
        if report.failed:
            run.tell(report, call.excinfo and call.excinfo.value)
        if report.when == "teardown":
            del item.stash[_RUN]  # and with it the world and its trace
    return report


# -- the end of the session --------------------------------------------------------------


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tell how to repeat each failure, and remember the base seed for `last`."""
    reports = [
        report
        for some in terminalreporter.stats.values()
        for report in some
        if isinstance(report, pytest.TestReport)
    ]
    used = any(
        name == "rpcsim_seed"
        for report in reports
        for name, _ in report.user_properties
    )
    cache = getattr(config, "cache", None)
    if used and cache is not None:
        cache.set(LAST, config.stash[_SETTINGS].base)
    lines = {
        report.nodeid: text
        for report in reports
        if report.failed
        for title, text in report.sections
        if title == REPRO
    }
    if lines and config.get_verbosity() > -2:
        terminalreporter.section("rpcsim")
        for nodeid in sorted(lines):
            terminalreporter.write_line(lines[nodeid])
