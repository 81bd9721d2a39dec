"""Calls all the way: caller, broker, agent, on both machines."""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.agents import (
    Agent,
    ClassNotFound,
    Context,
    MethodNotFound,
    NotFound,
    NotPermitted,
    RemoteException,
    RequestTimeout,
    _calls,
    remote,
)
from rpcsim.errors import Disconnected, LimitExceeded, LocalProtocolError
from rpcsim.ports import current
from rpcsim.sim import Sim
from tests.agents.machines import pause, serve

if TYPE_CHECKING:
    from rpcsim.ports import Machine


class Kennel(Exception):
    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(code)
        self.why = why


class Dog:
    def __init__(self, name: str = "rex", age: int = 0) -> None:
        self.name = name
        self.age = age

    @remote
    def bark(self, msg: str, times: int = 1) -> str:
        return f"{self.name}: {msg}" * times

    @remote()
    async def fetch(self, what: Any) -> Any:
        await current().clock.sleep(0.01)
        return what

    @remote
    def relay(self, msg: str) -> str:
        return "relayed " + str(Agent("other").Dog("rover").bark(msg))

    @remote
    async def relay_async(self, msg: str) -> str:
        return "relayed " + str(await Agent("other").Dog.bark.acall(msg))

    @remote
    def lose(self, key: str) -> None:
        raise KeyError(key)

    @remote
    async def run_away(self) -> None:
        raise Kennel(3, why="open door")

    @remote
    def vanish(self) -> None:
        raise types.new_class("Unheard", (Exception,))("of")

    @remote
    def bury(self) -> object:
        return {"bones": [1, object()]}

    @remote
    def choke(self) -> None:
        raise ValueError({1, 2})

    @remote
    def leave(self) -> None:
        sys.exit(3)

    @remote
    def busy(self, seconds: float) -> str | None:
        ports = current()
        ports.bridge.wait(ports.clock.sleep(seconds))
        running = Context.current()
        return running and running.sn

    @remote
    def count(self, n: int) -> int:
        running = Context.current()
        assert running is not None
        running.progress.total = n
        for _ in range(n):
            running.progress.increment()
        return n

    def sleep(self) -> None: ...


@pytest.fixture
def dog(world: Machine) -> Any:
    """A stub of a dog at agent jortel, with another agent beside it."""
    serve(world, "jortel", Dog)
    serve(world, "other", Dog)
    return Agent("jortel", timeout=(5, 20)).Dog()


def test_values_make_the_round_trip(dog: Any) -> None:
    """Both colours of methods; None and nesting survive, tuples become lists."""
    assert dog.bark("hello") == "rex: hello"
    assert dog.bark("x", times=2) == "rex: xrex: x"
    for value in (None, [1, [2, {}]], {"a": None}, 2**70, "é"):
        assert dog.fetch(value) == value
    assert dog.fetch((1, 2)) == [1, 2]


def test_constructor_arguments_travel_with_each_request(dog: Any) -> None:
    """Set by the second stub call, for every later request through that stub."""
    dog("rover", age=3)
    assert dog.bark("hi") == "rover: hi"
    assert dog.bark("ho") == "rover: ho"


def test_methods_call_other_agents(dog: Any) -> None:
    """Out of blocking and of async methods."""
    assert dog.relay("hi") == "relayed rex: hi"
    assert dog.relay_async("hi") == "relayed rex: hi"


def test_coroutines_call_without_blocking(world: Any, dog: Any) -> None:
    """`acall` gives the same, and calls overlap."""

    async def main() -> list[str]:
        return list(await asyncio.gather(*(dog.bark.acall(str(i)) for i in range(3))))

    assert world.run(main) == ["rex: 0", "rex: 1", "rex: 2"]


def test_what_is_not_offered_is_refused_by_name(dog: Any) -> None:
    """Class, method, decoration, in the order of gofer.md 10.1; nothing runs."""
    container = Agent("jortel")
    with pytest.raises(ClassNotFound) as missing:
        container.Dgo.bark("x")
    assert missing.value.args == ("Dgo",)
    assert "did you mean 'Dog'" in missing.value.__notes__[0]
    with pytest.raises(MethodNotFound) as method:
        dog.brak("x")
    assert method.value.args == ("Dog.brak(), not found",)
    assert "did you mean 'bark'" in method.value.__notes__[0]
    with pytest.raises(NotPermitted) as undecorated:
        dog.sleep()
    assert undecorated.value.args == ("Dog.sleep(), not permitted",)


def test_wrong_arguments_are_a_typeerror(dog: Any) -> None:
    """Of the method and of the constructor."""
    with pytest.raises(TypeError, match="missing 1 required positional"):
        dog.bark()
    dog(colour="red")
    with pytest.raises(TypeError, match="colour"):
        dog.bark("x")


