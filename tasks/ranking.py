"""How good a ranking of a whole catalogue is, and how to make one more varied. Pure numpy.

Every figure is over the full catalogue: figures over sampled negatives are several times higher and order methods
differently (Krichene and Rendle, "On Sampled Metrics for Item Recommendation", 2020). Knows no model and no files.
"""

from __future__ import annotations

from typing import Any

import numpy as np

TAIL_EVENTS = 5  # an item with at most so many training events belongs to the tail


def without(scores: np.ndarray, rows: np.ndarray, truth: np.ndarray | None = None) -> np.ndarray:
    """Scores [n, items] with -inf at the items of each history: int rows [n, length] of item index + 1, 0 for none.

    An item that is the truth int [n] keeps its score: somebody may come back to it.
    """
    kept = np.array(scores, np.float32)
    who, place = np.nonzero(rows)
    kept[who, rows[who, place] - 1] = -np.inf
    if truth is not None:
        every = np.arange(len(kept))
        kept[every, truth] = scores[every, truth]
    return kept


def ranks(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rank int64 [n] of the true item in scores [n, items], 1 the best.

    Equal scores count as ranked above it: a model that says the same of all items earns nothing. So does one whose
    score of the truth is no number.
    """
    own = scores[np.arange(len(scores)), truth][:, None]
    above = (scores >= own).sum(axis=1)  # counts the true item itself
    return np.asarray(np.where(np.isfinite(own[:, 0]), above, scores.shape[1]), np.int64)


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices int64 [n, k] of the k highest scores of each row [n, items], best first; of equal ones the first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def figures(scores: np.ndarray, truth: np.ndarray, num_events: np.ndarray) -> dict[str, Any]:
    """Full-catalogue figures of scores [n, items], truth [n] and each item's number of training events [items].

    With one true item per row recall@k and hit rate@k are the same number. `coverage` is the share of the
    catalogue that is among anybody's ten. Rows without a tail item give None for the tail's hit rate.
    """
    place = ranks(scores, truth)
    is_tail = num_events[truth] <= TAIL_EVENTS
    gain = np.where(place <= 10, 1 / np.log2(place + 1.0), 0.0)
    hits = float((place <= 10).mean())
    return {
        "rows": len(truth),
        "hr_10": hits,
        "recall_10": hits,
        "ndcg_10": float(gain.mean()),
        "hr_50": float((place <= 50).mean()),
        "tail_hr_50": float((place[is_tail] <= 50).mean()) if is_tail.any() else None,
        "tail_rows": int(is_tail.sum()),
        "coverage": len(np.unique(top(scores, 10))) / scores.shape[1],
    }


def diversified(scores: np.ndarray, vectors: np.ndarray, k: int, diversity: float) -> list[int]:
    """Up to k indices of finite scores [items], best first, weighing relevance against likeness to those chosen.

    Maximal marginal relevance (Carbonell and Goldstein, 1998): `diversity` 0 is the order of the scores, 1 looks at
    likeness alone once the first is chosen. `vectors` [items, d] are of unit length; scores count by their range.
    """
    usable = np.nonzero(np.isfinite(scores))[0]
    if not len(usable):
        return []
    low, high = scores[usable].min(), scores[usable].max()
    relevance = (scores[usable] - low) / max(float(high - low), 1e-12)
    likeness = np.zeros(len(usable))
    chosen: list[int] = []
    left = np.ones(len(usable), bool)
    for _ in range(min(k, len(usable))):
        value = relevance if not chosen else (1 - diversity) * relevance - diversity * likeness
        best = int(np.where(left, value, -np.inf).argmax())
        closeness = vectors[usable] @ vectors[usable[best]]
        likeness = np.maximum(likeness, closeness) if chosen else closeness
        chosen.append(best)
        left[best] = False
    return [int(usable[i]) for i in chosen]
