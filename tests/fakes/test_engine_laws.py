"""Laws of the broker engine that hold after any sequence of requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from rpcsim.fakes import BrokerEngine, Session
from rpcsim.ports import QueueOptions
from tests.fakes.manual_clock import ManualClock

QUEUES = ("left", "right")
queues = st.sampled_from(QUEUES)
picks = st.integers(0, 1000)


@dataclass(eq=False)
class Peer:
    """A client and what it believes."""

    session: Session
    # consumer number -> (queue, prefetch)
    consumers: dict[int, tuple[str, int]] = field(default_factory=dict)
    # delivery tag -> (consumer number, body)
    held: dict[int, tuple[int, bytes]] = field(default_factory=dict)


class EngineLaws(RuleBasedStateMachine):
    """Publish, consume, settle, lose, pause and wait, in any order."""

    @initialize()
    def start(self) -> None:
        self.clock = ManualClock()
        self.engine = BrokerEngine(self.clock)
        self.peers: list[Peer] = []
        self.published: dict[str, list[bytes]] = {name: [] for name in QUEUES}
        self.firsts: dict[str, list[bytes]] = {name: [] for name in QUEUES}
        self.acknowledged: set[bytes] = set()
        self.count = 0
        self.connect()
        for name in QUEUES:
            self.declare(name)

    def declare(self, name: str) -> None:
        self.engine.declare(self.peers[0].session, name, QueueOptions())

    @precondition(lambda self: len(self.peers) < 4)
    @rule()
    def connect(self) -> None:
        self.count += 1

        def deliver(
            key: Any, tag: int, body: bytes, redelivered: bool, _ttl: int | None
        ) -> None:
            queue, _ = peer.consumers[key]
            assert tag not in peer.held
            assert body in self.published[queue]
            peer.held[tag] = (key, body)
            if not redelivered:
                self.firsts[queue].append(body)

        peer = Peer(self.engine.connect(f"peer {self.count}", deliver))
        self.peers.append(peer)

    @rule(queue=queues, ttl_ms=st.sampled_from([None, None, 0, 50, 900]))
    def publish(self, queue: str, ttl_ms: int | None) -> None:
        self.count += 1
        body = b"%d" % self.count
        self.published[queue].append(body)
        self.engine.publish(queue, body, ttl_ms=ttl_ms)

    @rule(pick=picks, queue=queues, prefetch=st.integers(0, 2))
    def consume(self, pick: int, queue: str, prefetch: int) -> None:
        peer = self.peers[pick % len(self.peers)]
        self.count += 1
        peer.consumers[self.count] = (queue, prefetch)
        self.engine.consume(peer.session, queue, self.count, prefetch=prefetch)

    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        peer = self.peers[pick % len(self.peers)]
        if peer.consumers:
            key = list(peer.consumers)[pick % len(peer.consumers)]
            peer.held = {tag: one for tag, one in peer.held.items() if one[0] != key}
            self.engine.cancel(peer.session, key)
            del peer.consumers[key]

    @rule(pick=picks, done=st.booleans())
    def settle(self, pick: int, done: bool) -> None:
        peer = self.peers[pick % len(self.peers)]
        if peer.held:
            tag = list(peer.held)[pick % len(peer.held)]
            _, body = peer.held.pop(tag)
            if done:
                self.acknowledged.add(body)
                self.engine.ack(peer.session, tag)
            else:
                self.engine.requeue(peer.session, tag)

    @precondition(lambda self: len(self.peers) > 1)
    @rule(pick=picks)
    def disconnect(self, pick: int) -> None:
        peer = self.peers.pop(1 + pick % (len(self.peers) - 1))
        peer.held.clear()
        self.engine.disconnect(peer.session)
        assert not peer.held

    @rule(pick=picks, flowing=st.booleans())
    def pause_or_resume(self, pick: int, flowing: bool) -> None:
        session = self.peers[pick % len(self.peers)].session
        (self.engine.resume if flowing else self.engine.pause)(session)

    @rule(ms=st.sampled_from([1, 50, 1000]))
    def wait(self, ms: int) -> None:
        self.clock.advance(f"{ms}ms")

    @rule(queue=queues)
    def purge(self, queue: str) -> None:
        self.engine.purge(self.peers[0].session, queue)

    @rule(queue=queues)
    def delete(self, queue: str) -> None:
        self.engine.delete(self.peers[0].session, queue)
        for peer in self.peers:
            over = {key for key, (name, _) in peer.consumers.items() if name == queue}
            peer.held = {
                tag: one for tag, one in peer.held.items() if one[0] not in over
            }
            peer.consumers = {
                key: one for key, one in peer.consumers.items() if key not in over
            }
        self.declare(queue)

    @rule()
    def restart(self) -> None:
        """A power cut: what was in hand is back, all connections are gone."""
        before = self.engine.kept()
        self.engine.close()
        self.engine = BrokerEngine(self.clock, kept=before)
        for peer in self.peers:
            self.engine.disconnect(peer.session)
        # the numbers of the new engine begin with what it found
        found = [item.body for queue in before for item in queue.messages]
        self.acknowledged.clear()
        self.firsts = {name: [] for name in QUEUES}
        self.published = {
            name: [body for body in bodies if body in found]
            for name, bodies in self.published.items()
        }
        self.peers.clear()
        self.connect()

    @invariant()
    def every_message_is_in_exactly_one_place(self) -> None:
        state = self.engine.snapshot()
        ready = [body for queue in state.queues.values() for body in queue.ready]
        unacked = [body for queue in state.queues.values() for body in queue.unacked]
        held = [body for peer in self.peers for _, body in peer.held.values()]
        assert sorted(held) == sorted(unacked)
        alive = ready + unacked
        assert len(set(alive)) == len(alive)
        assert self.acknowledged.isdisjoint(alive)
        count = state.counters
        assert count.acknowledged == len(self.acknowledged)
        assert count.published == sum(map(len, self.published.values()))
        assert count.published == (
            len(alive) + count.acknowledged + count.expired + count.dropped
        )
        for queue in state.queues.values():
            one = queue.counters
            assert one.published == (
                len(queue.ready)
                + len(queue.unacked)
                + one.acknowledged
                + one.expired
                + one.dropped
            )

    @invariant()
    def queues_are_in_publishing_order(self) -> None:
        for name, queue in self.engine.snapshot().queues.items():
            for bodies in (queue.ready, queue.unacked, self.firsts[name]):
                order = [self.published[name].index(body) for body in bodies]
                assert order == sorted(order)

    @invariant()
    def nobody_waits_beside_a_message(self) -> None:
        state = self.engine.snapshot()
        for peer in self.peers:
            for key, (name, prefetch) in peer.consumers.items():
                in_hand = sum(one == key for one, _ in peer.held.values())
                assert not prefetch or in_hand <= prefetch
                if peer.session.flowing and (not prefetch or in_hand < prefetch):
                    assert not state.queues[name].ready


EngineLaws.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
TestEngineLaws = EngineLaws.TestCase
