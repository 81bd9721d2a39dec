from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rpcsim.fakes import BrokerEngine, BrokerLimits, BrokerMemory, Refusal
from rpcsim.ports import QueueOptions
from tests.fakes.manual_clock import ManualClock

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

SHARED = QueueOptions()
Got = tuple[int | str, bytes, bool]


class Client:
    """A session that writes down what it is handed."""

    def __init__(self, engine: BrokerEngine, name: str) -> None:
        self.engine = engine
        self.got: list[Got] = []
        self.tags: list[int] = []
        self.ttls: list[int | None] = []
        self.gone: list[tuple[int | str, str]] = []
        self.session = engine.connect(
            name, self._deliver, on_gone=lambda key, why: self.gone.append((key, why))
        )

    def _deliver(
        self,
        key: int | str,
        tag: int,
        body: bytes,
        redelivered: bool,
        ttl_ms: int | None,
    ) -> None:
        self.got.append((key, body, redelivered))
        self.tags.append(tag)
        self.ttls.append(ttl_ms)

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body, _ in self.got]

    def declare(self, queue: str, options: QueueOptions = SHARED) -> None:
        self.engine.declare(self.session, queue, options)

    def consume(self, queue: str, key: int | str = 1, prefetch: int = 0) -> None:
        self.engine.consume(self.session, queue, key, prefetch=prefetch)

    def ack(self, tag: int | None = None) -> None:
        self.engine.ack(self.session, self.tags[-1] if tag is None else tag)

    def requeue(self, tag: int) -> None:
        self.engine.requeue(self.session, tag)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine(clock: ManualClock) -> BrokerEngine:
    return BrokerEngine(clock)


@pytest.fixture
def one(engine: BrokerEngine) -> Client:
    return Client(engine, "one")


@pytest.fixture
def two(engine: BrokerEngine) -> Client:
    return Client(engine, "two")


def refused(code: int, text: str = "") -> AbstractContextManager[object]:
    return pytest.raises(Refusal, match=f"^{code} .*{text}")


def publish(engine: BrokerEngine, queue: str, *bodies: bytes) -> None:
    for body in bodies:
        engine.publish(queue, body)


# -- delivery


def test_messages_wait_in_order_and_are_handed_to_the_first_consumer(
    engine: BrokerEngine, one: Client
) -> None:
    """A queue is first in, first out."""
    one.declare("jortel")
    publish(engine, "jortel", b"a", b"b")
    one.consume("jortel")
    publish(engine, "jortel", b"c")
    assert one.got == [(1, b"a", False), (1, b"b", False), (1, b"c", False)]
    assert one.tags == [1, 2, 3]


def test_consumers_take_turns_in_consume_order(
    engine: BrokerEngine, one: Client, two: Client
) -> None:
    """Several agents on one queue compete; each message goes to one, fairly."""
    one.declare("jortel")
    two.consume("jortel")
    one.consume("jortel")
    publish(engine, "jortel", b"a", b"b", b"c", b"d", b"e")
    assert two.bodies == [b"a", b"c", b"e"]
    assert one.bodies == [b"b", b"d"]


def test_prefetch_passes_a_busy_consumer_by(
    engine: BrokerEngine, one: Client, two: Client
) -> None:
    """A consumer with enough on its hands gets no more before it acknowledges."""
    one.declare("jortel")
    one.consume("jortel", prefetch=1)
    two.consume("jortel", prefetch=2)
    publish(engine, "jortel", b"a", b"b", b"c", b"d", b"e")
    assert (one.bodies, two.bodies) == ([b"a"], [b"b", b"c"])
    one.ack()
    assert one.bodies == [b"a", b"d"]
    assert engine.snapshot().queues["jortel"].ready == (b"e",)


def test_a_paused_session_gets_nothing_until_it_resumes(
    engine: BrokerEngine, one: Client, two: Client
) -> None:
    """A slow connection leaves its share to the others, or to the queue."""
    one.declare("jortel")
    one.consume("jortel")
    two.consume("jortel")
    engine.pause(one.session)
    publish(engine, "jortel", b"a", b"b")
    assert (one.bodies, two.bodies) == ([], [b"a", b"b"])
    engine.pause(two.session)
    publish(engine, "jortel", b"c")
    engine.resume(one.session)
    engine.resume(one.session)
    assert one.bodies == [b"c"]


def test_a_consumer_may_settle_and_publish_from_its_delivery(
    engine: BrokerEngine, one: Client
) -> None:
    """Requests made inside a delivery keep the order and do not recurse."""
    seen: list[bytes] = []

    def deliver(_key: object, tag: int, body: bytes, *_rest: object) -> None:
        seen.append(body)
        if len(body) < 2000:
            engine.publish("jortel", body + b"x")
        engine.ack(session, tag)

    session = engine.connect("inner", deliver)
    one.declare("jortel")
    engine.consume(session, "jortel", 1, prefetch=1)
    engine.publish("jortel", b"")
    assert [len(body) for body in seen] == list(range(2001))
    assert engine.snapshot().counters.acknowledged == 2001


