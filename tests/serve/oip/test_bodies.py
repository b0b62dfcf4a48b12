"""The binary extension; the rest of the JSON is tested through HTTP, in test_web."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from cluster.errors import RequestError
from serve.core import Core
from serve.model import Answer
from serve.oip import bodies
from tasks.task import TensorSpec

SPEC = TensorSpec("features", "FP32", (-1, 2))
OUTPUTS = ("probabilities", "label")
ROWS = np.array([[1, 2], [3, 4]], "<f4")


def request(tensor: dict[str, Any] | None = None, **more: Any) -> bytes:
    """Two rows in binary, with parts of the tensor changed."""
    whole = {"name": "features", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}}
    return json.dumps({"inputs": [whole | (tensor or {})], **more}).encode()


def read(head: bytes, tail: bytes = ROWS.tobytes(), length: str | None = None) -> bodies.InferRequest:
    return bodies.read(head + tail, str(len(head)) if length is None else length, SPEC, 8, OUTPUTS)


def test_flat_data_is_brought_into_shape() -> None:
    tensor = {"name": "features", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}

    rows = bodies.read(json.dumps({"inputs": [tensor]}).encode(), None, SPEC, 8, OUTPUTS).rows

    assert rows.dtype == np.float32
    assert rows.tolist() == [[1, 2], [3, 4]]


def test_bytes_behind_the_json_are_the_tensor() -> None:
    asked = read(request())

    assert asked.rows.dtype == np.float32
    assert asked.rows.tolist() == [[1, 2], [3, 4]]
    assert asked.outputs == {"probabilities": False, "label": False}


@pytest.mark.parametrize(
    ("outputs", "parameters", "wanted"),
    [
        pytest.param(None, {"binary_data_output": True}, {"probabilities": True, "label": True}, id="all"),
        pytest.param([], {"binary_data_output": True}, {"probabilities": True, "label": True}, id="empty list"),
        pytest.param([{"name": "label", "parameters": {"binary_data": True}}], None, {"label": True}, id="one of them"),
        pytest.param(
            [{"name": "label"}, {"name": "probabilities", "parameters": {"binary_data": False}}],
            {"binary_data_output": True},
            {"label": True, "probabilities": False},
            id="all but one",
        ),
    ],
)
def test_outputs_are_bytes_where_asked(outputs: Any, parameters: Any, wanted: dict[str, bool]) -> None:
    more = {"parameters": parameters} if parameters else {}

    assert read(request(outputs=outputs, **more)).outputs == wanted


def sized(size: Any) -> dict[str, Any]:
    return {"parameters": {"binary_data_size": size}}


@pytest.mark.parametrize(
    ("head", "tail", "length", "words"),
    [
        pytest.param(request(), b"", None, "binary_data_size = 16: is not what follows the JSON (0 b", id="no bytes"),
        pytest.param(request(), ROWS.tobytes() + b"x", None, "(17 bytes)", id="a byte too many"),
        pytest.param(request(sized(8)), b"x" * 8, None, "'8 bytes': does not fill the shape [2, 2]", id="a row short"),
        pytest.param(request(sized(-16)), ROWS.tobytes(), None, "binary_data_size = -16", id="negative size"),
        pytest.param(request(sized("16")), ROWS.tobytes(), None, "binary_data_size = '16'", id="size no number"),
        pytest.param(request(sized(10**30)), b"", None, "binary_data_size = 1000", id="size beyond all"),
        pytest.param(request({"data": [1, 2, 3, 4]}), ROWS.tobytes(), None, "`data` is there too", id="data twice"),
        pytest.param(request({"parameters": {}}), ROWS.tobytes(), None, "belong to no tensor", id="bytes of nothing"),
        pytest.param(request({"parameters": 1}), b"", None, "inputs[0].parameters = 1", id="parameters no object"),
        pytest.param(
            request({"parameters": {"shared_memory_region": "x"}}),
            b"",
            None,
            "shared_memory_region",
            id="shared",
        ),
        pytest.param(request({"shape": [-1, 2]}), ROWS.tobytes(), None, "has -1 rows", id="negative rows"),
        pytest.param(request({"shape": [2, -2]}), ROWS.tobytes(), None, "not the shape of this", id="negative side"),
        pytest.param(request(), np.full((2, 2), np.nan, "<f4").tobytes(), None, "binary = nan", id="NaN"),
        pytest.param(request(), ROWS.tobytes(), "-1", "inference-header-content-length = '-1'", id="negative length"),
        pytest.param(request(), ROWS.tobytes(), "9" * 9000, "is not the length of the JSON", id="9,000 digits"),
        pytest.param(request(), ROWS.tobytes(), "0", "body = '': is empty", id="no JSON"),
        pytest.param(request(), ROWS.tobytes(), "20", "is not JSON", id="JSON cut off"),
        pytest.param(
            request(parameters={"binary_data_output": 1}), ROWS.tobytes(), None, "neither true nor false", id="no flag"
        ),
        pytest.param(
            request(outputs=[{"name": "label", "parameters": {"classification": 2}}]),
            ROWS.tobytes(),
            None,
            "outputs[0].parameters = 'classification'",
            id="classification",
        ),
    ],
)
def test_other_bodies_are_refused(head: bytes, tail: bytes, length: str | None, words: str) -> None:
    with pytest.raises(RequestError) as refused:
        read(head, tail, length)

    assert refused.value.status == 400
    assert words in refused.value.message
    assert len(refused.value.message) < 500


@pytest.mark.parametrize(
    ("opening", "closing"), [pytest.param("[", "]", id="lists"), pytest.param('{"a":', "}", id="objects")]
)
@pytest.mark.parametrize("depth", [33, 300, 960, 5_000])
def test_json_too_deep_is_refused_however_deep(opening: str, closing: str, depth: int) -> None:
    text = '{"a": ' + opening * depth + "1" + closing * depth + "}"

    with pytest.raises(RequestError, match="nested too deeply"):
        bodies.parse_json(text.encode())


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert len(bodies.parse_json(json.dumps({"a": [[1]] * 1000}).encode())["a"]) == 1000


def test_the_answer_has_its_bytes_behind_the_json(core: Core) -> None:
    probabilities = np.array([[0.25, 0.75], [1, 0]], np.float32)
    asked = bodies.InferRequest("", ROWS, {"label": True, "probabilities": True})

    body, length = bodies.respond(asked, Answer(probabilities, core.model("shades"), "onnx-fp32", 1.5, 2.5), "r-1")

    head = json.loads(body[:length])
    label, numbers = head["outputs"]
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 21}}
    assert numbers["parameters"] == {"binary_data_size": 16}
    assert body[length:] == b"\7\0\0\0light-1\6\0\0\0dark-1" + probabilities.tobytes()
    assert head["parameters"] == {
        "version": 3,
        "variant": "onnx-fp32",
        "envelope_epoch": 0,
        "request_id": "r-1",
        "queue_ms": 1.5,
        "compute_ms": 2.5,
    }


@pytest.mark.parametrize(
    ("body", "is_deep"),
    [
        pytest.param("[" * 5 + "1" + "]" * 5, False, id="flat"),
        pytest.param("[" + "[1]," * 500 + "[2]]", False, id="wide"),
        pytest.param('{"a": ' * 20 + "[[1]]" + "}" * 20, False, id="22 levels"),
        pytest.param("[" * 40 + "]" * 40, True, id="deep"),
        pytest.param('[{"a": ' * 20 + "1" + "}]" * 20, True, id="deep in turns"),
        pytest.param('{"a": "' + "[" * 40 + '"}', False, id="brackets in a text"),
        pytest.param('{"a": "' + "]" * 40 + '", "b": ' + "[" * 40 + "]" * 40 + "}", True, id="deep behind a text"),
        pytest.param("[" * 300 + "]" * 300, True, id="deeper than the fast parser goes"),
    ],
)
def test_nesting_is_bounded_however_it_is_found(body: str, is_deep: bool) -> None:
    text = f'{{"instances": {body}}}'.encode()

    if not is_deep:
        assert bodies.parse_json(text) == json.loads(text)
        return
    with pytest.raises(RequestError, match="is nested too deeply"):
        bodies.parse_json(text)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'\xef\xbb\xbf{"a": 1}', id="byte order mark"),
        pytest.param('{"a": "\xe9"}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"a": "\\ud800"}', id="half a surrogate"),
        pytest.param(b'{"a": 1e3, "b": -0.0, "c": [1.5, 123456789012345678901234567890]}', id="numbers"),
        pytest.param(b'{"a": 1, "a": 2}', id="a name twice"),
    ],
)
def test_what_the_standard_library_reads_is_read_alike(body: bytes) -> None:
    assert bodies.parse_json(body) == json.loads(body)


def test_texts_come_in_json_and_behind_it() -> None:
    spec = TensorSpec("features", "BYTES", (-1, 1))
    plain = {"inputs": [{"name": "features", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "é"]}]}
    tail = b"\1\0\0\0a\2\0\0\0" + "é".encode()
    head = request({"datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(tail)}})

    typed = bodies.read(json.dumps(plain).encode(), None, spec, 8, OUTPUTS)
    raw = bodies.read(head + tail, str(len(head)), spec, 8, OUTPUTS)

    assert typed.rows == raw.rows == [b"a", "é".encode()]


@pytest.mark.parametrize("data", [[1, 2], ["a"], [["a"], ["b", "c"]], "ab", None, [None, "a"]])
def test_other_data_is_no_texts(data: Any) -> None:
    spec = TensorSpec("features", "BYTES", (-1, 1))
    body = {"inputs": [{"name": "features", "datatype": "BYTES", "shape": [2, 1], "data": data}]}

    with pytest.raises(RequestError) as refused:
        bodies.read(json.dumps(body).encode(), None, spec, 8, OUTPUTS)

    assert refused.value.status == 400
