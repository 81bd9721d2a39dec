from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from rpcsim.agents import Agent, DocumentError, RequestTimeout, agent
from rpcsim.errors import BlockingInCoroutine, Disconnected, RemoteProtocolError
from rpcsim.ports import (
    Accepted,
    Call,
    Cancelled,
    Event,
    Lost,
    Progress,
    Rejected,
    Returned,
    Started,
    activations,
    current,
)
from rpcsim.sim import Sim


class Scripted:
    """A call port that answers with given events, each after a pause in seconds."""

    def __init__(self, *script: tuple[float, Event]) -> None:
        self.script = script or ((0.0, Returned(None)),)
        self.calls: list[Call] = []
        self.closed = 0

    def open(self, call: Call) -> ScriptedExchange:
        self.calls.append(call)
        return ScriptedExchange(self)


class ScriptedExchange:
    def __init__(self, port: Scripted) -> None:
        self._port = port
        self._left = iter(port.script)

    def __aiter__(self) -> ScriptedExchange:
        return self

    async def __anext__(self) -> Event:
        for seconds, event in self._left:
            if seconds:
                await current().clock.sleep(seconds)
            return event
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._port.closed += 1


def ask(sim: Sim, *script: tuple[float, Event], **options: Any) -> Any:
    return Agent("jortel", calls=Scripted(*script), **options).Dog.bark("hello")


def test_building_containers_and_stubs_sends_nothing() -> None:
    """No world, no broker: only a method call needs them."""
    container = Agent("jortel", timeout=3)
    assert str(container) == "{jortel} opt:{'timeout': 3}"
    first, second = container.Dog, container["Dog"]
    assert first is not second
    assert type(first).__name__ == "Dog"
    assert repr(first.bark) == "<Dog.bark() of agent 'jortel'>"
    assert repr(agent("x")) == "<Agent 'x'>"


def test_names_with_an_underscore_are_no_remote_names() -> None:
    """Or copying, pickling and hasattr would become remote calls."""
    container = Agent("jortel")
    dog = container.Dog
    for thing in (container, dog):
        assert not hasattr(thing, "_private")
        assert not hasattr(thing, "__wrapped__")
        with pytest.raises(AttributeError, match="_x"):
            thing._x  # noqa: B018 - the lookup is what is tested
    with pytest.raises(AttributeError):
        dog["_x"]
    assert copy.copy(dog)._name == "Dog"
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        pickle.dumps(dog)


def test_an_id_is_text() -> None:
    """Groups come as a list, and are told apart."""
    wrong: Any = ["a", "b"]
    with pytest.raises(TypeError, match="not list"):
        Agent(wrong)


def test_the_first_stub_call_sets_options_and_later_ones_constructor_arguments() -> (
    None
):
    """Each later call replaces the constructor arguments entirely."""
    port = Scripted()
    with Sim(seed=1):
        container = Agent("jortel", calls=port, timeout=5, any="container")
        dog = container.Dog(any="stub")
        dog.bark(1)
        dog("rover", age=10).bark(2)
        dog(kind="cat").bark(3, any="call", window={"hours": 1}, x=1)
        container.Dog.bark(4)
    assert [call.cntr for call in port.calls] == [
        None,
        (("rover",), {"age": 10}),
        ((), {"kind": "cat"}),
        None,
    ]
    users = [call.options["any"] for call in port.calls]
    assert users == ["stub", "stub", "call", "container"]
    assert port.calls[2].kwargs == {"x": 1}
    assert port.calls[2].options["window"] == {"hours": 1}
    assert port.calls[0].options["timeout"] == 5


def test_a_call_says_all_there_is_to_know() -> None:
    """Family, caller, target, path, arguments, limit and serial number."""
    port = Scripted()
    with Sim(seed=1):
        Agent("jortel", calls=port, timeout=(1, "1m")).Dog.bark("hello", loud=True)
    call = port.calls[0]
    assert (call.family, call.caller, call.target) == ("agent", "test", "jortel")
    assert (call.path, call.args, call.kwargs) == (
        "Dog.bark",
        ("hello",),
        {"loud": True},
    )
    assert call.deadline_ns == 61_000_000_000
    assert len(call.id) == 36
    assert port.closed == 1


