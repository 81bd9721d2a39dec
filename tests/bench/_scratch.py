"""The environment the loops are measured in: made once per Python, kept, reused."""

from __future__ import annotations

import getpass
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.bench._peers import DISTRIBUTION, RUNNERS

__all__ = ["ROOT", "Scratch"]

ROOT: Final = Path(__file__).resolve().parents[2]


class Scratch:
    """A virtual environment with rpcsim and the loops it is compared with.

    Attributes:
        python: Its interpreter.
        peers: The loops it has, ours first.
        left_out: Reasons, one line each, for the loops it has not.
    """

    def __init__(self, base: str) -> None:
        self.peers = [name for name in RUNNERS if name not in DISTRIBUTION]
        self.left_out: list[str] = []
        version = self._version(base)
        wanted = []
        for name, (distribution, oldest) in DISTRIBUTION.items():
            if version < oldest:
                needs = ".".join(map(str, oldest))
                self.left_out.append(f"{name} needs Python {needs} (see --python)")
            else:
                wanted.append((name, distribution))
        project = (ROOT / "pyproject.toml").read_bytes()
        key = hashlib.sha256(project + repr((base, version, wanted)).encode())
        name = f"rpcsim-bench-{getpass.getuser()}-{key.hexdigest()[:12]}"
        self.home = Path(tempfile.gettempdir()) / name
        scripts = "Scripts" if sys.platform == "win32" else "bin"
        self.python = str(self.home / scripts / "python")
        self._fill(base, wanted)

    @staticmethod
    def _version(base: str) -> tuple[int, int]:
        code = "import json, sys; print(json.dumps(sys.version_info[:2]))"
        told = subprocess.run(
            [base, "-c", code], check=True, capture_output=True, text=True
        )
        major, minor = json.loads(told.stdout)
        return major, minor

    def _fill(self, base: str, wanted: list[tuple[str, str]]) -> None:
        stamp = self.home / "filled.json"
        if not stamp.exists():
            print(f"making {self.home} ...", file=sys.stderr)
            subprocess.run([base, "-m", "venv", "--clear", self.home], check=True)
            self._pip("-e", str(ROOT))
            missing = []
            for name, distribution in wanted:
                try:
                    self._pip(distribution)
                except subprocess.CalledProcessError:
                    missing.append(name)
            stamp.write_text(json.dumps(missing))
        missing = json.loads(stamp.read_text())
        for name, distribution in wanted:
            if name in missing:
                self.left_out.append(f"{name}: pip could not install {distribution}")
            else:
                self.peers.append(name)

    def _pip(self, *what: str) -> None:
        command = [self.python, "-m", "pip", "install", "-q", *what]
        subprocess.run(command, check=True)
