"""The model as every peer has it: the same ONNX file with the same threads, and the rows of a request.

Peers run in environments of their own, where this folder is on the path and Trimtab is not: numpy and
onnxruntime are all there is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


class Model:
    """Rows [n, *shape] in the model's dtype -> probabilities float32 [n, num_labels]."""

    def __init__(self, path: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = ort.InferenceSession(Path(path).read_bytes(), options, providers=["CPUExecutionProvider"])
        tensor = self._session.get_inputs()[0]
        self.name: str = tensor.name
        self.shape: tuple[int, ...] = tuple(tensor.shape[1:])
        self.dtype = np.dtype({"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[tensor.type])
        for num_rows in (1, 32):  # no request pays for the runtime's first allocations
            self(np.zeros((num_rows, *self.shape), self.dtype))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        answer: np.ndarray = self._session.run(None, {self.name: rows})[0]
        return answer

    def from_raw(self, body: bytes) -> np.ndarray:
        return np.frombuffer(body, self.dtype).reshape(-1, *self.shape)

    def from_tree(self, tree: dict[str, Any]) -> np.ndarray:
        """Of an Open Inference Protocol request, its JSON parsed."""
        return np.array(tree["inputs"][0]["data"], self.dtype).reshape(-1, *self.shape)

    def many(self, requests: list[np.ndarray]) -> list[np.ndarray]:
        """One forward pass over several requests' rows, and each one's part of it."""
        if len(requests) == 1:
            return [self(requests[0])]
        ends = np.cumsum([len(rows) for rows in requests])[:-1]
        return np.split(self(np.concatenate(requests)), ends)


def to_tree(answer: np.ndarray) -> dict[str, Any]:
    """As an Open Inference Protocol response, for any JSON library."""
    output = {"name": "probabilities", "datatype": "FP32", "shape": list(answer.shape), "data": answer.ravel().tolist()}
    return {"model_name": "model", "outputs": [output]}


def to_json(answer: np.ndarray) -> bytes:
    return json.dumps(to_tree(answer)).encode()


def arguments() -> argparse.Namespace:
    """What every peer is told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="ONNX file")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, default=0)
    parser.add_argument("--dashboard-port", type=int, default=0)
    parser.add_argument("--by-rest", action="store_true", help="a Ray Serve peer deploys itself by its REST interface")
    parser.add_argument("--folder", default=".", help="for the files a server insists on")
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--wait-ms", type=float, default=2.0)
    parser.add_argument("--workers", type=int, default=1, help="processes or replicas that hold the model")
    return parser.parse_args()
