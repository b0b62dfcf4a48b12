from __future__ import annotations

import numpy as np
import pytest

from ladder.choose import Rung
from ladder.latency import Latency
from serve.adapt.simulator.bound import closed, fluid_bound


def ladder(*rungs: tuple[float, float]) -> list[Rung]:
    """From (accuracy, milliseconds of a row)."""
    return [Rung(f"v{i}", accuracy, Latency(0.0, row_ms / 1000)) for i, (accuracy, row_ms) in enumerate(rungs)]


TWO = [(0.9, 20.0), (0.7, 5.0)]  # 50 and 200 rows a second


@pytest.mark.parametrize(
    ("rows", "busy_s", "bound"),
    [
        pytest.param([0.0], [1.0], 0.0, id="nobody came"),
        pytest.param([50.0], [1.0], 0.9, id="the best carries all"),
        pytest.param([200.0], [1.0], 0.7, id="only the cheapest carries all"),
        pytest.param([400.0], [1.0], 0.35, id="half can be answered"),
        pytest.param([400.0], [2.0], 0.7, id="by two replicas all"),
        pytest.param([80.0], [1.0], 0.7 + 0.2 * 0.5, id="half on each rung"),
        pytest.param([50.0, 150.0], [1.0, 0.0], 0.9 * 0.25, id="a second without a replica"),
    ],
)
def test_the_bound_is_the_best_mix_that_clears_each_second(rows: list[float], busy_s: list[float], bound: float):
    assert fluid_bound(np.array(rows), np.array(busy_s), ladder(*TWO)) == pytest.approx(bound)


def test_a_rung_that_is_never_worth_it_changes_nothing():
    rows, busy_s = np.array([80.0]), np.array([1.0])

    assert fluid_bound(rows, busy_s, ladder(*TWO, (0.71, 15.0))) == pytest.approx(
        fluid_bound(rows, busy_s, ladder(*TWO))
    )


def test_what_is_closed_of_a_gap():
    assert closed(0.85, 0.80, 0.90) == pytest.approx(0.5)
    assert closed(0.9, 0.9, 0.9) is None
