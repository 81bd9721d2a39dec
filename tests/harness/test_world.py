"""A `World` is the same object on either machine: verbs, hosts by name, the end."""

import asyncio
from typing import Any

import pytest

import rpcsim
from rpcsim import Agent, remote
from rpcsim.harness import SimWorld, World
from rpcsim.ports import Mode


class Dog:
    """Barks, and asks other dogs to."""

    @remote
    def bark(self, words: str) -> str:
        return f"Yes master: {words}"

    @remote
    async def whisper(self, words: str) -> str:
        await asyncio.sleep(0)
        return words.lower()

    @remote
    def relay(self, other: str, words: str) -> str:
        told: str = Agent(other).Dog().bark(words)
        return f"{other} says {told}"


@pytest.fixture(params=["sim", "real"])
def mode(request: pytest.FixtureRequest) -> Mode:
    value: Mode = request.param
    return value


def test_an_agent_brings_its_broker_and_is_found_by_name(mode: Mode) -> None:
    """One verb starts an agent and what it needs; a client finds it without a URL."""
    with rpcsim.world(mode) as world:
        world.agent("jortel", Dog)
        assert Agent("jortel").Dog().bark("hello") == "Yes master: hello"
        assert [host.name for host in world.hosts] == ["broker", "jortel"]
        assert world.services["broker"] == "rpcsim://broker:5670"
    assert list(world.leftovers) == []


def test_a_method_calls_another_agent(mode: Mode) -> None:
    """Blocking code on one host may wait for another, and that for a third."""
    with rpcsim.world(mode) as world:
        world.agent("a", Dog)
        world.agent("b", Dog)
        assert Agent("a").Dog().relay("b", "x") == "b says Yes master: x"
        assert Agent("a").Dog().whisper("LOUD") == "loud"


def test_two_brokers_keep_their_agents_apart(mode: Mode) -> None:
    """An agent may name its broker; the world's own stays the first one."""
    with rpcsim.world(mode) as world:
        world.broker("north")
        world.broker("south")
        world.agent("a", Dog, broker="south")
        with pytest.raises(rpcsim.RpcError, match="no agent 'a'"):
            Agent("a").Dog().bark("x")
        south = Agent("a", url="rpcsim://south:5670")
        assert south.Dog().bark("x") == "Yes master: x"


def test_an_agent_may_run_on_a_host_of_another_name(mode: Mode) -> None:
    """The id addresses the agent, the host name the machine."""
    with rpcsim.world(mode) as world:
        host = world.agent("jortel", Dog, host="web01")
        assert host.name == "web01"
        assert world["web01"] is host
        assert Agent("jortel").Dog().bark("x") == "Yes master: x"
        with pytest.raises(rpcsim.SimulationError, match="another-name"):
            world.agent("second", Dog, host="web01")


def test_an_unknown_host_is_told_with_the_known_ones(mode: Mode) -> None:
    """A misspelt host names what there is."""
    with rpcsim.world(mode) as world:
        world.host("web01")
        with pytest.raises(KeyError, match=r"web02.*declared: web01"):
            world["web02"]


def test_a_host_that_cannot_start_says_why(mode: Mode) -> None:
    """The verb raises what the software's start raised."""

    class Broken:
        async def start(self) -> None:
            raise OSError("no disk")

        async def stop(self) -> None: ...

    with rpcsim.world(mode) as world:  # noqa: SIM117 - the world ends in order
        with pytest.raises(OSError, match="no disk"):
            world.host("broken", Broken)


def test_time_is_the_worlds(mode: Mode) -> None:
    """`sleep` waits in the world's time, and `elapsed` counts it."""
    with rpcsim.world(mode) as world:
        before = world.clock.elapsed
        world.sleep("20ms")
        assert world.clock.elapsed - before >= 0.02


def test_main_may_be_a_coroutine_a_coroutine_function_or_blocking(mode: Mode) -> None:
    """`run` takes each of the three."""
    with rpcsim.world(mode) as world:

        async def story(value: int = 1) -> int:
            await asyncio.sleep(0)
            return value

        def blocking() -> int:
            world.sleep(0)
            return 3

        assert world.run(story) == 1
        assert world.run(story(2)) == 2
        assert world.run(blocking) == 3


def test_verbs_do_not_block_inside_a_coroutine() -> None:
    """In a coroutine a verb returns at once; the host tells when it is up."""

    async def story() -> Any:
        host = world.agent("jortel", Dog)
        await host.wait_started()
        return await Agent("jortel").Dog().bark.acall("x")

    with rpcsim.simulate() as world:
        world.broker()
        assert world.run(story) == "Yes master: x"


def test_a_simulated_world_has_the_members_of_its_machine() -> None:
    """`step`, `loop`, ... are there in simulation; elsewhere the name is told."""
    with rpcsim.simulate(seed=3) as world:
        assert isinstance(world, SimWorld)
        world.clock.advance(60)
        assert world.clock.elapsed == 60
        assert world.step() == 0
    with rpcsim.world("real") as real:
        assert isinstance(real, World)
        with pytest.raises(AttributeError, match="mode 'real' has no 'step'"):
            real.step()


def test_a_mode_that_does_not_exist_is_refused() -> None:
    """The error names the two modes."""
    with pytest.raises(ValueError, match="'sim' or 'real', not 'simulated'"):
        rpcsim.world("simulated")


def test_seeds_of_tests_follow_from_their_names() -> None:
    """A test's seed depends on the base seed and its name alone, in 63 bits."""
    seed = rpcsim.derive_seed(7, "tests/test_x.py::test_y")
    assert seed == rpcsim.derive_seed(7, "tests/test_x.py::test_y")
    assert seed != rpcsim.derive_seed(8, "tests/test_x.py::test_y")
    assert seed != rpcsim.derive_seed(7, "tests/test_x.py::test_z")
    assert 0 <= seed < 2**63


def test_a_broker_that_restarts_keeps_what_it_confirmed() -> None:
    """A request accepted before the broker's power fails is answered after it."""
    with rpcsim.simulate() as world:
        broker = world.broker()
        agent = world.agent("jortel", Dog)
        agent.crash()
        Agent("jortel", async_=True).Dog().bark("queued")
        broker.crash()
        broker.restart()
        agent.restart()
        world.sleep(60)
        told = [r for r in world.trace.of_kind("call.exec_end") if r.host == "jortel"]
        assert len(told) == 1


def test_equal_seeds_give_equal_digests() -> None:
    """Two worlds of one seed tell the same story; another seed draws other ids."""

    def run(seed: int) -> str | None:
        with rpcsim.simulate(seed=seed, policy="random") as world:
            world.agent("a", Dog)
            world.agent("b", Dog)
            Agent("a").Dog().relay("b", "x")
        return world.trace.digest

    assert run(1) == run(1)
    assert run(1) != run(2)
