"""A kennel: one dog, as the agents' documents have it."""

from __future__ import annotations

import time

from rpcsim.agents import remote

# Seconds; long enough to crash in the midst of it, short enough for real clocks.
WALK = 0.2


class Dog:
    """Barks at once, walks for a while."""

    @remote
    def bark(self, words: str) -> str:
        """Say it and woof."""
        return f"{words} woof"

    @remote
    def walk(self, minutes: int) -> str:
        """Take a walk, in plain blocking code."""
        time.sleep(WALK)  # noqa: TID251 - plain code of a user, as it comes
        return f"walked {minutes} minutes"
