from __future__ import annotations

import pytest

from serve.adapt.bounds import Bounds
from serve.adapt.capacity import allowed, power_below, replicas_for, rows_per_s, usable_rows
from serve.adapt.signals import RungSeen

RUNG = RungSeen("r", 0.9, 0.010, 0.002, 0.0)
BOUNDS = Bounds(objective_s=0.1, min_replicas=1, max_replicas=10)


@pytest.mark.parametrize(
    ("objective_s", "max_batch", "rows"),
    [
        pytest.param(0.1, 32, 20, id="two batches fit"),
        pytest.param(0.1, 8, 8, id="no more than may be"),
        pytest.param(0.02, 32, 0, id="not even one row"),
        pytest.param(10.0, 32, 32, id="all the time there is"),
    ],
)
def test_a_batch_is_as_large_as_lets_one_wait_for_another(objective_s: float, max_batch: int, rows: int) -> None:
    assert usable_rows(RUNG, objective_s, max_batch, 2.0) == rows


def test_a_rung_carries_what_its_largest_usable_batches_do() -> None:
    assert rows_per_s(RUNG, BOUNDS, 32, 2.0, 1) == pytest.approx(20 / 0.050)
    assert rows_per_s(RUNG, BOUNDS, 32, 2.0, 2) == pytest.approx(40 / 0.050)
    assert rows_per_s(RUNG, Bounds(objective_s=0.02), 32, 2.0, 1) == 0.0


@pytest.mark.parametrize(
    ("load", "one", "wanted"),
    [
        pytest.param(0.0, 100.0, 1, id="none comes: the fewest"),
        pytest.param(150.0, 100.0, 2, id="exactly two"),
        pytest.param(151.0, 100.0, 3, id="a little more than two"),
        pytest.param(5000.0, 100.0, 10, id="more than all"),
        pytest.param(1.0, 0.0, 10, id="a rung that carries nothing"),
    ],
)
def test_replicas_for_a_load(load: float, one: float, wanted: int) -> None:
    assert replicas_for(load, one, 0.75, BOUNDS) == wanted


def test_only_rungs_that_are_named_and_reach_the_floor_are_allowed() -> None:
    rungs = [RungSeen(name, accuracy, 0.0, 0.001, 0.0) for name, accuracy in (("a", 0.9), ("b", 0.8), ("c", 0.7))]

    assert [r.variant for r in allowed(rungs, Bounds(floor=0.75))] == ["a", "b"]
    assert [r.variant for r in allowed(rungs, Bounds(rungs=("b", "c")))] == ["b", "c"]


def test_powers_of_two() -> None:
    assert [power_below(n) for n in (0, 1, 3, 4, 31)] == [1, 1, 2, 4, 16]
