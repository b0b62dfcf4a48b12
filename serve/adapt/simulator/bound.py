"""The fluid bound: the best that any choice of rungs could make of each second's arrivals. The yardstick, not a rival.

Per second the mix of rungs that clears the arrivals with the highest accuracy, as if a batch had no fixed part, no
request waited for another, and the next second's arrivals were no concern. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ladder.choose import Rung


def fluid_bound(arrived: np.ndarray, busy_s: np.ndarray, ladder: Sequence[Rung]) -> float:
    """Effective accuracy, 0 to 1.

    `arrived` is [num_seconds], rows that arrived in each; `busy_s` [num_seconds] is how many seconds of forward passes
    all replicas together have in it. What no rung can clear counts as wrong.
    """
    rows = arrived[arrived > 0]
    if not len(rows):
        return 0.0
    row_s, accuracy = _hull([(rung.latency.per_row_s, rung.accuracy) for rung in ladder])
    per_row_s = busy_s[arrived > 0] / rows
    return float((rows * np.interp(per_row_s, row_s, accuracy)).sum() / rows.sum())


def closed(ours: float, static: float, bound: float) -> float | None:
    """Of the gap between the best static choice and the bound, the share that is closed; None where there is no gap."""
    return (ours - static) / (bound - static) if bound - static > 1e-6 else None


def _hull(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The least concave function above (0, 0) and the points, by its corners; mixing two rungs is a line between."""
    corners: list[tuple[float, float]] = []
    best = 0.0
    for x, y in sorted([(0.0, 0.0), *points]):
        if corners and y <= best:
            continue  # dearer and no better
        best = y
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) <= _slope(corners[-2], (x, y)):
            corners.pop()
        corners.append((x, y))
    return [x for x, _ in corners], [y for _, y in corners]


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / max(b[0] - a[0], 1e-12)
