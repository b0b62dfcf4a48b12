from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster.errors import RequestError
from serve.core import Core
from serve.model import Answer
from serve.oip import messages, tensors
from serve.oip import oip_pb2 as pb
from tasks.task import TensorSpec

OUTPUTS = ("probabilities", "label")


def request(datatype: str = "FP32", shape: Any = (1, 2), raw: Any = (), **contents: Any) -> pb.ModelInferRequest:
    tensor = pb.ModelInferRequest.InferInputTensor(name="features", datatype=datatype, shape=shape)
    tensor.contents.MergeFrom(pb.InferTensorContents(**contents))
    return pb.ModelInferRequest(inputs=[tensor], raw_input_contents=raw)


def spec(datatype: str) -> TensorSpec:
    return TensorSpec("features", datatype, (-1, 2))


@pytest.mark.parametrize("datatype", [name for name in messages.CONTENTS if name != "BYTES"])
def test_numbers_come_in_the_field_of_their_type(datatype: str) -> None:
    rows, outputs = messages.read(
        request(datatype, **{messages.CONTENTS[datatype]: [0, 1]}), spec(datatype), 8, OUTPUTS
    )

    assert rows.dtype == tensors.DATATYPES[datatype]
    assert rows.tolist() == [[0, 1]]
    assert outputs == ("probabilities", "label")


def test_numbers_come_as_raw_bytes() -> None:
    rows, _ = messages.read(request("FP16", raw=[np.float16([3, 4]).tobytes()]), spec("FP16"), 8, OUTPUTS)

    assert rows.tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("datatype", "sent", "words"),
    [
        pytest.param("UINT8", {"uint_contents": [1, 256]}, "uint_contents = 256: does not fit UINT8", id="high"),
        pytest.param("INT8", {"int_contents": [1, -129]}, "= -129: does not fit INT8", id="low"),
        pytest.param("FP32", {"fp32_contents": [1, float("nan")]}, "fp32_contents = nan", id="NaN"),
        pytest.param("FP32", {"fp64_contents": [1, 2]}, "is not where FP32 numbers go; send fp32", id="wrong field"),
        pytest.param("FP32", {"fp32_contents": [1, 2], "int_contents": [1]}, "and nothing else", id="two fields"),
        pytest.param("FP32", {}, "is not where FP32 numbers go", id="no numbers"),
        pytest.param("FP16", {"fp32_contents": [1, 2]}, "send raw_input_contents, and", id="FP16 has no field"),
        pytest.param("FP32", {"fp32_contents": [1]}, "'1 numbers': does not fill the shape [1, 2]", id="too few"),
        pytest.param("FP32", {"raw": [b"\0" * 7]}, "'7 bytes': does not fill the shape", id="odd bytes"),
        pytest.param("FP32", {"raw": [b""]}, "'0 bytes'", id="no bytes"),
        pytest.param("FP32", {"raw": [b"\0" * 8] * 2}, "raw_input_contents = '2 elements'", id="raw twice"),
        pytest.param("FP32", {"raw": [b"\0" * 8], "fp32_contents": [1, 2]}, "fp32_contents in its contents", id="both"),
        pytest.param("FP32", {"shape": (-1, 2), "fp32_contents": [1, 2]}, "has -1 rows", id="negative rows"),
        pytest.param("FP32", {"shape": (1, -2), "fp32_contents": [1, 2]}, "is not the shape", id="negative side"),
        pytest.param("FP32", {"shape": (1,) * 10, "fp32_contents": [1]}, "is not the shape", id="10 sides"),
        pytest.param("FP32", {"shape": (2**62, 2), "raw": [b""]}, "has an impossible number of rows", id="2**62 rows"),
    ],
)
def test_other_tensors_are_refused(datatype: str, sent: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as refused:
        messages.read(request(datatype, **sent), spec(datatype), 8, OUTPUTS)

    assert refused.value.status == 400
    assert words in refused.value.message


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_the_answer_takes_the_form_of_the_request(core: Core, raw: bool) -> None:
    asked = request(raw=[b"\0" * 8]) if raw else request(fp32_contents=[0, 0])
    answer = Answer(np.array([[0.25, 0.75]], np.float32), core.model("shades"), "onnx-fp32", 1.5, 2.5)

    response = messages.respond(asked, ("probabilities", "label"), answer, "r-1")

    if raw:
        assert list(response.raw_output_contents) == [answer.outputs.tobytes(), b"\7\0\0\0light-1"]
    else:
        assert list(response.outputs[0].contents.fp32_contents) == [0.25, 0.75]
        assert list(response.outputs[1].contents.bytes_contents) == [b"light-1"]
    assert (response.parameters["version"].int64_param, response.parameters["queue_ms"].double_param) == (3, 1.5)
    assert response.id == response.parameters["request_id"].string_param == "r-1"


def test_texts_come_typed_and_raw() -> None:
    texts = TensorSpec("features", "BYTES", (-1, 1))

    typed, _ = messages.read(request("BYTES", (2, 1), bytes_contents=[b"a", b"\xff"]), texts, 8, OUTPUTS)
    raw, _ = messages.read(request("BYTES", (2,), raw=[b"\1\0\0\0a\0\0\0\0"]), texts, 8, OUTPUTS)

    assert (typed, raw) == ([b"a", b"\xff"], [b"a", b""])
    with pytest.raises(RequestError, match="is not where BYTES"):
        messages.read(request("BYTES", (1, 1), fp32_contents=[1]), texts, 8, OUTPUTS)
    with pytest.raises(RequestError, match="are not 2 texts"):
        messages.read(request("BYTES", (2, 1), raw=[b"\1\0\0\0a"]), texts, 8, OUTPUTS)
