"""Figures of answers against the truth: what a model version says about itself. Pure numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 15  # of confidence
MANY_LABELS = 20  # from here on it also counts whether the truth is among the likeliest five


def classification(probabilities: np.ndarray, truth: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    """All metrics of probabilities float32 [n, num_labels] against true indices int64 [n], JSON-able.

    `confusion` is [true][predicted] in counts. A class that is never predicted has precision 0, one without
    rows recall 0, and F1 is 0 where both are.
    """
    n, k = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    right, support, guesses = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = right / np.maximum(guesses, 1), right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + guesses, 1)
    likelihood = probabilities[np.arange(n), truth].astype(np.float64)
    present = (support + guesses) > 0  # as scikit-learn counts: a label that nowhere occurs is no class of this test
    return {
        "accuracy": float(right.sum() / n),
        "macro_f1": float(f1[present].mean()),
        "log_loss": float(-np.log(np.maximum(likelihood, np.finfo(np.float32).eps)).mean()),
        "calibration_error": calibration_error(probabilities, truth),
        **({"top_5_accuracy": top_accuracy(probabilities, truth, 5)} if k >= MANY_LABELS else {}),
        "rows": n,
        "classes": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "rows": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion": confusion.tolist(),
    }


def top_accuracy(probabilities: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Share of rows whose true label is among the `k` likeliest; of equal ones the first in the labels' order count."""
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((likeliest == truth[:, None]).any(axis=1).mean())


def calibration_error(probabilities: np.ndarray, truth: np.ndarray, num_bins: int = BINS) -> float:
    """Expected calibration error over bins of equal width (Guo et al., On Calibration of Modern Neural Networks, 2017).

    The mean over rows of the gap, within a row's bin of confidence, between mean confidence and accuracy.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == truth).astype(np.float64)
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(truth))


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive [n] bool has the higher of two scores [n], ties as half.

    0.5 where all are positive, or none.
    """
    num = int(positive.sum())
    if num in (0, len(positive)):
        return 0.5
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks = (last - (counts - 1) / 2)[place]  # of equal scores the mean
    wins = ranks[positive].sum() - num * (num + 1) / 2
    return float(wins / (num * (len(positive) - num)))


def regression(values: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Errors of values float32 [n, 1] against float32 [n], in the target's unit; `r2` is 0 for a constant truth."""
    error = values[:, 0].astype(np.float64) - truth
    variance = float(np.var(truth.astype(np.float64)))
    return {
        "rmse": float(np.sqrt((error**2).mean())),
        "mean_absolute_error": float(np.abs(error).mean()),
        "r2": 1.0 - float((error**2).mean()) / variance if variance else 0.0,
        "rows": len(truth),
    }
