from __future__ import annotations

import numpy as np
import pytest

from benchmarks import tally
from benchmarks.openloop import FAILED, Records
from benchmarks.tally import Cost

COSTS = [
    Cost("top", 0.9, 0.01),
    Cost("middle", 0.8, 0.004),
    Cost("under the hull", 0.71, 0.003),
    Cost("low", 0.7, 0.001),
]


def records(intended: list[float], latency: list[float | None], status: list[int], rows: int = 1) -> Records:
    """All rows of an answer are right; None is a request without one."""
    n = len(intended)
    start = np.array(intended)
    done = np.array([np.nan if each is None else begun + each for begun, each in zip(intended, latency, strict=True)])
    code = np.array(status)
    right = np.where(code == 200, rows, 0)
    variant, predicted = np.where(code == 200, 0, -1), np.zeros((n, rows), np.int64)
    return Records(start, start + 0.001, done, code, variant, predicted, right, ("top",), 0.0, 0.1)


def test_shares_are_of_all_requests_and_late_or_refused_ones_are_wrong():
    found = tally.tally(records([0, 0, 1, 1, 1], [0.05, 0.2, 0.001, None, 0.01], [200, 200, 429, FAILED, 500]), 0.1)

    assert (found.requests, found.in_time, found.refused, found.failed) == (5, 0.2, 0.2, 0.2)
    assert found.late == pytest.approx(0.4)
    assert found.violations == pytest.approx(0.8)
    assert found.effective == pytest.approx(0.2)
    assert found.accuracy == 1.0
    assert found.mix == {"top": 1.0}
    assert found.client_late_ms == pytest.approx(1.0)


def test_a_server_that_answers_nothing_is_counted():
    found = tally.tally(records([0.0], [None], [FAILED]), 0.1)

    assert (found.in_time, found.effective, found.late, found.accuracy) == (0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("per_s", "rows", "expected"),
    [
        pytest.param(50, 1, 0.9, id="the top has the time"),
        pytest.param(100, 1, 0.9, id="just"),
        pytest.param(250, 1, 0.8, id="all on the middle one"),
        pytest.param(400, 1, 0.7 + 0.1 * (2.5 - 1) / 3, id="two rungs share it"),
        pytest.param(2000, 1, 0.35, id="half must be refused"),
        pytest.param(100, 4, 0.7 + 0.1 * (2.5 - 1) / 3, id="rows count"),
    ],
)
def test_the_fluid_bound_is_the_best_mix_that_clears_the_arrivals(per_s: int, rows: int, expected: float):
    arrivals = np.repeat(np.arange(3.0), per_s)

    assert tally.fluid_bound(arrivals, rows, COSTS) == pytest.approx(expected)


def test_the_bound_knows_that_a_machine_takes_in_only_so_many_requests():
    assert tally.fluid_bound(np.repeat([0.0], 100), 1, COSTS, most_per_s=50) == pytest.approx(0.45)


def test_a_rung_under_the_hull_is_never_part_of_the_best_mix():
    seconds, accuracies = tally.hull(COSTS)

    assert seconds == [0.0, 0.001, 0.004, 0.01]
    assert accuracies == [0.0, 0.7, 0.8, 0.9]


def test_the_best_rung_is_the_cheapest_that_a_client_cannot_tell_from_the_top():
    costs = [Cost("fp32", 0.9, 0.03), Cost("int8", 0.899, 0.01), Cost("student", 0.88, 0.001)]

    assert tally.best_rung(costs).variant == "int8"


@pytest.mark.parametrize(("late_until", "expected"), [(2.0, 0.0), (2.51, 0.5), (2.7, 0.75), (9.0, 6.0)], ids=str)
def test_a_step_is_mastered_when_p99_is_back_inside_for_a_while(late_until: float, expected: float):
    intended = np.arange(0, 9, 0.005).tolist()
    latency = [0.3 if 2.0 <= at < late_until else 0.01 for at in intended]

    found = tally.recovery_s(records(intended, latency, [200] * len(intended)), 2.0, 8.0, 0.1)

    assert found == pytest.approx(expected)


def test_a_refused_request_is_outside_the_objective():
    intended = np.arange(0, 5, 0.01).tolist()
    status = [429 if 1.0 <= at < 1.3 else 200 for at in intended]

    assert tally.recovery_s(records(intended, [0.01] * 500, status), 1.0, 5.0, 0.1) == pytest.approx(0.5)


def test_replicas_are_counted_over_time():
    counts = [(10.0, 1), (13.5, 2), (20.0, 1)]

    assert tally.replica_seconds(counts, 22.0) == pytest.approx(3.5 + 13.0 + 2.0)
    assert tally.scaling_s(counts, 12.0, 2) == pytest.approx(1.5)
    assert tally.scaling_s(counts, 12.0, 4) is None


@pytest.mark.parametrize(
    ("ours", "static", "bound", "expected"), [(0.85, 0.8, 0.9, 0.5), (0.9, 0.9, 0.9003, None)], ids=["half", "no way"]
)
def test_the_share_of_the_gap_that_is_closed(ours: float, static: float, bound: float, expected: float | None):
    found = tally.gap_closed(ours, static, bound)

    assert found == (None if expected is None else pytest.approx(expected))
