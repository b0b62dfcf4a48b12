from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from serve.adapt.forecast import Forecast, predict, update

HORIZONS_S = (1, 5, 10, 30, 60)


def after(rates: list[float], elapsed_s: float = 1.0) -> Forecast:
    forecast = Forecast()
    for rate in rates:
        forecast = update(forecast, rate, elapsed_s)
    return forecast


def test_a_steady_rate_is_foretold_as_it_is() -> None:
    forecast = after([50.0] * 200)

    assert [round(predict(forecast, h), 6) for h in HORIZONS_S] == [50.0] * 5
    assert not forecast.is_burst


def test_a_single_high_value_hardly_moves_the_slow_level() -> None:
    forecast = after([50.0] * 300 + [5000.0])

    assert forecast.slow < 60.0


def test_a_burst_is_seen_within_seconds_and_is_over_half_a_minute_after_its_end() -> None:
    during = after([50.0] * 300 + [200.0] * 3)
    later = after([50.0] * 300 + [200.0] * 10 + [50.0] * 20)
    over = after([50.0] * 300 + [200.0] * 10 + [50.0] * 60)

    assert during.is_burst
    assert predict(during, 10.0) > 120.0
    assert later.is_burst
    assert not over.is_burst
    assert over.peak_ratio > 2.0


def test_irregular_arrivals_at_a_steady_rate_are_no_burst() -> None:
    chance = np.random.default_rng(0)
    forecast, bursts = Forecast(), 0
    for count in chance.poisson(20 * 0.2, 5 * 3600):
        forecast = update(forecast, float(count) / 0.2, 0.2)
        bursts += forecast.is_burst

    assert bursts == 0


def test_the_length_of_a_tick_does_not_matter() -> None:
    often, seldom = after([10.0] * 500 + [30.0] * 50, 0.2), after([10.0] * 100 + [30.0] * 10, 1.0)

    assert often.medium == pytest.approx(seldom.medium, rel=0.05)


def test_no_time_is_no_reading() -> None:
    assert update(Forecast(), 100.0, 0.0) == Forecast()


def errors(counts: np.ndarray) -> dict[int, tuple[float, float]]:
    """Mean absolute errors of the forecast and of the last value, by horizon; what is foretold is a mean of 10 s."""
    foretold: dict[int, list[float]] = {horizon: [] for horizon in HORIZONS_S}
    forecast = Forecast()
    for count in counts:
        forecast = update(forecast, float(count), 1.0)
        for horizon, values in foretold.items():
            values.append(predict(forecast, horizon))
    total = np.concatenate([[0.0], np.cumsum(counts)])
    found = {}
    for horizon, values in foretold.items():
        width = 10 if horizon > 10 else max(1, horizon // 5)
        at = np.arange(120, len(counts) - horizon - width)
        came = (total[at + horizon + width] - total[at + horizon]) / width
        found[horizon] = (
            float(np.abs(np.array(values)[at] - came).mean()),
            float(np.abs(counts[at] - came).mean()),
        )
    return found


def test_on_a_day_of_tweets_it_is_better_than_the_last_value_at_every_horizon(twitter: Path) -> None:
    import pyarrow.parquet as parquet

    counts = parquet.read_table(twitter / "requests_per_second.parquet")["requests"].to_numpy()[3600 * 2 : 3600 * 8]

    found = errors(counts.astype(float))

    assert all(ours < 0.85 * naive for ours, naive in found.values()), found


@pytest.mark.parametrize(
    ("service", "most"),
    [
        pytest.param("conv", 0.85, id="conversation"),
        pytest.param("code", 1.2, id="code: so bursty that the last value is the better one"),
    ],
)
def test_on_an_hour_of_a_language_models_requests(azure: Path, service: str, most: float) -> None:
    with (azure / f"AzureLLMInferenceTrace_{service}.csv").open() as stream:
        times = np.array([row["TIMESTAMP"][:26].replace(" ", "T") for row in csv.DictReader(stream)], "datetime64[us]")
    counts = np.bincount(((times - times[0]) / np.timedelta64(1, "s")).astype(int)).astype(float)

    found = errors(counts)

    assert all(ours < most * naive for ours, naive in found.values()), found
