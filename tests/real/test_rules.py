"""RPC rules, one body on both machines; exact in kind and count on both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.agents import Agent, AgentServer, remote
from rpcsim.errors import CallTimeout, InexactFault, RuleError
from rpcsim.fakes import BrokerServer
from rpcsim.ports import Answer, Drop, Pass, current
from rpcsim.real import Runtime
from rpcsim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rpcsim.ports import Machine, MessageInfo, Verdict

SHORT = (1.0, 0.2)  # limits for the start and for the answer, in seconds


class Bank:
    """Counts what was transferred."""

    @remote
    def transfer(self, amount: int) -> int:
        ledger.append(amount)
        return sum(ledger)


ledger: list[int] = []


@pytest.fixture(params=["sim", "real"])
def world(request: pytest.FixtureRequest) -> Iterator[Machine]:
    ledger.clear()
    made: Machine = Sim(seed=1) if request.param == "sim" else Runtime(seed=1)
    with made as machine:
        machine.services["broker"] = "rpcsim://broker:5670"
        for name, software in (
            ("broker", BrokerServer),
            ("bank", lambda: AgentServer("bank", Bank)),
        ):
            machine.bridge.wait(machine.host(name, software).wait_started())
        yield machine
    assert list(machine.leftovers) == []


def transfer(amount: int, **options: Any) -> Any:
    return Agent("bank", timeout=SHORT, **options).Bank().transfer(amount)


def decided(world: Machine) -> list[tuple[object, ...]]:
    records = world.trace.of_kind("rule")
    return [(r.get("rule"), r.get("do"), r.get("kind")) for r in records]


def test_the_reply_of_the_second_call_is_dropped(world: Machine) -> None:
    """The callee runs, the caller sees a timeout, the connection stays healthy."""
    rule = world.net.rpc(method="transfer", kind="reply", call_no=2).drop(name="lost")
    assert transfer(1) == 1
    with pytest.raises(CallTimeout):
        transfer(2)
    assert transfer(3) == 6
    assert ledger == [1, 2, 3]
    assert (rule.seen, rule.used) == (1, 1)
    assert decided(world) == [("lost", "drop", "reply")]


def test_the_first_request_is_duplicated(world: Machine) -> None:
    """Both copies reach the broker; the agent drops what it has or had already."""
    rule = world.net.rpc(method="Bank.*", kind="request", attempt=1).duplicate(count=1)
    assert transfer(1) == 1
    assert transfer(2) in (3, 4)
    assert ledger in ([1, 2], [1, 1, 2])
    assert rule.used == 1
    assert not rule.active
    assert len(world.trace.of_kind("rule")) == 1


def test_a_request_is_answered_in_place(world: Machine) -> None:
    """The callee never sees it; a value and an error both reach the caller."""
    with world.net.rpc(method="transfer", kind="request").answer(99, count=1):
        assert transfer(1) == 99
    world.net.rpc(method="transfer").answer(error=KeyError("closed"), count=1)
    with pytest.raises(KeyError, match="closed"):
        transfer(2)
    assert transfer(3) == 3
    assert ledger == [3]


def test_a_reply_after_the_deadline(world: Machine) -> None:
    """The caller sees a timeout; the late reply is traced, and harms nothing."""
    rule = world.net.rpc(kind="reply", dst="test").after_deadline("10ms", count=1)
    with pytest.raises(CallTimeout):
        transfer(1)
    late: Any = []
    for _ in range(200):
        world.bridge.wait(world.clock.sleep("20ms"))
        late = world.trace.of_kind("call.late")
        if late:
            break
    assert transfer(2) == 3
    assert len(late) == 1
    assert rule.used == 1
    if world.mode == "real":
        [note] = [n for n in world.inexact if n.fault == "rpc delay"]
        assert note.measured.endswith("late")


def test_a_delayed_message_is_overtaken(world: Machine) -> None:
    """A later message of the same connection passes a delayed one."""
    world.net.rpc(method="transfer", kind="request").delay("30ms", count=1)

    bridge = current().bridge
    slow = bridge.spawn(transfer, 1)
    fast = bridge.spawn(transfer, 10)

    async def both() -> tuple[int, int]:
        return await slow, await fast

    assert sorted(bridge.wait(both())) in ([1, 11], [10, 11])
    assert sorted(ledger) == [1, 10]


def test_order_count_after_and_the_end_of_a_block(world: Machine) -> None:
    """The first rule that does not pass decides; counts and `with` blocks end rules."""
    net = world.net
    second = net.rpc(method="transfer", kind="request").answer(-2, after=1, count=1)
    with net.rpc(method="transfer").answer(-1) as first:
        assert [transfer(1), transfer(1)] == [-1, -2]
        assert transfer(1) == -1
    assert transfer(1) == 1
    assert (first.used, first.active, second.used, second.active) == (
        2,
        False,
        1,
        False,
    )


def test_probabilities_and_times(world: Machine) -> None:
    """0 never decides and 1 always; a rule for another time is not asked."""
    net = world.net
    never = net.rpc(method="transfer").answer(0, probability=0)
    later = net.rpc(method="transfer").answer(0, during=("20h", "21h"))
    always = net.rpc(method="transfer").answer(7, probability=1)
    assert [transfer(1) for _ in range(3)] == [7, 7, 7]
    assert (never.used, later.seen, always.used) == (0, 0, 3)
    assert never.seen == 3


def test_a_function_decides(world: Machine) -> None:
    """It sees what the message means; what it raises is told, and ends the call."""
    seen: list[str] = []

    def decide(info: MessageInfo) -> Verdict:
        seen.append(f"{info.src}>{info.dst} {info.method} {info.call_no}")
        return Answer(5) if info.call_no == 2 else Pass()

    rule = world.net.rpc(kind="request").decide(decide)
    assert [transfer(1), transfer(1)] == [1, 5]
    assert seen == ["test>bank Bank.transfer 1", "test>bank Bank.transfer 2"]
    rule.remove()
    rule.undo()


def test_a_rule_that_raises_ends_the_run() -> None:
    """The failure is a `RuleError` naming the rule, also when it is swallowed."""

    def broken(info: MessageInfo) -> Verdict:
        raise LookupError("no such account")

    def swallowed() -> None:
        with pytest.raises(RuleError, match="'odd' raised LookupError"):
            transfer(1)

    for made in (Sim(), Runtime()):
        with pytest.raises((RuleError, ExceptionGroup)) as caught:  # noqa: PT012, SIM117 - the whole run
            with made as world:
                world.services["broker"] = "rpcsim://broker:5670"
                world.bridge.wait(world.host("broker", BrokerServer).wait_started())
                world.net.rpc(kind="request").decide(broken, name="odd")
                world.run(swallowed)
        assert "no such account" in repr(caught.value)


def test_never_matched_rules_are_named(world: Machine) -> None:
    """Whoever ends a run can report the rules that changed nothing."""
    world.net.rpc(method="transferr").drop(name="misspelt")
    world.net.rpc(method="transfer").answer(1, name="used")
    transfer(1)
    assert world.net.unreached() == ["misspelt"]


@pytest.mark.parametrize(
    ("match", "match_text"),
    [
        ({"kind": "repply"}, "no messages of kind 'repply'"),
        ({"call_no": 0}, "call_no= counts from 1"),
        ({"methode": "x"}, "messages have no 'methode'"),
    ],
)
def test_impossible_matches(world: Machine, match: Any, match_text: str) -> None:
    """What nothing can match is refused when it is said."""
    with pytest.raises(RuleError, match=match_text):
        world.net.rpc(**match)


def test_contradictions_are_refused_when_installed(world: Machine) -> None:
    """Not when they are hit."""
    net = world.net
    contradictions: list[tuple[Callable[[], object], str]] = [
        (lambda: net.rpc(kind="reply").answer(1), "only a request can be answered"),
        (lambda: net.rpc().answer(1, error=KeyError()), "not with both"),
        (lambda: net.rpc().drop(count=0), "count= is how often"),
        (lambda: net.rpc().drop(after=-1), "after= is how many"),
        (lambda: net.rpc().drop(probability=1.5), "0 to 1"),
        (lambda: net.rpc().drop(during=(2, 1)), "0 <= from < until"),
        (lambda: net.rpc().delay("-1s"), "cannot be negative"),
        (lambda: net.rpc().duplicate(copies=0), "how many more"),
        (lambda: net.rpc().drop(times=3), "rules have no 'times'"),
    ]
    for wrong, text in contradictions:
        with pytest.raises(RuleError, match=text):
            wrong()
    net.rpc().drop(name="one", during=("20h", "21h"))
    with pytest.raises(RuleError, match="there is a rule 'one' already"):
        net.rpc().drop(name="one")


def test_a_strict_run_refuses_what_cannot_be_exact() -> None:
    """Before it takes effect: nothing is delayed, and nothing was installed."""
    with Runtime(strict=True) as runtime:
        rpc = runtime.net.rpc(kind="reply")
        with pytest.raises(InexactFault, match="strict"):
            rpc.delay("1ms")
        with pytest.raises(InexactFault, match="strict"):
            rpc.after_deadline()
        assert rpc.drop(name="exact").active
        assert runtime.net.unreached() == ["exact"]
        with pytest.raises(InexactFault):
            runtime.host("a").crash()
    assert runtime.inexact == ()


def test_verdicts_of_packets_are_not_for_messages() -> None:
    """A function that decides one is told so."""
    with Runtime() as runtime:
        book = runtime.net.rpc().drop()._book
        with pytest.raises(RuleError, match="cannot decide 7 about a message"):
            book.check(7, "odd")
        book.check(Drop(), "fine")
