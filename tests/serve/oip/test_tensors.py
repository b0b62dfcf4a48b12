from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster.errors import RequestError
from serve.oip import tensors
from tasks.task import TensorSpec


def spec(datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec("features", datatype, (-1, *(shape or (2,))))


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        pytest.param("FP32", [[0.5, 1]], id="floats and whole numbers"),
        pytest.param("FP64", [[1, 2]], id="whole numbers for floats"),
        pytest.param("FP32", [2**70, 1], id="a whole number over 64 bits for floats"),
        pytest.param("INT64", [[-(2**63), 2**63 - 1]], id="the ends of 64 bits"),
        pytest.param("UINT64", [[0, 2**64 - 1]], id="the ends of 64 bits without a sign"),
        pytest.param("INT8", [[-128, 127]], id="the ends of 8 bits"),
        pytest.param("BOOL", [[True, False]], id="booleans"),
    ],
)
def test_numbers_become_an_array_of_the_datatype(datatype: str, data: list[Any]) -> None:
    array = tensors.numbers("data", data, spec(datatype))

    assert array.dtype == tensors.DATATYPES[datatype]
    assert array.tolist() == data


@pytest.mark.parametrize(
    ("datatype", "data", "words"),
    [
        pytest.param("FP32", ["1", "2"], "data = '1': is not a FP32 number; send finite numbers", id="text"),
        pytest.param("FP32", [1, None], "data = None: is not a FP32 number", id="null"),
        pytest.param("FP32", [1, True], "data = True: is not a FP32 number", id="boolean for a number"),
        pytest.param("FP32", [1, 1e300], "data = inf: is not a number, or too large", id="over 32 bits"),
        pytest.param("FP16", [1, 70000], "data = inf: is not a number, or too large", id="over 16 bits"),
        pytest.param("FP32", [1, 10**400], "does not fit FP32; send finite", id="over every float"),
        pytest.param("INT8", [1, 128], "data = 128: does not fit INT8; send whole numbers from -128 to 127", id="high"),
        pytest.param("UINT64", [1, -1], "data = -1: does not fit UINT64", id="low"),
        pytest.param("BOOL", [0, 1], "is not a BOOL number; send true or false", id="numbers for booleans"),
        pytest.param("FP32", [[]], "is not a list of numbers", id="empty"),
        pytest.param("FP32", {"0": 1}, "is not a list of numbers", id="object"),
        pytest.param("FP32", [[1, 2], 3], "differ in length or depth", id="a number beside a row"),
        pytest.param("FP32", [1, [2, 3]], "differ in length or depth", id="a row beside a number"),
        pytest.param("FP32", [[1, 2], [3]], "differ in length or depth", id="a short row"),
        pytest.param("FP32", [[[[[[[[[[1.0]]]]]]]]]], "is nested too deeply", id="10 deep"),
    ],
)
def test_other_values_are_named(datatype: str, data: Any, words: str) -> None:
    with pytest.raises(RequestError) as refused:
        tensors.numbers("data", data, spec(datatype))

    assert refused.value.status == 400
    assert words in refused.value.message


def test_one_long_text_among_many_numbers_takes_no_room_for_each() -> None:
    data = ["x" * 10_000_000, *[1] * 1_000_000]  # 40 TB as an array of texts

    with pytest.raises(RequestError, match="is not a FP32 number"):
        tensors.numbers("data", data, spec("FP32"))


@pytest.mark.parametrize("shape", [(1, 2), (8, 2)])
def test_as_many_rows_as_allowed_fit(shape: tuple[int, ...]) -> None:
    tensors.check_rows("shape", shape, spec("FP32"), 8)


@pytest.mark.parametrize("shape", [(0, 2), (9, 2), (-1, 2), (2,), (1, 2, 1), (1, 3), (1, -2), (10**3000, 2), ()])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"shape = \[.*; send ") as refused:
        tensors.check_rows("shape", shape, spec("FP32"), 8)

    assert len(refused.value.message) < 500


@pytest.mark.parametrize("side", [0, -1])
def test_a_side_that_is_free_is_not_free_to_be_nothing(side: int) -> None:
    with pytest.raises(RequestError, match="is not the shape"):
        tensors.check_rows("shape", (1, side), spec("FP32", -1), 8)

    tensors.check_rows("shape", (1, 5), spec("FP32", -1), 8)


@pytest.mark.parametrize("datatype", tensors.DATATYPES)
def test_bytes_are_read_as_little_endian(datatype: str) -> None:
    dtype = np.dtype(tensors.DATATYPES[datatype])
    sent = np.array([[0, 1], [1, 0]], dtype)

    read = tensors.from_bytes("raw", sent.astype(dtype.newbyteorder("<")).tobytes(), (2, 2), spec(datatype))

    assert read.dtype == dtype
    assert read.tolist() == sent.tolist()


