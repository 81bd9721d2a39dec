"""What a failure tells, and that its repro line repeats it."""

import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

FAILS = """
    import asyncio
    import pytest
    from rpcsim import Agent, remote

    class Dog:
        @remote
        def bark(self, words):
            return words.upper()

    @pytest.mark.parametrize("words", ["a b", "it's", "[x-sim]", '"$HOME"'])
    def test_bark(rpc_world, words):
        rpc_world.agent("jortel", Dog)
        assert Agent("jortel").Dog().bark(words) == "woof"

    class TestMethods:
        async def test_waits(self, sim):
            async def later():
                await asyncio.Event().wait()
            task = asyncio.ensure_future(later())
            task.set_name("waiter")
            asyncio.get_running_loop().call_later(30, print)
            await asyncio.sleep(1.5)
            assert sim.clock.elapsed == 2
"""
SECTION = re.compile(r"^-+ (rpcsim \w+) -+$", re.MULTILINE)


def digests(text: str) -> list[str]:
    return re.findall(r"^trace digest: (\w{32})$", text, re.MULTILINE)


ITS = "test_f.py::test_bark[it's]"
THREE = ["rpcsim repro", "rpcsim world", "rpcsim timeline"]
FOUR = ["rpcsim repro", "rpcsim world", "rpcsim calls", "rpcsim timeline"]


