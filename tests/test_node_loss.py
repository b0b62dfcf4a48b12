"""Two Ray nodes, one killed under load with the actor on it: nothing is lost. In a process and cluster of its own."""

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
def test_a_lost_node_loses_no_request_no_training_and_nothing_that_the_actor_there_knew(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRIMTAB_", "RAY_"))}
    command = [sys.executable, "-m", "benchmarks.node_loss", "--quick", "--out", str(out)]

    ran = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=600)

    assert ran.returncode == 0, ran.stderr[-2000:]
    figures = {one["name"]: one["value"] for one in json.loads(out.read_text())["figures"]}
    assert figures["requests"] > 0
    assert figures["lost with retries"] == 0
    assert figures["training went on"] == 1
    assert figures["answers outside the envelope"] == 0
    assert figures["the actor's record is whole"] == 1
