from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, threading
from rpcsim.ports import current

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

class Caller(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.data = asyncio.get_running_loop().create_future()
    def data_received(self, data):
        self.data.set_result(data)

async def story():
    network = current().network
    listener = await network.listen(Echo, ("127.0.0.1", 0))
    transport, caller = await network.connect(Caller, ("localhost", listener.addresses[0][1]))
    transport.write(b"hello")
    return await caller.data

ports = current()
assert current() is ports
print(ports.bridge.wait(story()).decode(), end=" ")
handle = ports.bridge.spawn(lambda: current() is ports)
print(ports.bridge.wait(handle), end=" ")
{more}
"""


def run(more: str = "") -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-X",
        "dev",
        "-W",
        "error",
        "-c",
        PROGRAM.format(more=more),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False
    )


def test_outside_every_world_clients_use_one_runtime() -> None:
    """It starts by itself, serves, and ends with the interpreter, without a word."""
    done = run()
    assert (done.stdout, done.stderr, done.returncode) == ("hello True ", "", 0)


def test_it_does_not_keep_the_interpreter_from_exiting() -> None:
    """Not while a thread waits for ever, nor after an exception or exit."""
    stuck = "threading.Thread(target=lambda: ports.bridge.wait(asyncio.Event().wait()), daemon=True).start()"
    done = run(f"import rpcsim.real._process as p\np.GRACE_SECONDS = 0\n{stuck}")
    assert done.returncode == 0
    assert run("raise SystemExit(7)").returncode == 7


def test_failures_are_logged_and_not_kept() -> None:
    """A long-lived program must not pile up what nobody asks for."""
    more = """
event = threading.Event()
def refuse(_):
    event.set()
    raise LookupError("in a timer")
ports.clock.call_later(0, refuse)
event.wait()
"""
    done = run(more)
    assert "LookupError: in a timer" in done.stderr
    assert done.returncode == 0


def test_a_forked_child_starts_its_own() -> None:
    """The parent's loop thread does not exist there."""
    more = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)
if os.fork() == 0:
    assert current() is not ports
    print(current().bridge.wait(story()).decode(), flush=True)
    os._exit(0)
os.wait()
"""
    done = run(more)
    assert (done.stdout.split(), done.stderr) == (
        ["hello", "True", "hello"],
        "",
    ) or done.stdout.split() == ["hello", "True", "hello", "True", "hello"]
