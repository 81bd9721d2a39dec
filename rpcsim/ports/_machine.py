"""The two machines a run is put on, as `harness` sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import (
        Awaitable,
        Callable,
        Iterator,
        MutableMapping,
        Sequence,
    )
    from types import TracebackType

    from rpcsim.ports._bridge import Bridge
    from rpcsim.ports._clock import WorldClock
    from rpcsim.ports._durations import Duration
    from rpcsim.ports._entropy import Entropy
    from rpcsim.ports._messages import RpcMatch
    from rpcsim.ports._runtime import Ports
    from rpcsim.trace import Trace

__all__ = ["Fault", "Host", "Inexact", "Machine", "Main", "Mode", "Net"]

Mode: TypeAlias = Literal["sim", "real"]
# What `run` takes: an awaitable, a coroutine function, or a function that may block.
Main: TypeAlias = "Awaitable[Any] | Callable[[], Any]"
# One host name or several; "*" is every host.
Side: TypeAlias = "str | Sequence[str]"


@dataclass(frozen=True, slots=True)
class Inexact:
    """A fault the real machine could only approximate, or not apply.

    Attributes:
        fault: What was asked for.
        reason: Why it is not exact.
        measured: What was observed instead; `""` if nothing can be measured.
    """

    fault: str
    reason: str
    measured: str = ""


class Fault(Protocol):
    """A fault in force; the end of its `with` block undoes it."""

    def undo(self) -> None:
        """Lift it; doing so twice does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Net(Protocol):
    """The network between hosts, to be shaped and broken by a test."""

    def link(
        self,
        a: Side,
        b: Side,
        *,
        both: bool = True,
        latency: Any = None,
        bandwidth: float | None = None,
        loss: float | None = None,
    ) -> None:
        """Shape the link from `a` to `b` (and back); `None` leaves a setting alone.

        Both machines know these settings; the simulation has more.
        """

    def partition(
        self,
        a: Side,
        b: Side,
        *,
        direction: Literal["both", "a->b", "b->a"] = "both",
    ) -> Fault:
        """Cut two sides off; streams stall and go on after the repair."""

    def repair(self, a: Side, b: Side) -> None:
        """Undo every partition between two sides."""

    def repair_all(self) -> None:
        """Undo every partition."""

    def rpc(self, **match: Any) -> RpcMatch:
        """Choose messages by what they mean, for a rule: `net.rpc(...).drop()`."""

    def unreached(self) -> Sequence[str]:
        """Name the rules that never matched anything, in order of adding."""

    def hold(self, a: Side | Callable[[Any], bool], b: Side | None = None) -> Fault:
        """Keep what goes between two sides, or what is picked, in flight."""

    def inflight(self) -> Sequence[Any]:
        """Give the packets under way, held ones too, in order of sending.

        Each has `n`, `kind`, `src`, `dst`, `connection`, `size` and `held`.
        """

    def release(self, which: int | Callable[[Any], bool] | None = None) -> int:
        """Let held packets go on, in the order of their streams; gives how many."""

    def release_one(self) -> bool:
        """Let the packet go on that is held longest; false if there is none."""

    def drop_one(self, n: int | None = None) -> bool:
        """Lose one packet in flight, which a stream sends again; false if none."""

    def refuse_one(self, connection: str = "*") -> bool:
        """Refuse the oldest connect under way; false if there is none."""

    def connections(self) -> Sequence[Any]:
        """Give the open connections, with `label` and `ends` among their attributes."""

    def reset(self, connection: Any) -> Fault:
        """Have both ends of connections (label, glob, transport) see a reset."""

    def close_half(self, connection: Any, side: str) -> Fault:
        """End one direction of connections, as if its sender had."""

    def kill_silently(self, connection: Any) -> Fault:
        """Let connections die without a word."""

    def fail_next(
        self,
        *,
        listen: str | None = None,
        connect: str | None = None,
        port: int | None = None,
        count: int = 1,
        error: int | None = None,
    ) -> Fault:
        """Have the next listens on a host, or connects to it, fail."""


class Host(Protocol):
    """A machine of the run: a factory of software that can crash and be restarted."""

    @property
    def name(self) -> str:
        """Its name, which resolves to its addresses everywhere in the run."""

    @property
    def state(self) -> str:
        """`declared`, `running`, `paused`, `stopped` or `crashed`."""

    @property
    def incarnation(self) -> int:
        """How often it was started."""

    @property
    def addresses(self) -> Sequence[str]:
        """Its numeric addresses."""

    @property
    def ports(self) -> Ports:
        """The ports of its present incarnation."""

    def start(self) -> None:
        """Run the factory, as incarnation + 1."""

    async def wait_started(self) -> None:
        """Wait until what the factory gave is up; raises what its start raised."""

    async def stop(self, grace: Duration = 5) -> None:
        """End in order: `stop()` up to the grace, then tasks are cancelled."""

    def crash(self, kind: Literal["power", "process"] = "power") -> None:
        """End at once: none of its code runs any more, clean-up included."""

    def restart(self, after: Duration = 0) -> None:
        """Start again after a stop or crash; same name, addresses and disk."""

    def run(self, main: Main) -> Any:
        """Run `main` on this host from synchronous code and give its outcome."""


class Machine(Protocol):
    """One run's clock, network, hosts and loop, simulated or real."""

    @property
    def mode(self) -> Mode:
        """`sim` or `real`."""

    @property
    def seed(self) -> int:
        """What all draws derive from."""

    @property
    def clock(self) -> WorldClock:
        """The world's clock, as host `test` sees it."""

    @property
    def entropy(self) -> Entropy:
        """The world's chance."""

    @property
    def bridge(self) -> Bridge:
        """The blocking bridge, as host `test` uses it."""

    @property
    def net(self) -> Net:
        """The network between the hosts."""

    @property
    def trace(self) -> Trace:
        """What happened; readable after the end."""

    @property
    def ports(self) -> Ports:
        """The ports of host `test`, which code outside every host uses."""

    @property
    def services(self) -> MutableMapping[str, str]:
        """What clients are told: service name to URL."""

    @property
    def hosts(self) -> Sequence[Host]:
        """All declared hosts, in order."""

    @property
    def leftovers(self) -> Sequence[str]:
        """After the end: what was left behind, one line each, by name."""

    @property
    def inexact(self) -> Sequence[Inexact]:
        """Faults that were not exact here; always empty in simulation."""

    def take_failures(self) -> list[Exception]:
        """Take the failures of tasks and callbacks kept so far; they count as seen."""

    def leftovers_now(self) -> Iterator[str]:
        """Tell what is still there, one line each."""

    def waiting_now(self) -> Iterator[str]:
        """Tell what each task that is not done waits for, one line each."""

    def host(
        self,
        name: str,
        factory: Callable[..., Any] | None = None,
        *,
        addresses: Sequence[str] | None = None,
        background: bool = False,
    ) -> Host:
        """Declare a host and start it.

        The factory takes the `Host` or nothing, and gives an awaitable, an object
        with `async start()` and `async stop()`, or `None`; it is called again at
        every restart.
        """

    def run(self, main: Main) -> Any:
        """Run `main` on host `test` and give its outcome; not inside a coroutine."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
