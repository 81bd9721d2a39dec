"""Signals to simulated hosts: a handler on the host's loop, or the default action."""

from __future__ import annotations

import signal
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from rpcsim.sim._task import SimHandle

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.sim._host import SimHost
    from rpcsim.sim._loop import SimLoop
    from rpcsim.sim._strand import StrandLike

__all__ = ["LoopSignals", "deliver", "signal_of"]

_UNCAUGHT: Final = frozenset({signal.SIGKILL, signal.SIGSTOP})
_STOPS: Final = frozenset({signal.SIGSTOP, signal.SIGTSTP})
_IGNORED: Final = frozenset({signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH})


def signal_of(sig: int | str) -> signal.Signals:
    """Read a signal: its number, or its name with or without `SIG`.

    Raises:
        ValueError: There is no such signal.
    """
    if isinstance(sig, str):
        name = sig.upper()
        name = name if name.startswith("SIG") else f"SIG{name}"
        if name not in signal.Signals.__members__:
            raise ValueError(f"unknown signal {sig!r}; give one such as 'TERM'")
        return signal.Signals[name]
    try:
        return signal.Signals(sig)
    except ValueError:
        raise ValueError(f"unknown signal {sig!r}; give one such as 'TERM'") from None


def deliver(host: SimHost, sig: signal.Signals) -> None:
    """Run the host's handler in its next turn, or do what the system does."""
    handler = host.signals.get(sig)
    if handler is not None and sig not in _UNCAUGHT:
        strand, handle = handler
        host.life.ports.loop.push(strand, handle.run, ())
    elif sig in _STOPS:
        if host.state == "running":
            host.pause()
    elif sig == signal.SIGCONT:
        if host.state == "paused":
            host.resume()
    elif sig not in _IGNORED:
        host.crash("process")


class LoopSignals:
    """asyncio's signal methods: handlers belong to the host that sets them."""

    def _own_signals(
        self: Any,
    ) -> dict[signal.Signals, tuple[StrandLike, SimHandle]]:
        loop: SimLoop = self
        return loop.sim.by_name[loop.life_of().host].signals

    def add_signal_handler(
        self: Any, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Have `callback` run when the running host gets the signal."""
        number = signal_of(sig)
        if number in _UNCAUGHT:
            raise RuntimeError(f"sig {int(sig)} cannot be caught")
        loop: SimLoop = self
        handle = SimHandle(callback, args, loop, copy_context())
        self._own_signals()[number] = loop.life_of().strand, handle

    def remove_signal_handler(self: Any, sig: int) -> bool:
        """Go back to the default action; says whether there was a handler."""
        return self._own_signals().pop(signal_of(sig), None) is not None
