"""The verbs, their exit codes, and what goes where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rpcsim.cli import main
from rpcsim.trace import read_jsonl
from tests.scenario.texts import GOOD, with_steps

ROOT = Path(__file__).parents[2]
CRASH = "scenarios/agents-crash.yaml"


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def cli(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_run_of_a_directory_ends_with_a_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All files in name order, verdict and digest each, exit 0."""
    code, out, err = cli(capsys, "run", "scenarios")
    assert (code, err) == (0, "")
    head, *rows = out.strip().splitlines()
    assert head.split() == ["scenario", "verdict", "seed", "steps", "time", "digest"]
    assert [row.split()[0] for row in rows] == sorted(row.split()[0] for row in rows)
    assert all(row.split()[1] == "valid" for row in rows)
    assert all(len(row.split()[-1]) == 32 for row in rows)


def test_run_of_one_file_tells_the_story(capsys: pytest.CaptureFixture[str]) -> None:
    """Unless asked not to."""
    _code, out, _err = cli(capsys, "run", CRASH)
    assert "its process dies" in out
    _code, out, _err = cli(capsys, "run", CRASH, "--no-timeline", "--color", "always")
    assert "its process dies" not in out
    assert "\x1b[" in out


def test_found_failures_are_left_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`run` of a directory is about stories; files for other modes are counted."""
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "bad.yaml").write_text("nonsense")
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(GOOD + "requires: {modes: [real]}\n")
    code, out, _err = cli(capsys, "run", str(tmp_path))
    assert code == 0
    assert "bad.yaml" not in out
    assert "1 skipped" in out
    code, _out, err = cli(capsys, "run", str(tmp_path / "b.yaml"))
    assert code == 2
    assert "does not run in mode sim" in err


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (with_steps("{agent.call: {to: web, method: Dog.fly}}"), 1, "MethodNotFound"),
        (GOOD + "faults: [{kind: partion}]\n", 2, 'did you mean "partition"?'),
        (with_steps("{sleep: 2h}", more="limits: {sim_time: 1s}\n"), 4, "not decided"),
    ],
)
def test_exit_codes_of_run(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    text: str,
    code: int,
    words: str,
) -> None:
    """1 failed, 2 a wrong file, 4 not decided; each says why."""
    path = tmp_path / "story.yaml"
    path.write_text(text)
    found, out, err = cli(capsys, "run", str(path))
    assert found == code
    assert words in out + err
    found, out, _err = cli(capsys, "run", str(path), "--json")
    assert found == code
    assert json.loads(out)["exit"] == code


def test_the_trace_file_reads_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its digest is that of the run."""
    path = tmp_path / "trace.jsonl"
    _code, out, _err = cli(capsys, "run", CRASH, "--trace", str(path), "--quiet")
    read = read_jsonl(path.read_text("utf-8"))
    assert read.end is not None
    assert read.end["digest"] in out
    assert read.header["scenario"] == "agents-crash"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["validat", "x"], 'rpcsim: unknown verb "validat"; did you mean "validate"?'),
        (
            ["run", "--sede", "3", CRASH],
            'rpcsim run: unknown option "--sede"; did you mean "--seed"?',
        ),
        (["--vers"], 'rpcsim: unknown option "--vers"; try: rpcsim --help'),
        (["run"], "rpcsim run: Missing argument 'PATH'; try: rpcsim run --help"),
        (
            ["run", "nofile.yaml"],
            "rpcsim run: nofile.yaml is not there; check the path",
        ),
        (
            ["run", "tests/cli"],
            "rpcsim run: tests/cli holds no scenario file; name a .yaml, .yml or .json file",
        ),
        (
            ["run", CRASH, "--mode", "both"],
            'rpcsim run: --mode is sim or real, not "both"; try: --mode sim',
        ),
        (
            ["run", CRASH, "--seed", "-1"],
            "rpcsim run: --seed is 0 to 2**64-1, not -1; try: --seed 0",
        ),
        (
            ["run", "scenarios", "--trace", "x"],
            "rpcsim run: --trace takes one scenario, and there are 3; name one file",
        ),
        (
            ["run", CRASH, "--color", "red"],
            'rpcsim run: --color is auto, always or never, not "red"; leave it out for auto',
        ),
        (
            ["check-determinism", CRASH, "--ways", "moon"],
            'rpcsim check-determinism: no way "moon" to check; known: heap, fresh, file',
        ),
        (
            ["check-determinism", CRASH, "--seeds", "3:1"],
            'rpcsim check-determinism: "3:1" is not a range of seeds; write A:B, as in --seeds 0:20',
        ),
    ],
)
def test_usage_errors_are_one_line_with_a_next_step(
    capsys: pytest.CaptureFixture[str], argv: list[str], line: str
) -> None:
    """On stderr, exit 2; with `--json` also one document on stdout."""
    code, out, err = cli(capsys, *argv)
    assert (code, out) == (2, "")
    assert err == line + "\n"
    code, out, _err = cli(capsys, *argv, "--json")
    assert json.loads(out)["exit"] == code == 2


