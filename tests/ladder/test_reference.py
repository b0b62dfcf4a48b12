from __future__ import annotations

import numpy as np
import pytest

from ladder import reference


def test_what_is_packed_is_unpacked() -> None:
    outputs = np.random.default_rng(0).random((50, 3)).astype(np.float32)

    found = reference.unpack(reference.pack({"onnx-fp32": outputs, "student-fp32": outputs[:10]}))

    assert list(found) == ["onnx-fp32", "student-fp32"]
    assert np.array_equal(found["onnx-fp32"].columns, outputs)
    assert found["onnx-fp32"].classes.tolist() == outputs.argmax(axis=1).tolist()
    assert len(found["student-fp32"]) == 10


def test_rows_and_columns_are_bounded() -> None:
    outputs = np.random.default_rng(0).random((5000, 200)).astype(np.float32)

    found = reference.unpack(reference.pack({"a": outputs}))["a"]

    assert found.columns.shape == (reference.MOST_ROWS, reference.MOST_COLUMNS)
    assert np.array_equal(found.columns[:, 0], outputs[: reference.MOST_ROWS].max(axis=1))
    assert found.classes.tolist() == outputs[: reference.MOST_ROWS].argmax(axis=1).tolist()


def test_nothing_is_run_that_comes_from_a_file() -> None:
    with pytest.raises(ValueError, match="pickle"):
        reference.unpack(b"\x80\x04K\x01.")
