"""The audit hook: what goes around the loop is caught at the call site."""

from __future__ import annotations

import _socket
import _thread
import contextlib
import importlib
import linecache
import os
import subprocess
import sys
from pathlib import Path
from time import sleep as early_sleep
from typing import TYPE_CHECKING, Any

import pytest

from rpcsim.errors import EscapeError
from rpcsim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Callable


def _connect() -> None:
    with _raw() as raw:
        raw.connect(("127.0.0.1", 9))


def _bind() -> None:
    with _raw() as raw:
        raw.bind(("127.0.0.1", 0))


class _raw:  # noqa: N801 - reads as a value
    """A socket made below the `socket` module, which replacements do not reach."""

    def __enter__(self) -> Any:
        self.socket = _socket.socket()
        return self.socket

    def __exit__(self, *exc: object) -> None:
        self.socket.close()


ESCAPES: dict[str, Callable[[], Any]] = {
    "socket.connect 127.0.0.1:9": _connect,
    "socket.bind 127.0.0.1:0": _bind,
    "socket.getaddrinfo example.org": lambda: _socket.getaddrinfo("example.org", 80),
    "subprocess.Popen": lambda: subprocess.run([sys.executable, "-V"], check=False),
    "os.system": lambda: os.system("true"),
    "os.fork": lambda: os.fork(),
    "_thread.start_new_thread": lambda: _thread.start_new_thread(print, ()),
}
if sys.version_info >= (3, 13):  # the first that tells of it
    ESCAPES["time.sleep"] = lambda: early_sleep(0.001)


@pytest.mark.parametrize("what", ESCAPES)
def test_escapes_are_caught_at_the_call_site(what: str) -> None:
    """With the call, the place, the host, the time and a way out (check 65)."""
    with Sim(audit="raise") as sim:
        host = sim.host("box")
        sim.clock.advance(2)
        with pytest.raises(EscapeError, match="leaves the simulation") as caught:
            host.run(ESCAPES[what])
        text = str(caught.value)
        assert what in text
        assert "test_audit.py:" in text or "subprocess.py:" in text
        assert "host 'box'" in text
        assert "2 s" in text
        assert ";" in text
    assert [(r.host, r.data) for r in sim.trace if r.kind == "escape"] == [
        ("box", (("call", what.split()[0]),))
    ]


def test_swallowing_an_escape_fails_the_run_all_the_same() -> None:
    """It is kept on the run (7)."""

    def swallow() -> None:
        with contextlib.suppress(Exception):
            os.fork()

    sim = Sim(audit="raise")
    with pytest.raises(EscapeError, match=r"os\.fork"), sim:
        sim.run(swallow)


def test_writing_files_and_reading_elsewhere(tmp_path: Path) -> None:
    """`open` for writing anywhere, and outside the trees at all (check 65)."""
    place = tmp_path / "file"
    for work in (
        lambda: place.write_text("x"),
        lambda: os.open(place, os.O_RDWR | os.O_CREAT),
        lambda: place.read_text(),
        lambda: Path(__file__).open("a").close(),
    ):
        with Sim(audit="raise") as sim:
            with pytest.raises(EscapeError, match=r"open /.*Disk"):
                sim.run(work)
            sim._kept.clear()  # the escape was the point
    assert not place.exists()


def test_imports_sources_and_open_files_are_not(tmp_path: Path) -> None:
    """Imports, line caches, the project's files and devices (check 65)."""
    (tmp_path / "imported_late.py").write_text("VALUE = 7\n")

    def story() -> None:
        sys.path.insert(0, str(tmp_path))
        try:
            module = importlib.import_module("imported_late")
        finally:
            sys.path.remove(str(tmp_path))
        assert module.VALUE == 7
        assert linecache.getline(str(module.__file__), 1) == "VALUE = 7\n"
        assert Path(__file__).read_text()
        assert Path(os.__file__).read_bytes()
        with Path(os.devnull).open("w") as null:
            null.write("x")

    try:
        with Sim(audit="raise") as sim:
            sim.run(story)
            assert sim.findings == ()
    finally:
        sys.modules.pop("imported_late", None)
        linecache.clearcache()


def test_recording_lets_them_pass(tmp_path: Path) -> None:
    """`record` keeps findings, with places; the trace has no paths (7)."""
    place = tmp_path / "file"
    with Sim(audit="record") as sim:
        sim.host("box").run(lambda: place.write_text("x"))
        (found,) = sim.findings
        assert (found.event, found.detail, found.host) == ("open", str(place), "box")
    assert place.read_text() == "x"
    assert "file" not in "".join(str(r) for r in sim.trace)


def test_what_is_allowed_passes_and_is_traced(tmp_path: Path) -> None:
    """`sim.allow("open:/some/prefix/*")` (7)."""
    with Sim(audit="raise") as sim:
        sim.allow(f"open:{tmp_path}/*", "time.sleep")
        sim.run(lambda: (tmp_path / "file").write_text("x"))
        if "time.sleep" in ESCAPES:
            sim.run(lambda: early_sleep(0))
        with pytest.raises(EscapeError):
            sim.run(os.fork)
        sim._kept.clear()  # the escape was the point
        with pytest.raises(ValueError, match=r"did you mean 'os\.fork'"):
            sim.allow("os.forks")
        assert len(sim.findings) == 1
    allowed = [r.get("allowed") for r in sim.trace if r.kind == "escape"]
    slept = ["time.sleep:*"] if "time.sleep" in ESCAPES else []
    assert allowed == [f"open:{tmp_path}/*", *slept, None]


def test_outside_steps_nothing_is_seen(tmp_path: Path) -> None:
    """The test itself, and other simulations, are left alone."""
    with Sim(audit="raise") as sim:
        (tmp_path / "file").write_text("x")
        sim.run(lambda: _real(sim, tmp_path))
        assert sim.findings == ()
    with Sim() as sim:
        sim.run(lambda: (tmp_path / "file").write_text("y"))
    with pytest.raises(ValueError, match="'shout'"):
        Sim(audit="shout")  # type: ignore[arg-type]  # on purpose


def _real(sim: Sim, place: Path) -> None:
    with sim.real_time():
        (place / "other").write_text("x")
