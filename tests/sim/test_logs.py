"""Standard logging in a run: part of the trace, in simulated time (check 78)."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rpcsim.trace import Record

ROOT = Path(__file__).parents[2]
FORMAT = (
    "%(asctime)s %(relativeCreated)d %(name)s %(levelname)s %(process)d %(message)s"
)
SCRIPT = """
import io, json, logging
from rpcsim.trace import write_jsonl
from tests.sim.test_logs import chatter, handler_to
out = io.StringIO()
logging.getLogger().addHandler(handler_to(out))
sim = chatter()
print(json.dumps([out.getvalue(), write_jsonl(sim.trace, header={}, end={}), sim.trace.digest]))
"""


def handler_to(out: io.StringIO) -> logging.Handler:
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter(FORMAT))
    return handler


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Give a logger of this module's own, which lets everything through."""
    logger = logging.getLogger("tests.logs")
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


def told(sim: Sim) -> list[tuple[float, str, Any, Any, Any]]:
    """Give time, host, logger, level and message of what was captured."""

    def one(record: Record) -> tuple[float, str, Any, Any, Any]:
        names = ("logger", "level", "message")
        return (record.t_ns / 1e9, record.host, *(record.get(name) for name in names))  # type: ignore[return-value]  # three names

    return [one(record) for record in sim.trace.of_kind("log")]


def chatter(seed: int = 5) -> Sim:
    """Run two hosts that log, in an order a set of texts and a schedule decide."""
    log = logging.getLogger("tests.logs.chatter")

    async def serve(host: Any) -> None:
        for n in range(5):
            await asyncio.sleep(0.75)
            log.warning("%s says %d", host.name, n)

    with Sim(seed=seed, policy="random") as sim:
        for name in ("left", "right"):
            sim.host(name, serve)
        sim.run(asyncio.sleep(5))
    return sim


def test_a_log_line_is_a_record(logger: logging.Logger) -> None:
    """With simulated time, host, logger, level and message; steps, fibers, hosts."""

    def blocking() -> None:
        time.sleep(2.5)
        logger.error("from a fiber")

    async def serve() -> None:
        await asyncio.sleep(0.125)
        logger.info("serving %s", {"a": 1})
        logging.getLogger("tests.logs.child").debug("plain %d text")

    with Sim() as sim:
        sim.host("server", serve)
        sim.run(blocking)
    assert told(sim) == [
        (0.125, "server", "tests.logs", "INFO", "serving {'a': 1}"),
        (0.125, "server", "tests.logs.child", "DEBUG", "plain %d text"),
        (2.5, "test", "tests.logs", "ERROR", "from a fiber"),
    ]


def test_levels_and_filters_hold(logger: logging.Logger) -> None:
    """What logging drops is not captured; what does not propagate is."""
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addFilter(lambda record: "secret" not in record.getMessage())

    async def main() -> None:
        logger.info("too low")
        logger.warning("a secret")
        logger.warning("a word")
        logger.log(35, "a level of one's own")

    with Sim() as sim:
        sim.run(main)
        logger.removeFilter(logger.filters[0])
    assert [row[3:] for row in told(sim)] == [
        ("WARNING", "a word"),
        ("Level 35", "a level of one's own"),
    ]


