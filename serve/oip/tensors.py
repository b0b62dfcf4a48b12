"""Tensors of the Open Inference Protocol, whatever carries them: what may come in, what goes out.

Checks everything a client can get wrong before a row reaches the model, and counts before it allocates.
Knows a task's tensor and the protocol's words; neither JSON nor protobuf nor the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from serve.core import refusal
from serve.model import Answer, Model
from tasks.task import TensorSpec

DATATYPES: dict[str, Any] = {
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
LABEL = "label"
EXTENSIONS = ("binary_tensor_data",)
MAX_ID = 128


def numbers(field: str, data: object, spec: TensorSpec) -> np.ndarray:
    """`data`, flat or nested lists, in `spec`'s datatype and unchanged in shape. Raises RequestError 400."""
    values, shape = flattened(field, data, spec)
    return converted(field, values, spec).reshape(shape)


def flattened(field: str, data: object, spec: TensorSpec) -> tuple[list[Any], tuple[int, ...]]:
    """The values of nested lists, and the lists' shape. Raises RequestError 400 unless they are a rectangle."""
    if not isinstance(data, list):
        raise refusal(400, field, data, "is not a list of numbers", f"send {spec.datatype} numbers in a list")
    values, shape = data, [len(data)]
    while values and type(values[0]) is list:
        side = len(values[0])
        if len(shape) == len(spec.shape):
            raise refusal(400, field, data, "is nested too deeply", f"send {_shape(spec)}, or a flat list")
        if set(map(type, values)) != {list} or set(map(len, values)) != {side}:
            raise _ragged(field, data)
        values = list(chain.from_iterable(values))
        shape.append(side)
    if not values:
        raise refusal(400, field, data, "is not a list of numbers", f"send {spec.datatype} numbers in a list")
    return values, tuple(shape)


def converted(field: str, values: list[Any], spec: TensorSpec) -> np.ndarray:
    """Python's numbers as [n] in `spec`'s datatype. Raises RequestError 400 when one does not fit."""
    dtype = np.dtype(DATATYPES[spec.datatype])
    # numpy would guess a type of its own, read numbers out of texts, and reserve the longest text's room for each.
    odd = set(map(type, values)) - _types(dtype)
    if list in odd:
        raise _ragged(field, values)
    if odd:
        shown = next(value for value in values if type(value) in odd)
        raise refusal(400, field, shown, f"is not a {spec.datatype} number", f"send {_words(dtype)}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype)
    except OverflowError:
        low, high = _range(dtype)
        shown = next((value for value in values if not low <= value <= high), values[0])
        raise refusal(400, field, shown, f"does not fit {spec.datatype}", f"send {_words(dtype)}") from None
    return _finite(field, array)


def from_bytes(field: str, data: bytes, shape: tuple[int, ...], spec: TensorSpec) -> np.ndarray:
    """Little-endian `data` as a read-only array of `shape`, itself checked before. Raises RequestError 400."""
    dtype = np.dtype(DATATYPES[spec.datatype]).newbyteorder("<")
    size = math.prod(shape) * dtype.itemsize
    if len(data) != size:
        problem = f"does not fill the shape {list(shape)}"
        raise refusal(400, field, f"{len(data)} bytes", problem, f"send {size} bytes, little-endian")
    if dtype.kind == "b" and max(data) > 1:
        raise refusal(400, field, max(data), "is not a BOOL", "send bytes of 0 and 1")
    array = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)
    return _finite(field, array).reshape(shape)


def from_values(field: str, values: Sequence[Any], shape: tuple[int, ...], spec: TensorSpec) -> np.ndarray:
    """Flat `values` as an array of `shape`, itself checked before. Raises RequestError 400."""
    if len(values) != math.prod(shape):
        problem = f"does not fill the shape {list(shape)}"
        raise refusal(400, field, f"{len(values)} numbers", problem, f"send {math.prod(shape)}")
    return converted(field, list(values), spec).reshape(shape)


def check_head(name: object, datatype: object, shape: tuple[int, ...], spec: TensorSpec, max_rows: int) -> None:
    """What an input says about itself. Raises RequestError 400 when it is not the model's input."""
    if name != spec.name:
        raise refusal(400, "inputs[0].name", name, "unknown tensor", f"send {spec.name!r}")
    if datatype != spec.datatype:
        problem = "is not this model's datatype"
        raise refusal(400, "inputs[0].datatype", datatype, problem, f"send {spec.datatype!r}")
    check_rows("inputs[0].shape", shape, spec, max_rows)


