"""`scripts/setup` on a machine that lacks something: one sentence, and nothing half made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        pytest.param("import ensurepip", "install it: apt install python3.{}-venv", id="Debian without python3-venv"),
        pytest.param("(3, 11) <=", "trimtab needs Python 3.11, 3.12 or 3.13", id="another Python"),
    ],
)
def test_what_is_missing_is_one_sentence(tmp_path: Path, lacks: str, words: str) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *"{lacks}"*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)

    done = subprocess.run(
        ["bash", tmp_path / "scripts" / "setup"],
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words.format(sys.version_info.minor) in done.stderr
    assert not (tmp_path / ".venv").exists()
