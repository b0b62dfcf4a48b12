"""Open Inference Protocol v2 over HTTP: JSON, and the extension that puts tensors behind it as bytes.

In such a body the header `inference-header-content-length` says how long the JSON is; tensors follow it without
gaps, in the order in which the JSON names them, each `parameters.binary_data_size` bytes long.
Knows bodies, not paths.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pydantic_core

from serve.core import refusal
from serve.model import Answer, Model
from serve.oip import tensors
from tasks.task import TensorSpec

HEADER_LENGTH = "inference-header-content-length"
MAX_DEPTH = 32  # of a request's JSON
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


@dataclass(frozen=True)
class InferRequest:
    id: str  # the client's, may be empty
    rows: np.ndarray | list[bytes]  # [n, *shape], or the n texts of a BYTES tensor
    outputs: dict[str, bool]  # names asked for; whether as bytes


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises RequestError 400: no JSON, NaN or Infinity, nested too deeply, not an object."""
    if not body:
        raise refusal(400, "body", "", "is empty", "send a JSON object")
    try:
        tree = _parsed(body)
        is_deep = _may_be_deep(body) and _is_deep(tree)
    except RecursionError:
        is_deep = True
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, and numbers of thousands of digits
        raise refusal(400, "body", body[:40], f"is not JSON ({error})", "send a JSON object") from None
    if is_deep:
        raise refusal(400, "body", body[:20], "is nested too deeply", "nest at most as deep as the tensor")
    if not isinstance(tree, dict):
        raise refusal(400, "body", tree, "is not a JSON object", 'send {"inputs": [...]} or {"instances": [...]}')
    return tree


def to_json(tree: dict[str, Any]) -> bytes:
    """An answer in UTF-8. Raises ValueError for a text that has no UTF-8."""
    return pydantic_core.to_json(tree)


def read(
    body: bytes, header_length: str | None, spec: TensorSpec, max_rows: int, known: tuple[str, ...]
) -> InferRequest:
    """An inference request for some of the outputs `known`; `header_length` is the header's value, if any.

    Raises RequestError 400.
    """
    length = len(body) if header_length is None else _length(header_length, len(body))
    tree = parse_json(body[:length])
    identifier, outputs = tensors.check_id(tree.get("id", "")), _outputs(tree, known)
    inputs = tree.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise refusal(400, "inputs", inputs, "is not a list of one tensor", f'send [{{"name": "{spec.name}", ...}}]')
    return InferRequest(identifier, _rows(inputs[0], body[length:], spec, max_rows), outputs)


