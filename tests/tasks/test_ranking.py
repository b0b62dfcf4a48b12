"""Figures of a whole catalogue's ranking against brute force, and diversity. No cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import ndcg_score, top_k_accuracy_score

from tasks import ranking


def test_figures_are_those_of_a_brute_force_over_the_full_catalogue() -> None:
    generator = np.random.default_rng(0)
    scores, truth = generator.standard_normal((200, 300)).astype(np.float32), generator.integers(0, 300, 200)
    num_events = generator.integers(0, 20, 300)

    found = ranking.figures(scores, truth, num_events)

    order = [sorted(range(300), key=lambda i: -row[i]) for row in scores.tolist()]
    place = [order[i].index(truth[i]) + 1 for i in range(200)]
    tail = [p <= 50 for p, item in zip(place, truth, strict=True) if num_events[item] <= ranking.TAIL_EVENTS]
    assert found["hr_10"] == found["recall_10"] == pytest.approx(sum(p <= 10 for p in place) / 200)
    assert found["hr_50"] == pytest.approx(sum(p <= 50 for p in place) / 200)
    assert found["ndcg_10"] == pytest.approx(sum(1 / np.log2(p + 1) for p in place if p <= 10) / 200)
    assert found["tail_hr_50"] == pytest.approx(sum(tail) / len(tail))
    assert found["coverage"] == len({i for row in order for i in row[:10]}) / 300


def test_figures_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    scores, truth = generator.standard_normal((300, 40)).astype(np.float32), generator.integers(0, 40, 300)

    found = ranking.figures(scores, truth, np.ones(40))

    assert found["hr_10"] == pytest.approx(top_k_accuracy_score(truth, scores, k=10, labels=range(40)))
    assert found["ndcg_10"] == pytest.approx(ndcg_score(np.eye(40)[truth], scores, k=10))


def test_figures_are_those_of_implicits_evaluation() -> None:
    evaluation = pytest.importorskip("implicit.evaluation", reason="needs the package implicit")
    generator = np.random.default_rng(2)
    scores, truth = generator.standard_normal((300, 40)).astype(np.float32), generator.integers(0, 40, 300)
    matrix = sparse.csr_matrix((np.ones(300, np.float32), (np.arange(300), truth)), shape=(300, 40))

    class Model:
        def recommend(self, users: np.ndarray, _: Any, N: int, **__: Any) -> tuple[np.ndarray, np.ndarray]:  # noqa: N803
            chosen = ranking.top(scores[users], N).astype(np.int32)
            return chosen, np.take_along_axis(scores[users], chosen, 1)

    blank = sparse.csr_matrix((300, 40), dtype=np.float32)
    theirs = evaluation.ranking_metrics_at_k(Model(), blank, matrix, K=10, show_progress=False)

    found = ranking.figures(scores, truth, np.ones(40))
    assert (found["hr_10"], found["ndcg_10"]) == pytest.approx((theirs["precision"], theirs["ndcg"]))


@pytest.mark.parametrize(
    ("scores", "rank"),
    [
        pytest.param([0.0, 0.0, 0.0], 3, id="the-same-score-for-all-earns-nothing"),
        pytest.param([1.0, np.nan, 0.0], 3, id="no-number"),
        pytest.param([1.0, 2.0, 0.0], 1, id="best"),
        pytest.param([1.0, -np.inf, 0.0], 3, id="left-out"),
    ],
)
def test_a_rank_is_never_better_than_earned(scores: list[float], rank: int) -> None:
    assert ranking.ranks(np.array([scores], np.float32), np.array([1])).tolist() == [rank]


def test_a_history_is_left_out_but_for_the_truth() -> None:
    scores = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)

    kept = ranking.without(scores, np.array([[4, 2, 0]]), np.array([1]))

    assert kept.tolist() == [[1.0, 2.0, 3.0, -np.inf]]


def test_diversity_goes_from_the_order_of_scores_to_unlike_items() -> None:
    scores = np.array([3.0, 2.9, 1.0, -np.inf])
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])

    assert ranking.diversified(scores, vectors, 3, 0.0) == [0, 1, 2]
    assert ranking.diversified(scores, vectors, 2, 0.8) == [0, 2]
    assert ranking.diversified(np.full(4, -np.inf), vectors, 2, 0.5) == []