def test_exceptions_arrive_as_themselves_with_the_remote_traceback(dog: Any) -> None:
    """Builtins and known classes; unknown ones as RemoteException."""
    with pytest.raises(KeyError) as lost:
        dog.lose("bone")
    assert lost.value.args == ("bone",)
    assert "in lose" in lost.value.__dict__["trace"]
    assert any("Remote traceback" in note for note in lost.value.__notes__)
    with pytest.raises(Kennel) as kennel:
        dog.run_away()
    assert (kennel.value.args, kennel.value.why) == ((3,), "open door")
    with pytest.raises(RemoteException) as unheard:
        dog.vanish()
    assert unheard.value.xclass == "Unheard"
    assert unheard.value.xargs == ("of",)
    with pytest.raises(RemoteException, match="SystemExit"):
        dog.leave()
    assert dog.bark("still there") == "rex: still there"


def test_what_json_cannot_carry_is_told_on_either_side(dog: Any) -> None:
    """Arguments are refused here; results and errors become a TypeError there."""
    with pytest.raises(TypeError, match=r"args\[1\]\['when'\]: datetime") as local:
        dog.bark(1, {"when": dt.datetime(2030, 1, 2, tzinfo=dt.UTC)})
    assert isinstance(local.value, LocalProtocolError)
    assert "Dog.bark() of agent 'jortel'" in local.value.__notes__[0]
    with pytest.raises(
        TypeError, match=r"Dog.bury\(\).*result\['bones'\]\[1\]: object"
    ):
        dog.bury()
    with pytest.raises(TypeError, match=r"xargs\[0\]: set"):
        dog.choke()
    with pytest.raises(LocalProtocolError, match="1048576"):
        dog.bark("x" * 2**20)
    with pytest.raises(LocalProtocolError, match="1048576"):
        dog.bark("x" * 2**10, times=2**10)
    assert dog.bark("fine") == "rex: fine"


def test_an_agent_nobody_started_is_not_found_at_once(dog: Any) -> None:
    """Synchronous or not, the error names the id."""
    for options in ({}, {"async_": True}):
        with pytest.raises(NotFound, match="no agent 'nobody'"):
            Agent("nobody", **options).Dog.bark("x")


def test_fire_and_forget_executes_and_sends_nothing_back(world: Any, dog: Any) -> None:
    """Not even when the class is missing or the method raises."""
    quiet = Agent("jortel", async_=True)
    sns = [quiet.Dog.bark("x"), quiet.Dog.lose("x"), quiet.Nothing.here()]
    assert len(set(sns)) == 3
    assert all(len(sn) == 36 for sn in sns)
    assert dog.bark("after them") == "rex: after them"
    ended = world.trace.of_kind("call.exec_end")
    assert [record.get("outcome") for record in ended] == ["ok", "raised", "ok"]
    replies = world.trace.of_kind("call.reply", "call.error")
    assert [record.get("id") in sns for record in replies] == [False]


def test_progress_reaches_the_caller_in_order(world: Any) -> None:
    """Before the result, with every documented key."""
    serve(world, "jortel", Dog)
    seen: list[Any] = []
    dog = Agent("jortel", progress=seen.append, any={"job": 1}).Dog()
    assert dog.count(3) == 3
    assert [report["completed"] for report in seen] == [1, 2, 3]
    assert seen[0]["any"] == seen[0]["data"] == {"job": 1}
    assert seen[0]["total"] == 3
    assert len(seen[0]["sn"]) == 36


def test_the_context_knows_the_serial_number(dog: Any) -> None:
    """The caller's sn is what the method sees; outside there is no context."""
    assert len(dog.busy(0)) == 36
    assert Context.current() is None


def test_limits_end_a_call_and_late_replies_disturb_nothing(world: Any) -> None:
    """Index 0 while another call keeps the agent busy, index 1 while ours does."""
    serve(world, "jortel", Dog)
    with pytest.raises(RequestTimeout) as slow:
        Agent("jortel", timeout=(5, 0.2)).Dog.busy(0.6)
    assert slow.value.index() == 1
    with pytest.raises(RequestTimeout) as waiting:
        Agent("jortel", timeout=(0.1, 5)).Dog.busy(0)
    assert waiting.value.index() == 0
    pause(world, 0.7)
    assert Agent("jortel").Dog.bark("on time") == "rex: on time"
    late = world.trace.of_kind("call.late")
    assert [record.get("id") for record in late] == [slow.value.sn()]


