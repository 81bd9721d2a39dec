"""What a test leaves behind, and failures nobody took, are blamed on that test."""

import pytest


def test_leftovers_are_named_at_teardown(pytester: pytest.Pytester) -> None:
    """Each task, fiber, timer and listener is named; the test keeps its outcome."""
    pytester.makepyfile(
        test_l="""
        import asyncio

        def test_task(sim):
            async def forever():
                await asyncio.Event().wait()
            async def main():
                asyncio.create_task(forever(), name="the-task")
            sim.run(main)

        def test_fiber(sim):
            sim.ports.bridge.spawn(lambda: sim.sleep(60), name="the-fiber")
            sim.sleep(1)

        def test_timer(sim):
            def ring(): ...
            sim.loop.call_later(60, ring)

        async def test_listener(sim):
            await asyncio.start_server(lambda r, w: None, "0.0.0.0", 99)

        def test_next(sim): ...

        def test_failing(sim):
            sim.loop.call_later(60, print)
            assert 0
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=5, failed=1, errors=5)
    for name, text in (
        ("task", "task the-task of host test, at *test_l.py:*"),
        ("fiber", "fiber the-fiber of host test, at *"),
        ("timer", "timer *ring* of host test, due at 60 s"),
        ("listener", "listener <listening on *:99 of test>"),
        ("failing", "timer print of host test, due at 60 s"),
    ):
        result.stdout.fnmatch_lines(
            [
                f"*ERROR at teardown of test_{name} *",
                f"rpcsim: test_l.py::test_{name} left behind in its world (mode sim):",
                f"    {text}",
            ]
        )
    result.stdout.fnmatch_lines(["FAILED test_l.py::test_failing*"])
    result.stdout.no_fnmatch_line("*traceback entries are hidden*")


def test_a_background_failure_fails_the_test(pytester: pytest.Pytester) -> None:
    """A task's failure nobody took fails a passing test, and is noted on a failing one."""
    pytester.makepyfile(
        test_b="""
        import asyncio

        async def boom():
            raise ValueError("in the background")

        async def test_passing(sim):
            asyncio.get_running_loop().create_task(boom())
            await asyncio.sleep(1)

        async def test_failing(sim):
            asyncio.get_running_loop().create_task(boom())
            await asyncio.sleep(1)
            assert 0

        def test_next(sim): ...
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        ["*UnhandledErrors: failures in the run*", "*ValueError: in the background"]
    )
    result.stdout.fnmatch_lines(["E*also, in the run: ValueError: in the background"])
    result.stdout.no_fnmatch_line("*traceback entries are hidden*")


def test_a_swallowed_error_of_the_run_is_raised(pytester: pytest.Pytester) -> None:
    """Code that swallows an escape from the simulation does not make it pass."""
    pytester.makepyfile(
        test_s="""
        import contextlib

        def leave(sim):
            with contextlib.suppress(Exception):
                sim.loop.add_reader(0, print)

        def test_passing(sim):
            leave(sim)

        def test_failing(sim):
            leave(sim)
            assert 0

        def test_next(sim): ...
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=2, failed=1, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_passing*",
            "E*EscapeError: loop.add_reader*",
        ]
    )
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_failing*", "also, in the run: EscapeError: *"]
    )


def test_leftovers_in_mode_real(pytester: pytest.Pytester) -> None:
    """A task left on the real loop is named the same way."""
    pytester.makepyfile(
        test_r="""
        import asyncio

        async def test_task(rpc_world):
            asyncio.get_running_loop().create_task(asyncio.sleep(60), name="the-task")

        async def test_next(rpc_world): ...
        """
    )
    result = pytester.runpytest("--rpcsim-mode=real")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "rpcsim: test_r.py::test_task left behind in its world (mode real):",
            "    *the-task*",
        ]
    )