def respond(request: InferRequest, answer: Answer, request_id: str) -> tuple[bytes, int | None]:
    """A body, and how long its JSON is where bytes follow it."""
    outputs, tail = [], []
    for name, is_binary in request.outputs.items():
        output = _output(answer, name)
        if is_binary:
            tail.append(tensors.raw(answer, name))
            output["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            is_label = name == tensors.LABEL
            output["data"] = tensors.labels(answer) if is_label else answer.outputs.ravel().tolist()
        outputs.append(output)
    tree = {
        "model_name": answer.model.bundle.name,
        "model_version": str(answer.model.version),
        "id": request.id or request_id,
        "parameters": answer.parameters(request_id),
        "outputs": outputs,
    }
    head = to_json(tree)
    return b"".join([head, *tail]), len(head) if tail else None


def metadata(model: Model, versions: Sequence[str], refused: dict[str, Any] | None) -> dict[str, Any]:
    """What the protocol says about a model; `parameters` is what else a client may want to know.

    `versions` are those that can be asked, the stable one first, and `refused` is the version that was to follow and
    could not be loaded, if any.
    """
    labels = model.bundle.encoding.labels
    inputs, outputs = tensors.described(model)
    return {
        "name": model.bundle.name,
        "versions": list(versions),
        "platform": model.platform,
        "inputs": [_tensor(tensor) for tensor in inputs],
        "outputs": [_tensor(tensor) for tensor in outputs],
        "parameters": {
            "version": model.version,
            "bundle": model.bundle.key,
            "variants": list(model.ladder.variants),
            "labels": list(labels),
            "refused": refused,
        },
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _output(answer: Answer, name: str) -> dict[str, Any]:
    if name == tensors.LABEL:
        return {"name": name, "datatype": "BYTES", "shape": [len(answer.outputs)]}
    return {"name": name, "datatype": "FP32", "shape": list(answer.outputs.shape)}


def _rows(tensor: dict[str, Any], tail: bytes, spec: TensorSpec, max_rows: int) -> np.ndarray | list[bytes]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int for side in shape):
        mend = f"send one like {[1, *spec.shape[1:]]}"
        raise refusal(400, "inputs[0].shape", shape, "is not a list of whole numbers", mend)
    tensors.check_head(tensor.get("name"), tensor.get("datatype"), tuple(shape), spec, max_rows)
    parameters = _parameters("inputs[0]", tensor)
    if "binary_data_size" in parameters:
        size = parameters["binary_data_size"]
        if type(size) is not int or size != len(tail) or "data" in tensor:
            problem = f"is not what follows the JSON ({len(tail)} bytes), or `data` is there too"
            mend = f"send the bytes behind the JSON, its length in the header {HEADER_LENGTH}, and no `data`"
            raise refusal(400, "inputs[0].parameters.binary_data_size", size, problem, mend)
        if spec.datatype == "BYTES":
            return tensors.texts_from_bytes("inputs[0] in binary", tail, tuple(shape))
        return tensors.from_bytes("inputs[0] in binary", tail, tuple(shape), spec)
    if tail:
        mend = "name their number in parameters.binary_data_size"
        raise refusal(400, "body", f"{len(tail)} bytes", "follow the JSON and belong to no tensor", mend)
    if "data" not in tensor:
        raise refusal(400, "inputs[0].data", None, "is missing", "send the numbers in a list")
    values, has = tensors.flattened("inputs[0].data", tensor["data"], spec)
    if spec.datatype == "BYTES":
        return tensors.texts_from_values("inputs[0].data", values, tuple(shape))
    if len(has) > 1 and has != tuple(shape):
        problem = f"has the shape {list(has)}, which is not {shape}"
        raise refusal(400, "inputs[0].data", f"{len(values)} numbers", problem, "nest as the shape says, or not at all")
    return tensors.from_values("inputs[0].data", values, tuple(shape), spec)


def _outputs(tree: dict[str, Any], known: tuple[str, ...]) -> dict[str, bool]:
    outputs = tree.get("outputs")
    is_binary = _flag("parameters.binary_data_output", _parameters("request", tree).get("binary_data_output", False))
    if outputs is None:
        return dict.fromkeys(known, is_binary)
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise refusal(400, "outputs", outputs, "is not a list of tensors", 'send [{"name": "label"}] or leave it out')
    names = tensors.check_outputs([output.get("name") for output in outputs], known)
    if not outputs:
        return dict.fromkeys(names, is_binary)
    asked = {}
    for index, output in enumerate(outputs):
        field = f"outputs[{index}]"
        given = _parameters(field, output).get("binary_data", is_binary)
        asked[names[index]] = _flag(f"{field}.parameters.binary_data", given)
    return asked


def _parameters(field: str, tree: dict[str, Any]) -> dict[str, Any]:
    found = tree.get("parameters", {})
    if not isinstance(found, dict):
        raise refusal(400, f"{field}.parameters", found, "is not a JSON object", "send an object or leave it out")
    tensors.check_parameters(field, found)
    return found


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise refusal(400, field, value, "is neither true nor false", "send true, false or leave it out")
    return value


def _length(header: str, num_bytes: int) -> int:
    # Short enough for int(), which refuses texts of thousands of digits.
    if not (header.isascii() and header.isdigit() and len(header) < 20 and int(header) <= num_bytes):
        problem = f"is not the length of the JSON in a body of {num_bytes} bytes"
        raise refusal(400, HEADER_LENGTH, header, problem, "send how many bytes of the body are JSON")
    return int(header)


def _not_json(word: str) -> NoReturn:
    raise refusal(400, "body", word, "is not a number JSON knows", "send finite numbers only")


def _parsed(body: bytes) -> Any:
    """Several times as fast as the standard library, which is asked about what this parser refuses."""
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError:
        return json.loads(body, parse_constant=_not_json)


def _may_be_deep(body: bytes) -> bool:
    """False where the text shows that brackets are not nested too deeply, without a look at the tree."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    left = body.translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH // 2):
        before, left = len(left), left.replace(b"[]", b"").replace(b"{}", b"")  # the innermost ones, two at most
        if not left or len(left) == before:
            break
    return bool(left)


def _is_deep(tree: object) -> bool:
    level = [tree]
    for _ in range(MAX_DEPTH):
        insides = (node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list))
        level = [node for inside in insides for node in inside if isinstance(node, dict | list)]
        if not level:
            return False
    return True
