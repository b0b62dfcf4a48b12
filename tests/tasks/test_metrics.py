from __future__ import annotations

import json

import numpy as np
import pytest

from tasks import metrics

LABELS = ("a", "b", "c", "d")


def guesses(n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that lean towards the truth but are often wrong."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 4, n)
    logits = generator.normal(size=(n, 4)) + 1.5 * np.eye(4)[truth]
    return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32), truth


def test_metrics_are_those_of_scikit_learn():
    from sklearn import metrics as sk

    probabilities, truth = guesses()

    got = metrics.classification(probabilities, truth, LABELS)

    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, rows = sk.precision_recall_fscore_support(truth, predicted)
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted))
    assert got["macro_f1"] == pytest.approx(sk.f1_score(truth, predicted, average="macro"))
    assert got["log_loss"] == pytest.approx(sk.log_loss(truth, probabilities), rel=1e-5)
    assert got["confusion"] == sk.confusion_matrix(truth, predicted).tolist()
    for i, label in enumerate(LABELS):
        expected = {"precision": precision[i], "recall": recall[i], "f1": f1[i], "rows": rows[i]}
        assert got["classes"][label] == pytest.approx(expected)
    json.dumps(got)


def test_a_class_without_rows_or_predictions_has_zeros_and_no_warnings():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]], np.float32)

    got = metrics.classification(probabilities, np.array([0, 1]), ("a", "b", "c"))

    assert got["classes"]["b"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 1}
    assert got["classes"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 0}
    assert got["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize(
    ("confidence", "right", "error"),
    [
        pytest.param([1.0, 1.0], [True, True], 0.0, id="sure and right"),
        pytest.param([1.0, 1.0], [True, False], 0.5, id="sure and half right"),
        pytest.param([0.75] * 4, [True, True, True, False], 0.0, id="as right as it says"),
        pytest.param([0.9, 0.6], [False, True], (0.9 + 0.4) / 2, id="gaps in two bins do not cancel"),
        pytest.param([0.61, 0.65], [False, True], abs(0.63 - 0.5), id="gaps in one bin do"),
    ],
)
def test_calibration_error_is_the_gap_between_confidence_and_accuracy(confidence, right, error):
    probabilities = np.array([[c, 1 - c] for c in confidence], np.float64)
    truth = np.array([0 if r else 1 for r in right])

    assert metrics.calibration_error(probabilities, truth) == pytest.approx(error)


def test_errors_of_values_are_those_of_scikit_learn():
    from sklearn import metrics as sk

    generator = np.random.default_rng(0)
    truth = generator.normal(10, 5, 200).astype(np.float32)
    values = (truth + generator.normal(0, 2, 200)).astype(np.float32)

    got = metrics.regression(values[:, None], truth)

    assert got["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, values), rel=1e-5)
    assert got["mean_absolute_error"] == pytest.approx(sk.mean_absolute_error(truth, values), rel=1e-5)
    assert got["r2"] == pytest.approx(sk.r2_score(truth, values), rel=1e-5)
    assert metrics.regression(values[:, None], np.full(200, 3.0, np.float32))["r2"] == 0.0


def test_of_many_labels_it_also_counts_whether_the_truth_is_among_the_likeliest_five() -> None:
    from sklearn.metrics import top_k_accuracy_score

    generator = np.random.default_rng(0)
    truth = np.concatenate([np.arange(20), generator.integers(0, 20, 200)])
    probabilities = generator.dirichlet(np.ones(20), len(truth)).astype(np.float32)
    names = tuple(map(str, range(20)))

    found = metrics.classification(probabilities, truth, names)

    assert found["top_5_accuracy"] == pytest.approx(top_k_accuracy_score(truth, probabilities, k=5))
    assert "top_5_accuracy" not in metrics.classification(*guesses(), LABELS)


@pytest.mark.parametrize("digits", [pytest.param(6, id="hardly a tie"), pytest.param(1, id="many ties")])
def test_auroc_is_that_of_scikit_learn(digits: int) -> None:
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    positive = generator.random(500) < 0.2
    scores = np.round(generator.standard_normal(500) + positive, digits)

    assert metrics.auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert metrics.auroc(scores, np.ones(500, bool)) == 0.5