@pytest.mark.parametrize("options", [(), ("-n2",), ("-s",)])
def test_sections_in_order(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    """Four sections for a failure with calls, without capture and on workers too."""
    pytester.makepyfile(test_f=FAILS)
    run = pytester.runpytest_subprocess if "-n2" in options else pytester.runpytest
    result = run("--rpcsim-seed=7", ITS, *options)
    result.assert_outcomes(failed=1)
    assert SECTION.findall(str(result.stdout)) == FOUR


def test_what_the_sections_tell(pytester: pytest.Pytester) -> None:
    """Time, seeds, mode, who waits, which timers; calls and the timeline of the run."""
    pytester.makepyfile(test_f=FAILS)
    result = pytester.runpytest("--rpcsim-seed=7", "-k", "waits")
    # It leaves its task and timer behind, which is told beside its failure.
    result.assert_outcomes(failed=1, errors=1)
    assert SECTION.findall(str(result.stdout)) == THREE * 2
    result.stdout.fnmatch_lines(
        [
            "*- rpcsim repro -*",
            "pytest test_f.py::TestMethods::test_waits --rpcsim-seed=7",
            "*- rpcsim world -*",
            "1.500000 s, mode sim, seed * (base seed 7)",
            "trace digest: *",
            "hosts: none",
            "waiting tasks:",
            "    waiter waits for event*test_f.py:*",
            "pending timers:",
            "    print of host test, due at 30 s",
            "*- rpcsim timeline -*",
        ]
    )
    result = pytester.runpytest("--rpcsim-seed=7", ITS)
    result.stdout.fnmatch_lines(
        [
            f"pytest {shlex.quote(ITS).replace('[', '[[]')} --rpcsim-seed=7 *=sim",
            "hosts: broker running, jortel running",
            "listeners:",
            "open connections:",
            "*- rpcsim calls -*",
            "*call.*Dog.bark*",
            "*- rpcsim timeline -*",
            "*calls Dog.bark of jortel*",
        ]
    )


def repro_lines(result: pytest.RunResult) -> list[str]:
    """Give the lines of the summary section."""
    lines = result.outlines
    start = next(n for n, line in enumerate(lines) if re.match("=+ rpcsim =+$", line))
    end = next(n for n in range(start + 1, len(lines)) if lines[n].startswith("==="))
    return lines[start + 1 : end]


@pytest.mark.parametrize("options", [(), ("-n2",)])
def test_the_repro_line_repeats_the_failure(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """Run by a shell as it stands, it fails the same way with an equal digest."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    pytester.makepyfile(test_f=FAILS)
    result = pytester.runpytest_subprocess("--rpcsim-mode=both", "-k", "bark", *options)
    result.assert_outcomes(failed=8)
    known = digests(str(result.stdout))
    lines = [line for line in repro_lines(result) if line.endswith("=sim")]
    assert len(lines) == 4
    # What the workers told is told alike: there one line stands for all.
    for line in lines[:1] if options else lines:
        again = subprocess.run(  # the user's own command line
            line, shell=True, cwd=pytester.path, capture_output=True, text=True
        )
        assert again.returncode == pytest.ExitCode.TESTS_FAILED, again.stdout
        assert "1 failed in" in again.stdout
        (digest,) = digests(again.stdout)
        assert digest in known
        assert line in again.stdout.splitlines()


def test_the_summary(pytester: pytest.Pytester) -> None:
    """One repro line per failure, in node id order; nothing with `-q -q`."""
    pytester.makepyfile(
        test_b="""
        def test_z(sim): assert 0
        def test_a(sim): assert 0
        def test_foreign(): assert 0
        """,
        test_a="""
        import pytest
        def test_x(rpc_mode): assert 0
        def test_y(rpc_seed): assert 0
        def test_passes(sim): ...
        @pytest.mark.xfail(strict=True)
        def test_expected(sim): assert 0
        @pytest.mark.xfail(strict=True)
        def test_unexpected(sim): ...
        def test_skipped(sim): pytest.skip("later")
        """,
    )
    result = pytester.runpytest("--rpcsim-seed=5", "test_b.py", "test_a.py")
    assert repro_lines(result) == [
        "pytest test_a.py::test_unexpected --rpcsim-seed=5",
        "pytest test_a.py::test_x --rpcsim-seed=5 --rpcsim-mode=sim",
        "pytest test_a.py::test_y --rpcsim-seed=5",
        "pytest test_b.py::test_a --rpcsim-seed=5",
        "pytest test_b.py::test_z --rpcsim-seed=5",
    ]
    quiet = pytester.runpytest("-q", "-q", "--tb=no")
    quiet.stdout.no_fnmatch_line("*rpcsim*")


def test_failing_set_up_and_tear_down(pytester: pytest.Pytester) -> None:
    """A fixture's failure on either side of the test has its repro line too."""
    pytester.makepyfile(
        test_f="""
        import pytest

        @pytest.fixture
        def before(sim):
            assert 0

        @pytest.fixture
        def after(sim):
            yield
            assert 0

        def test_before(before): ...
        def test_after(after): ...
        """
    )
    result = pytester.runpytest("--rpcsim-seed=5")
    result.assert_outcomes(passed=1, errors=2)
    assert repro_lines(result) == [
        "pytest test_f.py::test_after --rpcsim-seed=5",
        "pytest test_f.py::test_before --rpcsim-seed=5",
    ]


@pytest.mark.parametrize("options", [(), ("-n2",)])
def test_properties_of_each_test(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    """Seed, mode, simulated seconds and digest are in the JUnit file of each test."""
    pytester.makepyfile(
        test_p="""
        def test_sim(sim): sim.sleep(2.5)
        def test_real(rpc_world): ...
        def test_seed(rpc_seed): ...
        def test_foreign(): ...
        """
    )
    run = pytester.runpytest_subprocess if options else pytester.runpytest
    result = run("--rpcsim-mode=real", "--junitxml=out.xml", *options)
    result.assert_outcomes(passed=4)
    found = {
        case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")}
        for case in ET.parse(pytester.path / "out.xml").iter("testcase")
    }
    assert found["test_foreign"] == {}
    assert list(found["test_seed"]) == ["rpcsim_seed", "rpcsim_mode"]
    assert found["test_real"]["rpcsim_mode"] == "real"
    properties = found["test_sim"]
    assert properties["rpcsim_mode"] == "sim"
    assert properties["rpcsim_sim_seconds"] == "2.5"
    assert re.fullmatch(r"\w{32}", str(properties["rpcsim_digest"]))
    assert str(properties["rpcsim_seed"]).isdigit()


# What ends a test deep inside of us: the call, the wait, the loop, the network.
DEEP = """
    import asyncio
    from rpcsim import Agent, remote

    class Dog:
        @remote
        def bark(self, words):
            raise KeyError("bone")

        @remote
        async def sleep(self):
            await asyncio.sleep(1)

    def test_raised(rpc_world):
        rpc_world.agent("jortel", Dog)
        Agent("jortel").Dog().bark("hello")  # last

    def test_late(rpc_world):
        rpc_world.agent("jortel", Dog)
        Agent("jortel", timeout=(1, 0.3)).Dog().sleep()  # last

    async def test_blocks(rpc_world):
        Agent("jortel").Dog().bark("hello")  # last

    async def test_awaits(rpc_world):
        await rpc_world.agent("jortel", Dog).wait_started()
        await Agent("jortel").Dog().bark.acall("hello")  # last

    def test_program(rpc_world):
        async def main():
            await asyncio.sleep(0.01)
            assert 0  # last
        rpc_world.run(main)

    def test_nobody(rpc_world):
        rpc_world.net.partition("nobody", "broker")  # last
"""
PLACE = re.compile(r"^(\S+\.py):(\d+): (.*)$", re.MULTILINE)


@pytest.mark.parametrize("mode", ["sim", "real"])
def test_a_traceback_ends_at_the_tests_own_line(
    pytester: pytest.Pytester, mode: str
) -> None:
    """Our frames below it are left out, in either mode; `--full-trace` shows them."""
    path = pytester.makepyfile(test_d=DEEP)
    last = [
        number
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.endswith("# last")
    ]
    result = pytester.runpytest(f"--rpcsim-mode={mode}")
    result.assert_outcomes(failed=len(last))
    places = PLACE.findall(str(result.stdout))
    assert {file for file, _, _ in places} == {"test_d.py"}
    assert [int(number) for _, number, what in places if what] == last
    whole = pytester.runpytest(f"--rpcsim-mode={mode}", "--full-trace", "-k", "raised")
    whole.stdout.fnmatch_lines(
        ["*rpcsim*_agent.py:*", "*rpcsim*_running.py:*: KeyError"]
    )
