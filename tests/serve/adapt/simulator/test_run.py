from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ladder.choose import Rung
from ladder.latency import Latency
from serve import core
from serve.adapt.bounds import Bounds
from serve.adapt.simulator.control import Adaptive, Autoscaler, Fixed, Seen
from serve.adapt.simulator.outcome import Outcome
from serve.adapt.simulator.peers import Aimd, Fifo
from serve.adapt.simulator.run import predict
from serve.adapt.simulator.settings import WAY_S, WAY_SHARE, Death, Settings, Slowdown

LADDER = [
    Rung(variant, accuracy, Latency(row_ms / 20_000, row_ms / 1000, 0.02))
    for variant, accuracy, row_ms in (("v0", 0.88, 20.0), ("v1", 0.85, 7.0), ("v2", 0.79, 2.2), ("v3", 0.70, 0.7))
]
ONE = Bounds(objective_s=0.1)


def arrivals(*parts: tuple[float, float], seed: int = 0) -> np.ndarray:
    """Poisson, from (requests per second, seconds)."""
    rng, begun, found = np.random.default_rng(seed), 0.0, []
    for rate, seconds in parts:
        found.append(begun + np.sort(rng.random(rng.poisson(rate * seconds))) * seconds)
        begun += seconds
    return np.concatenate(found)


def shares(outcome: Outcome) -> float:
    return outcome.in_time + outcome.late + outcome.lost + sum(outcome.refused.values())


def test_the_same_seed_gives_the_same_outcome():
    at = arrivals((30, 10), (120, 5))

    first, second = (predict(at, LADDER, Settings(ONE), seed=3) for _ in range(2))

    assert first.in_time == second.in_time
    assert first.actions == second.actions
    assert first.mix == second.mix


def test_at_low_load_the_best_rung_answers_all_in_time():
    outcome = predict(arrivals((5, 40)), LADDER, Settings(ONE), Fixed())

    assert outcome.violations == 0
    assert outcome.effective_accuracy == pytest.approx(0.88, abs=0.002)
    assert outcome.replica_s == pytest.approx(outcome.seconds)


def test_the_margin_for_the_way_is_that_of_real_replicas():
    assert (WAY_S, WAY_SHARE) == (core.WAY_S, core.WAY_SHARE)


@pytest.mark.parametrize(
    ("overhead_s", "is_late"), [pytest.param(0.004, False, id="less than is left for it"), (0.06, True)]
)
def test_time_on_the_way_counts_against_the_client(overhead_s: float, is_late: bool):
    outcome = predict(arrivals((25, 20)), LADDER, Settings(ONE, overhead_s=overhead_s), Fixed())

    assert (outcome.late > 0.01) == is_late


@pytest.mark.parametrize("load", [0.5, 0.7, 0.9])
def test_under_bursts_the_ladder_comes_near_the_fluid_bound_and_one_rung_does_not(load: float):
    at = arrivals(*[(50 * load, 3), (150 * load, 1)] * 10)

    free = predict(at, LADDER, Settings(ONE), Fixed())
    best_alone = predict(at, LADDER, Settings(ONE, variants=("v0",)), Fixed())

    assert free.violations < 0.005
    assert 0 < free.bound - free.effective_accuracy < 0.01
    assert best_alone.violations > 20 * free.violations


@pytest.mark.parametrize("kind", [Fifo, Aimd])
def test_without_ladder_and_admission_nobody_is_refused_and_most_are_late_in_overload(kind: type):
    fast = Settings(ONE, variants=("v0",), kind=kind)

    outcome = predict(arrivals((100, 20)), LADDER, fast, Fixed())

    assert outcome.refused == {}
    assert outcome.late > 0.5
    assert shares(outcome) == pytest.approx(1)


def test_a_machine_that_becomes_slow_is_followed():
    slow = Settings(ONE, slowdowns=(Slowdown(10, 10, 2.0),))

    outcome = predict(arrivals((25, 30)), LADDER, slow, Fixed())

    assert outcome.violations < 0.02
    assert outcome.mix["v1"] > 0.05