# -- settling


def test_a_requeued_message_goes_back_to_its_place(
    engine: BrokerEngine, one: Client, two: Client
) -> None:
    """Given back in any order, messages are redelivered in the original one."""
    one.declare("jortel")
    one.consume("jortel")
    publish(engine, "jortel", b"a", b"b", b"c", b"d")
    engine.pause(one.session)
    for tag in (2, 4, 1):
        one.requeue(tag)
    assert engine.snapshot().queues["jortel"].ready == (b"a", b"b", b"d")
    two.consume("jortel")
    assert two.got == [(1, b"a", True), (1, b"b", True), (1, b"d", True)]


def test_what_a_lost_connection_left_is_redelivered_in_order(
    engine: BrokerEngine, one: Client, two: Client
) -> None:
    """Unacknowledged messages go to the head for the next consumer."""
    one.declare("jortel")
    one.consume("jortel", 1)
    one.consume("jortel", 2)
    publish(engine, "jortel", b"a", b"b", b"c")
    one.ack(2)
    engine.disconnect(one.session)
    engine.disconnect(one.session)
    publish(engine, "jortel", b"d")
    two.consume("jortel")
    assert two.got == [(1, b"a", True), (1, b"c", True), (1, b"d", False)]


def test_cancelling_gives_back_what_is_not_settled(
    engine: BrokerEngine, one: Client, two: Client
) -> None:
    """A consumer that ends leaves nothing in limbo; its late settling is refused."""
    one.declare("jortel")
    one.consume("jortel")
    publish(engine, "jortel", b"a")
    two.consume("jortel")
    engine.cancel(one.session, 1)
    engine.cancel(one.session, 1)
    assert two.got == [(1, b"a", True)]
    with refused(406, "one has no delivery 1"):
        one.ack(1)


def test_settling_twice_is_refused(engine: BrokerEngine, one: Client) -> None:
    """A delivery can be settled once."""
    one.declare("jortel")
    one.consume("jortel")
    publish(engine, "jortel", b"a")
    one.ack(1)
    with refused(406, "settled already"):
        one.requeue(1)


# -- routing


def test_nobody_to_take_it_is_said_at_once(engine: BrokerEngine, one: Client) -> None:
    """A publish to no queue comes back as 312, to no exchange as 404."""
    with refused(312, "no queue takes messages for 'nobody'"):
        engine.publish("nobody", b"a")
    with refused(404, "no exchange 'ex'; there are: amq.direct"):
        engine.publish("ex/q", b"a")
    one.declare("amq.direct/q")
    with refused(312):
        engine.publish("amq.direct/other", b"a")
    assert engine.snapshot().refused == 3


def test_named_exchanges_lead_to_bound_queues(clock: ManualClock) -> None:
    """`exchange/queue` binds by the queue's name; more bindings copy the message."""
    engine = BrokerEngine(clock, exchanges=["ex"])
    one = Client(engine, "one")
    one.declare("ex/q")
    one.declare("copy")
    engine.bind("ex", "q", "copy")
    engine.bind("ex", "q", "copy")
    engine.publish("ex/q", b"both")
    engine.publish("q", b"direct")
    state = engine.snapshot()
    assert state.queues["q"].ready == (b"both", b"direct")
    assert state.queues["copy"].ready == (b"both",)
    assert state.bindings == (("ex", "q", "q"), ("ex", "q", "copy"))
    engine.delete(one.session, "ex/q")
    assert engine.snapshot().bindings == (("ex", "q", "copy"),)


def test_addresses_that_cannot_be(engine: BrokerEngine, one: Client) -> None:
    """An exchange that is not there, or a queue without a name, is refused."""
    with refused(404, "no exchange 'ex'"):
        one.declare("ex/q")
    with refused(406, "names no queue"):
        one.declare("amq.direct/")
    with refused(404, "no queue 'q'"):
        engine.bind("amq.direct", "q", "q")
    assert engine.snapshot().queues == {}


# -- queues


def test_declaring_again_must_agree(engine: BrokerEngine, one: Client) -> None:
    """The same options are no news, others are refused with the difference."""
    one.declare("jortel")
    engine.publish("jortel", b"a")
    one.declare("jortel")
    with refused(406, r"durable=True \(asked for False\).*expires_ms=None"):
        one.declare("jortel", QueueOptions(durable=False, expires_ms=5))
    assert engine.snapshot().queues["jortel"].ready == (b"a",)


