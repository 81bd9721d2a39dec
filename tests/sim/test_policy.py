"""Schedule policies: what they promise, what they find, what they refuse."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

import pytest

from rpcsim.sim import Policy, Sim, Tape, owned, pct, policy_of, portfolio, replay
from tests.sim.programs import conversation, race_outcome

SMALL = "pct(depth=2, horizon=20)"


# -- planted bugs ----------------------------------------------------------------------


def check_then_act(**options: Any) -> bool:
    """Two tasks withdraw what there is once; say whether both did."""
    account = {"balance": 100, "paid": 0}

    async def withdraw() -> None:
        if account["balance"] >= 100:
            await asyncio.sleep(0)  # between the check and the act
            account["balance"] -= 100
            account["paid"] += 100

    async def other() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    async def main() -> None:
        first = asyncio.create_task(withdraw())
        # First in, first out, the first is done long before the second begins.
        for _ in range(5):
            await asyncio.sleep(0)
        await asyncio.gather(first, withdraw(), other())

    with Sim(trace="off", **options) as sim:
        sim.run(main)
    return account["balance"] < 0


def starvation(**options: Any) -> bool:
    """A lease is renewed by a task in time, unless others go first twelve times."""
    lease: dict[str, Any] = {"left": 12, "lost": False}
    done: list[int] = []

    async def keeper() -> None:
        while not done:
            lease["left"] = 12
            await asyncio.sleep(0)

    async def worker() -> None:
        for _ in range(10):
            lease["left"] -= 1
            lease["lost"] |= lease["left"] <= 0
            await asyncio.sleep(0)

    async def main() -> None:
        task = asyncio.create_task(keeper())
        await asyncio.gather(worker(), worker())
        done.append(1)
        await task

    with Sim(trace="off", **options) as sim:
        sim.run(main)
    return bool(lease["lost"])


def test_a_planted_race_is_found() -> None:
    """By `random` within 50 seeds, by `pct(depth=2)` within 500 (check 22)."""
    assert not check_then_act()
    assert any(check_then_act(seed=seed, policy="random") for seed in range(50))
    assert any(check_then_act(seed=seed, policy=SMALL) for seed in range(500))


def test_a_planted_starvation_is_found_by_priorities() -> None:
    """`pct` lets one strand wait long, `random` all but never (check 22)."""
    assert not starvation()
    seeds = range(100)
    found = sum(starvation(seed=seed, policy=SMALL) for seed in seeds)
    drawn = sum(starvation(seed=seed, policy="random") for seed in seeds)
    assert found >= 10
    assert drawn < found


# -- pct -------------------------------------------------------------------------------


def order_of(**options: Any) -> str:
    """Give the order in which three tasks take five steps each."""
    order: list[str] = []

    async def walk(name: str) -> None:
        for _ in range(5):
            order.append(name)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(walk(name) for name in "abc"))

    with Sim(trace="off", **options) as sim:
        sim.run(main)
    return "".join(order)


def test_the_highest_priority_runs_until_it_ends() -> None:
    """At depth 1 nothing drops: each task runs in one piece, in a drawn order."""
    orders = {order_of(seed=seed, policy="pct(depth=1)") for seed in range(40)}
    pieces = {"a" * 5 + "b" * 5 + "c" * 5}
    assert pieces < orders
    assert all(
        order.count(name * 5) == 1 and len(order) == 15
        for order in orders
        for name in "abc"
    )
    assert len(orders) == 6


def test_at_drawn_steps_the_running_strand_drops() -> None:
    """At depth 2 one task is interrupted, at depth 3 at most two are."""
    for depth in (2, 3):
        changes = Counter[int]()
        for seed in range(60):
            order = order_of(seed=seed, policy=pct(depth, horizon=12))
            changes[sum(a != b for a, b in itertools.pairwise(order))] += 1
        assert max(changes) == 2 + (depth - 1)
        assert changes[2 + (depth - 1)]


def test_polling_does_not_starve_what_it_waits_for() -> None:
    """A strand chosen a thousand times in a row loses its priority."""
    for seed in range(10):
        flag: list[int] = []

        async def poll(flag: list[int] = flag) -> None:
            while not flag:
                await asyncio.sleep(0)

        async def main(flag: list[int] = flag, poll: Any = poll) -> None:
            polling = [asyncio.create_task(poll()) for _ in range(3)]
            asyncio.get_running_loop().call_soon(flag.append, 1)
            await asyncio.gather(*polling)

        with Sim(seed=seed, policy="pct(depth=1)", trace="off") as sim:
            sim.run(main)
            assert flag == [1]
            assert sim.loop.steps < 10_000


def test_steps_of_one_strand_keep_their_order_under_pct() -> None:
    """Timers of one instant made by one strand run in creation order (check 1)."""
    for seed in range(20):
        fired: list[int] = []
        with Sim(policy="pct(depth=3, horizon=10)", seed=seed) as sim:

            async def main(fired: list[int] = fired) -> None:
                loop = asyncio.get_running_loop()
                for n in range(8):
                    loop.call_at(3.0, fired.append, n)
                await asyncio.gather(asyncio.sleep(4), asyncio.sleep(4))

            sim.run(main)
        assert fired == list(range(8))


@pytest.mark.parametrize("policy", ["pct", "pct(depth=2)", "random(scope=host)"])
def test_a_seed_is_a_run_under_every_policy(policy: str) -> None:
    """Equal seeds, equal digests; other seeds, other schedules."""
    digests = set()
    for seed in range(5):
        one, two = (
            conversation(seed=seed, policy=policy, trace="steps").trace
            for _ in range(2)
        )
        assert one.diff(two) is None
        assert race_outcome(seed=seed, policy=policy) == race_outcome(
            seed=seed, policy=policy
        )
        digests.add(one.schedule_digest)
    assert len(digests) == 5


def test_within_a_host_scope_host_is_fifo_under_every_policy() -> None:
    """Only hosts overtake each other; each keeps its own order (check 21)."""

    def lanes(**options: Any) -> dict[str, list[int]]:
        seen: dict[str, list[int]] = {"left": [], "right": []}
        mixed: list[str] = []

        def program(host: Any) -> Any:
            async def walk(n: int) -> None:
                for k in range(3):
                    seen[host.name].append(n * 10 + k)
                    mixed.append(host.name)
                    await asyncio.sleep(0)

            async def walks() -> None:
                await asyncio.gather(*(walk(n) for n in range(4)))

            return walks()

        with Sim(trace="off", **options) as sim:
            sim.host("left", program)
            sim.host("right", program)
            sim.run(asyncio.sleep(1))
        orders.add("".join(name[0] for name in mixed))
        return seen

    orders: set[str] = set()
    fifo = lanes()
    for seed in range(20):
        for policy in ("random(scope=host)", "pct(depth=3, horizon=30, scope=host)"):
            assert lanes(seed=seed, policy=policy) == fifo
    assert len(orders) > 15


# -- portfolio -------------------------------------------------------------------------


def test_the_portfolio_has_its_shares() -> None:
    """Seed 0 fifo; 60 % random, every fourth by host; 40 % pct of depths 2 to 5."""
    assert str(portfolio(0)) == "fifo"
    shares = Counter(str(portfolio(seed)) for seed in range(1, 201))
    assert shares == {
        "random": 90,
        "random(scope=host)": 30,
        "pct(depth=2)": 20,
        "pct(depth=3)": 20,
        "pct(depth=4)": 20,
        "pct(depth=5)": 20,
    }
    assert str(portfolio(-3)) in shares


def test_a_run_tells_what_the_portfolio_chose() -> None:
    """The policy's text and its scope can be read off the run."""
    by_host = next(n for n in range(1, 60) if portfolio(n).scope == "host")
    sim = conversation(seed=by_host, policy="portfolio")
    assert (sim.policy, sim.scope) == ("random(scope=host)", "host")
    assert conversation(seed=0, policy="portfolio").policy == "fifo"


