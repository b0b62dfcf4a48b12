from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.config import Experiment
from tasks.forward import answers
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


def test_what_the_encoder_says_of_real_headlines_tells_their_sentiment(phrasebank: Path):
    from sklearn.linear_model import LogisticRegression

    with (phrasebank / "financial_phrasebank.csv").open(encoding="utf-8", newline="") as file:
        agreed = [row for row in csv.DictReader(file) if row["min_agreement_percent"] == "100"][::9]
    agreed = [agreed[i] for i in np.random.default_rng(0).permutation(len(agreed))]
    rows = np.stack([TASK.clean(row["sentence"].encode(), (64,)) for row in agreed])
    truth = np.array([row["label"] for row in agreed])
    body, _ = TASK.frozen(TASK.network(Encoding(("negative", "neutral", "positive"), (64,), "int32", {})))

    vectors = answers(body, torch.from_numpy(rows), trims=True).numpy()

    learned = LogisticRegression(max_iter=1000).fit(vectors[:160], truth[:160])
    assert learned.score(vectors[160:], truth[160:]) > max(np.mean(truth == label) for label in set(truth)) + 0.1
