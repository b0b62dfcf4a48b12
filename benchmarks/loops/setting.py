"""MNIST's endpoint with the loop on, and what the parts of the benchmark do with it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import endpoint
from benchmarks.endpoint import Endpoint
from benchmarks.loops.traffic import Rows
from cluster.errors import GateError
from cluster.registry import Registry
from jobs.evaluate import scalars
from ladder.bundle import read_bundle
from tasks.dataset import SplitName, read_dataset

OBJECTIVE_MS = 100.0
SERVE: dict[str, Any] = {"objective": {"latency_ms": OBJECTIVE_MS}}
LOOP: dict[str, Any] = {
    "retrain": {
        "triggers": {"drift": True, "feedback": {"accuracy_below": 0.95, "every": "5s"}},
        "cooldown": "30s",
        "per_day": 100,
        "epochs": 3,
    },
    "rollout": {"steps": [0.01, 0.05, 0.25, 0.5], "least_requests": 50, "least_time": "1s"},
}


@dataclass(frozen=True)
class Setting:
    served: Endpoint
    data: Path  # folder of the data sets
    path: Path  # the experiment's file
    quick: bool
    runs: int
    per_s: float = 100.0

    serve = SERVE
    objective_s = OBJECTIVE_MS / 1000

    def rows(self, split: SplitName) -> Rows:
        images, labels = read_dataset(self.served.bundle.store, self.served.bundle.dataset).load(split)
        return images, labels.astype(np.int64)

    def trimtab(self, verb: str, *words: str) -> None:
        endpoint.trimtab(verb, str(self.path), *words)

    def is_refused(self, version: int) -> bool:
        """Order the canary of a version; whether it is not begun. Raises CalledProcessError for another failure."""
        try:
            self.trimtab("canary", str(version))
        except subprocess.CalledProcessError as error:
            if error.returncode != GateError.exit_code:
                raise
            return True
        return False

    def registered(self, key: str) -> int:
        """The number of the version that is this bundle."""
        store, name = self.served.bundle.store, self.served.bundle.name
        return Registry.open(store).register(name, key, None, scalars(read_bundle(store, key).metrics)).version

    def twin(self) -> int:
        """A version as good as the stable one, of another seed."""
        tree = json.loads(self.path.read_text())
        other = self.path.with_name("twin.json")
        other.write_text(json.dumps(tree | {"seed": tree.get("seed", 0) + 1}))
        endpoint.trimtab("evaluate", str(other))
        return Registry.open(self.served.bundle.store).version(self.served.bundle.name).version
