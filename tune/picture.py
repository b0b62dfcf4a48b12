"""A search as a picture: one line per trial through its settings to its result (parallel coordinates).

Knows records and dimensions, measures nothing.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from tune.space import Dimension, Space
from tune.trials import Trial, ranked

MOST_LINES = 500


def parallel_coordinates(space: Space, trials: Sequence[Trial], metric: str, best: Trial | None) -> bytes:
    """PNG; each axis is a setting from its lower bound to its upper, the last one the metric; colours follow it.

    A setting that does not exist in a trial is a gap in its line.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = ranked(trials, metric)[:MOST_LINES]
    values = [_value(trial, metric) for trial in shown]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    figure = Figure(figsize=(2.4 + 1.7 * len(space.dimensions), 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, no pyplot and so no global state
    axes = figure.add_subplot()
    for trial, value in reversed(list(zip(shown, values, strict=True))):  # the best on top
        height = (value - low) / (high - low) if high > low else 0.5
        line = [_height(dimension, trial.config.get(dimension.name)) for dimension in space.dimensions]
        good = height if metric == "accuracy" else 1 - height
        is_best = best is not None and trial.trial == best.trial
        width, colour = (3.0, "tab:red") if is_best else (1.2, colormaps["viridis"](good))
        axes.plot(range(len(line) + 1), [*line, height], color=colour, linewidth=width, alpha=0.9, marker=".")
    names = [*(dimension.name.partition(".")[2] for dimension in space.dimensions), metric]
    axes.set_xticks(range(len(names)), names, rotation=20, parse_math=False)
    axes.set_yticks([])
    axes.set_ylim(-0.08, 1.08)
    axes.set_xlim(-0.3, len(names) - 0.4)
    for place, dimension in enumerate(space.dimensions):
        _marks(axes, place, dimension)
    for height, value in ((0.0, low), (1.0, high)):
        axes.text(len(names) - 0.95, height, f"{value:.4g}", fontsize=8, va="center")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100, metadata={"Software": None})
    return out.getvalue()


def _value(trial: Trial, metric: str) -> float:
    value = trial.value(metric)
    assert value is not None
    return value


def _height(dimension: Dimension, value: Any) -> float:
    """0 to 1 along the axis; NaN where the setting does not exist, which leaves a gap."""
    if value is None:
        return math.nan
    if dimension.kind == "choice":
        place = next((i for i, choice in enumerate(dimension.values) if choice == value), 0)
        return place / max(1, len(dimension.values) - 1)
    low, high = dimension.bounds
    if dimension.kind == "log":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return float((value - low) / (high - low))


def _marks(axes: Any, place: int, dimension: Dimension) -> None:
    axes.axvline(place, color="0.7", linewidth=0.8, zorder=0)
    for value in dimension.values:
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        axes.text(place + 0.04, _height(dimension, value), text, fontsize=8, va="center", parse_math=False)
