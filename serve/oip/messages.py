"""Open Inference Protocol v2 in protobuf: the same requests and answers as over HTTP, in messages.

Tensors come as raw bytes or in the field of their type, and the answer takes the form of the request.
Knows messages, not gRPC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from serve.core import refusal
from serve.model import Answer, Model
from serve.oip import oip_pb2, tensors
from tasks.task import TensorSpec

# The field of InferTensorContents that holds each datatype; FP16 has none.
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read(
    request: oip_pb2.ModelInferRequest, spec: TensorSpec, max_rows: int, known: tuple[str, ...]
) -> tuple[np.ndarray | list[bytes], tuple[str, ...]]:
    """The rows [n, *shape] of an inference request, or its texts, and the names of the outputs, of those `known`.

    Raises RequestError 400.
    """
    tensors.check_id(request.id)
    for index, output in enumerate(request.outputs):
        tensors.check_parameters(f"outputs[{index}]", output.parameters)
    outputs = tensors.check_outputs([output.name for output in request.outputs], known)
    if len(request.inputs) != 1:
        raise refusal(400, "inputs", f"{len(request.inputs)} tensors", "is not one tensor", f"send {spec.name!r} alone")
    tensor, shape = request.inputs[0], tuple(request.inputs[0].shape)
    tensors.check_head(tensor.name, tensor.datatype, shape, spec, max_rows)
    tensors.check_parameters("inputs[0]", tensor.parameters)
    return _rows(request, shape, spec), outputs


def _rows(request: oip_pb2.ModelInferRequest, shape: tuple[int, ...], spec: TensorSpec) -> np.ndarray | list[bytes]:
    contents, raw = request.inputs[0].contents, request.raw_input_contents
    filled = [field.name for field, _ in contents.ListFields()]
    if raw:
        if len(raw) != 1 or filled:
            problem = f"there is one tensor, and {', '.join(filled) or 'nothing'} in its contents"
            mend = "send one element for the one tensor, and its contents empty"
            raise refusal(400, "raw_input_contents", f"{len(raw)} elements", problem, mend)
        if spec.datatype == "BYTES":
            return tensors.texts_from_bytes("raw_input_contents[0]", raw[0], shape)
        return tensors.from_bytes("raw_input_contents[0]", raw[0], shape, spec)
    field = CONTENTS.get(spec.datatype, "")
    if filled != [field]:
        mend = f"send {' or '.join(filter(None, (field, 'raw_input_contents')))}, and nothing else"
        raise refusal(400, "inputs[0].contents", filled, f"is not where {spec.datatype} numbers go", mend)
    if spec.datatype == "BYTES":
        return tensors.texts_from_values(f"inputs[0].contents.{field}", contents.bytes_contents, shape)
    return tensors.from_values(f"inputs[0].contents.{field}", getattr(contents, field), shape, spec)


def respond(
    request: oip_pb2.ModelInferRequest, outputs: tuple[str, ...], answer: Answer, request_id: str
) -> oip_pb2.ModelInferResponse:
    """The response to `request`, with raw bytes where it had them."""
    response = oip_pb2.ModelInferResponse(
        model_name=answer.model.bundle.name, model_version=str(answer.model.version), id=request.id or request_id
    )
    for name, value in answer.parameters(request_id).items():
        response.parameters[name].MergeFrom(_parameter(value))
    for name in outputs:
        is_label = name == tensors.LABEL
        shape = answer.outputs.shape[:1] if is_label else answer.outputs.shape
        tensor = response.outputs.add(name=name, datatype="BYTES" if is_label else "FP32", shape=shape)
        if request.raw_input_contents:
            response.raw_output_contents.append(tensors.raw(answer, name))
        elif is_label:
            tensor.contents.bytes_contents.extend(label.encode() for label in tensors.labels(answer))
        else:
            tensor.contents.fp32_contents.extend(answer.outputs.ravel().tolist())
    return response


def metadata(model: Model, versions: Sequence[str]) -> oip_pb2.ModelMetadataResponse:
    """What the protocol says about a model of which these versions can be asked."""
    inputs, outputs = tensors.described(model)
    response = oip_pb2.ModelMetadataResponse(name=model.bundle.name, versions=versions, platform=model.platform)
    for field, specs in ((response.inputs, inputs), (response.outputs, outputs)):
        for one in specs:
            field.add(name=one.name, datatype=one.datatype, shape=one.shape)
    return response


def _parameter(value: Any) -> oip_pb2.InferParameter:
    kinds = {str: "string_param", int: "int64_param", float: "double_param"}
    return oip_pb2.InferParameter(**{kinds[type(value)]: value})
