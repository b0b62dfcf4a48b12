from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ladder.latency import Latency, learn

SIZES = (1, 2, 4, 8, 16, 32)
FIXED_S, ROW_S = 0.005, 0.002

# A busy machine is slow now and then; that says nothing about the model.
property_test = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def profile(fixed_s: float = FIXED_S, row_s: float = ROW_S, spread: float = 0.05, repeats: int = 5, seed: int = 0):
    rng = random.Random(seed)
    return [(n, (fixed_s + row_s * n) * math.exp(rng.gauss(0, spread))) for n in SIZES for _ in range(repeats)]


def run(latency: Latency, sizes: Sequence[int], num: int, slower: float = 1.0, spread: float = 0.05, seed: int = 1):
    """So many batches of a machine that is `slower` than the profile's."""
    rng = random.Random(seed)
    for _ in range(num):
        n = rng.choice(sizes)
        latency.observe(n, (FIXED_S + ROW_S * n) * slower * math.exp(rng.gauss(0, spread)))


def errors(latency: Latency, sizes: Sequence[int], slower: float = 1.0) -> list[float]:
    return [latency.predict(n) / ((FIXED_S + ROW_S * n) * slower) - 1 for n in sizes]


def test_a_profile_gives_its_line_and_its_spread():
    latency = Latency.fit(profile(repeats=20))

    assert max(map(abs, errors(latency, SIZES))) < 0.04
    assert latency.spread == pytest.approx(0.05, rel=0.4)
    assert latency.upper(8, 2.0) == pytest.approx(latency.predict(8) * (1 + 2 * latency.spread))


@pytest.mark.parametrize("at", range(len(SIZES)))
@pytest.mark.parametrize("repeats", [pytest.param(1, id="one of each size"), pytest.param(5, id="five of each size")])
def test_an_outlier_in_the_profile_hardly_counts(at: int, repeats: int):
    samples = profile(spread=0.01, repeats=repeats)
    rows, seconds = samples[at * repeats]
    samples[at * repeats] = (rows, seconds * 20)

    latency = Latency.fit(samples)

    assert max(map(abs, errors(latency, SIZES))) < 0.08


@pytest.mark.parametrize(
    ("samples", "fixed_s", "row_s"),
    [
        pytest.param([(1, 0.010), (10, 0.008)], None, 0.0, id="falling: no negative time a row"),
        pytest.param([(1, 0.001), (10, 0.020)], 0.0, None, id="convex: no negative fixed time"),
        pytest.param([(8, 0.016)], 0.008, 0.001, id="one size: half is fixed"),
        pytest.param([(1, 0.007), (32, 0.069)], 0.005, 0.002, id="two sizes"),
    ],
)
def test_no_part_is_negative(samples: list[tuple[int, float]], fixed_s: float | None, row_s: float | None):
    latency = Latency.fit(samples)

    assert latency.fixed_s >= 0
    assert latency.per_row_s >= 0
    assert fixed_s is None or latency.fixed_s == pytest.approx(fixed_s)
    assert row_s is None or latency.per_row_s == pytest.approx(row_s)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param([], id="none"),
        pytest.param([(0, 0.1)], id="no rows"),
        pytest.param([(1, 0.0)], id="no time"),
        pytest.param([(1, math.nan)], id="not a number"),
        pytest.param([(1, math.inf)], id="for ever"),
    ],
)
def test_what_is_no_sample_is_refused(samples: list[tuple[int, float]]):
    with pytest.raises(ValueError, match="sample"):
        Latency.fit(samples)


@pytest.mark.parametrize("sizes", [(1,), (32,), (1, 8), SIZES], ids=str)
def test_one_outlier_moves_predictions_by_a_few_percent_at_most(sizes: tuple[int, ...]):
    latency = Latency.fit(profile())
    run(latency, sizes, 200)
    before = [latency.predict(n) for n in SIZES]

    latency.observe(sizes[0], 20 * latency.predict(sizes[0]))

    assert all(abs(latency.predict(n) / p - 1) < 0.04 for n, p in zip(SIZES, before, strict=True))
    assert latency.spread < 0.1


@pytest.mark.parametrize("sizes", [(1,), (32,), (1, 8), SIZES], ids=str)
@pytest.mark.parametrize("slower", [2.0, 4.0, 0.5])
def test_another_speed_is_followed_within_a_few_batches_and_back(sizes: tuple[int, ...], slower: float):
    latency = Latency.fit(profile())
    run(latency, sizes, 100)

    run(latency, sizes, 5, slower)
    after = errors(latency, SIZES, slower)
    run(latency, sizes, 5)

    assert max(map(abs, after)) < 0.2  # sizes that were not run included
    assert max(map(abs, errors(latency, SIZES))) < 0.2


