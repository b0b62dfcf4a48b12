# /// script
# requires-python = ">=3.11"
# dependencies = ["mlserver==1.7.1", "uvloop==0.23.0", "numpy==2.4.6", "onnxruntime==1.32.0"]
# ///
"""MLServer with its adaptive batching and the model in its process, which for a small model is its faster way."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from model import Model, arguments


class Batched(MLModel):
    async def load(self) -> bool:
        self._model = Model(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).reshape(-1, *self._model.shape)
        outputs = [NumpyCodec.encode_output("probabilities", self._model(rows))]
        return InferenceResponse(model_name=self.name, outputs=outputs)


if __name__ == "__main__":
    told = arguments()
    server = {
        "host": "127.0.0.1",
        "http_port": told.port,
        "grpc_port": told.grpc_port,
        "metrics_endpoint": None,
        "parallel_workers": 0 if told.workers == 1 else told.workers,
        "debug": False,
        "gzip_enabled": False,
    }
    model = {
        "name": "model",
        "implementation": "mlserver_batch.Batched",
        "max_batch_size": told.max_batch,
        "max_batch_time": told.wait_ms / 1000,
        "parameters": {"uri": told.model},
    }
    Path(told.folder, "settings.json").write_text(json.dumps(server))
    Path(told.folder, "model-settings.json").write_text(json.dumps(model))
    command = Path(sys.executable).with_name("mlserver")
    os.execv(command, [str(command), "start", told.folder])
