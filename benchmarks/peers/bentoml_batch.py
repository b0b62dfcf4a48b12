# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "bentoml==1.4.40", "uvloop==0.23.0", "httptools==0.9.0", "numpy==2.4.6", "onnxruntime==1.32.0",
# ]
# ///
"""BentoML with its adaptive batching, which takes no waiting time: it learns one, below the latency allowed.

JSON is what its API takes for a tensor (its binary form is pickle, between its own services only).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
from model import Model, arguments

MAX_LATENCY_MS = 10_000  # what would take longer is refused, not hurried


@bentoml.service(
    workers=int(os.environ.get("WORKERS", "1")),
    traffic={"timeout": 60, "max_concurrency": 1024},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Batched:
    def __init__(self) -> None:
        self._model = Model(os.environ["MODEL"])

    @bentoml.api(
        route="/json",
        batchable=True,
        max_batch_size=int(os.environ.get("MAX_BATCH", "32")),
        max_latency_ms=MAX_LATENCY_MS,
    )
    def infer(self, rows: np.ndarray) -> np.ndarray:
        return self._model(rows.astype(self._model.dtype).reshape(-1, *self._model.shape))


if __name__ == "__main__":
    told = arguments()
    os.environ |= {"MODEL": told.model, "MAX_BATCH": str(told.max_batch), "WORKERS": str(told.workers)}
    os.environ |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": told.folder}
    command = Path(sys.executable).with_name("bentoml")
    words = ["serve", "bentoml_batch:Batched", "--host", "127.0.0.1", "--port", str(told.port)]
    os.execv(command, [str(command), *words, "--working-dir", str(Path(__file__).parent)])
