"""A test that failed, told to a person: how to repeat it, its world, its calls."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from rpcsim.ports import NANOS
from rpcsim.report._timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rpcsim.harness import Case, World
    from rpcsim.trace import Record

__all__ = ["failure_sections", "left_text", "repro_line"]

NEWEST: Final = 20  # records told of a failure: pytest.md 8.1
# Titles of what is told of a world, and how its lines begin.
_STATE: Final = (
    ("pending timers", "timer "),
    ("listeners", "listener "),
    ("open connections", "connection "),
)
# What a line of a call begins with, and what nobody reads there.
_HEAD: Final = frozenset({"method", "system", "queue"})
SHORT: Final = 8  # digits of an id: enough to tell the calls of one test apart


def repro_line(case: Case, *, with_mode: bool, plugin: str | None = None) -> str:
    """Write the command that repeats a test, quoted for the shell.

    Args:
        case: The test.
        with_mode: Whether the mode makes a difference to it.
        plugin: The plugin's module, if it has to be named to pytest.
    """
    words = ["pytest", case.name, f"--rpcsim-seed={case.base}"]
    if with_mode:
        words.append(f"--rpcsim-mode={case.asked}")
    if plugin is not None:
        words[1:1] = ["-p", plugin]
    return shlex.join(words)


def left_text(case: Case) -> str:
    """Name what a test left behind in its world; `""` if nothing."""
    if case.world is None or not case.world.leftovers:
        return ""
    lines = [f"rpcsim: {case.name} left behind in its world (mode {case.mode}):"]
    lines += [f"    {line}" for line in case.world.leftovers]
    lines.append("Await or cancel what the test starts, and close what it opens.")
    return "\n".join(lines)


def failure_sections(case: Case) -> Iterator[tuple[str, str]]:
    """Give (title, text) pairs of a test's world, in order; none without a world."""
    if case.world is None:
        return
    yield "rpcsim world", _world_text(case, case.world)
    trace = case.world.trace
    calls = trace.of_kind("call")[-NEWEST:]
    if calls:
        yield "rpcsim calls", "\n".join(_call_lines(calls))
    yield "rpcsim timeline", timeline(trace, last=NEWEST)


def _world_text(case: Case, world: World) -> str:
    lines = [
        f"{case.elapsed:.6f} s, mode {world.mode}, seed {world.seed} "
        f"(base seed {case.base})",
        f"trace digest: {world.trace.digest}",
    ]
    hosts = [f"{host.name} {host.state}" for host in world.hosts]
    lines.append(f"hosts: {', '.join(hosts) or 'none'}")
    if world.mode == "sim":
        state = list(world.leftovers_now())
        lines += _listed("waiting tasks", list(world.waiting_now()))
        for title, start in _STATE:
            told = [line for line in state if line.startswith(start)]
            lines += _listed(title, [_plain(line, start) for line in told])
    return "\n".join(lines)


def _plain(line: str, start: str) -> str:
    """Leave out what the title above says, and the brackets of a `repr`."""
    rest = line.removeprefix(start)
    return rest[1:-1] if rest.startswith("<") and rest.endswith(">") else rest


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title}:", *(f"    {line}" for line in lines)] if lines else []


def _call_lines(calls: Sequence[Record]) -> Iterator[str]:
    """Write a line each: when, where, what, of which method, and what else is known."""
    heads = [(call.host, call.kind, str(call.get("method", ""))) for call in calls]
    widths = [max(map(len, column)) for column in zip(*heads, strict=True)]
    for call, head in zip(calls, heads, strict=True):
        words = [word.ljust(width) for word, width in zip(head, widths, strict=True)]
        more = [
            f"{name}={_short(name, value)}"
            for name, value in call.data
            if name not in _HEAD and value != ""
        ]
        yield "  ".join((f"{call.t_ns / NANOS:12.6f}", *words, *more)).rstrip()


def _short(name: str, value: Any) -> str:
    return str(value)[:SHORT] if name == "id" else str(value)
