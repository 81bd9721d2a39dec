"""What the README shows is what the command says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rpcsim.cli import main

ROOT = Path(__file__).parents[2]


def test_the_story_in_the_readme_is_told_so_today(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines stand in the output in that order, digest included."""
    monkeypatch.chdir(ROOT)
    shown = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    with pytest.raises(SystemExit) as caught:
        main(["run", "scenarios/agents-crash.yaml"])
    assert caught.value.code == 0
    told = iter(capsys.readouterr().out.splitlines())
    # `in` goes on where it stopped: the lines have to come in order.
    missing = [line for line in shown[1].splitlines() if line and line not in told]
    assert missing == []
