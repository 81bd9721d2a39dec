"""Distributions of delays: what they are, and that they are the same everywhere."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcsim.sim import (
    Constant,
    Exponential,
    LogNormal,
    Normal,
    Pareto,
    Samples,
    Sim,
    Uniform,
)
from rpcsim.sim._streams import SimStream
from rpcsim.sim._tables import EXPONENTIAL, LN2, NORMAL, NORMAL_TAIL, POWERS
from tests.sim.test_tcp import Log, pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpcsim.sim._distributions import Latency

_BELL = NormalDist()
# Distribution, and the delay in milliseconds that a share of the packets stays below.
SHAPES: dict[str, tuple[Latency, Callable[[float], float]]] = {
    "constant": (Constant(7_000_000), lambda _: 7),
    "uniform": (Uniform("5ms", "15ms"), lambda q: 5 + 10 * q),
    "normal": (Normal("40ms", "5ms"), lambda q: 40 + 5 * _BELL.inv_cdf(q)),
    "cut": (Normal("1ms", "10ms"), lambda q: max(1 + 10 * _BELL.inv_cdf(q), 0)),
    "exponential": (Exponential("10ms", "2ms"), lambda q: 2 - 10 * math.log(1 - q)),
    "lognormal": (
        LogNormal("10ms", 0.5),
        lambda q: 10 * math.exp(0.5 * _BELL.inv_cdf(q)),
    ),
    "pareto": (Pareto("5ms", "60ms", 1.5), lambda q: min(5 * (1 - q) ** (-2 / 3), 60)),
    "samples": (
        Samples(["4ms", "1ms", "1ms", "8ms"]),
        lambda q: (1, 1, 4, 8)[int(q * 4)],
    ),
}
# The first five delays drawn, in nanoseconds, on every platform.
DRAWN = {
    "constant": [7000000, 7000000, 7000000, 7000000, 7000000],
    "uniform": [12841490, 9262798, 12439297, 11478164, 10953531],
    "normal": [34021381, 44798220, 39115585, 40221257, 40757502],
    "cut": [9010274, 0, 12788301, 1441350, 0],
    "exponential": [12111399, 3626924, 10581837, 5006046, 2717471],
    "lognormal": [12159372, 6732570, 1875905, 6784775, 5123262],
    "pareto": [5059442, 18826341, 20201030, 11226479, 17438383],
    "samples": [1000000, 8000000, 8000000, 8000000, 4000000],
}


@pytest.mark.parametrize("name", SHAPES)
def test_delays_fit_their_distribution(name: str) -> None:
    """10 000 packets: each decile is where it belongs, to a hundredth (check 51)."""
    shape, quantile = SHAPES[name]
    stream = SimStream(5, "packets")
    drawn = sorted(shape.draw(stream) / 1e6 for _ in range(10_000))
    for tenth in range(1, 10):
        if name == "samples" and tenth == 5:
            continue  # between two of its values
        low, high = (quantile(tenth / 10 + off) for off in (-0.015, 0.015))
        assert low <= drawn[tenth * 1_000] <= high
    low, high = quantile(0.985), quantile(0.9925)
    assert low <= drawn[9_900] <= high


@pytest.mark.parametrize("name", SHAPES)
def test_drawn_delays_are_equal_on_every_platform(name: str) -> None:
    """The values of the first draws are these, whatever computes them (check 51)."""
    stream = SimStream(51, f"table/{name}")
    assert [SHAPES[name][0].draw(stream) for _ in range(5)] == DRAWN[name]


def test_packets_take_what_the_distribution_says() -> None:
    """Measured at the far end of a link, one packet after another (check 51)."""
    near, far = Log(), Log()
    with Sim(seed=3) as sim:
        sim.host("server")
        sim.net.link("test", "server", both=False, latency=Exponential("10ms", "1ms"))

        async def story() -> list[float]:
            transport, server = await pair(sim, near, far)
            await sim.net.wait_idle()
            took = []
            for _ in range(2_000):
                before, begin = len(far.data), sim.loop.time()
                transport.write(b"x")
                while len(far.data) == before:
                    (due,) = [p.due_at for p in sim.net.inflight()]
                    await sim.net.wait_idle()
                took.append(sim.loop.time() - begin)
                assert sim.loop.time() == due
            transport.close()
            server.close()
            return took

        took = sorted(sim.run(story))
    assert min(took) >= 0.001
    assert sum(took) / 2_000 == pytest.approx(0.011, rel=0.06)
    assert took[1_000] == pytest.approx(0.001 + 0.01 * math.log(2), rel=0.06)


@given(st.integers(0, (1 << 31) - 1), st.integers(0, (1 << 31) - 1))
def test_a_greater_draw_gives_no_lesser_delay(a: int, b: int) -> None:
    """0 is the least delay: the quiet answer, to which shrinking goes."""

    class Told:
        def __init__(self, value: int) -> None:
            self.value = value

        def below(self, n: int) -> int:
            return min(self.value, n - 1)

    low, high = sorted((a, b))
    for shape, _ in SHAPES.values():
        first: Any = Told(low)
        second: Any = Told(high)
        assert 0 <= shape.draw(first) <= shape.draw(second)


def test_the_tables_are_what_they_say() -> None:
    """Compared with the library's own functions, to the last digit but one."""
    unit = 2**24
    assert pytest.approx(math.log(2), abs=1e-7) == LN2 / unit
    assert NORMAL[64] == NORMAL_TAIL[0]
    for i, value in enumerate(NORMAL[:64]):
        assert value / unit == pytest.approx(_BELL.inv_cdf(0.5 + i / 128), abs=1e-6)
    for i, value in enumerate(NORMAL_TAIL[:-1]):
        told = _BELL.inv_cdf(1 - (1 - i / 32) / 128)
        assert value / unit == pytest.approx(told, abs=1e-6)
    for i, value in enumerate(EXPONENTIAL):
        assert value / unit == pytest.approx(-math.log(1 - i / 128), abs=1e-6)
    for i, value in enumerate(POWERS):
        assert value / unit == pytest.approx(2 ** (i / 64), abs=1e-6)


def test_bad_distributions_are_refused() -> None:
    """Each says what it needs."""
    for make, told in (
        (lambda: Normal(-1, 1), "mean cannot be negative"),
        (lambda: Exponential("1ms", -1), "floor cannot be negative"),
        (lambda: LogNormal("1ms", 0), "sigma is a number above 0"),
        (lambda: Pareto(0, 1), "0 < low <= high"),
        (lambda: Pareto(1, 2, -1), "alpha is a number above 0"),
        (lambda: Samples([]), "at least one delay"),
        (lambda: Uniform(2, 1), "0 <= low <= high"),
    ):
        with pytest.raises(ValueError, match=told):
            make()
    assert [str(shape) for shape, _ in SHAPES.values()] == [
        "7ms",
        "5ms..15ms",
        "normal(40ms, 5ms)",
        "normal(1ms, 10ms)",
        "2ms + exponential(10ms)",
        "lognormal(10ms, 0.5)",
        "pareto(5ms..60ms, 1.5)",
        "4 samples of 1ms..8ms",
    ]
