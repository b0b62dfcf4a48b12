"""How long a batch takes on one rung: L(n) = a + b n seconds for n rows, with its spread.

Fitted from a profile, then corrected from every batch by recursive least squares with forgetting (L. Ljung,
T. Söderström, *Theory and Practice of Recursive Identification*, 1983, chapter 2: the normalised form with the
average of the regressors' outer products and a constant gain). What is estimated are the profile's two parts
times a multiplier each, in relative error, so one gain fits a rung of 20 ms and one of 20 us.

1. A single outlier is clipped (P. J. Huber, *Robust Estimation of a Location Parameter*, 1964): it moves a
   prediction by at most a few percent.
2. Three surprises in a row on the same side are no outliers but another speed: both parts are scaled at once by
   the least of the three.
3. Where all batches have the same number of rows, a and b cannot be told apart. A little information is then
   held that both change together, as they do when the whole machine slows down; sizes not seen lately keep
   their profile's proportion, and the estimate cannot wind up.

Pure, a few microseconds a call. Knows neither rungs' names nor deadlines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

_GAIN = 0.1  # the last ten batches count most
_MOST_GAIN = 0.15  # of one batch, however unusual its size
_SPREAD_GAIN = 0.05
_CLIP = 3.0  # spreads
_MOST_CLIP = 0.3  # of the prediction, when the spread is wide
_RUN = 3  # surprises on the same side that make another speed
_SHAPE_VARIANCE = 0.05  # of the two multipliers against each other; 1 is that of their common part
_HELD = 0.005  # information held against wind-up, as a share of a batch's
_RELAX = 1 / 128  # per batch of another rung
_LEAST_SHARE = 0.02  # a part that the profile does not show may still grow
_LEAST_SPREAD, _MOST_SPREAD, _UNKNOWN_SPREAD = 0.02, 1.0, 0.1
_NORMAL = math.sqrt(math.pi / 2)  # standard deviation over mean absolute deviation


class Latency:
    """One rung's model. Mutable, so that nothing is made per batch: one writer, its replica's event loop.

    `fixed_s` (a) and `per_row_s` (b) are never negative; `spread` is the standard deviation of a batch's time as
    a share of its prediction; `slowdown` is the present time over the profile's at the size last seen.
    """

    __slots__ = ("_at_first", "_basis", "_information", "_least", "_run", "fixed_s", "per_row_s", "slowdown", "spread")

    def __init__(self, fixed_s: float, per_row_s: float, spread: float = _UNKNOWN_SPREAD) -> None:
        """Raises ValueError unless all are finite, none is negative, and some time is taken."""
        if not (min(fixed_s, per_row_s, spread) >= 0 and 0 < fixed_s + per_row_s + spread < math.inf):
            raise ValueError(f"no latency: {fixed_s} s + {per_row_s} s a row, spread {spread}")
        if fixed_s + per_row_s <= 0:
            raise ValueError("no latency: a batch takes some time")
        self.fixed_s, self.per_row_s = fixed_s, per_row_s
        self.spread = min(max(spread, _LEAST_SPREAD), _MOST_SPREAD)
        self.slowdown = 1.0
        least_s = _LEAST_SHARE * (fixed_s + per_row_s)
        self._basis = max(fixed_s, least_s), max(per_row_s, least_s)
        self._at_first = fixed_s, per_row_s
        self._information = 0.3, 0.2, 0.3  # as if sizes had been mixed, most time now in the one part, now the other
        self._run, self._least = 0, 0.0

    @classmethod
    def fit(cls, samples: Iterable[tuple[int, float]]) -> Latency:
        """From a profile's (rows, seconds). With one size only, half of its time is taken to be fixed.

        Raises:
            ValueError: there is no sample, or one with no rows or no time.
        """
        by_rows: dict[int, list[float]] = {}
        for rows, seconds in samples:
            if rows < 1 or not 0 < seconds < math.inf:
                raise ValueError(f"no sample of a batch: {rows} rows in {seconds} s")
            by_rows.setdefault(rows, []).append(seconds)
        if not by_rows:
            raise ValueError("a latency model needs at least one sample")
        fixed_s, per_row_s = _line([(rows, median(times)) for rows, times in sorted(by_rows.items())])
        errors = [
            abs(seconds / (fixed_s + per_row_s * rows) - 1) for rows, times in by_rows.items() for seconds in times
        ]
        # The median, because a profile is taken beside other work too; 1.4826 makes it a standard deviation.
        spread = 1.4826 * median(errors) if len(errors) > 2 else _UNKNOWN_SPREAD
        return cls(fixed_s, per_row_s, spread)

    def predict(self, rows: int) -> float:
        """Seconds of one batch."""
        return self.fixed_s + self.per_row_s * rows

    def upper(self, rows: int, spreads: float = 2.0) -> float:
        """Seconds that a batch stays under, but for the tail beyond so many spreads."""
        return (self.fixed_s + self.per_row_s * rows) * (1.0 + spreads * self.spread)

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from one batch. Without rows or time there is nothing to learn."""
        if rows < 1 or not 0.0 < seconds < math.inf:
            return
        fixed_basis, row_basis = self._basis
        basis = fixed_basis + row_basis * rows
        fixed_share = fixed_basis / basis
        predicted = self.fixed_s + self.per_row_s * rows
        error = seconds / predicted - 1.0
        clip = _CLIP * self.spread
        if self._is_another_speed(error, clip):
            self.fixed_s *= 1.0 + self._least
            self.per_row_s *= 1.0 + self._least
        else:
            step = min(clip, _MOST_CLIP)
            self._step(fixed_share, max(-step, min(step, error)) * predicted / basis)
            self.spread += _SPREAD_GAIN * (_NORMAL * min(abs(error), clip) - self.spread)
            self.spread = min(max(self.spread, _LEAST_SPREAD), _MOST_SPREAD)
        fixed_s, per_row_s = self._at_first
        self.slowdown = (self.fixed_s + self.per_row_s * rows) / (fixed_s + per_row_s * rows)

    def relax(self, slowdown: float) -> None:
        """Another rung of the same machine has `slowdown`: go a little towards the profile at that speed.

        Without this a rung found slow would never be tried again, and its model never mended.
        """
        fixed_s, per_row_s = self._at_first
        self.fixed_s += _RELAX * (slowdown * fixed_s - self.fixed_s)
        self.per_row_s += _RELAX * (slowdown * per_row_s - self.per_row_s)

    def to_json(self) -> dict[str, float]:
        """The model as it is; what it takes to go on learning is of one machine and one moment and stays out."""
        return {"fixed_s": self.fixed_s, "per_row_s": self.per_row_s, "spread": self.spread}

    @classmethod
    def from_json(cls, data: Mapping[str, float]) -> Latency:
        """Raises ValueError (KeyError) when a number is out of bounds (missing)."""
        return cls(float(data["fixed_s"]), float(data["per_row_s"]), float(data["spread"]))

    def __repr__(self) -> str:
        return f"Latency({self.fixed_s:.3g} s + {self.per_row_s:.3g} s a row, spread {self.spread:.2f})"

    def _is_another_speed(self, error: float, clip: float) -> bool:
        """Count surprises in a row on one side; `_least` is the mildest of them."""
        side = 1 if error > clip else -1 if error < -clip / (1.0 + clip) else 0
        if side == 0 or side * self._run < 0:
            self._run = 0
        if side == 0:
            return False
        self._least = error if self._run == 0 else min(self._least * side, error * side) * side
        self._run += side
        if abs(self._run) < _RUN:
            return False
        self._run = 0
        return True

    def _step(self, x: float, error: float) -> None:
        """One step of recursive least squares, regressors (x, 1 - x), `error` in units of the basis' time."""
        fixed_basis, row_basis = self._basis
        u, v = self.fixed_s / fixed_basis, self.per_row_s / row_basis  # the multipliers
        y = 1.0 - x
        # Held information: the inverse of a covariance that is 1 along (u, v) and _SHAPE_VARIANCE across.
        q = 2.0 / (u * u + v * v)
        held = _HELD / (_SHAPE_VARIANCE * (2.0 + _SHAPE_VARIANCE))
        uu, uv, vv = self._information
        uu += _GAIN * (x * x + held * (q * v * v + _SHAPE_VARIANCE) - uu)
        uv += _GAIN * (x * y - held * q * u * v - uv)
        vv += _GAIN * (y * y + held * (q * u * u + _SHAPE_VARIANCE) - vv)
        self._information = uu, uv, vv
        determinant = uu * vv - uv * uv
        to_u, to_v = _GAIN * (vv * x - uv * y) / determinant, _GAIN * (uu * y - uv * x) / determinant
        error *= min(1.0, _MOST_GAIN / (to_u * x + to_v * y))
        u, v = u + to_u * error, v + to_v * error
        if u < 0.0:  # the best point on the boundary, not merely the nearest
            u, v = 0.0, v + u * uv / vv
        elif v < 0.0:
            u, v = u + v * uv / uu, 0.0
        if u > 0.0 or v > 0.0:
            self.fixed_s, self.per_row_s = max(u, 0.0) * fixed_basis, max(v, 0.0) * row_basis


