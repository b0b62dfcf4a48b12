"""Open Inference Protocol v2 in JSON: from a request's body to rows, from an answer to a body.

Checks everything a client can get wrong before a row reaches the model. Knows the protocol's words and a
task's tensor, not HTTP paths and not the model.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import numpy as np

from serve.core import Answer, Model, refusal
from tasks.task import TensorSpec

DATATYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
OUTPUTS = ("probabilities", "label")
MAX_ID = 128


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises RequestError 400: no JSON, NaN or Infinity, nested too deeply, not an object."""
    if not body:
        raise refusal(400, "body", "", "is empty", "send a JSON object")
    try:
        tree = json.loads(body, parse_constant=_not_json)
    except RecursionError:
        raise refusal(400, "body", body[:20], "is nested too deeply", "nest at most as deep as the tensor") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, and numbers of thousands of digits
        raise refusal(400, "body", body[:40], f"is not JSON ({error})", "send a JSON object") from None
    if not isinstance(tree, dict):
        raise refusal(400, "body", tree, "is not a JSON object", 'send {"inputs": [...]} or {"instances": [...]}')
    return tree


def numbers(field: str, data: object, spec: TensorSpec) -> np.ndarray:
    """`data`, flat or nested lists, in `spec`'s datatype and unchanged in shape. Raises RequestError 400."""
    dtype = np.dtype(DATATYPES[spec.datatype])
    try:
        array = np.asarray(data)
    except ValueError:  # ragged, or deeper than numpy goes
        raise refusal(400, field, data, "its rows differ in length or depth", "send a full rectangle") from None
    if not isinstance(data, list) or not array.size:
        raise refusal(400, field, data, "is not a list of numbers", f"send {spec.datatype} numbers in a list")
    if array.dtype.kind not in _kinds(dtype):
        shown = _first(data)
        raise refusal(400, field, shown, f"is not a {spec.datatype} number", f"send {_words(dtype)}")
    if not np.isfinite(array).all():
        raise refusal(400, field, "Infinity", "is too large for a number", f"send {_words(dtype)}")
    if dtype.kind in "iu":
        low, high = _range(dtype)
        worst = array.min() if array.min() < low else array.max()
        if not low <= worst <= high:
            raise refusal(400, field, worst.item(), f"does not fit {spec.datatype}", f"send {_words(dtype)}")
    return array.astype(dtype)


def check_rows(field: str, shape: tuple[int, ...], spec: TensorSpec, max_rows: int) -> None:
    """Raises RequestError 400 when `shape` is not that of 1 to `max_rows` of the model's rows."""
    fits = len(shape) == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape[1:], shape[1:], strict=True)
    )
    if not fits:
        raise refusal(400, field, list(shape), "is not the shape of this model's input", f"send {_shape(spec)}")
    if not 1 <= shape[0] <= max_rows:
        raise refusal(400, field, list(shape), f"has {shape[0]} rows", f"send 1 to {max_rows} rows per request")


def rows(tree: dict[str, Any], spec: TensorSpec, max_rows: int) -> np.ndarray:
    """The input tensor of an inference request, [n, *shape] in `spec`'s datatype. Raises RequestError 400."""
    identifier = tree.get("id", "")
    if not isinstance(identifier, str) or len(identifier) > MAX_ID:
        raise refusal(400, "id", identifier, "is not a short text", f"send at most {MAX_ID} characters")
    wanted_outputs(tree)
    inputs = tree.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise refusal(400, "inputs", inputs, "is not a list of one tensor", f'send [{{"name": "{spec.name}", ...}}]')
    tensor = inputs[0]
    if tensor.get("name") != spec.name:
        raise refusal(400, "inputs[0].name", tensor.get("name"), "unknown tensor", f"send {spec.name!r}")
    if tensor.get("datatype") != spec.datatype:
        problem = "is not this model's datatype"
        raise refusal(400, "inputs[0].datatype", tensor.get("datatype"), problem, f"send {spec.datatype!r}")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int for side in shape):
        raise refusal(400, "inputs[0].shape", shape, "is not a list of whole numbers", f"send {_shape(spec)}")
    check_rows("inputs[0].shape", tuple(shape), spec, max_rows)
    if "data" not in tensor:
        raise refusal(400, "inputs[0].data", None, "is missing", "send the numbers in a list")
    data = numbers("inputs[0].data", tensor["data"], spec)
    if data.shape != tuple(shape) and not (data.ndim == 1 and data.size == int(np.prod(shape))):
        problem = f"does not fill the shape {shape}"
        raise refusal(400, "inputs[0].data", f"{data.size} numbers", problem, f"send {int(np.prod(shape))}")
    return data.reshape(shape)


