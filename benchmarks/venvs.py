"""Environments of the peers: each script names what it needs, pinned, and gets a virtual environment of its own.

They lie in the benchmark's scratch folder and are kept from run to run: a folder's name is the hash of what is in
it. Knows nothing of servers.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

INSTALL_TIMEOUT_S = 900
_BLOCK = re.compile(r"^# /// script\n((?:#.*\n)+?)# ///$", re.MULTILINE)


class InstallError(Exception):
    """Why an environment could not be made, in one line."""


def requirements(script: Path) -> list[str]:
    """The dependencies in a script's inline metadata (PEP 723). Raises ValueError without any."""
    block = _BLOCK.search(script.read_text())
    if block is None:
        raise ValueError(f"{script} has no `# /// script` block")
    metadata = tomllib.loads("".join(f"{line[2:]}\n" for line in block[1].splitlines()))
    return sorted(metadata["dependencies"])


def folder(scratch: Path, wanted: list[str]) -> Path:
    """Where the environment with `wanted` is, made or not: other wishes or another Python, another folder."""
    digest = hashlib.sha256(json.dumps([sys.version, sys.prefix, wanted]).encode()).hexdigest()
    return scratch / "environments" / digest[:16]


def python(scratch: Path, script: Path) -> Path:
    """The interpreter for `script`, its environment made now unless it is there. Raises InstallError."""
    wanted = requirements(script)
    place = folder(scratch, wanted)
    interpreter, done = place / "bin" / "python", place / "installed.txt"
    if done.exists():
        return interpreter
    print(f"{script.stem}: installing {', '.join(wanted)}", file=sys.stderr, flush=True)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    try:
        _run([sys.executable, "-m", "venv", str(place)])
        _run([*pip, "install", "--only-binary=:all:", *wanted])
        frozen = _run([*pip, "freeze"])
    except InstallError:
        shutil.rmtree(place, ignore_errors=True)
        raise
    done.write_text(frozen)
    return interpreter


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise InstallError(f"the install did not end within {INSTALL_TIMEOUT_S} s") from None
    if done.returncode:
        raise InstallError(reason(done.stderr))
    return done.stdout


def reason(text: str) -> str:
    """The last line of an installer's or a server's output that says why."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it says nothing"])[-1][:300]
