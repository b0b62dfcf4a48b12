"""How many rows a second will arrive soon: a level over seconds, one over tens of seconds, and whether a burst began.

Both levels are exponential averages, and which of them foretells depends on how far ahead. Over traces of real
services that is better than the last value by 1.3 to 2.5 times, and a trend makes it no better (docs/adaptation.md has
the figures), so there is none. A burst is a fast level far above the slow one, both as a ratio and in spreads; while it
lasts the fast level counts where it is the higher one. The slow level is robust: one value moves it by a few spreads.

Pure; knows rates and times, not where they come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

FAST_S, MEDIUM_S, SLOW_S = 2.0, 10.0, 60.0  # time constants of the three levels
_FAST_UP_TO_S = 2.5  # ahead
_CLIP = 3.0  # spreads by which one value may move the slow level
_BURST_RATIO, _BURST_SPREADS = 1.5, 3.0
_CALM_S = 30.0  # after which a burst is over


@dataclass(frozen=True, slots=True)
class Forecast:
    """Rates in rows per second. `seen_s` is how long arrivals have been watched."""

    fast: float = 0.0
    medium: float = 0.0
    slow: float = 0.0
    spread: float = 0.0  # of the fast level around the slow one: mean absolute deviation
    seen_s: float = 0.0
    calm_s: float = _CALM_S  # since the last moment of a burst
    peak_ratio: float = 1.0  # of the largest burst lately to the level it rose from

    @property
    def is_burst(self) -> bool:
        return self.calm_s < _CALM_S


def update(forecast: Forecast, rate: float, elapsed_s: float) -> Forecast:
    """One more reading: `rate` over the `elapsed_s` seconds before now."""
    if elapsed_s <= 0:
        return forecast
    if forecast.seen_s == 0.0:
        return replace(forecast, fast=rate, medium=rate, slow=rate, seen_s=elapsed_s)
    seen_s = forecast.seen_s + elapsed_s
    fast = forecast.fast + _gain(elapsed_s, FAST_S, seen_s) * (rate - forecast.fast)
    medium = forecast.medium + _gain(elapsed_s, MEDIUM_S, seen_s) * (rate - forecast.medium)
    clip = _CLIP * max(forecast.spread, 0.1 * forecast.slow, 1.0)
    error = fast - forecast.slow
    slow = forecast.slow + _gain(elapsed_s, SLOW_S, seen_s) * max(-clip, min(clip, error))
    spread = forecast.spread + _gain(elapsed_s, SLOW_S, seen_s) * (min(abs(error), clip) - forecast.spread)
    is_high = fast > _BURST_RATIO * forecast.slow and error > _BURST_SPREADS * max(spread, math.sqrt(slow), 1.0)
    calm_s = 0.0 if is_high else forecast.calm_s + elapsed_s
    peak = max(forecast.peak_ratio * math.exp(-elapsed_s / 3600.0), 1.0)
    if is_high and forecast.slow > 0:
        peak = max(peak, min(fast / forecast.slow, 10.0))
    return Forecast(fast, medium, slow, spread, seen_s, calm_s, peak)


def predict(forecast: Forecast, horizon_s: float) -> float:
    """Rows a second `horizon_s` seconds from now."""
    level = forecast.fast if horizon_s < _FAST_UP_TO_S else forecast.medium
    return max(level, forecast.fast) if forecast.is_burst else level


def _gain(elapsed_s: float, constant_s: float, seen_s: float) -> float:
    """At first the plain mean of what was seen, then an exponential average."""
    return max(1.0 - math.exp(-elapsed_s / constant_s), min(1.0, elapsed_s / seen_s))