# -- texts and objects -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fifo", "fifo"),
        (" random ( scope = 'host' ) ", "random(scope=host)"),
        ("pct", "pct(depth=3)"),
        ("pct(horizon=auto)", "pct(depth=3)"),
        (
            "pct(depth=5, horizon=77, scope=host)",
            "pct(depth=5, horizon=77, scope=host)",
        ),
    ],
)
def test_a_policy_is_read_from_its_text(text: str, told: str) -> None:
    """What `str` gives is read back as the same policy."""
    policy = policy_of(text, 0)
    assert str(policy) == told
    assert policy_of(told, 0) == policy


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("randon", "unknown policy 'randon'; did you mean 'random'"),
        ("pct(3)", r"'pct' has no option '3' \(known: depth, horizon, scope\)"),
        ("pct(deph=3)", "no option 'deph=3'; did you mean 'depth'"),
        ("pct(depth=x)", "depth is a number, not 'x'"),
        ("pct(depth=0)", "depth is at least 1, not 0"),
        ("pct(horizon=0)", "at least 1 choice, not 0"),
        ("random(scope=hosts)", "unknown scope 'hosts'; did you mean 'host'"),
        ("portfolio(depth=2)", "'portfolio' has no option"),
        ("replay", r"policy=replay\(tape\)"),
        ("owned", r"policy=owned\(choices\)"),
        ("pct(depth=2", "unknown policy"),
        ("", "unknown policy ''"),
    ],
)
def test_a_bad_policy_is_refused_with_a_hint(given: str, message: str) -> None:
    """When the run is made, not when the choice comes up."""
    with pytest.raises(ValueError, match=message):
        Sim(policy=given)


def test_what_is_no_policy_is_refused() -> None:
    """A number is no policy, a text no tape, a list no owner of choices."""
    wrong: Any = 3
    with pytest.raises(TypeError, match="a policy is a text"):
        Sim(policy=wrong)
    with pytest.raises(TypeError, match=r"Tape\.loads"):
        replay("tape.jsonl")  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ValueError, match="unknown rest 'none'"):
        replay(Tape(), rest="none")  # type: ignore[arg-type]  # the mistake
    with pytest.raises(TypeError, match=r"draw\(label, n\)"):
        owned([1, 2])  # type: ignore[arg-type]  # the mistake


def test_contradictions_are_refused_when_installed() -> None:
    """Two scopes; a strict replay under another seed than the tape's."""
    with pytest.raises(ValueError, match="scope 'task', its policy random"):
        Sim(policy="random(scope=host)", scope="task")
    assert Sim(policy="random(scope=host)", scope="host").scope == "host"
    tape = Tape(seed=7)
    with pytest.raises(ValueError, match="recorded with seed 7, the run has seed 8"):
        Sim(policy=replay(tape), seed=8)
    assert Sim(policy=replay(tape)).seed == 7
    assert Sim(policy=replay(tape, strict=False), seed=8).seed == 8


def test_policies_are_values() -> None:
    """One serves many runs, each from its beginning."""
    policy: Policy = pct(2, horizon=12)
    assert policy == pct(2, horizon=12)
    assert order_of(seed=4, policy=policy) == order_of(seed=4, policy=policy)
