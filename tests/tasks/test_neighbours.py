"""ItemKNN against its definition on small, made events. No cluster."""

from __future__ import annotations

import numpy as np
import pytest

from tasks import neighbours


def test_similarities_are_the_damped_cosine_of_sets_of_users() -> None:
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, 30, 400), generator.integers(0, 12, 400)

    found = neighbours.similarities(users, items, num_items=13, num_neighbours=12, shrink=5).toarray()

    sets = [set(users[items == i].tolist()) for i in range(13)]
    for i, one in enumerate(sets):
        for j, other in enumerate(sets):
            right = len(one & other) / (np.sqrt(len(one) * len(other)) + 5) if i != j else 0.0
            assert found[i, j] == pytest.approx(right, abs=1e-6)


def test_only_the_nearest_are_kept_and_no_item_is_its_own() -> None:
    generator = np.random.default_rng(1)
    users, items = generator.integers(0, 30, 400), generator.integers(0, 12, 400)

    whole = neighbours.similarities(users, items, 12, 12, 0).toarray()
    found = neighbours.similarities(users, items, 12, 3, 0).toarray()

    assert ((found > 0).sum(axis=1) <= 3).all()
    assert np.allclose(np.sort(found, axis=1)[:, -3:], np.sort(whole, axis=1)[:, -3:])
    assert (found.diagonal() == 0).all()


def test_older_items_of_a_history_count_less() -> None:
    nearest = neighbours.similarities(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3]), 4, 3, 0)

    found = neighbours.scores(np.array([[1, 3, 0], [0, 0, 0]], np.int32), nearest, decay=0.5)

    assert found.tolist() == [[0.0, 1.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]]


def test_no_events_are_no_neighbours() -> None:
    none = np.array([], np.int64)

    assert neighbours.similarities(none, none, 4, 3, 0).nnz == 0