def test_an_exclusive_queue_is_its_owners_alone(
    engine: BrokerEngine, one: Client, two: Client
) -> None:
    """Others may publish to it, nothing else; it goes with its owner."""
    mine = QueueOptions(durable=False, exclusive=True)
    one.declare("reply", mine)
    for use in (
        lambda: two.declare("reply", mine),
        lambda: two.consume("reply"),
        lambda: engine.delete(two.session, "reply"),
        lambda: engine.purge(two.session, "reply"),
    ):
        with refused(405, "exclusive to one"):
            use()
    one.consume("reply")
    engine.publish("reply", b"a")
    assert one.bodies == [b"a"]
    engine.disconnect(one.session)
    with refused(312):
        engine.publish("reply", b"b")
    assert engine.snapshot().counters.dropped == 1


def test_an_auto_deleted_queue_goes_with_its_last_consumer(
    engine: BrokerEngine, one: Client, two: Client
) -> None:
    """It waits for its first consumer, and does not outlive the last."""
    one.declare("q", QueueOptions(auto_delete=True))
    engine.publish("q", b"a")
    one.consume("q")
    two.consume("q")
    engine.cancel(one.session, 1)
    assert "q" in engine.snapshot().queues
    engine.disconnect(two.session)
    assert "q" not in engine.snapshot().queues


def test_an_unused_queue_expires(
    clock: ManualClock, engine: BrokerEngine, one: Client
) -> None:
    """Consumers and declarations are use, publishing is not."""
    one.declare("q", QueueOptions(expires_ms=1000))
    clock.advance(0.9)
    one.declare("q", QueueOptions(expires_ms=1000))
    clock.advance(0.9)
    one.consume("q")
    clock.advance(5)
    engine.cancel(one.session, 1)
    clock.advance(0.9)
    engine.publish("q", b"a")
    assert "q" in engine.snapshot().queues
    clock.advance(0.1)
    assert engine.snapshot().queues == {}
    assert engine.snapshot().counters.dropped == 1
    assert clock.pending == 0


def test_deleting_ends_the_consumers_of_others(
    engine: BrokerEngine, one: Client, two: Client
) -> None:
    """Whoever deletes knows; other consumers are told why they are over."""
    one.declare("q")
    one.consume("q")
    two.consume("q", 7)
    engine.publish("q", b"a")
    engine.pause(one.session)
    engine.publish("q", b"b")
    engine.pause(two.session)
    engine.publish("q", b"c")
    assert engine.delete(one.session, "q") == 3
    assert engine.delete(one.session, "q") == 0
    assert (one.gone, two.gone) == ([], [(7, "queue 'q' was deleted")])
    with refused(406):
        two.ack(1)
    with refused(404, "no queue 'q'"):
        one.consume("q", 2)
    assert engine.snapshot().counters.dropped == 3


def test_purging_leaves_what_is_in_hand(engine: BrokerEngine, one: Client) -> None:
    """Only waiting messages are dropped."""
    one.declare("q")
    one.consume("q", prefetch=1)
    publish(engine, "q", b"a", b"b", b"c")
    assert engine.purge(one.session, "q") == 2
    one.ack(1)
    counters = engine.snapshot().counters
    assert (counters.acknowledged, counters.dropped) == (1, 2)
    with refused(404):
        engine.purge(one.session, "other")


def test_a_consumer_number_is_used_once_at_a_time(one: Client) -> None:
    """A number that is running cannot be taken again."""
    one.declare("q")
    one.consume("q", 3)
    with refused(530, "consumer 3 is running on queue 'q'"):
        one.consume("q", 3)


# -- time to live


def test_an_unread_message_vanishes_in_time(
    clock: ManualClock, engine: BrokerEngine, one: Client
) -> None:
    """Each message keeps its own time, whatever its place in the queue."""
    one.declare("q")
    engine.publish("q", b"long", ttl_ms=2000)
    engine.publish("q", b"short", ttl_ms=500)
    engine.publish("q", b"ever")
    clock.advance(0.4)
    assert len(engine.snapshot().queues["q"].ready) == 3
    clock.advance(0.1)
    assert engine.snapshot().queues["q"].ready == (b"long", b"ever")
    clock.advance(0.5005)
    one.consume("q")
    assert one.bodies == [b"long", b"ever"]
    assert one.ttls == [1000, None]
    assert engine.snapshot().counters.expired == 1


def test_a_message_in_hand_does_not_expire(
    clock: ManualClock, engine: BrokerEngine, one: Client
) -> None:
    """Time to live ends in the queue; given back too late, the message is gone."""
    one.declare("q")
    one.consume("q")
    engine.publish("q", b"a", ttl_ms=500)
    clock.advance(1)
    assert engine.snapshot().queues["q"].unacked == (b"a",)
    one.requeue(1)
    assert one.bodies == [b"a"]
    assert engine.snapshot().counters.expired == 1