def test_a_slow_drift_is_followed_too():
    latency = Latency.fit(profile())

    for step in range(300):
        run(latency, SIZES, 1, slower=1 + step / 300, seed=step)

    assert max(map(abs, errors(latency, SIZES, slower=2.0))) < 0.15


@pytest.mark.parametrize("sizes", [(4,), (32,)], ids=str)
def test_sizes_never_run_keep_the_profiles_proportion(sizes: tuple[int, ...]):
    latency = Latency.fit(profile())

    run(latency, sizes, 2000, slower=1.3)

    assert max(map(abs, errors(latency, SIZES, slower=1.3))) < 0.1


def test_a_wrong_shape_is_mended_when_sizes_vary():
    latency = Latency(FIXED_S * 4, ROW_S / 2, 0.05)

    run(latency, SIZES, 400)

    assert max(map(abs, errors(latency, SIZES))) < 0.15


def test_a_noisy_machine_widens_the_spread():
    latency = Latency.fit(profile(spread=0.02))

    run(latency, SIZES, 300, spread=0.3)

    assert latency.spread == pytest.approx(0.3, rel=0.3)


def test_a_rung_not_seen_follows_the_machines_speed():
    fast, slow = Latency(0.001, 0.001), Latency(FIXED_S, ROW_S)

    for _ in range(1000):
        learn([slow, fast], fast, 8, 2 * 0.009)
    assert errors(slow, SIZES, slower=2.0) == pytest.approx([0] * len(SIZES), abs=0.02)
    for _ in range(1000):
        learn([slow, fast], fast, 8, 0.009)

    assert errors(slow, SIZES) == pytest.approx([0] * len(SIZES), abs=0.02)


def test_rungs_that_take_turns_keep_their_own_speeds():
    first, second = Latency(FIXED_S, ROW_S), Latency(FIXED_S, ROW_S)

    for _ in range(300):
        learn([first, second], first, 8, 0.021)
        learn([first, second], second, 8, 0.042)

    assert first.predict(8) == pytest.approx(0.021, rel=0.2)
    assert second.predict(8) == pytest.approx(0.042, rel=0.2)


def test_the_bundles_form_reads_back_the_same():
    latency = Latency.fit(profile())
    run(latency, SIZES, 20, slower=1.5)

    read = Latency.from_json(json.loads(json.dumps(latency.to_json())))

    assert read.to_json() == latency.to_json()
    assert [read.upper(n) for n in SIZES] == [latency.upper(n) for n in SIZES]


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("field", ["fixed_s", "per_row_s", "spread"])
def test_a_damaged_form_is_refused(field: str, value: float):
    with pytest.raises(ValueError, match="no latency"):
        Latency.from_json({**Latency(0.1, 0.1).to_json(), field: value})


def test_a_batch_that_took_no_time_is_refused():
    with pytest.raises(ValueError, match="some time"):
        Latency(0.0, 0.0)


seconds = st.floats(1e-7, 100.0)


@property_test
@given(
    st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda parts: sum(parts) > 1e-6),
    st.lists(st.tuples(st.integers(1, 512), seconds | st.sampled_from([0.0, -1.0, math.nan, math.inf])), max_size=80),
)
def test_whatever_is_seen_predictions_stay_positive_and_grow_with_the_batch(parts, batches):
    latency = Latency(*parts)

    for rows, took_s in batches:
        latency.observe(rows, took_s)
        latency.relax(1.5)

    assert latency.fixed_s >= 0
    assert latency.per_row_s >= 0
    assert 0 < latency.predict(1) <= latency.predict(64) < math.inf
    assert 0 < latency.spread <= 1
    assert 0 < latency.slowdown < math.inf


@property_test
@given(st.integers(1, 64), st.floats(1e-5, 1.0), st.floats(0.3, 3.0))
def test_at_the_only_size_seen_the_prediction_is_right(rows: int, row_s: float, slower: float):
    latency = Latency(row_s, row_s)

    for _ in range(150):
        latency.observe(rows, latency_s := row_s * (rows + 1) * slower)

    assert latency.predict(rows) == pytest.approx(latency_s, rel=0.01)
    assert latency.predict(2 * rows) == pytest.approx(row_s * (2 * rows + 1) * slower, rel=0.1)
