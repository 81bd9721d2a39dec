"""`async def` tests run on their world's loop, or fail aloud."""

import pytest

# A plugin that takes every test with its marker to a real loop of its own.
TAKES_BY_HOOK = """
    import asyncio, pytest

    def pytest_configure(config):
        config.addinivalue_line("markers", "foreign: run by the other plugin")

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(pyfuncitem):
        if pyfuncitem.get_closest_marker("foreign"):
            names = pyfuncitem._fixtureinfo.argnames
            taken = {name: pyfuncitem.funcargs[name] for name in names}
            test = pyfuncitem.obj
            if asyncio.iscoroutinefunction(test):
                asyncio.run(test(**taken))
                return True
"""
# One that takes whatever function the module has, whoever replaced it.
TAKES_ANYHOW = TAKES_BY_HOOK.replace(
    "test = pyfuncitem.obj",
    "test = getattr(pyfuncitem.module, pyfuncitem.originalname)",
)
# One that puts a plain function in the place of the test.
REPLACES = """
    import asyncio, functools, pytest

    def pytest_configure(config):
        config.addinivalue_line("markers", "foreign: run by the other plugin")

    def pytest_collection_modifyitems(items):
        for item in items:
            if item.get_closest_marker("foreign"):
                item.obj = plain(item.obj)

    def plain(test):
        @functools.wraps(test)
        def run(**arguments):
            asyncio.run(test(**arguments))
        return run
"""
# One whose items run their tests by themselves.
OWN_ITEMS = """
    import asyncio, pytest

    def pytest_configure(config):
        config.addinivalue_line("markers", "foreign: run by the other plugin")

    class Foreign(pytest.Function):
        def runtest(self):
            taken = {n: self.funcargs[n] for n in self._fixtureinfo.argnames}
            asyncio.run(self.obj(**taken))

    def pytest_collection_modifyitems(items):
        items[:] = [foreign(item) for item in items]

    def foreign(item):
        return Foreign.from_parent(
            item.parent, name=item.name, callspec=getattr(item, "callspec", None),
            callobj=item.obj, fixtureinfo=item._fixtureinfo, keywords=item.keywords,
            originalname=item.originalname,
        )
"""
TESTS = """
    import asyncio, pytest

    async def test_plain(sim):
        await asyncio.sleep(3600)
        assert sim.clock.elapsed == 3600
        assert asyncio.get_running_loop() is sim.loop

    @pytest.mark.foreign
    async def test_marked(rpc_world):
        await asyncio.sleep(3600)
        assert asyncio.get_running_loop() is rpc_world.loop

    class TestMethods:
        @pytest.mark.foreign
        @pytest.mark.parametrize("n", [1, 2])
        async def test_method(self, sim_clock, n):
            await asyncio.sleep(n)
            assert sim_clock.elapsed == n
"""


@pytest.mark.parametrize("other", [TAKES_BY_HOOK, OWN_ITEMS], ids=["hook", "items"])
def test_ours_runs_it(pytester: pytest.Pytester, other: str) -> None:
    """Marked for another plugin or not, a test with a world runs on the world's loop."""
    pytester.makeconftest(other)
    pytester.makepyfile(TESTS)
    pytester.runpytest().assert_outcomes(passed=4)


def test_foreign_tests_stay_foreign(pytester: pytest.Pytester) -> None:
    """Without a world in it, an async test is run by the plugin it is marked for."""
    pytester.makeconftest(TAKES_BY_HOOK)
    pytester.makepyfile(
        """
        import asyncio, pytest

        @pytest.mark.foreign
        async def test_marked(rpc_seed):
            assert type(asyncio.get_running_loop()).__module__.startswith("asyncio")
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


def test_a_replaced_test_is_refused_at_set_up(pytester: pytest.Pytester) -> None:
    """If another plugin made a plain function of it, set-up fails naming both."""
    pytester.makeconftest(REPLACES)
    pytester.makepyfile(test_a=TESTS)
    result = pytester.runpytest("-k", "marked or plain")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "rpcsim: the async test test_a.py::test_marked takes a world of rpcsim and "
            "should run on that world's loop, but plugin conftest runs it on its own; *"
        ]
    )


def test_a_test_taken_in_any_other_way_fails(pytester: pytest.Pytester) -> None:
    """A plugin that runs it behind our back makes it fail, never pass silently."""
    pytester.makeconftest(TAKES_ANYHOW)
    pytester.makepyfile(
        test_a="""
        import pytest

        @pytest.mark.foreign
        async def test_marked(sim): ...
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["rpcsim: the async test test_a.py::test_marked * another plugin ran it *"]
    )


def test_unittest_brings_its_own_loop(pytester: pytest.Pytester) -> None:
    """An async method of a TestCase with a world is refused at set-up."""
    pytester.makepyfile(
        test_a="""
        import unittest, pytest

        @pytest.mark.usefixtures("sim")
        class TestOld(unittest.IsolatedAsyncioTestCase):
            async def test_old(self): ...
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["rpcsim: the async test *::test_old *, but unittest *"]
    )


def test_in_both_modes(pytester: pytest.Pytester) -> None:
    """`rpc_world` gives an async test its world's loop in either mode."""
    pytester.makepyfile(
        """
        import asyncio

        async def test_it(rpc_world):
            before = rpc_world.clock.elapsed
            await asyncio.sleep(0.01)
            assert rpc_world.clock.elapsed - before >= 0.009
        """
    )
    pytester.runpytest("--rpcsim-mode=both").assert_outcomes(passed=2)


def test_the_traceback_begins_at_the_test(pytester: pytest.Pytester) -> None:
    """A failing async test shows its own line, and no frame of the plugin."""
    pytester.makepyfile("async def test_it(sim):\n    assert sim is None\n")
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">       assert sim is None"])
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")
