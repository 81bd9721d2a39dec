"""asyncssh, server and client, unmodified over the simulated network (check 61)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from tests.third_party.stage import play, play_twice

if TYPE_CHECKING:
    from rpcsim.sim import Sim

KEY = asyncssh.generate_private_key("ssh-ed25519")


class Open(asyncssh.SSHServer):
    """Lets everybody in."""

    def begin_auth(self, username: str) -> bool:
        return False


async def server() -> None:
    async def command(process: asyncssh.SSHServerProcess[str]) -> None:
        if process.command == "hang":
            await asyncio.sleep(100)
        if process.command == "reset":
            process.channel.get_connection().abort()
            return
        process.stdout.write(f"ran {process.command}")
        process.exit(0)

    listening = await asyncssh.create_server(
        Open, "", 22, server_host_keys=[KEY], process_factory=command
    )
    await listening.wait_closed()


def connect() -> Any:
    return asyncssh.connect(
        "server", 22, known_hosts=None, username="u", client_keys=None, config=None
    )


def test_a_command_runs() -> None:
    """Key exchange, login, command; its ciphertext does not reach the digest."""

    async def client(sim: Sim) -> object:
        async with connect() as connection:
            return (await connection.run("ls")).stdout

    assert play_twice(server, client) == "ran ls"


def test_a_command_times_out() -> None:
    """The library's time limit is simulated time."""

    async def client(sim: Sim) -> float:
        async with connect() as connection:
            begun = sim.loop.time()
            with pytest.raises(asyncssh.TimeoutError):
                await connection.run("hang", timeout=7)
            return round(sim.loop.time() - begun)

    assert play(server, client)[0] == 7


def test_a_reset_is_the_librarys_error() -> None:
    """The server goes away in the middle of a command; the next finds nobody."""

    async def client(sim: Sim) -> None:
        async with connect() as connection:
            killed = await connection.run("reset")
            assert killed.exit_status is None
            with pytest.raises(asyncssh.Error):
                await connection.run("ls")

    play(server, client)