@pytest.mark.parametrize(
    ("datatype", "data", "words"),
    [
        pytest.param("FP32", b"", "'0 bytes': does not fill the shape [1, 2]; send 8 bytes", id="nothing"),
        pytest.param("FP32", b"\0" * 7, "'7 bytes'", id="a byte too few"),
        pytest.param("FP32", b"\0" * 16, "'16 bytes'", id="a row too many"),
        pytest.param("FP32", np.float32([1, np.nan]).tobytes(), "raw = nan", id="NaN"),
        pytest.param("FP64", np.float64([1, -np.inf]).tobytes(), "raw = -inf", id="infinity"),
        pytest.param("FP16", np.float16([np.inf, 1]).tobytes(), "raw = inf", id="infinity in 16 bits"),
        pytest.param("BOOL", b"\0\2", "raw = 2: is not a BOOL", id="a third truth"),
    ],
)
def test_other_bytes_are_refused(datatype: str, data: bytes, words: str) -> None:
    with pytest.raises(RequestError) as refused:
        tensors.from_bytes("raw", data, (1, 2), spec(datatype))

    assert refused.value.status == 400
    assert words in refused.value.message


def test_a_shape_beyond_64_bits_is_counted_and_not_allocated() -> None:
    shape = (1, 2**40, 2**40)  # as many elements as none, in 64 bits

    with pytest.raises(RequestError, match="does not fill"):
        tensors.from_bytes("raw", b"", shape, spec("UINT8", -1, -1))


@pytest.mark.parametrize(
    ("names", "outputs"),
    [
        pytest.param([], ("probabilities", "label"), id="none"),
        pytest.param(["label"], ("label",), id="one"),
        pytest.param(["label", "probabilities"], ("label", "probabilities"), id="in this order"),
    ],
)
def test_outputs_are_those_asked_for(names: list[str], outputs: tuple[str, ...]) -> None:
    assert tensors.check_outputs(names, ("probabilities", "label")) == outputs


@pytest.mark.parametrize(
    ("names", "words"),
    [
        pytest.param(["label", "x"], "outputs[1].name = 'x': unknown tensor", id="unknown"),
        pytest.param([{}], "outputs[0].name = {}: unknown tensor", id="no name"),
        pytest.param(["label"] * 100_000, "outputs[1].name = 'label': is asked for twice", id="twice"),
    ],
)
def test_other_outputs_are_refused(names: list[Any], words: str) -> None:
    with pytest.raises(RequestError) as refused:
        tensors.check_outputs(names, ("probabilities", "label"))

    assert words in refused.value.message


TEXTS = TensorSpec("text", "BYTES", (-1, 1))


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_texts_come_as_values_of_json_and_as_bytes_behind_their_length(shape: tuple[int, ...]) -> None:
    tensors.check_head("text", "BYTES", shape, TEXTS, 8)

    assert tensors.texts_from_values("data", ["é", b"\xff"], shape) == ["é".encode(), b"\xff"]
    assert tensors.texts_from_bytes("raw", b"\2\0\0\0ab\0\0\0\0", shape) == [b"ab", b""]


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        pytest.param(b"", (1,), id="nothing"),
        pytest.param(b"\2\0\0\0a", (1,), id="cut off in a text"),
        pytest.param(b"\2\0\0", (1,), id="cut off in a length"),
        pytest.param(b"\1\0\0\0a", (2,), id="a text too few"),
        pytest.param(b"\1\0\0\0a\1\0\0\0b", (1,), id="a text too many"),
        pytest.param(b"\xff\xff\xff\xff", (1,), id="4 GiB announced"),
        pytest.param(b"\0\0\0\0" * 1000, (3,), id="many empty ones"),
    ],
)
def test_bytes_that_are_not_the_texts_announced_are_refused(data: bytes, shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="send each behind its length in 4 bytes") as refused:
        tensors.texts_from_bytes("raw", data, shape)

    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param(["a"], "'1 texts': does not fill the shape [2]", id="too few"),
        pytest.param(["a", 1], "data = 1: is not a text", id="a number"),
        pytest.param(["a", 0], "data = 0: is not a text", id="zero"),
        pytest.param([None, "a"], "data = None: is not a text", id="null"),
        pytest.param(["a", ["b"]], "is not a text", id="a list"),
    ],
)
def test_values_that_are_no_texts_are_refused(values: list[Any], words: str) -> None:
    with pytest.raises(RequestError) as refused:
        tensors.texts_from_values("data", values, (2,))

    assert words in refused.value.message


@pytest.mark.parametrize("shape", [(0,), (9,), (1, 2), (1, 1, 1), (-1,)])
def test_texts_have_one_side_and_are_not_too_many(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError):
        tensors.check_head("text", "BYTES", shape, TEXTS, 8)
