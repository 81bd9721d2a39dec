"""Agents under hardship: crashes, lost connections, strange documents, stuck methods."""

from __future__ import annotations

import asyncio
import json
import types
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.agents import Agent, AgentServer, Context, RequestTimeout, remote
from rpcsim.agents._broker import broker_for
from rpcsim.agents._server import _Answer
from rpcsim.errors import Disconnected
from rpcsim.fakes import BrokerMemory, BrokerServer
from rpcsim.ports import MessageInfo, QueueOptions, current
from rpcsim.sim import Sim
from tests.agents.machines import URL, pause, serve, wait_started

if TYPE_CHECKING:
    from rpcsim.ports import Machine

INFO = MessageInfo(system="agent", kind="request", method="Dog.bark", call_id="sn")
SN = "5b0c2f7e-7c0e-4b0f-9b1c-0f6a0b8d9a11"


def plugin(seen: list[Any]) -> type:
    """Make a class whose methods note that they ran."""

    class Dog:
        @remote
        def bark(self, msg: str) -> str:
            seen.append(msg)
            return f"woof {msg}"

        @remote
        async def slow(self, seconds: float) -> str:
            seen.append("began")
            await current().clock.sleep(seconds)
            seen.append("ended")
            return "done"

        @remote
        async def stuck(self) -> None:
            await asyncio.get_running_loop().create_future()

        @remote
        async def patient(self) -> str:
            running = Context.current()
            while running is not None and not running.cancelled():
                await current().clock.sleep(0.1)
            return "stopped early"

    return Dog


def publish(world: Machine, *bodies: bytes, queue: str = "jortel") -> None:
    """Put messages on a queue, as a stranger would."""

    async def main() -> None:
        broker = await broker_for(current(), URL)
        for body in bodies:
            await broker.publish(queue, body, info=INFO)

    world.run(main)


def collect(world: Machine, queue: str) -> list[Any]:
    """Make a queue and give the list its documents will be added to."""
    documents: list[Any] = []

    async def main() -> None:
        broker = await broker_for(current(), URL)
        await broker.declare(queue, QueueOptions(durable=False))

        def take(delivery: Any) -> None:
            documents.append(json.loads(delivery.body))
            delivery.ack()

        await broker.consume(queue, take)

    world.run(main)
    return documents


def request(sn: str = SN, **changes: Any) -> bytes:
    body = {"classname": "Dog", "method": "bark", "args": ["hi"], "kws": {}}
    document = {"sn": sn, "version": "0.4", "replyto": "replies", "request": body}
    return json.dumps({**document, **changes}).encode()


def test_a_stranger_gets_the_documented_documents(world: Any) -> None:
    """Any client that speaks gofer.md 16 is answered key by key."""
    serve(world, "jortel", plugin([]))
    documents = collect(world, "replies")
    publish(world, request(any={"job": 1}, routing=["me", "jortel"], extra=3))
    pause(world, 0.3)
    common = {
        "sn": SN,
        "version": "0.4",
        "routing": ["jortel", "replies"],
        "any": {"job": 1},
    }
    assert documents == [
        {**common, "status": "started"},
        {**common, "result": {"retval": "woof hi"}},
    ]


def test_undecodable_documents_are_dropped_and_invalid_ones_rejected(
    world: Any,
) -> None:
    """The agent goes on; nothing comes back to be looked at again."""
    seen: list[Any] = []
    serve(world, "jortel", plugin(seen))
    documents = collect(world, "replies")
    publish(
        world,
        b"\xff not JSON",
        b"[]",
        b"[" * 9999,
        b'{"sn": 3}',
        request(version="9.9"),
        request(request=None),
        request(request={"classname": "Dog"}),
        request(request={"classname": "Dog"}, replyto=None),
        request(request={"classname": "Dog"}, replyto="nobody"),
    )
    assert Agent("jortel").Dog.bark("x") == "woof x"
    pause(world, 0.3)
    assert seen == ["x"]
    assert [(d["status"], d["code"]) for d in documents] == [
        ("rejected", "model.invalid")
    ] * 2
    reasons = [r.get("reason") for r in world.trace.of_kind("call.discarded")]
    assert sorted(map(str, reasons)) == sorted(
        ["undecodable"] * 3 + ["invalid"] * 5 + ["version"]
    )


def test_a_request_that_is_pending_is_not_run_twice(world: Any) -> None:
    """The same serial number again, while the first still runs, is dropped."""
    seen: list[Any] = []
    serve(world, "jortel", plugin(seen), threads=2)
    slow = {"classname": "Dog", "method": "slow", "args": [0.3], "kws": {}}
    publish(world, request(request=slow), request(request=slow))
    pause(world, 0.6)
    assert seen == ["began", "ended"]
    assert world.trace.of_kind("call.discarded")[0].get("reason") == "duplicate"


