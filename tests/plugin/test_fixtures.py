"""What each fixture gives, and how several go together."""

# Inner sessions use it; else each of them would import it anew.
import hypothesis  # noqa: F401 - as above
import pytest

HYPOTHESIS = ("-p", "hypothesispytest")


def test_each_fixture_and_its_alias(pytester: pytest.Pytester) -> None:
    """Short and long names give the same objects, and all of them one world."""
    pytester.makepyfile(
        """
        import rpcsim

        def test_all(
            sim_net, rpcsim_net, rpc_trace, rpcsim_trace, rpc_world, rpcsim_world, sim,
            rpcsim_sim, sim_clock, rpcsim_clock, rpc_mode, rpcsim_mode, rpc_seed,
            rpcsim_seed,
        ):
            assert isinstance(sim, rpcsim.World)
            assert sim is rpcsim_sim is rpc_world is rpcsim_world
            assert sim.clock is sim_clock is rpcsim_clock
            assert sim.net is sim_net is rpcsim_net
            assert sim.trace is rpc_trace is rpcsim_trace
            assert rpc_mode == rpcsim_mode == sim.mode == "sim"
            assert rpc_seed == rpcsim_seed == sim.seed

        def test_trace_alone(rpc_trace, sim):
            assert rpc_trace is sim.trace

        def test_clock_alone(sim_clock):
            sim_clock.advance(60)
            assert sim_clock.elapsed == 60
        """
    )
    pytester.runpytest().assert_outcomes(passed=3)


def test_each_test_has_a_world_of_its_own(pytester: pytest.Pytester) -> None:
    """Neither time nor hosts pass from one test to the next."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", range(3))
        def test_fresh(sim, n):
            assert sim.clock.elapsed == 0
            assert not sim.hosts
            sim.host("a")
            sim.sleep(n + 1)
            assert sim.clock.elapsed == n + 1
        """
    )
    pytester.runpytest().assert_outcomes(passed=3)


def test_a_project_may_own_the_short_name(pytester: pytest.Pytester) -> None:
    """A project's fixture `sim` is used, and `rpcsim_sim` still is ours."""
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def sim():
            return "theirs"
        """
    )
    pytester.makepyfile(
        """
        def test_both(sim, rpcsim_sim, sim_clock):
            assert sim == "theirs"
            assert rpcsim_sim.clock is sim_clock
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


def test_a_world_outlives_the_fixtures_built_on_it(pytester: pytest.Pytester) -> None:
    """Fixtures that take the world are torn down while it still runs."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def system(sim):
            sim.host("a")
            yield sim
            sim.sleep(5)
            assert sim.clock.elapsed == 6

        def test_it(system):
            system.sleep(1)
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


def test_defaults_of_a_project(pytester: pytest.Pytester) -> None:
    """`rpcsim_defaults` gives options to worlds; one for nobody is refused."""
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def rpcsim_defaults():
            return {"sim": {"policy": "random"}, "rpc_world": {"trace": "steps"}}
        """
    )
    pytester.makepyfile(
        """
        def test_sim(sim):
            assert (sim.machine.policy, sim.trace.level) == ("random", "protocol")

        def test_world(rpc_world):
            assert (rpc_world.machine.policy, rpc_world.trace.level) == (
                "random", "steps",
            )

        def test_any_order(sim, rpc_world):
            assert (sim.machine.policy, sim.trace.level) == ("random", "steps")
        """
    )
    pytester.runpytest().assert_outcomes(passed=3)
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def rpcsim_defaults():
            return {"sym": {}}
        """
    )
    result = pytester.runpytest("-k", "test_sim")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["rpcsim: rpcsim_defaults has options for 'sym'; it knows sim and rpc_world"]
    )


@pytest.mark.parametrize("name", ["sim", "rpcsim_sim", "sim_clock", "rpc_world"])
def test_given_with_a_world_is_stopped(pytester: pytest.Pytester, name: str) -> None:
    """A property test that takes a world directly is shown the `with` form."""
    pytester.makepyfile(
        f"""
        from hypothesis import given, strategies as st

        @given(n=st.integers())
        def test_it({name}, n):
            raise AssertionError("not reached")
        """
    )
    result = pytester.runpytest(*HYPOTHESIS)
    result.assert_outcomes(errors=1)
    form = "rpcsim.world(rpc_mode)" if name == "rpc_world" else "rpcsim.simulate()"
    result.stdout.fnmatch_lines(
        [
            f"rpcsim: *::test_it is a @given test and takes '{name}', *",
            f"    with {form} as world:",
        ]
    )
    result.stdout.no_fnmatch_line("*not reached*")


def test_the_form_shown_to_given_works(pytester: pytest.Pytester) -> None:
    """The `with` form gives every example a fresh world; `rpc_mode` may be taken."""
    pytester.makepyfile(
        """
        import rpcsim
        from hypothesis import given, settings, strategies as st

        @settings(max_examples=5, deadline=None, database=None)
        @given(n=st.integers(0, 9))
        def test_it(rpc_mode, n):
            with rpcsim.world(rpc_mode) as world:
                assert world.clock.elapsed < 0.5
                world.sleep(0.001)
        """
    )
    result = pytester.runpytest(*HYPOTHESIS, "--rpcsim-mode=both")
    result.assert_outcomes(passed=2)