def wanted_outputs(tree: dict[str, Any]) -> tuple[str, ...]:
    """Names of the outputs asked for; all when the request names none. Raises RequestError 400."""
    outputs = tree.get("outputs")
    if outputs is None:
        return OUTPUTS
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise refusal(400, "outputs", outputs, "is not a list of tensors", 'send [{"name": "label"}] or leave it out')
    for index, output in enumerate(outputs):
        if output.get("name") not in OUTPUTS:
            mend = f"name one of {', '.join(OUTPUTS)}"
            raise refusal(400, f"outputs[{index}].name", output.get("name"), "unknown tensor", mend)
    return tuple(output["name"] for output in outputs) or OUTPUTS


def response(tree: dict[str, Any], answer: Answer, request_id: str) -> dict[str, Any]:
    """The protocol's response to the request `tree`."""
    labels = answer.model.bundle.encoding.labels
    made = {
        "probabilities": {"datatype": "FP32", "shape": list(answer.probabilities.shape)},
        "label": {"datatype": "BYTES", "shape": [len(answer.probabilities)]},
    }
    made["probabilities"]["data"] = answer.probabilities.ravel().tolist()
    made["label"]["data"] = [labels[i] for i in answer.probabilities.argmax(axis=1)]
    return {
        "model_name": answer.model.bundle.name,
        "model_version": str(answer.model.version),
        "id": tree.get("id") or request_id,
        "parameters": {
            "variant": answer.model.variant,
            "queue_ms": round(answer.queue_ms, 3),
            "compute_ms": round(answer.compute_ms, 3),
        },
        "outputs": [{"name": name, **made[name]} for name in wanted_outputs(tree)],
    }


def metadata(model: Model, spec: TensorSpec, refused: dict[str, Any] | None) -> dict[str, Any]:
    """What the protocol says about a model; `parameters` is what else a client may want to know.

    `refused` is the version that was to follow and could not be loaded, if any.
    """
    labels = model.bundle.encoding.labels
    return {
        "name": model.bundle.name,
        "versions": [str(model.version)],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(labels)]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
        "parameters": {
            "bundle": model.bundle.key,
            "variant": model.variant,
            "labels": list(labels),
            "refused": refused,
        },
    }


def _not_json(word: str) -> NoReturn:
    raise refusal(400, "body", word, "is not a number JSON knows", "send finite numbers only")


def _kinds(dtype: np.dtype[Any]) -> str:
    return {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}[dtype.kind]


def _words(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "b":
        return "true or false"
    if dtype.kind == "f":
        return "finite numbers"
    low, high = _range(dtype)
    return f"whole numbers from {low} to {high}"


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    info = np.iinfo(dtype.type)
    return int(info.min), int(info.max)


def _shape(spec: TensorSpec) -> str:
    return f"[rows, {', '.join(str(side) for side in spec.shape[1:])}]"


def _first(data: object) -> object:
    """The first value that is no plain list, to show; numbers that are whole do not explain a refusal."""
    odd = [data]
    while odd and isinstance(odd[0], list):
        flat = [value for part in odd if isinstance(part, list) for value in part]
        odd = [value for value in flat if isinstance(value, list) or type(value) is not int]
    return odd[0] if odd else data