def test_a_message_given_back_keeps_its_deadline(
    clock: ManualClock, engine: BrokerEngine, one: Client
) -> None:
    """Delivery and requeue do not renew the time to live."""
    one.declare("q")
    one.consume("q")
    engine.publish("q", b"a", ttl_ms=500)
    clock.advance(0.3)
    engine.disconnect(one.session)
    clock.advance(0.1)
    assert engine.snapshot().queues["q"].ready == (b"a",)
    clock.advance(0.1)
    assert engine.snapshot().queues["q"].ready == ()


def test_no_time_at_all_means_now_or_never(
    clock: ManualClock, engine: BrokerEngine, one: Client
) -> None:
    """A TTL of 0 reaches a waiting consumer and nobody else."""
    one.declare("q")
    engine.publish("q", b"never", ttl_ms=0)
    clock.advance("1ns")
    one.consume("q")
    engine.publish("q", b"now", ttl_ms=0)
    assert one.bodies == [b"now"]


def test_empty_queues_keep_no_timers(
    clock: ManualClock, engine: BrokerEngine, one: Client
) -> None:
    """A run is not kept awake by messages that were taken."""
    one.declare("q")
    for _ in range(500):
        engine.publish("q", b"a", ttl_ms=60_000)
    assert clock.pending == 1
    one.consume("q")
    assert len(one.bodies) == 500
    assert clock.pending == 0


# -- limits, restarts, looks


def test_limits_refuse_and_lose_nothing(clock: ManualClock) -> None:
    """Too long, too many, too full: each is a refusal with a number in it."""
    engine = BrokerEngine(
        clock, limits=BrokerLimits(message_bytes=3, queue_length=2, queues=2)
    )
    one = Client(engine, "one")
    one.declare("amq.direct/q")
    one.declare("copy")
    engine.bind("amq.direct", "q", "copy")
    with refused(506, "over the limit of 2"):
        one.declare("third")
    with refused(311, "4 bytes for 'q' is over the limit of 3"):
        engine.publish("q", b"1234")
    one.consume("q")
    publish(engine, "q", b"a", b"b")
    with refused(506, "queue 'q' is full: it holds 2 messages, 1 consumers"):
        engine.publish("q", b"c")
    with refused(506):
        engine.publish("amq.direct/q", b"c")
    assert engine.snapshot().queues["copy"].ready == ()
    one.ack(1)
    engine.publish("q", b"c")
    assert one.bodies == [b"a", b"b", b"c"]


def test_durable_queues_survive_a_restart(clock: ManualClock) -> None:
    """Confirmed messages of durable queues are there again, in order and marked."""
    memory = BrokerMemory()
    assert memory.kept() == ()
    memory.engine = BrokerEngine(clock)
    one = Client(memory.engine, "one")
    one.declare("amq.direct/kept")
    one.declare("gone", QueueOptions(durable=False))
    one.declare("mine", QueueOptions(exclusive=True))
    one.consume("kept", prefetch=2)
    publish(memory.engine, "kept", b"a", b"b")
    memory.engine.publish("kept", b"short", ttl_ms=100)
    memory.engine.publish("kept", b"c")
    one.ack(1)
    assert repr(memory) == "<BrokerMemory 1 durable queues>"
    # a power cut: nothing of the first engine runs any more
    memory.engine = BrokerEngine(clock, kept=memory.kept())
    clock.advance(0.2)
    two = Client(memory.engine, "two")
    memory.engine.publish("amq.direct/kept", b"d")
    two.consume("kept")
    assert two.got == [(1, b"b", True), (1, b"c", False), (1, b"d", False)]
    assert list(memory.engine.snapshot().queues) == ["kept"]


def test_closing_stops_every_timer(
    clock: ManualClock, engine: BrokerEngine, one: Client
) -> None:
    """After the end only looking is possible."""
    one.declare("q", QueueOptions(expires_ms=1000))
    engine.publish("q", b"a", ttl_ms=500)
    engine.close()
    assert clock.pending == 0
    assert engine.snapshot().sessions == ()
    assert one.session.closed
    assert engine.kept()[0].messages[0].body == b"a"


def test_the_engine_tells_its_state(engine: BrokerEngine, one: Client) -> None:
    """`repr` and `snapshot` say what a failing test needs to know."""
    one.declare("q")
    one.consume("q", 4, prefetch=1)
    publish(engine, "q", b"a", b"b")
    assert (
        repr(engine) == "<BrokerEngine 1 queues, 1 sessions, 1 ready, 1 unacknowledged>"
    )
    assert repr(one.session) == "<Session 'one' flowing, 1 consumers, 1 unacknowledged>"
    state = engine.snapshot()
    assert state.sessions == ("one",)
    assert state.queues["q"].consumers == (("one", 4, 1),)
    assert state.queues["q"].counters == replace(state.counters, published=2)
