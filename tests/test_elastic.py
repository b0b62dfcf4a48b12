"""Trainings on two Ray nodes that come and go, in a process and cluster of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(
    "TRIMTAB_TWO_NODES" not in os.environ, reason="two Ray nodes for minutes: set TRIMTAB_TWO_NODES=1 to run it"
)
def test_an_elastic_training_goes_on_with_fewer_workers_and_grows_again(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRIMTAB_", "RAY_"))}

    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.elastic", "--quick", "--out", str(out)],
        env=clean,
        capture_output=True,
        text=True,
        timeout=900,
    )

    assert ran.returncode == 0, ran.stderr[-2000:]
    figures = {one["name"]: one["value"] for one in json.loads(out.read_text())["figures"]}
    assert figures["changes of the number of workers"] == 3
    assert figures["every epoch done once"] == 1
    assert figures["checkpoints in the middle of an epoch"] == 1
    assert figures["different numbers of rows of an epoch"] == 1
