from __future__ import annotations

import numpy as np
import pytest
import torch

from cluster.config import Experiment
from ladder.variants import OnnxPredictor, export_onnx, quantise_dynamic
from tasks.sentiment import Sentiment
from tasks.students import hashed
from tasks.task import Encoding, trimmed

SOURCE = {"kind": "csv", "path": "texts.csv"}
TASK = Sentiment(Experiment.model_validate({"name": "t", "task": "sentiment", "data": {"source": SOURCE}}))
ENCODING = Encoding(("negative", "neutral", "positive"), (64,), "int32", {})


@pytest.fixture(scope="module")
def students() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    return {name: student.eval() for name, student in TASK.students(ENCODING).items()}


@pytest.mark.parametrize("name", ["static-student", "ngram-student"])
def test_padding_changes_no_answer(students: dict[str, torch.nn.Module], name: str):
    rows = torch.from_numpy(TASK.rows(["Profit rose", "Profit fell sharply , it said"]))

    with torch.inference_mode():
        padded, short = students[name](rows), students[name](trimmed(rows))

    assert torch.allclose(padded, short, atol=1e-6)
    assert not torch.allclose(padded[0], padded[1])


@pytest.mark.parametrize("name", ["static-student", "ngram-student"])
def test_its_exported_forms_take_any_length_and_answer_alike(students: dict[str, torch.nn.Module], name: str):
    graph = export_onnx(students[name], ENCODING, TASK)
    rows = TASK.rows(["Profit rose", "", "Net sales decreased by 5.3 % in the second quarter"])

    exact, rounded = OnnxPredictor(graph)(rows), OnnxPredictor(quantise_dynamic(graph))(rows)

    with torch.inference_mode():
        assert np.allclose(exact, students[name](torch.from_numpy(rows)).softmax(1), atol=1e-4)
    assert np.allclose(rounded, exact, atol=0.05)


def test_neighbours_share_a_bucket_wherever_they_stand():
    rows = torch.tensor([[101, 5, 6, 7, 102], [101, 9, 5, 6, 102]], dtype=torch.int32)

    buckets = hashed(rows, 2, 1 << 16)

    assert buckets.shape == (2, 4)
    assert buckets[0, 1] == buckets[1, 2]
    assert buckets[0, 1] != buckets[0, 2]
    assert int(buckets.min()) >= 0
