"""Modes: the same tests simulated, on loopback sockets, or both."""

import pytest

# The first example of the design page, as a user would write it.
DESIGN = """
    import pytest, rpcsim
    from rpcsim import Agent
    from myagent import Dog                          # a plain class with @remote methods

    def test_bark_survives_a_partition(rpc_world):   # a World in this run's mode; seed printed on failure
        rpc_world.agent("jortel", Dog)               # a host running an agent; the broker host comes with it
        dog = Agent("jortel", timeout=(3, 180)).Dog()
        assert dog.bark("hello").startswith("Yes master")
        with rpc_world.net.partition("jortel", "broker"):
            with pytest.raises(rpcsim.CallTimeout):
                dog.bark("anyone?")                  # 3 simulated seconds, no real ones
        assert rpc_world.clock.elapsed >= 3
"""
MYAGENT = """
    from rpcsim import remote

    class Dog:
        @remote
        def bark(self, words):
            return f"Yes master, I will bark: {words}"
"""
MIXED = """
    import pytest

    @pytest.fixture
    def system(rpc_world):
        return rpc_world

    @pytest.mark.parametrize("n", ["x", "y"])
    def test_a(system, n): ...
    def test_b(sim):
        assert sim.mode == "sim"
    def test_c(rpcsim_world, rpc_mode):
        assert rpcsim_world.mode == rpc_mode
    def test_d(rpc_mode): ...
    def test_e(): ...
"""


def test_the_example_of_the_design(pytester: pytest.Pytester) -> None:
    """An agent, a partition and a time-out pass unchanged in both modes."""
    pytester.makepyfile(myagent=MYAGENT, test_design=DESIGN)
    pytester.syspathinsert()
    result = pytester.runpytest("--rpcsim-mode=both", "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "rpcsim: seed *, mode both",
            "*::test_bark_survives_a_partition[[]sim[]] PASSED*",
            "*::test_bark_survives_a_partition[[]real[]] PASSED*",
        ]
    )


def test_both_parametrises_what_reaches_a_world_of_the_run(
    pytester: pytest.Pytester,
) -> None:
    """Ids end in the mode, sim first, test by test; other tests run once."""
    pytester.makepyfile(test_m=MIXED)
    result = pytester.runpytest("--rpcsim-mode=both", "--collect-only", "-q")
    assert [line for line in result.outlines if "::" in line] == [
        f"test_m.py::{name}"
        for name in (
            *("test_a[x-sim]", "test_a[x-real]", "test_a[y-sim]", "test_a[y-real]"),
            *("test_b", "test_c[sim]", "test_c[real]"),
            *("test_d[sim]", "test_d[real]", "test_e"),
        )
    ]
    pytester.runpytest("--rpcsim-mode=both").assert_outcomes(passed=10)


@pytest.mark.parametrize("mode", ["sim", "real"])
def test_one_mode_adds_no_ids(pytester: pytest.Pytester, mode: str) -> None:
    """In one mode the ids are those of the source, and an ini key may choose it."""
    pytester.makepyfile(test_m=MIXED)
    pytester.makeini(f"[pytest]\nrpcsim_mode = {mode}\n")
    result = pytester.runpytest("-v")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines([f"rpcsim: seed *, mode {mode}", "*::test_c PASSED*"])


def test_own_parameters_for_the_mode_stand(pytester: pytest.Pytester) -> None:
    """A test whose author parametrised `rpc_mode` is left as it is."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("rpc_mode", ["real"])
        def test_it(rpc_mode, rpc_seed):
            assert rpc_mode == "real"
        """
    )
    result = pytester.runpytest("--rpcsim-mode=both", "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*::test_it[[]real[]] PASSED*"])


def test_one_test_has_one_world(pytester: pytest.Pytester) -> None:
    """`sim` and `rpc_world` together are an error in mode real that says so."""
    pytester.makepyfile(test_m="def test_it(sim, rpc_world): assert sim is rpc_world")
    result = pytester.runpytest("--rpcsim-mode=both")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_it[[]real[]]*",
            "rpcsim: test_m.py::test_it takes `sim`, which is always simulated, and "
            "`rpc_world`, which is real in this run: *--rpcsim-mode=sim",
        ]
    )


def test_what_only_a_simulation_has_skips_in_mode_real(
    pytester: pytest.Pytester,
) -> None:
    """Moving the clock by hand, or stepping, needs mode sim; a misspelling fails."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def an_hour_later(rpc_world):
            rpc_world.clock.advance(3600)

        def test_clock(rpc_world):
            rpc_world.clock.advance(60)

        def test_fixture(an_hour_later): ...

        def test_step(rpc_world):
            rpc_world.step()

        def test_misspelt(rpc_world):
            rpc_world.clock.advanze(60)
        """
    )
    pytester.runpytest("--rpcsim-mode=sim").assert_outcomes(passed=3, failed=1)
    result = pytester.runpytest("--rpcsim-mode=real", "-rs")
    result.assert_outcomes(skipped=3, failed=1)
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED*: rpcsim: needs mode sim: the test uses clock.advance",
            "SKIPPED*: rpcsim: needs mode sim: the test uses step",
        ]
    )
