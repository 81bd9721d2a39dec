"""Loading the plugin: thin, inert, once."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

FOREIGN = """
    import doctest, unittest, warnings
    import pytest

    def double(n):
        '''
        >>> double(4)
        8
        '''
        return 2 * n

    @pytest.mark.parametrize("n", range(12))
    def test_double(n, capsys):
        print(n)
        assert double(n) == n + n

    def test_fails():
        assert double(2) == 5

    @pytest.mark.skip(reason="later")
    def test_skipped(): ...

    @pytest.mark.xfail(strict=True)
    def test_expected():
        assert False

    def test_warns():
        warnings.warn("careful")

    async def test_async_without_a_plugin(): ...

    class TestOld(unittest.TestCase):
        def setUp(self):
            self.n = 2
        def test_old(self):
            self.assertEqual(double(self.n), 4)
        @unittest.expectedFailure
        def test_old_failure(self):
            self.fail("as expected")

    class TestScoped:
        @pytest.fixture(scope="class")
        def shared(self):
            return []
        def test_one(self, shared):
            shared.append(1)
        def test_two(self, shared):
            assert shared == [1]
"""

# Imports pytest alone, then the plugin, and tells what came with it and how long it took.
MEASURE = """
    import sys, time
    import pytest
    before = set(sys.modules)
    start = time.perf_counter()
    import rpcsim.pytest_plugin
    took = time.perf_counter() - start
    print(took)
    print(*sorted(set(sys.modules) - before))
"""


def measured(cache: Path) -> tuple[float, list[str]]:
    """Import it in a fresh process, with compiled modules kept in a folder of ours."""
    options = ["-X", f"pycache_prefix={cache}"]
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(MEASURE)],
        env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
        capture_output=True,
        text=True,
        check=True,
    )
    took, names = done.stdout.splitlines()
    return float(took), names.split()


def told(result: pytest.RunResult) -> list[str]:
    """Give the lines of a session, without durations, addresses and the plugins."""
    lines = [re.sub(r" in [\d.]+s|0x\w+", "", line) for line in result.outlines]
    return [line for line in lines if not line.startswith("plugins:")]


def test_import_loads_nothing_but_the_front_door(tmp_path: Path) -> None:
    """Beside what pytest has loaded, the plugin brings itself and the front door."""
    took, names = measured(tmp_path)
    assert names == ["rpcsim", "rpcsim.pytest_plugin"]
    # The best of a few: the limit is about the import, not about a busy machine.
    assert min([took, *(measured(tmp_path)[0] for _ in range(3))]) < 0.005


def test_a_session_that_uses_nothing_loads_no_simulation(
    pytester: pytest.Pytester,
) -> None:
    """The rooms stay unloaded in a session without a fixture of ours."""
    pytester.makepyfile(
        """
        import sys

        def test_rooms():
            rooms = [name for name in sys.modules if name.startswith("rpcsim")]
            assert sorted(rooms) == ["rpcsim", "rpcsim.pytest_plugin"]
            assert "greenlet" not in sys.modules
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("rpcsim:*")


@pytest.mark.parametrize("options", [(), ("-q",), ("-rA", "--doctest-modules")])
def test_a_foreign_suite_is_unchanged(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    """A suite that uses nothing of ours gives the same output with and without us."""
    pytester.makepyfile(FOREIGN)
    within = pytester.runpytest(*options)
    without = pytester.runpytest(*options, "-p", "no:rpcsim")
    assert told(within) == told(without)
    assert within.ret == without.ret == pytest.ExitCode.TESTS_FAILED
    assert not list(pytester.path.glob(".pytest_cache/v/rpcsim*"))


def test_doctests_and_unittests_run_as_ever(pytester: pytest.Pytester) -> None:
    """Items of other kinds pass beside a test that uses a world."""
    pytester.makepyfile(
        """
        import unittest, pytest

        def double(n):
            '''
            >>> double(2)
            4
            '''
            return 2 * n

        class TestOld(unittest.TestCase):
            def test_old(self): ...

        @pytest.mark.usefixtures("sim")
        class TestOldInAWorld(unittest.TestCase):
            def test_old(self): ...

        def test_new(sim): ...
        """
    )
    result = pytester.runpytest("--doctest-modules")
    result.assert_outcomes(passed=4)


SMALL = "def test_it(sim): assert sim.mode == 'sim'"
NAMED = ("-p", "rpcsim.pytest_plugin")


@pytest.mark.parametrize(
    "options",
    [
        NAMED,
        NAMED * 2,
        ("-p", "rpcsim"),
        ("-p", "rpcsim", *NAMED),
        (*NAMED, "-p", "rpcsim"),
    ],
)
def test_named_as_well_as_found(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    """Naming the plugin beside its entry point, by either name, registers it once."""
    pytester.makepyfile(SMALL)
    result = pytester.runpytest(*options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["rpcsim: seed *, mode sim"])
    assert sum(line.startswith("rpcsim:") for line in result.outlines) == 1


def test_named_in_a_conftest_or_the_environment(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other ways to name a plugin do not register it again either."""
    pytester.makepyfile(SMALL)
    pytester.makeconftest("pytest_plugins = ['rpcsim.pytest_plugin']")
    monkeypatch.setenv("PYTEST_PLUGINS", "rpcsim.pytest_plugin")
    pytester.runpytest().assert_outcomes(passed=1)


def test_switched_off(pytester: pytest.Pytester) -> None:
    """`-p no:rpcsim` takes fixtures and options away."""
    pytester.makepyfile(SMALL)
    result = pytester.runpytest("-p", "no:rpcsim")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E*fixture 'sim' not found"])
    result = pytester.runpytest("-p", "no:rpcsim", "--rpcsim-seed=1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_autoload_off_and_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With autoload off it is absent until named, and the repro line names it too."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS")
    pytester.makepyfile(test_a="def test_it(sim): assert 0")
    pytester.runpytest().assert_outcomes(errors=1)
    result = pytester.runpytest(*NAMED, "--rpcsim-seed=5")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["pytest -p rpcsim.pytest_plugin test_a.py::test_it --rpcsim-seed=5"]
    )


def test_strict_sessions_pass(pytester: pytest.Pytester) -> None:
    """Options, ini keys and fixtures are declared, and none is a deprecated one."""
    pytester.makeini("[pytest]\nrpcsim_mode = sim\nrpcsim_seed = 12\n")
    pytester.makepyfile(SMALL)
    result = pytester.runpytest("--strict-markers", "--strict-config", "-W", "error")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["rpcsim: seed 12, mode sim"])


def test_ini_keys_in_native_toml(pytester: pytest.Pytester) -> None:
    """The ini keys work in a pytest.toml; a seed that is not text is told of."""
    if pytest.version_tuple < (9,):
        name, table = "pyproject.toml", "[tool.pytest.ini_options]"
    else:
        name, table = "pytest.toml", "[pytest]"
    config = pytester.path / name
    config.write_text(f'{table}\nrpcsim_mode = "sim"\nrpcsim_seed = "12"\n')
    pytester.makepyfile(SMALL)
    result = pytester.runpytest("--strict-config")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["rpcsim: seed 12, mode sim"])
