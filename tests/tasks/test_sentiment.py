from __future__ import annotations

import numpy as np
import pytest

from cluster.config import Experiment
from tasks.sentiment import Sentiment
from tasks.task import Ask, Encoding

SOURCE = {"kind": "csv", "path": "texts.csv"}
TASK = Sentiment(Experiment.model_validate({"name": "t", "task": "sentiment", "data": {"source": SOURCE}}))


@pytest.mark.parametrize(
    ("probabilities", "label", "score"),
    [
        pytest.param((0.7, 0.2, 0.1), "negative", -0.6, id="negative"),
        pytest.param((0.1, 0.8, 0.1), "neutral", 0.0, id="neutral"),
        pytest.param((0.0, 0.0, 1.0), "positive", 1.0, id="positive"),
    ],
)
def test_an_answer_has_a_score_from_minus_one_to_one(probabilities: tuple, label: str, score: float):
    encoding = Encoding(("negative", "neutral", "positive"), (64,), "int32", {})

    said = TASK.answer(np.array(probabilities, np.float32), encoding, Ask())

    assert said["label"] == label
    assert said["score"] == pytest.approx(score, abs=1e-6)
    assert set(said) == {"label", "probabilities", "score"}


def test_other_labels_have_no_score():
    encoding = Encoding(("angry", "calm"), (64,), "int32", {})

    assert "score" not in TASK.answer(np.array([0.9, 0.1], np.float32), encoding, Ask())


def test_an_answer_says_that_the_text_was_cut():
    encoding = Encoding(("angry", "calm"), (64,), "int32", {})

    assert TASK.answer(np.array([0.9, 0.1], np.float32), encoding, Ask(detail={"cut": True}))["cut"] is True