def test_the_port_is_looked_up_at_call_time() -> None:
    """A container made before activation is mocked, and real again afterwards."""
    port = Scripted((0, Returned("mocked")))
    with Sim(seed=1):
        dog = Agent("jortel").Dog()
        activations.push(port)
        try:
            assert dog.bark() == "mocked"
        finally:
            activations.remove(port)
        with pytest.raises(Disconnected):
            dog.bark()


def test_two_spellings_of_an_option_are_one() -> None:
    """`async` cannot be written as a keyword since Python 3.7."""
    for options in ({"async_": True}, {"async": True}, {"async": True, "async_": True}):
        port = Scripted((0, Accepted("sn-1")))
        with Sim(seed=1):
            assert Agent("jortel", calls=port, **options).Dog.bark() == "sn-1"
    with pytest.raises(TypeError, match="'async_' and 'async' are one option"):
        Agent("jortel", **{"async": True, "async_": False})
    with pytest.raises(TypeError, match="one option"):
        Agent("jortel").Dog(any=1, data=2)


def test_unknown_options_are_kept_unless_strict() -> None:
    """Off by default, as documented; strict names what was meant."""
    port = Scripted()
    with Sim(seed=1):
        Agent("jortel", calls=port, colour="red").Dog.bark()
    assert port.calls[0].options["colour"] == "red"
    with pytest.raises(TypeError, match="unknown option 'timeot'; did you mean 'timeo"):
        Agent("jortel", strict=True, timeot=3)
    with pytest.raises(TypeError, match="unknown option"):
        Agent("jortel", strict=True).Dog(timeot=3)


@pytest.mark.parametrize(
    ("timeout", "script", "index", "at"),
    [
        # gofer.md 4.1, row by row.
        ((3, 180), (), 0, 3.0),
        (5, (), 0, 5.0),
        ("0.5", (), 0, 0.5),
        ((3, 180), ((1, Accepted("x", status=True)),), 0, 3.0),
        ((3, 5), ((1, Started()),), 1, 6.0),
        ((3, 5), ((2, Progress({"total": 1})),), 1, 7.0),
        ((3, 5), ((1, Started()), (4, Progress({}))), 1, 6.0),
        ((3, 5), ((1, Started()), (4, Started())), 1, 6.0),
        (None, (), 0, 10.0),
        (None, ((1, Started()),), 1, 91.0),
    ],
)
def test_limits_pass_at_their_exact_moment(
    timeout: Any, script: Any, index: Any, at: Any
) -> None:
    """The start limit counts from sending, the completion limit from the start."""
    with Sim(seed=1) as sim:
        with pytest.raises(RequestTimeout) as caught:
            ask(sim, *script, (1000, Returned(1)), timeout=timeout)
        assert sim.clock.time() == at
    error = caught.value
    assert error.args == (error.sn(), index)
    assert error.index() == index
    assert "jortel" in str(error)
    assert "Dog.bark()" in str(error)
    kinds = [record.kind for record in sim.trace.of_kind("call")]
    assert kinds == ["call.invoke", "call.timeout", "call.outcome"]


@pytest.mark.parametrize(
    "script",
    [
        ((0, Accepted("x")), (1, Started()), (1, Returned(7))),
        ((2.9, Returned(7)),),
        ((2, Progress({})), (9.5, Returned(7))),
        ((1, Started()), (9.9, Started()), (0, Returned(7))),
    ],
)
def test_a_result_within_the_limits_is_returned(script: Any) -> None:
    """Also one that comes with no status before it."""
    with Sim(seed=1) as sim:
        assert ask(sim, *script, timeout=(3, 10)) == 7
    outcome = sim.trace.of_kind("call.outcome")[0]
    assert outcome.get("outcome") == "ok"


