"""The statistics behind the rules, against closed forms and against streams of known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from serve.watch import odds

ALPHA = 1e-4


@pytest.mark.parametrize(
    ("p", "before", "is_alarm"),
    [
        pytest.param(ALPHA / 3, None, True, id="one window alone"),
        pytest.param(ALPHA, None, False, id="not rare enough alone"),
        pytest.param(0.005, 0.005, True, id="two in a row"),
        pytest.param(0.005, 0.01, False, id="the one before was not rare"),
        pytest.param(0.01, 0.005, False, id="this one is not"),
    ],
)
def test_an_alarm_is_one_very_rare_window_or_two_rare_ones(p: float, before: float | None, is_alarm: bool) -> None:
    assert odds.surprising(p, before, ALPHA) is is_alarm


def test_both_ways_to_an_alarm_together_are_as_rare_as_was_asked() -> None:
    assert math.isclose(ALPHA / 2 + odds.pair_level(ALPHA) ** 2, ALPHA)


def test_with_a_long_past_a_surge_is_judged_as_by_the_binomial() -> None:
    past = [(125, 1000)] * 1000

    assert odds.surge(15, 60, past) == pytest.approx(stats.binom.sf(14, 60, 0.125), rel=0.01)


def test_a_short_past_makes_one_careful() -> None:
    assert odds.surge(15, 60, [(2, 20)] * 2) > 10 * odds.surge(15, 60, [(20, 200)] * 20)


def test_windows_that_differ_by_chance_alone_are_hardly_correlated_and_bursts_are() -> None:
    generator = np.random.default_rng(0)
    chance = [(int(k), 60) for k in generator.binomial(60, 0.2, 500)]
    bursts = [(int(k), 60) for k in generator.binomial(60, generator.beta(0.2 * 9, 0.8 * 9, 500))]

    assert odds.correlation(chance) < 0.01
    assert odds.correlation(bursts) == pytest.approx(0.1, abs=0.02)  # 1 / (9 + 1)


@pytest.mark.parametrize("past", [[], [(0, 50)] * 9, [(50, 50)] * 9, [(1, 1)] * 9], ids=["none", "no", "all", "tiny"])
def test_a_past_without_spread_has_no_correlation_and_still_judges(past: list[tuple[int, int]]) -> None:
    assert odds.correlation(past) == 0.0
    assert 0.0 <= odds.surge(3, 20, past) <= 1.0


@pytest.mark.parametrize("strength", [None, 30.0], ids=["independent", "bursts"])
def test_surges_are_found_by_chance_no_more_often_than_said(strength: float | None) -> None:
    generator, level, num, least = np.random.default_rng(1), 0.01, 3000, 0

    share = np.full(num, 0.15) if strength is None else generator.beta(0.15 * strength, 0.85 * strength, num)
    drawn = [(int(k), 60) for k in generator.binomial(60, share)]
    for i in range(48, num):
        least += odds.surge(*drawn[i], drawn[i - 48 : i]) < level

    assert least / (num - 48) < 1.5 * level


def test_labels_that_changed_are_told_from_chance() -> None:
    past = [{"a": 10, "b": 20, "c": 30}] * 10

    assert odds.labels({"a": 11, "b": 18, "c": 31}, past) > 0.5
    assert odds.labels({"a": 30, "b": 20, "c": 10}, past) < 1e-6
    assert odds.labels({"new": 60}, past) < 1e-6
    assert odds.labels({"a": 9}, []) == 1.0
    assert odds.labels({"a": 60}, [{"a": 60}] * 10) == 1.0


def test_a_past_that_differs_much_makes_other_labels_no_news() -> None:
    calm, wild = [{"a": 30, "b": 30}] * 10, [{"a": 50, "b": 10}, {"a": 10, "b": 50}] * 5

    assert odds.labels({"a": 45, "b": 15}, calm) < 0.001 < odds.labels({"a": 45, "b": 15}, wild)


def test_a_gap_is_judged_by_the_exponential_once_there_are_many() -> None:
    assert odds.longest_gap(100_000, 1_000_000.0, 0.001) == pytest.approx(-10 * math.log(0.001), rel=0.001)
    assert odds.longest_gap(20, 200.0, 0.001) > -10 * math.log(0.001)


def test_a_trend_is_a_slope_with_its_error() -> None:
    rising = [(3600.0 * i, 10 + 5 * i, 100) for i in range(10)]

    found = odds.trend(rising)

    assert found is not None
    assert found[0] * 3600 == pytest.approx(0.05)
    assert 0 < found[1] * 3600 < 0.05
    assert odds.trend(rising[:2]) is None
    assert odds.trend([(1.0, 1, 2)] * 5) is None