def test_validate_tells_all_problems_and_imports_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A module with a side effect stays unimported."""
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "loud.py").write_text("raise SystemExit('imported')")
    good = tmp_path / "good.yaml"
    good.write_text(GOOD.replace("scenarios.parts.kennel:Dog", "loud"))
    code, out, err = cli(capsys, "validate", str(good))
    assert (code, err) == (0, "")
    assert out.endswith("good.yaml: good\n")
    bad = tmp_path / "bad.yaml"
    bad.write_text(GOOD + "sede: 1\nfaults: [{kind: partion}]\n")
    code, out, err = cli(capsys, "validate", str(good), str(bad))
    assert code == 2
    assert "bad.yaml:14:1: sede" in err
    assert "bad.yaml:15:17: faults[0].kind" in err
    code, out, _err = cli(capsys, "validate", str(bad), "--json")
    told = json.loads(out)["files"][0]["problems"]
    assert [problem["line"] for problem in told] == [14, 15]


def test_check_determinism_reports_and_exits_5(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Equal is 0; a difference names the first differing event, both sides."""
    code, out, _err = cli(capsys, "check-determinism", CRASH, "--ways", "heap")
    assert code == 0
    assert "equal" in out
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "counting.py").write_text(
        "n = []\nasync def step(context):\n    n.append(1)\n    return len(n)\n"
    )
    path = tmp_path / "story.yaml"
    path.write_text(with_steps("{id: own, do: 'counting:step'}"))
    code, out, _err = cli(capsys, "check-determinism", str(path), "--ways", "heap")
    assert code == 5
    assert "first difference at record" in out
    assert "told=1" in out
    assert "told=3" in out


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Help fits 80 columns and shows every verb."""
    assert cli(capsys, "--version")[1].startswith("rpcsim ")
    assert "python" in json.loads(cli(capsys, "--version", "--json")[1])["versions"]
    for verb in ("", "run", "check-determinism", "validate"):
        code, out, _err = cli(capsys, *([verb] if verb else []), "--help")
        assert code == 0
        assert all(len(line) <= 80 for line in out.splitlines())
        assert "Exit codes:" in out


@pytest.mark.parametrize(
    ("env", "colored"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colour_follows_the_environment(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    env: dict[str, str],
    colored: bool,
) -> None:
    """A pipe has none, unless forced; `NO_COLOR` wins over forcing."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    _code, out, _err = cli(capsys, "run", CRASH, "--quiet")
    assert ("\x1b[" in out) is colored


def start(*argv: str, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "rpcsim", *argv], stdout=stdout, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("verb", ["run", "validate", "check-determinism"])
def test_what_is_no_file_is_refused(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    """A pipe would be waited for, a link to itself leads nowhere: each is told."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.yaml")
    Path("loop.yaml").symlink_to("loop.yaml")
    code, _out, err = cli(capsys, verb, "pipe.yaml")
    assert code == 2
    assert "pipe.yaml: not a regular file; name a file that holds a scenario" in err
    code, _out, err = cli(capsys, verb, "loop.yaml")
    assert (code, err) == (
        2,
        f"rpcsim {verb}: loop.yaml is not there; check the path\n",
    )


def test_no_stdout_at_all() -> None:
    """As under `>&-`: the verdict is the exit code."""
    done = subprocess.run(
        f'"{sys.executable}" -m rpcsim run {CRASH} >&-',
        shell=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_while_loading_is_one_line_too() -> None:
    """The parser takes a while to load, long enough to be interrupted in."""
    code = (
        "import sys\n"
        "from rpcsim.cli import main\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "main(['--version'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "rpcsim: interrupted; run it again\n"


def test_a_closed_pipe_ends_quietly() -> None:
    """As `rpcsim run scenarios | head -1` does."""
    reader, writer = os.pipe()
    os.close(reader)
    with start("run", "scenarios", "--timeline", stdout=writer) as process:
        os.close(writer)
        _out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err == b""


def test_ctrl_c_is_one_line_and_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback; the run's world is closed on the way out."""

    def interrupted(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rpcsim.cli._run.load", interrupted)
    code, out, err = cli(capsys, "run", CRASH)
    assert (code, out) == (130, "")
    assert err == "rpcsim run: interrupted; run it again\n"


def test_help_imports_nothing_heavy() -> None:
    """Verbs load their rooms when they run, so help answers at once."""
    code = (
        "import sys\n"
        "from rpcsim.cli import main\n"
        "try:\n    main(['run', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'yaml', 'greenlet', 'asyncio', 'rich', 'pytest', 'hypothesis'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