@pytest.mark.parametrize(
    ("event", "kind", "outcome"),
    [
        (
            Rejected(DocumentError("model.version", "V", details="d")),
            DocumentError,
            "no",
        ),
        (Lost(Disconnected("gone")), Disconnected, "maybe"),
        (Cancelled(), RemoteProtocolError, "maybe"),
    ],
)
def test_other_ends_are_raised_and_recorded(
    event: Any, kind: Any, outcome: Any
) -> None:
    """Whether the method may have run is in the record of the outcome."""
    with Sim(seed=1) as sim, pytest.raises(kind):
        ask(sim, (0, Accepted("x")), (1, event))
    record = sim.trace.of_kind("call.outcome")[0]
    assert (record.get("outcome"), record.get("error")) == (outcome, kind.__name__)


def test_a_port_that_ends_without_an_outcome_is_told() -> None:
    """It is the port's fault, and no hang."""
    with Sim(seed=1) as sim, pytest.raises(RemoteProtocolError, match=r"Dog\.bark"):
        ask(sim, (0, Started()))


def test_progress_is_called_back_in_order_and_its_errors_are_harmless() -> None:
    """It may block, and may call through the very stub it reports on."""
    seen: list[Any] = []
    port = Scripted((0, Progress({"completed": 1})), (1, Progress({"completed": 2})))
    port.script = (*port.script, (0, Returned("done")))

    def progress(report: dict[str, Any]) -> None:
        seen.append(report["completed"])
        if report["completed"] == 1:
            port.script = ((0, Returned("inner")),)
            seen.append(dog.bark())
        raise ValueError("harmless")

    with Sim(seed=1):
        dog = Agent("jortel", calls=port, progress=progress).Dog()
        assert dog.bark() == "done"
        assert Agent("jortel", calls=Scripted(), progress=3).Dog.bark() is None
    assert seen == [1, "inner", 2]


def test_calls_through_one_stub_take_turns_and_async_ones_overlap() -> None:
    """Blocking sends through a stub are serialised; `acall` is for overlapping."""
    with Sim(seed=1) as sim:
        dog = Agent("jortel", calls=Scripted((1, Returned(1)))).Dog()

        async def blocking() -> None:
            bridge = current().bridge
            both = [bridge.spawn(dog.bark), bridge.spawn(dog.bark)]
            for one in both:
                await one

        sim.run(blocking)
        assert sim.clock.time() == 2.0

        async def overlapping() -> int:
            calls = [dog.bark.acall(), dog.bark.acall()]
            import asyncio

            return sum(await asyncio.gather(*calls))

        assert sim.run(overlapping) == 2
        assert sim.clock.time() == 3.0


def test_a_blocking_call_in_a_coroutine_names_the_async_form() -> None:
    """Agent, method and what to write instead; nothing is sent."""
    port = Scripted()

    async def main() -> None:
        Agent("jortel", calls=port).Dog().bark("hello")

    with Sim(seed=1) as sim, pytest.raises(BlockingInCoroutine) as caught:
        sim.run(main)
    for part in ("Dog.bark()", "'jortel'", "await stub.bark.acall(...)"):
        assert part in str(caught.value)
    assert port.calls == []


def test_fire_and_forget_ends_with_the_sending() -> None:
    """It gives the serial number at once; only errors of our own side are raised."""
    with Sim(seed=1) as sim:
        sn = ask(sim, (0, Accepted("sn-1")), (9, Returned(1)), async_=True)
        assert (sn, sim.clock.time()) == ("sn-1", 0.0)
        for event in (Lost(Disconnected("gone")), Rejected(Disconnected("refused"))):
            with pytest.raises(Disconnected):
                ask(sim, (0, event), async_=True)


def test_stopiteration_reaches_a_blocking_caller() -> None:
    """It must not be swallowed by the machinery in between."""
    from rpcsim.ports import Raised

    with Sim(seed=1) as sim, pytest.raises(StopIteration):
        ask(sim, (0, Raised(StopIteration("enough"))))
