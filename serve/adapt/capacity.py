"""How many rows a second a rung carries, and so how many replicas a load needs: from the times the replicas learned.

Pure arithmetic. Knows nothing of when or why somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from serve.adapt.bounds import Bounds
from serve.adapt.signals import RungSeen

PASSES = 2.0  # a row that just missed a batch waits for that one, then is computed in the next


def usable_rows(rung: RungSeen, objective_s: float, max_batch: int, caution: float) -> int:
    """The largest batch whose rows are answered in time though they waited for another one; 0 when not even one is."""
    one_s = objective_s / PASSES / (1.0 + caution * rung.spread)
    if rung.seconds(1) > one_s:
        return 0
    if rung.per_row_s <= 0:
        return max_batch
    return min(max_batch, int((one_s - rung.fixed_s) / rung.per_row_s))


def rows_per_s(rung: RungSeen, bounds: Bounds, max_batch: int, caution: float, concurrency: int) -> float:
    """Of one replica that always has a usable batch to compute; 0 when the rung cannot hold the objective."""
    rows = usable_rows(rung, bounds.objective_s, max_batch, caution)
    return concurrency * rows / rung.seconds(rows) if rows else 0.0


def replicas_for(load_per_s: float, one_per_s: float, utilisation: float, bounds: Bounds) -> int:
    """As many as carry the load with so much of their time, within the bounds."""
    if one_per_s <= 0:
        return bounds.max_replicas
    wanted = math.ceil(load_per_s / (one_per_s * utilisation) - 1e-9)
    return min(max(wanted, bounds.min_replicas), bounds.max_replicas)


def allowed(rungs: Sequence[RungSeen], bounds: Bounds) -> tuple[RungSeen, ...]:
    """Those that the experiment allows and that reach its floor, most accurate first."""
    named = [rung for rung in rungs if bounds.rungs is None or rung.variant in bounds.rungs]
    return tuple(rung for rung in named if rung.accuracy >= bounds.floor)


def power_below(number: float) -> int:
    """The largest power of two that is not larger; 1 at least."""
    return 1 << max(int(number).bit_length() - 1, 0)