def test_handlers_of_the_user_format_simulated_time(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get every record once, in UTC and since the run's start, in any zone."""
    out = io.StringIO()
    logger.addHandler(handler_to(out))

    async def main() -> None:
        await asyncio.sleep(61.25)
        logger.info("late")

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        with Sim() as sim:
            sim.run(main)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert out.getvalue() == (
        "2000-01-01 00:01:01,250 61250 tests.logs INFO 1000 late\n"
    )
    assert [row[4] for row in told(sim)] == ["late"]


def test_real_time_stays_real_when_asked_for(logger: logging.Logger) -> None:
    """Without ambient time, records and formatters tell the machine's."""
    out = io.StringIO()
    logger.addHandler(handler_to(out))

    async def main() -> None:
        logger.info("now")

    before = time.localtime().tm_year
    with Sim(ambient={"random"}) as sim:
        sim.run(main)
    assert before <= int(out.getvalue()[:4]) <= time.localtime().tm_year
    assert [row[0] for row in told(sim)] == [0]


class Failing(logging.Handler):
    """Fails as a handler does whose disk is full, without telling `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left")


def test_a_handler_that_fails_does_not_fail_the_run(logger: logging.Logger) -> None:
    """The line is in the trace all the same, beside a note of the failure."""
    logger.addHandler(Failing())

    async def main() -> str:
        logger.warning("full")
        return "went on"

    with Sim() as sim:
        assert sim.run(main) == "went on"
    assert [row[4] for row in told(sim)] == ["full"]
    (note,) = sim.trace.of_kind("note")
    assert note.data == (("logger", "tests.logs"), ("failed", "OSError"))
    with pytest.raises(OSError, match="no space"):
        logger.warning("outside a run it fails as ever")


def test_a_message_that_cannot_be_formatted_is_captured_as_it_is(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments that do not fit, and a value whose text cannot be made."""
    monkeypatch.setattr(logging, "raiseExceptions", False)

    class Mute:
        def __str__(self) -> str:
            raise ValueError("no text")

    async def main() -> None:
        logger.warning("%d of %d", 1)  # too few: the defect under test
        logger.warning("%s", Mute())

    with Sim() as sim:
        sim.run(main)
    assert [row[4] for row in told(sim)] == ["%d of %d", "%s"]


def test_addresses_are_no_part_of_a_run(logger: logging.Logger) -> None:
    """Where an object lies in memory differs between equal runs; it is left out."""

    async def main() -> None:
        logger.warning("%r and 0x1234", object())

    with Sim() as sim:
        sim.run(main)
    assert [row[4] for row in told(sim)] == ["<object object at 0x...> and 0x1234"]


def test_only_what_steps_log_is_captured(logger: logging.Logger) -> None:
    """The test around the run logs as ever, in real time, and is not recorded."""
    out = io.StringIO()
    logger.addHandler(handler_to(out))
    with Sim() as sim:
        logger.warning("between runs")
        with sim.real_time():
            logger.warning("outside")
        sim.run(asyncio.sleep(1))
    assert told(sim) == []
    assert not out.getvalue().startswith("2000-")
    assert out.getvalue().count("\n") == 2


def test_logs_count_for_the_digest(logger: logging.Logger) -> None:
    """A changed word is another run; the level of the handlers is not."""

    def digest(word: str) -> str | None:
        async def main() -> None:
            logger.warning(word)

        with Sim() as sim:
            sim.run(main)
        return sim.trace.digest

    one = digest("one")
    logger.addHandler(logging.NullHandler())
    assert digest("one") == one != digest("other")


def test_a_line_leads_to_nothing(logger: logging.Logger) -> None:
    """The cause of what follows in a step is what led to the step, not a log line."""

    async def main(logs: bool) -> int:
        sim.test.ports.trace.emit("point", (("name", "before"),))
        if logs:
            logger.warning("between")
        number = sim.test.ports.trace.emit("point", (("name", "after"),))
        return sim.trace[number].cause

    causes = []
    for logs in (False, True):
        with Sim() as sim:
            causes.append(sim.run(main(logs)))
    assert causes[0] == causes[1]


def names() -> tuple[Any, Any]:
    return vars(logging.Logger)["callHandlers"], vars(logging.Formatter)["converter"]


def test_nothing_is_installed_outside_runs(
    a_real_thread: Callable[[Callable[[], Any]], BaseException | None],
) -> None:
    """Names are restored after the last of overlapping runs, and after errors."""
    before = names()
    with pytest.raises(ZeroDivisionError), Sim():
        _ = 1 / 0
    assert names() == before
    with Sim():
        during = names()
        assert during != before

        def other() -> None:
            with Sim() as sim:
                assert names() == during
                sim.run(asyncio.sleep(1))

        assert a_real_thread(other) is None
        assert names() == during
    assert names() == before


def test_a_library_that_replaced_the_method_keeps_its_own(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error trackers replace `callHandlers` too: theirs is called, and comes back."""
    seen: list[str] = []
    original = logging.Logger.callHandlers

    def theirs(logger: logging.Logger, record: logging.LogRecord) -> None:
        seen.append(record.getMessage())
        original(logger, record)

    monkeypatch.setattr(logging.Logger, "callHandlers", theirs)

    async def main() -> None:
        logger.warning("seen by both")

    with Sim() as sim:
        sim.run(main)
    assert seen == ["seen by both"]
    assert [row[4] for row in told(sim)] == ["seen by both"]
    assert logging.Logger.callHandlers is theirs


def test_a_run_that_logs_nothing_has_no_more_records() -> None:
    """Capturing adds a record for a line, and none for anything else."""
    with Sim(trace="steps") as sim:
        sim.run(asyncio.sleep(1))
    assert {record.kind for record in sim.trace} <= {
        "step",
        "timer",
        "task.start",
        "end",
    }


def test_fresh_processes_log_the_same_bytes() -> None:
    """Two hash seeds: equal text of the handler, equal trace file, equal digest."""

    def run(hash_seed: int) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={
                **os.environ,
                "PYTHONHASHSEED": str(hash_seed),
                "PYTHONPATH": str(ROOT),
                "TZ": f"XXX{hash_seed}",
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    first, second = run(1), run(2)
    text, file, digest = first
    assert text.count("\n") == 10
    assert file.count('"k":"log"') == 10
    assert first == second
    assert digest == chatter().trace.digest
