"""Items that the same users chose: ItemKNN, the cheap recommender, and a feature of the ranking stage.

Knows users and items as numbers only; nothing of texts, networks or files.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def similarities(users: np.ndarray, items: np.ndarray, num_items: int, num_neighbours: int, shrink: float) -> Any:
    """Cosine of items' sets of users as a scipy CSR matrix [items, items]: of each row the nearest, none of itself.

    `users` and `items` int [events]; an event twice counts once. `shrink`, a number of users, damps likeness that
    rests on few (Sarwar et al., "Item-based collaborative filtering", 2001; shrinkage: Bell and Koren, 2007).
    """
    from scipy import sparse

    num_users = int(users.max()) + 1 if len(users) else 1
    seen = sparse.csr_matrix((np.ones(len(users), np.float32), (users, items)), shape=(num_users, num_items))
    seen.data[:] = 1.0  # duplicates were summed
    counts = np.asarray(seen.sum(axis=0)).ravel()
    together = (seen.T @ seen).tocsr()
    together.setdiag(0)
    together.eliminate_zeros()
    row = np.repeat(np.arange(num_items), np.diff(together.indptr))
    together.data /= np.sqrt(counts[row] * counts[together.indices]) + np.float32(shrink)
    return _nearest(together, row, num_neighbours)


def _nearest(matrix: Any, row: np.ndarray, num_neighbours: int) -> Any:
    from scipy import sparse

    order = np.lexsort((matrix.indices, -matrix.data, row))  # by row, then likeness, then index
    place = np.arange(len(order)) - matrix.indptr[row]
    kept = order[place < num_neighbours]
    return sparse.csr_matrix((matrix.data[kept], (row[kept], matrix.indices[kept])), shape=matrix.shape)


def scores(rows: np.ndarray, nearest: Any, decay: float) -> np.ndarray:
    """Scores float32 [n, items] of histories int [n, length] of item index + 1, newest first and 0 for none.

    Each item of a history adds its neighbours' likeness, times `decay` to the power of its place.
    """
    from scipy import sparse

    who, place = np.nonzero(rows)
    weight = np.power(np.float32(decay), place.astype(np.float32))
    history = sparse.csr_matrix((weight, (who, rows[who, place] - 1)), shape=(len(rows), nearest.shape[0]))
    return np.asarray((history @ nearest).todense(), np.float32)


def padded(nearest: Any, num_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix of `similarities` as indices int64 and likeness float32, both [items, num_neighbours], 0 for none."""
    num_items = nearest.shape[0]
    row = np.repeat(np.arange(num_items), np.diff(nearest.indptr))
    place = np.arange(len(row)) - nearest.indptr[row]
    indices = np.zeros((num_items, num_neighbours), np.int64)
    likeness = np.zeros((num_items, num_neighbours), np.float32)
    indices[row, place], likeness[row, place] = nearest.indices, nearest.data
    return indices, likeness
