"""What any `Entropy` must do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rpcsim.conformance._checking import Check, expect, raises, run_all

if TYPE_CHECKING:
    from rpcsim.conformance._checking import Make
    from rpcsim.ports import Stream

__all__ = ["ENTROPY", "check_entropy"]


def check_entropy(make: Make) -> None:
    """Check the chance of a machine: named streams, ids, counters.

    Args:
        make: Gives a fresh machine, of the same seed each time.
    """
    run_all(ENTROPY, make)


def _draws(stream: Stream) -> list[object]:
    return [stream.random(), stream.getrandbits(40), stream.below(1000)]


def a_stream_is_one_object(make: Make) -> None:
    """Asking twice for a name gives the same stream, which goes on."""
    with make() as machine:
        entropy = machine.entropy
        expect(
            entropy.stream("user/x") is entropy.stream("user/x"),
            "stream() made a second stream of one name",
        )


def streams_follow_the_seed_alone(make: Make) -> None:
    """Equal seeds give equal draws; another name, other draws."""
    with make() as machine:
        first = _draws(machine.entropy.stream("user/x"))
        other = _draws(machine.entropy.stream("user/y"))
    with make() as machine:
        again = _draws(machine.entropy.stream("user/x"))
    expect(first == again, f"the same seed and name drew {first}, then {again}")
    expect(first != other, f"two names drew the same: {first}")


def a_draw_shifts_no_other_stream(make: Make) -> None:
    """One draw more here changes nothing there, whoever asks first."""
    with make() as machine:
        expected = _draws(machine.entropy.stream("user/b"))
    with make() as machine:
        _draws(machine.entropy.stream("user/a"))
        machine.entropy.stream("user/b")
        _draws(machine.entropy.stream("user/a"))
        drawn = _draws(machine.entropy.stream("user/b"))
    expect(drawn == expected, f"draws of user/a shifted user/b: {drawn}, {expected}")


def draws_stay_in_their_range(make: Make) -> None:
    """Floats below 1, integers below n, bits as many as asked, items of the list."""
    with make() as machine:
        stream = machine.entropy.stream("user/x")
        for _ in range(200):
            x = stream.random()
            expect(0 <= x < 1, f"random() gave {x}")
            for n in (1, 2, 7, 1 << 40):
                i = stream.below(n)
                expect(0 <= i < n, f"below({n}) gave {i}")
            bits = stream.getrandbits(9)
            expect(0 <= bits < 512, f"getrandbits(9) gave {bits}")
            expect(stream.choice("abc") in "abc", "choice() left its list")
        seen = {stream.below(4) for _ in range(200)}
        expect(seen == {0, 1, 2, 3}, f"below(4) only gave {seen} in 200 draws")
        items = list(range(20))
        stream.shuffle(items)
        expect(sorted(items) == list(range(20)), f"shuffle() lost items: {items}")
        expect(items != list(range(20)), "shuffle() left everything in place")
        raises(ValueError, lambda: stream.below(0), "below(0) has nothing to give")


def ids_are_valid_and_distinct(make: Make) -> None:
    """Version 4 UUIDs, and as many bytes as asked."""
    with make() as machine:
        entropy = machine.entropy
        ids = {entropy.uuid4() for _ in range(50)}
        expect(len(ids) == 50, "uuid4() repeated itself within 50")
        for one in ids:
            expect(
                one.version == 4 and one.variant == "specified in RFC 4122",
                f"uuid4() gave {one}, version {one.version}, {one.variant}",
            )
        for n in (0, 1, 33):
            got = len(entropy.token_bytes(n))
            expect(got == n, f"token_bytes({n}) gave {got} bytes")
        expect(
            entropy.token_bytes(16) != entropy.token_bytes(16),
            "token_bytes() repeated itself",
        )


def sequences_count_from_one(make: Make) -> None:
    """Each label has a counter of its own."""
    with make() as machine:
        entropy = machine.entropy
        counted = [entropy.sequence("a"), entropy.sequence("a"), entropy.sequence("b")]
        expect(counted == [1, 2, 1], f"sequence() counted {counted}")


ENTROPY: Final[tuple[Check, ...]] = (
    a_stream_is_one_object,
    streams_follow_the_seed_alone,
    a_draw_shifts_no_other_stream,
    draws_stay_in_their_range,
    ids_are_valid_and_distinct,
    sequences_count_from_one,
)