def check_rows(field: str, shape: tuple[int, ...], spec: TensorSpec, max_rows: int) -> None:
    """Raises RequestError 400 when `shape` is not that of 1 to `max_rows` of the model's rows."""
    if spec.datatype == "BYTES" and len(shape) == 1:
        shape = (*shape, 1)
    fits = len(shape) == len(spec.shape) and all(
        got >= 1 if want == -1 else got == want for want, got in zip(spec.shape[1:], shape[1:], strict=True)
    )
    if not fits:
        raise refusal(400, field, list(shape), "is not the shape of this model's input", f"send {_shape(spec)}")
    if not 1 <= shape[0] <= max_rows:
        problem = f"has {shape[0]} rows" if abs(shape[0]) < 10**9 else "has an impossible number of rows"
        raise refusal(400, field, list(shape), problem, f"send 1 to {max_rows} rows per request")


def check_id(identifier: object) -> str:
    """A request's own id, empty when it has none. Raises RequestError 400."""
    if not isinstance(identifier, str) or len(identifier) > MAX_ID:
        raise refusal(400, "id", identifier, "is not a short text", f"send at most {MAX_ID} characters")
    return identifier


def check_parameters(field: str, names: Any) -> None:
    """Raises RequestError 400 for the protocol's extensions that change where data is or what it means."""
    for name in ("shared_memory_region", "classification"):
        if name in names:
            problem = "is an extension this endpoint has not"
            raise refusal(400, f"{field}.parameters", name, problem, "leave it out; `extensions` says what there is")


def texts_from_values(field: str, values: Sequence[Any], shape: tuple[int, ...]) -> list[bytes]:
    """Texts of JSON, or bytes of a message, as BYTES of `shape`, itself checked before. Raises RequestError 400."""
    if len(values) != math.prod(shape):
        raise refusal(400, field, f"{len(values)} texts", f"does not fill the shape {list(shape)}", "send one per row")
    for value in values:
        if not isinstance(value, str | bytes):
            raise refusal(400, field, value, "is not a text", "send texts")
    return [value.encode("utf-8", "replace") if isinstance(value, str) else value for value in values]


def texts_from_bytes(field: str, data: bytes, shape: tuple[int, ...]) -> list[bytes]:
    """BYTES of `shape` in the protocol's binary form, each behind its length. Raises RequestError 400."""
    texts: list[bytes] = []
    at = 0
    while at + 4 <= len(data) and len(texts) <= shape[0]:
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        texts.append(data[at + 4 : end])
        at = end
    if at != len(data) or len(texts) != math.prod(shape):
        problem = f"are not {math.prod(shape)} texts"
        raise refusal(
            400, field, f"{len(data)} bytes", problem, "send each behind its length in 4 bytes, little-endian"
        )
    return texts


def outputs(model: Model) -> tuple[str, ...]:
    """Names of the tensors a model answers with."""
    return tuple(spec.name for spec in described(model)[1])


def check_outputs(names: Sequence[object], known: tuple[str, ...]) -> tuple[str, ...]:
    """The outputs asked for by name; all `known` when there is no name. Raises RequestError 400."""
    for index, name in enumerate(names):
        if name not in known:
            raise refusal(400, f"outputs[{index}].name", name, "unknown tensor", f"name one of {', '.join(known)}")
        if name in names[:index]:
            raise refusal(400, f"outputs[{index}].name", name, "is asked for twice", "name each output once")
    return tuple(str(name) for name in names) or known


def described(model: Model) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs and outputs of a model."""
    task, encoding = model.task, model.bundle.encoding
    label = [TensorSpec(LABEL, "BYTES", (-1,))] if task.targets == "label" else []
    return [task.input_spec(encoding)], [task.output_spec(encoding), *label]


def labels(answer: Answer) -> list[str]:
    """The likeliest label of each row."""
    return answer.model.task.labels(answer.outputs, answer.model.bundle.encoding) or []


def raw(answer: Answer, name: str) -> bytes:
    """The output `name` in the protocol's binary form: little-endian, each text behind its length in 4 bytes."""
    if name != LABEL:
        return answer.outputs.astype("<f4", copy=False).tobytes()
    texts = [label.encode() for label in labels(answer)]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _ragged(field: str, data: object) -> Exception:
    return refusal(400, field, data, "its rows differ in length or depth", "send a full rectangle")


def _finite(field: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        problem = "is not a number, or too large for one"
        raise refusal(400, field, array[~np.isfinite(array)][0].item(), problem, f"send {_words(array.dtype)}")
    return array


def _types(dtype: np.dtype[Any]) -> set[type]:
    known: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float}}
    return known[dtype.kind]


def _words(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "b":
        return "true or false"
    if dtype.kind == "f":
        return "finite numbers"
    low, high = _range(dtype)
    return f"whole numbers from {low} to {high}"


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _shape(spec: TensorSpec) -> str:
    return f"[rows, {', '.join(str(side) for side in spec.shape[1:])}]"
