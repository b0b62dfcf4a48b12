# /// script
# requires-python = ">=3.11"
# dependencies = ["ray[serve]==2.60.0", "numpy==2.4.6", "onnxruntime==1.32.0"]
# ///
"""Ray Serve as it comes: its own Python proxy, a deployment with default options, a request at a time."""

from __future__ import annotations

import json

from model import Model, arguments, to_json
from ray import serve
from ray_serve import run
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment
class Plain:
    def __init__(self, path: str) -> None:
        self._model = Model(path)

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        if request.url.path == "/raw":
            return Response(self._model(self._model.from_raw(body)).tobytes())
        answer = self._model(self._model.from_tree(json.loads(body)))
        return Response(to_json(answer), media_type="application/json")


if __name__ == "__main__":
    told = arguments()
    deployment = Plain if told.workers == 1 else Plain.options(num_replicas=told.workers)
    run(deployment.bind(told.model), told.port, told.folder)
