"""What a caller holds: the container of an agent, its stubs, their methods."""

from __future__ import annotations

import asyncio
import functools
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

from rpcsim.agents._calls import broker_calls
from rpcsim.agents._options import normalise
from rpcsim.agents._policies import policy_of
from rpcsim.errors import BlockingInCoroutine
from rpcsim.ports import Call, activations, current

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rpcsim.agents._policies import Policy
    from rpcsim.core import Ended
    from rpcsim.ports import CallPort, Ports

__all__ = ["Agent", "Method", "Stub", "agent"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True

# Keywords of a method call that are options of the call (gofer.md 2.4).
_PER_CALL: Final = ("window", "any")


@final
class Agent:
    """Stands for a remote agent: `Agent("jortel", timeout=(3, 180)).Dog().bark("hi")`.

    Attribute or item access makes a stub of a remote class or module. Nothing is sent
    before a method is called.

    Args:
        id: The agent's id, the name of its queue.
        options: Among them: `timeout`, seconds for start and completion, or a pair of
            them, by default (10, 90); `async_`, to send without waiting and get the
            serial number; `any`, data sent along and given back with each reply; `url`,
            the broker's address, by default the world's own or the local one; `calls`,
            a call port for this container alone; `progress`, called with each report;
            `strict`, to refuse unknown options, which are otherwise kept and ignored.

    Raises:
        TypeError: `id` is not text, or an option contradicts itself.
    """

    __slots__ = ("__id", "__options", "__url")

    def __init__(self, id: str, /, **options: Any) -> None:  # noqa: A002 - documented
        if not isinstance(id, str):
            raise TypeError(f"an agent's id is text, not {type(id).__name__}")
        strict = bool(options.get("strict"))
        chosen = normalise(options, strict=strict)
        self.__id = id
        self.__url: str | None = chosen.pop("url", None)
        self.__options = chosen

    def __getattr__(self, name: str) -> Stub:
        if name.startswith("_"):
            # Or copying, pickling and hasattr probes would become remote calls.
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Stub:
        return _stub_class(name)(name, self.__id, self.__url, dict(self.__options))

    def __str__(self) -> str:
        return f"{{{self.__id}}} opt:{self.__options}"

    def __repr__(self) -> str:
        return f"<Agent {self.__id!r}>"


def agent(id: str, /, **options: Any) -> Agent:  # noqa: A002 - documented
    """Make an `Agent`."""
    return Agent(id, **options)


class Stub:
    """Stands for a remote class or module; its attributes are its methods.

    The first call `stub(**options)` sets options over the container's. Each later call
    sets the constructor arguments sent with every request from then on.
    """

    __slots__ = (
        "_called",
        "_cntr",
        "_id",
        "_name",
        "_options",
        "_policy",
        "_turn",
        "_url",
    )
    _turn: tuple[Ports, asyncio.Lock] | None

    def __init__(
        self,
        name: str,
        id_: str,
        url: str | None,
        options: dict[str, Any],
    ) -> None:
        self._name = name
        self._id = id_
        self._url = url
        self._options = options
        self._cntr: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
        self._called = False
        self._policy: Policy | None = None
        self._turn = None

    def __call__(self, *args: Any, **kwargs: Any) -> Stub:
        if self._called:
            self._cntr = args, kwargs
            return self
        self._called = True
        strict = bool(self._options.get("strict") or kwargs.get("strict"))
        self._options = self._options | normalise(kwargs, strict=strict)
        return self

    def __getattr__(self, name: str) -> Method:
        if name.startswith("_"):
            raise AttributeError(name)
        return Method(self, name)

    def __getitem__(self, name: str) -> Method:
        return self.__getattr__(name)

    def __repr__(self) -> str:
        return f"<{self._name} of agent {self._id!r}>"


@functools.lru_cache(maxsize=512)
def _stub_class(name: str) -> type[Stub]:
    """Make the class of a stub, which is named as what it stands for."""
    return type(name, (Stub,), {"__slots__": ()})


@final
class Method:
    """Stands for a remote method; whether it exists is known to the agent only.

    Calling it blocks until the result is there and returns it, or raises. In a
    coroutine, `await dog.bark.acall("hello")` does the same without blocking.
    """

    __slots__ = ("_name", "_stub")

    def __init__(self, stub: Stub, name: str) -> None:
        self._stub = stub
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the remote method and give what it returned.

        Raises:
            RequestTimeout: It was not started, or not completed, in time.
            NotFound: There is no agent of that id.
            Disconnected: The broker cannot be reached, or was lost meanwhile.
            DispatchError: The agent would not run it.
            BlockingInCoroutine: Called in a coroutine; use `acall`.
            Exception: What the method raised, with the remote traceback in `.trace`.
        """
        ports = current()
        if not ports.bridge.may_block():
            raise BlockingInCoroutine(_cannot_block(self._stub, self._name))
        ended = ports.bridge.wait(
            _agent_call(ports, self._stub, self._name, args, kwargs)
        )
        return ended.take()

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Call the remote method from a coroutine; the same but for the waiting.

        Calls made this way through one stub may overlap.
        """
        ended = await _invoke(current(), self._stub, self._name, args, kwargs)
        return ended.take()

    def __repr__(self) -> str:
        return f"<{self._stub._name}.{self._name}() of agent {self._stub._id!r}>"


def _cannot_block(stub: Stub, name: str) -> str:
    called = f"{stub._name}.{name}()"
    return (
        f"{called} of agent {stub._id!r} blocks, and was called inside a coroutine, "
        f"where its answer could never arrive; write `await stub.{name}.acall(...)`, "
        "or run the calling function with `await ports.bridge.call_blocking(function)`"
    )


# The locks that the running call holds: a progress callback may call through the stub
# whose call it reports on.
_held: ContextVar[tuple[asyncio.Lock, ...]] = ContextVar("rpcsim.agents.held")


async def _agent_call(
    ports: Ports, stub: Stub, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Ended:
    """Make a call when those before it through the same stub are done."""
    # One lock per host: the stub of a module outlives a crash of the host whose call
    # held the lock, and must serve the host again when it is back.
    if stub._turn is None or stub._turn[0] is not ports:
        stub._turn = ports, asyncio.Lock()
    lock = stub._turn[1]
    held = _held.get(())
    if lock in held:
        return await _invoke(ports, stub, name, args, kwargs)
    async with lock:
        _held.set((*held, lock))
        return await _invoke(ports, stub, name, args, kwargs)


async def _invoke(
    ports: Ports, stub: Stub, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Ended:
    options = stub._options
    if not kwargs.keys().isdisjoint(_PER_CALL):
        per_call = {key: kwargs.pop(key) for key in _PER_CALL if key in kwargs}
        options = options | per_call
    if stub._policy is None:
        # Kept: changing options of a stub in use does not change how it sends.
        stub._policy = policy_of(options)
    policy = stub._policy
    call = Call(
        family="agent",
        caller=ports.host,
        target=stub._id,
        path=f"{stub._name}.{name}",
        args=args,
        kwargs=kwargs,
        cntr=stub._cntr,
        options=MappingProxyType(options),
        deadline_ns=policy.deadline_ns(ports.clock.now_ns()),
        id=str(ports.entropy.uuid4()),
    )
    port: CallPort | None = options.get("calls") or activations.top()
    return await policy.send(ports, port or broker_calls(ports, stub._url), call)
