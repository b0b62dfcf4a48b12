from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from cluster.errors import RequestError
from serve import oip
from tasks.task import TensorSpec


def spec(datatype: str) -> TensorSpec:
    return TensorSpec("features", datatype, (-1, 2))


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        pytest.param("FP32", [[0.5, 1]], id="floats and whole numbers"),
        pytest.param("FP64", [[1, 2]], id="whole numbers for floats"),
        pytest.param("INT64", [[-(2**63), 2**63 - 1]], id="the ends of 64 bits"),
        pytest.param("INT8", [[-128, 127]], id="the ends of 8 bits"),
        pytest.param("BOOL", [[True, False]], id="booleans"),
    ],
)
def test_numbers_become_an_array_of_the_datatype(datatype: str, data: list[Any]) -> None:
    array = oip.numbers("data", data, spec(datatype))

    assert array.dtype == oip.DATATYPES[datatype]
    assert array.tolist() == data


@pytest.mark.parametrize(
    ("datatype", "data", "words"),
    [
        pytest.param("FP32", ["1", "2"], "data = '1': is not a FP32 number; send finite numbers", id="text"),
        pytest.param("FP32", [1, None], "data = None: is not a FP32 number", id="null"),
        pytest.param("INT8", [1, 128], "data = 128: does not fit INT8; send whole numbers from -128 to 127", id="high"),
        pytest.param("UINT64", [1, -1], "data = -1: does not fit UINT64", id="low"),
        pytest.param("BOOL", [0, 1], "is not a BOOL number; send true or false", id="numbers for booleans"),
        pytest.param("FP32", [[]], "is not a list of numbers", id="empty"),
        pytest.param("FP32", {"0": 1}, "is not a list of numbers", id="object"),
    ],
)
def test_other_values_are_named(datatype: str, data: Any, words: str) -> None:
    with pytest.raises(RequestError) as refused:
        oip.numbers("data", data, spec(datatype))

    assert refused.value.status == 400
    assert words in refused.value.message


@pytest.mark.parametrize("shape", [(1, 2), (8, 2)])
def test_as_many_rows_as_allowed_fit(shape: tuple[int, ...]) -> None:
    oip.check_rows("shape", shape, spec("FP32"), 8)


@pytest.mark.parametrize("shape", [(0, 2), (9, 2), (-1, 2), (2,), (1, 2, 1), (1, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"shape = \[.*; send "):
        oip.check_rows("shape", shape, spec("FP32"), 8)


def test_flat_data_is_brought_into_shape() -> None:
    tensor = {"name": "features", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}

    rows = oip.rows(oip.parse_json(json.dumps({"inputs": [tensor]}).encode()), spec("FP32"), 8)

    assert rows.dtype == np.float32
    assert rows.tolist() == [[1, 2], [3, 4]]
