# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "litserve==0.2.19", "uvicorn[standard]==0.54.0", "orjson==3.13.0", "numpy==2.4.6", "onnxruntime==1.32.0",
# ]
# ///
"""LitServe with its own batching and its ZeroMQ queue: a process that answers HTTP, and a process with the model.

Annotations are objects here, not text: LitServe gives `decode_request`'s to FastAPI as they are.
"""

from typing import Annotated, Any

import litserve
import numpy as np
import orjson
from fastapi import Body, Response
from model import Model, arguments, to_tree

told = arguments()


class Batched(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self._model = Model(told.model)

    def decode_request(self, request: Annotated[bytes, Body()]) -> tuple[bool, np.ndarray]:
        """The body as it is, so that no process parses and pickles hundreds of Python numbers for another."""
        is_json = request.startswith(b"{")
        return is_json, self._model.from_tree(orjson.loads(request)) if is_json else self._model.from_raw(request)

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, inputs: list[tuple[bool, np.ndarray]]) -> list[tuple[bool, np.ndarray]]:
        answers = self._model.many([rows for _, rows in inputs])
        return [(is_json, answer) for (is_json, _), answer in zip(inputs, answers, strict=True)]

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: tuple[bool, np.ndarray]) -> Response:
        is_json, answer = output
        if is_json:
            return Response(orjson.dumps(to_tree(answer)), media_type="application/json")
        return Response(answer.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    api = Batched(max_batch_size=told.max_batch, batch_timeout=told.wait_ms / 1000, api_path="/infer")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=told.workers, fast_queue=True, timeout=False)
    server.run(
        host="127.0.0.1",
        port=told.port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
