"""One test of a user's suite: its seed, the one world its fixtures share, its end.

How a test is found, called and reported is for the test library above; the pytest
plugin is the one such thing so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rpcsim.harness._modes import derive_seed, world
from rpcsim.sim import Sim

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rpcsim.harness._world import World
    from rpcsim.ports import Mode

__all__ = ["Case"]

# A test's traceback ends at the test's own line: pytest leaves our frames out.
__tracebackhide__ = True


class Case:
    """One test that takes a world.

    Args:
        name: Unique in the suite, without the mode.
        base: The seed every test's seed derives from.
        mode: The mode of this run, whatever its world's will be.

    Attributes:
        seed: What every draw of the test derives from.
        mode: Of its world; the one asked for while there is none.
        world: The one world of the test, once something asked for it.
    """

    def __init__(self, name: str, base: int, mode: Mode) -> None:
        self.name: Final = name
        self.base: Final = base
        self.asked: Final = mode
        self.seed: Final = derive_seed(base, name)
        self.mode: Mode = mode
        self.world: World | None = None

    def __repr__(self) -> str:
        return f"<Case {self.name} seed={self.seed} world={self.world!r}>"

    def open(self, mode: Mode, options: Mapping[str, Any]) -> World:
        """Make the test's world and enter it.

        Args:
            mode: `sim` or `real`.
            options: Of `rpcsim.world`; a `seed` among them wins over the test's own.
        """
        made = world(mode, **{"seed": self.seed, **options})
        made.__enter__()
        self.world, self.mode = made, mode
        return made

    @property
    def elapsed(self) -> float:
        """How long the world has run by its own clock, in seconds."""
        assert self.world is not None  # asked of a world that was opened
        clock: Any = self.world.clock  # `elapsed` is the world's, not every clock's
        seconds: float = clock.elapsed
        return seconds

    def take_failures(self) -> list[Exception]:
        """Take what failed in the background; the real machine tells it at its end."""
        if self.world is None or self.world.mode == "real":
            return []
        return list(self.world.take_failures())

    def note_failures(self, error: BaseException) -> None:
        """Add what failed in the background to what a test raised."""
        for failure in self.take_failures():
            error.add_note(f"also, in the run: {type(failure).__name__}: {failure}")

    def close(self, error: BaseException | None) -> list[str]:
        """End the world.

        Args:
            error: What ended the test, if anything did; it is not raised again.

        Returns:
            Notes the end has added to `error`, which was told before they were there.
        """
        assert self.world is not None  # closed once, after it was opened
        known = len(getattr(error, "__notes__", ()))
        if error is None:
            self.world.__exit__(None, None, None)
        else:
            self.world.__exit__(type(error), error, error.__traceback__)
        return list(getattr(error, "__notes__", ())[known:])

    def needs_sim(self, error: BaseException | None) -> str | None:
        """Name the member a test in mode real failed for, if only a simulation has it."""
        world = self.world
        if world is None or world.mode == "sim":
            return None
        if not isinstance(error, AttributeError) or not error.name:
            return None
        other = Sim()
        pairs = (("", world, other), ("clock.", world.clock, other.clock))
        for part, real, simulated in (*pairs, ("net.", world.net, other.net)):
            if error.obj is real and hasattr(simulated, error.name):
                return f"{part}{error.name}"
        return None