def test_limits_are_exact_in_simulation(sim_world: Any) -> None:
    """To the nanosecond, counted from sending and from the start."""
    serve(sim_world, "jortel", Dog)
    sim_world.net.link("*", "*", latency="1ms")
    dog = Agent("jortel", timeout=(3, 5)).Dog
    dog.bark("connected before")
    began = sim_world.clock.now_ns()
    with pytest.raises(RequestTimeout) as slow:
        dog.busy(100)
    started = sim_world.trace.of_kind("call.started")[-1].t_ns
    arrives = 2_000_000  # to the broker and from there to the caller
    assert sim_world.clock.now_ns() == started + arrives + 5_000_000_000
    began = sim_world.clock.now_ns()
    with pytest.raises(RequestTimeout):
        dog.busy(0)
    assert sim_world.clock.now_ns() == began + 3_000_000_000
    assert slow.value.args == (slow.value.sn(), 1)


def test_a_partition_ends_in_the_callers_limit_and_heals(sim_world: Any) -> None:
    """The connection stalls and goes on; nobody has to reconnect."""
    serve(sim_world, "jortel", Dog)
    dog = Agent("jortel", timeout=(3, 10)).Dog()
    assert dog.bark("before") == "rex: before"
    began = sim_world.clock.now_ns()
    with (
        sim_world.net.partition("jortel", "broker"),
        pytest.raises(RequestTimeout) as gone,
    ):
        dog.bark("anyone?")
    assert sim_world.clock.now_ns() == began + 3_000_000_000
    assert gone.value.index() == 0
    pause(sim_world, 1)
    assert dog.bark("again") == "rex: again"


def test_a_call_outside_any_agent_names_the_broker_and_what_to_start() -> None:
    """A world without a broker: Disconnected, at once, with the next step."""
    with Sim(seed=1), pytest.raises(Disconnected) as caught:
        Agent("jortel").Dog.bark("x")
    assert "localhost:5670" in str(caught.value)
    assert "rpcsim.simulate()" in str(caught.value)


def test_a_url_selects_another_broker(world: Any, dog: Any) -> None:
    """Option `url` goes to the container; the world's own broker is the default."""
    assert Agent("jortel", url="rpcsim://broker:5670").Dog.bark("x") == "rex: x"
    with pytest.raises(Disconnected, match="broker:9"):
        Agent("jortel", url="rpcsim://broker:9").Dog.bark("x")


def test_the_history_of_a_call_is_recorded(sim_world: Any) -> None:
    """Caller, agent and messages, in order, with serial number and call number."""
    serve(sim_world, "jortel", Dog)
    dog = Agent("jortel").Dog()
    dog.bark("one")
    dog.bark("two")
    sn = sim_world.trace.of_kind("call.invoke")[-1].get("id")
    told = [
        (record.kind, record.host)
        for record in sim_world.trace.of_kind("call")
        if record.get("id") == sn
    ]
    assert told == [
        ("call.invoke", "test"),
        ("call.request", "test"),
        ("call.received", "jortel"),
        ("call.started", "jortel"),
        ("call.exec_start", "jortel"),
        ("call.exec_end", "jortel"),
        ("call.reply", "jortel"),
        ("call.outcome", "test"),
    ]
    request, reply = sim_world.trace.of_kind("call.request", "call.reply")[-2:]
    assert (request.get("no"), request.get("src"), request.get("dst")) == (
        2,
        "test",
        "jortel",
    )
    assert (reply.get("no"), reply.get("src"), reply.get("dst")) == (
        2,
        "jortel",
        "test",
    )


def test_the_same_seed_gives_the_same_run() -> None:
    """Serial numbers and queue names included; another seed differs."""

    def digest(seed: int) -> str | None:
        with Sim(seed=seed) as sim:
            from rpcsim.fakes import BrokerServer

            sim.services["broker"] = "rpcsim://broker:5670"
            sim.host("broker", lambda: BrokerServer())
            serve(sim, "jortel", Dog)
            Agent("jortel").Dog.bark("x")
        return sim.trace.digest

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


def test_without_any_world_the_real_runtime_is_used() -> None:
    """A plain script gets Disconnected with the address and the next step; no hang."""
    script = (
        "from rpcsim.agents import Agent\n"
        "from rpcsim.errors import Disconnected\n"
        "try:\n"
        "    Agent('jortel', url='rpcsim://127.0.0.1:1').Dog.bark('x')\n"
        "except Disconnected as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "127.0.0.1:1" in run.stdout
    assert "rpcsim.simulate()" in run.stdout


def test_one_waiting_call_too_many_is_refused(
    sim_world: Sim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that wait for replies are bounded; those under way end as ever."""
    monkeypatch.setattr(_calls, "PENDING_LIMIT", 3)

    async def story() -> list[Any]:
        # A stub lets its blocking calls take turns; these overlap.
        calls = [Agent("jortel").Dog().fetch.acall(n) for n in range(5)]
        return await asyncio.gather(*calls, return_exceptions=True)

    serve(sim_world, "jortel", Dog)
    outcomes = sim_world.run(story)
    assert outcomes[:3] == [0, 1, 2]
    for refused in outcomes[3:]:
        assert isinstance(refused, LimitExceeded)
        assert "3 calls of host 'test' wait for replies" in str(refused)