def test_a_replica_that_dies_is_replaced_and_only_its_own_requests_are_lost():
    bounds = Bounds(objective_s=0.1, min_replicas=2, max_replicas=2)

    outcome = predict(arrivals((60, 30)), LADDER, Settings(bounds, deaths=(Death(10),)))

    assert 0 <= outcome.lost < 0.005
    assert outcome.replicas_per_s[5] == 2
    assert outcome.replicas_per_s[12] == 1
    assert outcome.replicas_per_s[25] == 2
    assert shares(outcome) == pytest.approx(1)


def test_the_adaptation_grows_and_shrinks_again():
    bounds = Bounds(objective_s=0.1, max_replicas=4, patience_s=20.0, replica_cooldown_s=5.0)

    outcome = predict(arrivals((20, 8), (110, 25), (10, 75)), LADDER, Settings(bounds))

    assert outcome.replicas_per_s.max() >= 3
    assert outcome.replicas_per_s[-1] == 1
    assert outcome.violations < 0.005
    assert outcome.back_inside_s(8.0, share=0.95) is not None


def test_default_autoscaling_waits_half_a_minute():
    bounds = Bounds(objective_s=0.1, max_replicas=4)
    scaler = Autoscaler(bounds)

    predict(arrivals((100, 50)), LADDER, Settings(bounds, variants=("v0",), kind=Fifo), scaler)

    assert scaler.actions
    assert scaler.actions[0].at >= 30


class Watched(Adaptive):
    """Keeps what was in force after each tick."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__(bounds)
        self.held: list[tuple[dict[str, Any], int]] = []

    def tick(self, seen: Seen) -> tuple[dict[str, Any], int]:
        self.held.append(super().tick(seen))
        return self.held[-1]


@settings(deadline=None, max_examples=6, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.lists(st.tuples(st.sampled_from([5, 30, 60, 150]), st.integers(4, 25)), min_size=1, max_size=4),
    floor=st.sampled_from([0.0, 0.75, 0.82]),
    max_replicas=st.integers(1, 4),
    slow=st.none() | st.builds(Slowdown, st.floats(0, 20), st.floats(1, 20), st.floats(1.2, 4)),
    death=st.none() | st.builds(Death, st.floats(1, 30)),
    cores=st.sampled_from([1, 2]),
    seed=st.integers(0, 100),
)
def test_over_any_trace_bounds_floor_dwell_and_reason_are_kept_and_nothing_oscillates(
    parts: list[tuple[float, float]],
    floor: float,
    max_replicas: int,
    slow: Slowdown | None,
    death: Death | None,
    cores: int,
    seed: int,
):
    bounds = Bounds(
        objective_s=0.1, floor=floor, max_replicas=max_replicas, cores=cores, replica_cooldown_s=5.0, patience_s=15.0
    )
    at = arrivals(*parts, seed=seed)
    made = Settings(bounds, slowdowns=(slow,) if slow else (), deaths=(death,) if death else (), start_s=2.0)
    controller = Watched(bounds)

    outcome = predict(at, LADDER, made, controller, seed)

    assert outcome.num_requests == len(at)
    assert all(bounds.min_replicas <= target <= bounds.max_replicas for _, target in controller.held)
    for envelope, _ in controller.held:
        assert 1 <= (envelope.get("max_batch") or 1) <= bounds.max_batch
        assert (envelope.get("threads") or 1) * (envelope.get("concurrency") or 1) <= cores
        assert 0 < envelope.get("admit", 1.0) <= 1
    epochs = [envelope.get("epoch", 0) for envelope, _ in controller.held]
    assert epochs == sorted(epochs)
    assert all(rung.accuracy >= floor for rung in LADDER if outcome.mix.get(rung.variant))
    assert_no_switch_within_the_dwell(outcome, bounds)
    assert all(action.cause for action in outcome.actions)
    assert outcome.cycles == ()


def assert_no_switch_within_the_dwell(outcome: Outcome, bounds: Bounds) -> None:
    last: dict[str, float] = {}
    for action in outcome.actions:
        since_s = action.at - last.get(action.field, -1e9) + 1e-6
        is_count = action.field == "replicas"
        assert since_s >= (bounds.replica_cooldown_s if is_count else bounds.cooldown_s)
        if not action.protective and action.rule != "undo":
            assert since_s >= (bounds.patience_s if is_count else bounds.dwell_s)
        last[action.field] = action.at
