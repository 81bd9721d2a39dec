from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.agents.machines import MODES, machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpcsim.ports import Machine


@pytest.fixture(params=MODES)
def world(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine with a broker, once simulated and once real."""
    with machine(request.param) as made:
        yield made


@pytest.fixture
def sim_world() -> Iterator[Machine]:
    """A simulated machine with a broker."""
    with machine("sim") as made:
        yield made
