"""Standard logging as part of a run: captured as `log` records, with simulated time.

While any run is active, `Logger.callHandlers` is replaced, which every record that
passed a logger's level and filters goes through, whatever handlers there are. A handler
on the root logger lost: it would miss loggers that do not propagate, and its presence
changes what `basicConfig` and the handler of last resort do.
"""

from __future__ import annotations

import logging
import re
import threading
from typing import TYPE_CHECKING, Any, Final

from rpcsim.sim._ambient import running, utc

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.sim._sim import Sim
    from rpcsim.trace import Data

__all__ = ["captured_logs"]

# Where an object is in memory, as its default `repr` says, is no part of a run: two
# runs that differ in nothing else must have one digest.
_ADDRESS: Final = re.compile(r" at 0x[0-9A-Fa-f]+")


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - logging does not fail on it either, it tells
        # Arguments that do not fit the message: what the code said is still there.
        text = str(record.msg)
    return _ADDRESS.sub(" at 0x...", text) if " at 0x" in text else text


def _capture(sim: Sim, record: logging.LogRecord) -> None:
    if sim.simulates_time:
        # Counted from the import of `logging` otherwise, which no seed decides.
        record.relativeCreated = sim.loop.now_ns / 1e6
    _emit(
        sim,
        "log",
        (
            ("logger", record.name),
            ("level", record.levelname),
            ("message", _message(record)),
        ),
    )


def _emit(sim: Sim, kind: str, data: Data) -> None:
    # As the cause of what follows a log line would only stand in the way: it is told,
    # and leads to nothing.
    loop = sim.loop
    host = loop.life_of().host
    loop.trace.append(loop.now_ns, kind, host, loop.strand.label, loop.cause, data)


def _capturing(original: Callable[..., None]) -> Callable[..., None]:
    def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
        sim = running()
        if sim is None:
            original(logger, record)
            return
        _capture(sim, record)
        try:
            original(logger, record)
        except Exception as error:  # noqa: BLE001 - a handler does not fail the run
            data = (("logger", record.name), ("failed", type(error).__name__))
            _emit(sim, "note", data)

    return call_handlers


def _converting(original: Callable[..., Any]) -> Callable[..., Any]:
    """Have formatters tell simulated moments in UTC, whatever the machine's zone is."""

    def convert(seconds: float | None = None) -> Any:
        sim = running()
        if sim is None or not sim.simulates_time:
            return original(seconds)
        return utc(seconds)

    return convert


class _CapturedLogs:
    """Counts the runs that want their logs: runs in several threads may overlap."""

    __slots__ = ("_call_handlers", "_converter", "_lock", "_users")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._call_handlers: Any = None
        self._converter: Any = None
        self._users = 0

    def install(self) -> None:
        """Capture logs for one more run."""
        logger: Any = logging.Logger
        formatter: Any = logging.Formatter
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            self._call_handlers = logger.callHandlers
            logger.callHandlers = _capturing(self._call_handlers)
            # As it stands in the class: a plain function there would be a method.
            self._converter = vars(formatter)["converter"]
            formatter.converter = staticmethod(_converting(self._converter))

    def remove(self) -> None:
        """Put everything back when the last run ends."""
        logger: Any = logging.Logger
        formatter: Any = logging.Formatter
        with self._lock:
            self._users -= 1
            if not self._users:
                logger.callHandlers = self._call_handlers
                formatter.converter = self._converter
                self._call_handlers = self._converter = None


# Process-wide by nature: it counts changes made to a class of the standard library.
captured_logs: Final = _CapturedLogs()
