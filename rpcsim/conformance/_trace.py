"""What any `TraceSink` must do."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from rpcsim.conformance._checking import Check, expect, run_all
from rpcsim.ports import MessageInfo, message_data

if TYPE_CHECKING:
    from rpcsim.conformance._checking import Make

__all__ = ["TRACE_SINK", "check_trace_sink"]


def check_trace_sink(make: Make) -> None:
    """Check the trace sinks of a machine's hosts.

    Args:
        make: Gives a fresh machine with its trace on.
    """
    run_all(TRACE_SINK, make)


def a_record_is_kept_as_told(make: Make) -> None:
    """With its kind, its host, and its data in order."""
    with make() as machine:
        server = machine.host("server")
        number = server.ports.trace.emit("note", (("b", 2), ("a", None), ("c", "x")))
        [record] = machine.trace.of_kind("note")
        expect(record.n == number, f"emit() gave {number}, the record is {record.n}")
        expect(record.host == "server", f"the record is under host {record.host!r}")
        told = tuple(record.data)
        expect(told == (("b", 2), ("a", None), ("c", "x")), f"the data became {told}")


def numbers_and_moments_grow(make: Make) -> None:
    """Later records have greater numbers, and no earlier moments."""
    with make() as machine:
        sink = machine.ports.trace
        numbers = [sink.emit("note", (("i", i),)) for i in range(20)]
        expect(
            all(a < b for a, b in pairwise(numbers)),
            f"the numbers do not grow: {numbers}",
        )
        times = [record.t_ns for record in machine.trace.of_kind("note")]
        expect(times == sorted(times), f"the moments do not grow: {times}")


def a_cause_is_kept(make: Make) -> None:
    """A record that is told its cause keeps it."""
    with make() as machine:
        sink = machine.ports.trace
        first = sink.emit("note", (("i", 1),))
        sink.emit("note", (("i", 2),))
        sink.emit("note", (("i", 3),), cause=first)
        cause = machine.trace.of_kind("note")[-1].cause
        expect(cause == first, f"the cause {first} became {cause}")


def a_message_is_told_by_its_meaning(make: Make) -> None:
    """`message_data` gives pairs that can be recorded."""
    info = MessageInfo(
        system="agent",
        kind="request",
        method="Dog.bark",
        call_id="1",
        call_no=1,
        labels=(("queue", "dog"),),
    )
    with make() as machine:
        machine.ports.trace.emit("call.request", message_data(info))
        [record] = machine.trace.of_kind("call.request")
        expect(record.get("method") == "Dog.bark", f"the method is lost: {record}")
        expect(record.get("queue") == "dog", f"the labels are lost: {record}")


TRACE_SINK: Final[tuple[Check, ...]] = (
    a_record_is_kept_as_told,
    numbers_and_moments_grow,
    a_cause_is_kept,
    a_message_is_told_by_its_meaning,
)
