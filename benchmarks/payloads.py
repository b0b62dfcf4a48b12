"""Requests as bytes on the wire: the same rows in every encoding that a server takes.

HTTP/1.1 requests are made once, whole, so that a client only sends them. Knows no server's paths.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

INPUT = "image"
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"


def json_body(rows: np.ndarray, name: str = INPUT) -> bytes:
    """Rows [n, *shape] uint8 as an Open Inference Protocol request."""
    tensor = {"name": name, "shape": list(rows.shape), "datatype": "UINT8", "data": rows.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def binary_body(rows: np.ndarray, name: str = INPUT) -> tuple[bytes, int]:
    """The same with the protocol's binary tensors both ways: the body, and how long its JSON is."""
    parameters = {"binary_data_size": rows.nbytes}
    tensor = {"name": name, "shape": list(rows.shape), "datatype": "UINT8", "parameters": parameters}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + rows.tobytes(), len(head)


def grpc_message(rows: np.ndarray, model: str, name: str = INPUT) -> bytes:
    """A ModelInferRequest with raw contents."""
    from serve.oip import oip_pb2 as pb

    tensor = pb.ModelInferRequest.InferInputTensor(name=name, datatype="UINT8", shape=rows.shape)
    request = pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[rows.tobytes()])
    return bytes(request.SerializeToString())


def rows_body(rows: np.ndarray) -> bytes:
    """Rows in a field of their own, each flat: what a server takes whose API is its own."""
    return json.dumps({"rows": rows.reshape(len(rows), -1).tolist()}).encode()


def png_body(row: np.ndarray) -> bytes:
    """One row [height, width, 1] or [height, width, 3] uint8."""
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(row[..., 0] if row.shape[-1] == 1 else row).save(sink, "PNG")
    return sink.getvalue()


def http_request(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A keep-alive POST, ready to be sent as often as wanted."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def zeros(model: Path) -> np.ndarray:
    """One row [1, *shape] for the model in an ONNX file."""
    import onnxruntime as ort

    tensor = ort.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"]).get_inputs()[0]
    return np.zeros((1, *tensor.shape[1:]), np.uint8)


_JSON, _BYTES = {"content-type": "application/json"}, {"content-type": "application/octet-stream"}
# A body of rows and its headers, by the name of the encoding that a peer takes.
BODIES: dict[str, Callable[[np.ndarray], tuple[bytes, dict[str, str]]]] = {
    "json": lambda rows: (json_body(rows), _JSON),
    "json-as-bytes": lambda rows: (json_body(rows), _BYTES),
    "rows": lambda rows: (rows_body(rows), _JSON),
    "raw": lambda rows: (rows.tobytes(), _BYTES),
}