def test_a_method_that_never_returns_blocks_one_thread_only(world: Any) -> None:
    """Others run beside it; with one thread they wait, and their callers are told."""
    serve(world, "jortel", plugin([]), threads=2)
    serve(world, "single", plugin([]))
    for name in ("jortel", "single"):
        Agent(name, async_=True).Dog.stuck()
    assert Agent("jortel").Dog.bark("x") == "woof x"
    with pytest.raises(RequestTimeout) as caught:
        Agent("single", timeout=0.2).Dog.bark("x")
    assert caught.value.index() == 0
    assert "busy" in str(caught.value)


def test_a_crash_in_the_middle_of_a_call_runs_it_again_after_the_restart(
    world: Any,
) -> None:
    """At least once: the broker kept the request, and the caller gets one result."""
    seen: list[Any] = []
    host = serve(world, "jortel", plugin(seen))
    bridge = world.bridge

    async def main() -> Any:
        dog = Agent("jortel", timeout=(30, 60)).Dog
        call = asyncio.ensure_future(dog.slow.acall(0.3))
        await world.clock.sleep(0.1)
        host.crash("process")
        await world.clock.sleep(0.1)
        host.restart()
        return await call

    assert bridge.wait(main()) == "done"
    assert seen == ["began", "began", "ended"]
    received = world.trace.of_kind("call.received")
    assert [record.get("redelivered") for record in received] == [False, True]


def test_a_restarted_broker_gets_its_agents_back(world: Any) -> None:
    """What ran goes on and answers over the next connection; nothing runs twice."""
    seen: list[Any] = []
    serve(world, "jortel", plugin(seen))
    broker = next(host for host in world.hosts if host.name == "broker")
    Agent("jortel", async_=True).Dog.slow(0.5)
    pause(world, 0.1)
    broker.crash("process")
    with pytest.raises(Disconnected):
        Agent("jortel", timeout=2).Dog.bark("nobody listens")
    broker.restart()
    wait_started(world, broker)
    pause(world, 3)
    assert Agent("jortel").Dog.bark("back") == "woof back"
    assert seen == ["began", "ended", "back"]


def test_an_answer_lost_on_its_way_is_given_again() -> None:
    """The request comes back with the next connection, and is answered, not run."""
    seen: list[Any] = []
    with Sim(seed=1) as sim:
        memory = BrokerMemory()
        sim.services["broker"] = URL
        broker = sim.host("broker", lambda: BrokerServer(memory=memory))
        serve(sim, "jortel", plugin(seen))
        sim.net.link("*", "*", latency="10ms")

        async def main() -> None:
            client = await broker_for(current(), URL)
            await client.declare("replies", QueueOptions())
            slow = {"classname": "Dog", "method": "slow", "args": [0.3], "kws": {}}
            await client.publish("jortel", request(request=slow), info=INFO)
            # The method began as the confirm came back: the answer is on its way.
            await asyncio.sleep(0.305)
            assert sim.trace[-1].kind == "conn.data"

        sim.run(main)
        broker.crash("process")
        broker.restart()
        pause(sim, 5)
        kept = {queue.name: queue.messages for queue in memory.kept()}
        documents = [json.loads(message.body) for message in kept["replies"]]
        assert [d.get("status") or d["result"] for d in documents] == [
            "started",
            {"retval": "done"},
        ]
        assert not kept["jortel"]
        assert seen == ["began", "ended"]
        told = [r.get("reason") for r in sim.trace.of_kind("call.discarded")]
        assert told == ["finished"]


def test_answers_are_remembered_within_a_bound() -> None:
    """So many, and so many bytes of them; the oldest are forgotten first."""
    agent = AgentServer("jortel", plugin([]))
    for n in range(20):
        agent._remember(f"big {n}", _Answer("reply", bytes(1 << 20)))
    assert list(agent._finished) == [f"big {n}" for n in range(12, 20)]
    for n in range(2000):
        agent._remember(f"small {n}", None)
    assert len(agent._finished) == 1000
    assert agent._finished_bytes == 0


def test_a_caller_whose_connection_is_lost_is_told(world: Any) -> None:
    """Whether the method ran is not known, and the error says so."""
    serve(world, "jortel", plugin([]))
    broker = next(host for host in world.hosts if host.name == "broker")

    async def main() -> None:
        call = asyncio.ensure_future(Agent("jortel").Dog.slow.acall(5))
        await world.clock.sleep(0.2)
        broker.crash("process")
        await call

    with pytest.raises(Disconnected, match="whether it ran is not known"):
        world.bridge.wait(main())


def test_an_agent_waits_for_its_broker(sim_world: Any) -> None:
    """Started before its broker, it attaches as soon as that is there."""
    broker = next(host for host in sim_world.hosts if host.name == "broker")
    sim_world.bridge.wait(broker.stop())
    agent = sim_world.host("early", lambda: AgentServer("early", plugin([])))
    pause(sim_world, 5)
    broker.restart()
    wait_started(sim_world, agent)
    assert Agent("early").Dog.bark("x") == "woof x"


