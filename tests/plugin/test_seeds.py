"""Seeds: drawn once, derived per test, the same wherever and however it runs."""

import re

import pytest

from rpcsim import derive_seed

TELL = """
    import json, os, pathlib, pytest

    def tell(request, rpc_seed):
        place = pathlib.Path(os.environ["SEEDS"], str(rpc_seed))
        place.write_text(request.node.nodeid)

    @pytest.mark.parametrize("n", ["a", "b c", "[d-sim]"])
    def test_it(request, rpc_seed, n):
        tell(request, rpc_seed)

    class TestMore:
        def test_more(self, request, rpc_seed, sim):
            assert sim.seed == rpc_seed
            tell(request, rpc_seed)

        @pytest.mark.xdist_group("one")
        def test_world(self, request, rpc_seed, rpc_world):
            assert rpc_world.seed == rpc_seed
            tell(request, rpc_seed)
"""


def seeds(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *options: str
) -> dict[str, str]:
    """Run the suite; give seed to node id, as the tests saw it, by seed."""
    place = pytester.path / "seeds"
    place.mkdir(exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    monkeypatch.setenv("SEEDS", str(place))
    run = pytester.runpytest_subprocess if "-n2" in options else pytester.runpytest
    assert run("-q", *options).ret == pytest.ExitCode.OK
    return {path.name: path.read_text() for path in sorted(place.iterdir())}


def test_seeds_do_not_depend_on_the_way_of_running(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serial, on workers, grouped, in both modes, a subset: one base, equal seeds."""
    pytester.makepyfile(test_a=TELL)
    base = "--rpcsim-seed=42"
    serial = seeds(pytester, monkeypatch, base)
    assert serial == {
        str(derive_seed(42, nodeid)): nodeid for nodeid in serial.values()
    }
    assert len(serial) == 5
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    assert seeds(pytester, monkeypatch, base, "-n2") == serial
    grouped = seeds(pytester, monkeypatch, base, "-n2", "--dist=loadgroup")
    assert list(grouped) == list(serial)
    both = seeds(pytester, monkeypatch, base, "--rpcsim-mode=both")
    assert list(both) == list(serial)
    some = seeds(pytester, monkeypatch, base, "-k", "more")
    assert some.items() < serial.items()
    other = seeds(pytester, monkeypatch, "--rpcsim-seed=43")
    assert not set(other) & set(serial)


def base_seed(result: pytest.RunResult) -> int:
    found = re.findall(r"^rpcsim: seed (\d+), mode sim$", str(result.stdout), re.M)
    assert len(found) == 1
    return int(found[0])


def test_random_differs_and_last_repeats(pytester: pytest.Pytester) -> None:
    """A seed nobody gave is drawn anew; `last` gives that of the last session."""
    pytester.makepyfile("def test_it(rpc_seed): ...")
    first = base_seed(pytester.runpytest())
    second = base_seed(pytester.runpytest("--rpcsim-seed=random"))
    third = base_seed(pytester.runpytest("--rpcsim-seed=0"))
    assert len({first, second, third, 0}) == 4
    again = pytester.runpytest("--rpcsim-seed=last")
    assert base_seed(again) == third
    spread = pytester.runpytest_subprocess("-n2", "-v")
    assert base_seed(spread) not in (first, second, third)
    again = pytester.runpytest("-o", "rpcsim_seed=last")
    assert base_seed(again) == base_seed(spread)


def test_last_needs_a_session_before(pytester: pytest.Pytester) -> None:
    """`last` with nothing remembered, or with the cache off, is a usage error."""
    pytester.makepyfile("def test_it(): ...")
    pytester.runpytest().assert_outcomes(passed=1)  # uses nothing: remembers nothing
    for options, text in (
        ((), "holds no seed"),
        (("-p", "no:cacheprovider"), "is off"),
    ):
        result = pytester.runpytest("--rpcsim-seed=last", *options)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        (line,) = filter(None, result.errlines)
        assert line.startswith("ERROR: rpcsim: --rpcsim-seed is last, but")
        assert text in line


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--rpcsim-seed=abc", "rpcsim: --rpcsim-seed is a whole number *, not 'abc'"),
        ("--rpcsim-seed=-1", "rpcsim: --rpcsim-seed is a whole number *, not '-1'"),
        ("--rpcsim-seed=1.5", "rpcsim: --rpcsim-seed is a whole number *, not '1.5'"),
        ("--rpcsim-seed=\u0663", "rpcsim: --rpcsim-seed is a whole number *"),
        (f"--rpcsim-seed={2**63}", "rpcsim: --rpcsim-seed is a whole number *"),
        (f"--rpcsim-seed=1{'0' * 5000}", "rpcsim: --rpcsim-seed is a whole number *"),
        (
            "--rpcsim-mode=reel",
            "rpcsim: --rpcsim-mode is sim, real or both, not 'reel'",
        ),
        ("-orpcsim_seed=x", "rpcsim: ini key rpcsim_seed is a whole number *, not 'x'"),
        (
            "-orpcsim_mode=x",
            "rpcsim: ini key rpcsim_mode is sim, real or both, not 'x'",
        ),
    ],
)
def test_malformed_values(pytester: pytest.Pytester, option: str, text: str) -> None:
    """A malformed value is a usage error of one line, before anything is collected."""
    pytester.makepyfile("raise RuntimeError('collected')")
    result = pytester.runpytest(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert len([line for line in result.errlines if line]) == 1
    result.stderr.fnmatch_lines([f"ERROR: {text}"])
    assert "collected" not in str(result.stdout)


def test_the_header(pytester: pytest.Pytester) -> None:
    """Seed and mode are told when used or asked for, once, and never with `-q`."""
    pytester.makepyfile(test_a="def test_it(): ...", test_b="def test_it(sim): ...")
    for options, times in (
        (("test_a.py",), 0),
        (("test_a.py", "-v"), 1),
        (("test_a.py", "--rpcsim-mode=sim"), 1),
        (("test_b.py",), 1),
        (("test_b.py", "-v", "--rpcsim-seed=3"), 1),
        (("test_b.py", "-q"), 0),
    ):
        result = pytester.runpytest(*options)
        assert result.ret == pytest.ExitCode.OK
        assert (
            sum(told.startswith("rpcsim: seed ") for told in result.outlines) == times
        )