def learn(ladder: Iterable[Latency], observed: Latency, rows: int, seconds: float) -> None:
    """One batch's time corrects the rung it ran on, and what the others of the same machine are thought to take."""
    observed.observe(rows, seconds)
    for latency in ladder:
        if latency is not observed:
            latency.relax(observed.slowdown)


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """a and b, none negative, of the least sum of squared relative errors, outlying points counting less."""
    if len(points) == 1:
        ((rows, seconds),) = points
        return seconds / 2, seconds / 2 / rows
    weights = [1 / seconds**2 for _, seconds in points]
    for _ in range(20):  # iteratively reweighted, from plain least squares to Huber's
        line = _weighted_line(points, weights)
        predicted = [line[0] + line[1] * rows for rows, _ in points]
        errors = [abs(seconds / p - 1) for (_, seconds), p in zip(points, predicted, strict=True)]
        bound = max(1.5 * median(errors), 1e-3)
        weights = [min(1.0, bound / max(e, bound)) / p**2 for e, p in zip(errors, predicted, strict=True)]
    return line


def _weighted_line(points: Sequence[tuple[int, float]], weights: Sequence[float]) -> tuple[float, float]:
    weighted = list(zip(points, weights, strict=True))
    w = sum(weights)
    wx = sum(weight * rows for (rows, _), weight in weighted)
    wxx = sum(weight * rows * rows for (rows, _), weight in weighted)
    wy = sum(weight * seconds for (_, seconds), weight in weighted)
    wxy = sum(weight * rows * seconds for (rows, seconds), weight in weighted)
    per_row_s = (w * wxy - wx * wy) / (w * wxx - wx * wx)
    fixed_s = (wy - per_row_s * wx) / w
    if per_row_s < 0:
        return wy / w, 0.0
    if fixed_s < 0:
        return 0.0, wxy / wxx
    return fixed_s, per_row_s