def test_a_stopped_agent_ends_what_runs_and_leaves_the_rest(world: Any) -> None:
    """A polling method sees `cancelled()`; waiting requests stay with the broker."""
    seen: list[Any] = []
    host = serve(world, "jortel", plugin(seen))

    async def main() -> list[Any]:
        dog = Agent("jortel", timeout=(30, 60)).Dog
        first = asyncio.ensure_future(dog.patient.acall())
        await world.clock.sleep(0.1)
        second = asyncio.ensure_future(dog.bark.acall("later"))
        await world.clock.sleep(0.1)
        await host.stop()
        assert seen == []
        assert not second.done()
        host.restart()
        return [await first, await second]

    assert world.bridge.wait(main()) == ["stopped early", "woof later"]


def test_a_stopped_agent_does_not_wait_for_ever(world: Any, caplog: Any) -> None:
    """A method that never returns is cancelled after a while, and named."""
    host = serve(world, "jortel", plugin([]))
    Agent("jortel", async_=True).Dog.stuck()
    pause(world, 0.1)
    world.bridge.wait(host.stop())
    assert "these still ran: jortel: Dog.stuck" in caplog.text


def test_two_agents_on_one_queue_share_the_work(world: Any) -> None:
    """Each request goes to one of them."""
    seen: list[Any] = []
    for name in ("a", "b"):
        host = world.host(name, lambda: AgentServer("shared", plugin(seen)))
        wait_started(world, host)

    async def main() -> None:
        dog = Agent("shared").Dog
        await asyncio.gather(*(dog.slow.acall(0.2) for _ in range(4)))

    world.bridge.wait(main())
    assert len(seen) == 8
    hosts = {record.host for record in world.trace.of_kind("call.exec_start")}
    assert hosts == {"a", "b"}


def test_requests_whose_time_is_up_never_run(sim_world: Any) -> None:
    """Nobody waits for them any more, so they are removed without an answer."""
    seen: list[Any] = []
    serve(sim_world, "jortel", plugin(seen))
    Agent("jortel", async_=True).Dog.slow(10)
    with pytest.raises(RequestTimeout):
        Agent("jortel", timeout=2).Dog.bark("too late")
    pause(sim_world, 20)
    assert seen == ["began", "ended"]


def test_modules_are_plugins(world: Any) -> None:
    """Their functions are found under the module's name, their classes under theirs."""
    module = types.ModuleType("pkg.tools")
    module.__dict__.update(Dog=plugin([]), echo=remote(lambda x: x))
    serve(world, "jortel", module)
    container = Agent("jortel")
    assert container.tools.echo([1]) == [1]
    assert container.Dog.bark("x") == "woof x"


def test_mistakes_in_building_an_agent_are_told_at_once() -> None:
    """Not at the first call."""
    wrong: Any = plugin([])()
    with pytest.raises(TypeError, match="pass the class itself"):
        AgentServer("jortel", wrong)
    with pytest.raises(ValueError, match="at least 1 thread"):
        AgentServer("jortel", threads=0)
    with pytest.raises(RuntimeError, match="was not started"):
        AgentServer("jortel").ports  # noqa: B018 - the property is what is tested


def test_an_agent_is_started_once(sim_world: Any) -> None:
    """A restart is a new one."""

    async def main() -> None:
        agent = AgentServer("again", plugin([]))
        await agent.start()
        assert repr(agent) == "<AgentServer 'again' attached: 0 running, 0 waiting>"
        try:
            with pytest.raises(RuntimeError, match="make a new one"):
                await agent.start()
        finally:
            await agent.stop()

    sim_world.run(main)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_crashes_calls_end_and_the_system_recovers(seed: Any) -> None:
    """Broker or agent, power or process, under a random schedule: no call hangs."""

    class Relay:
        @remote
        async def relay(self, n: int) -> Any:
            return await Agent("b", timeout=(5, 5)).Relay.slow.acall(n)

        @remote
        async def slow(self, n: int) -> int:
            await current().clock.sleep(0.05 * n)
            return n

    async def one(n: int) -> str:
        try:
            return f"ok {await Agent('a', timeout=(8, 8)).Relay.relay.acall(n)}"
        except (RequestTimeout, Disconnected) as error:
            return type(error).__name__

    with Sim(seed=seed, policy="random") as sim:
        memory = BrokerMemory()
        sim.services["broker"] = URL
        sim.host("broker", lambda: BrokerServer(memory=memory))
        for name in ("a", "b"):
            serve(sim, name, Relay, threads=3)
        sim.net.link("*", "*", latency="1ms")
        host = sim.hosts[-1 - seed % 3]

        async def main() -> list[str]:
            calls = [asyncio.ensure_future(one(i % 3)) for i in range(9)]
            await asyncio.sleep(0.02 + 0.02 * seed)
            host.crash("power" if seed % 2 else "process")
            await asyncio.sleep(0.5)
            host.restart()
            return await asyncio.gather(*calls)

        outcomes = sim.run(main)
        assert len(outcomes) == 9
        assert sim.clock.time() < 20
        pause(sim, 40)
        # A caller learns of a broker's power cut when it next writes.
        sim.run(lambda: sim.bridge.wait(one(0)))
        assert sim.run(lambda: one(1)) == "ok 1"
