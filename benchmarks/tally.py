"""What the records of a load say: answered in time, effective accuracy, refusals, how soon a step was mastered.

Pure. Knows records and numbers, no server.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.openloop import FAILED, Records

REFUSALS = (408, 429, 503, 504)
WINDOW_S, STAYS_S = 0.25, 2.0  # in which a step's p99 is looked at
CLOSE = 0.002  # rungs whose accuracies differ by less are one in the eyes of a client


@dataclass(frozen=True)
class Cost:
    """One rung as the machine runs it: the share of right answers and the seconds of a row, in full batches."""

    variant: str
    accuracy: float
    row_s: float


@dataclass(frozen=True)
class Tally:
    """Shares are of all requests. `effective` counts an answer that was late or refused as wrong."""

    requests: int
    in_time: float
    late: float  # answered after the objective, or given up on
    refused: float
    failed: float  # another status: an error of the server
    effective: float
    accuracy: float  # of the answers alone
    mix: dict[str, float]  # share of the answers by rung
    p50_ms: float
    p99_ms: float  # of what was answered
    client_late_ms: float  # p99 of the load generator's own lateness
    client_cpu: float

    @property
    def violations(self) -> float:
        return 1.0 - self.in_time


def tally(records: Records, objective_s: float) -> Tally:
    """Raises ValueError when there was no request."""
    total = len(records.intended)
    if total == 0:
        raise ValueError("no requests were sent")
    answered = records.status == 200
    in_time = answered & (records.latency_s <= objective_s)
    refused = np.isin(records.status, REFUSALS)
    failed = ~answered & ~refused & (records.status != FAILED)
    latencies_ms = records.latency_s[answered] * 1000 if answered.any() else np.array([np.inf])
    p50_ms, p99_ms = np.quantile(latencies_ms, (0.5, 0.99), method="nearest")
    said = records.variant[answered & (records.variant >= 0)]
    counts = np.bincount(said, minlength=len(records.variants))
    return Tally(
        requests=total,
        in_time=float(in_time.mean()),
        late=float((~in_time & ~refused & ~failed).mean()),
        refused=float(refused.mean()),
        failed=float(failed.mean()),
        effective=float(records.correct[in_time].sum() / (total * records.rows)),
        accuracy=float(records.correct[answered].mean() / records.rows) if answered.any() else 0.0,
        mix={name: float(n / max(1, len(said))) for name, n in zip(records.variants, counts, strict=True)},
        p50_ms=float(p50_ms),
        p99_ms=float(p99_ms),
        client_late_ms=records.lateness_s() * 1000,
        client_cpu=records.cpu_share,
    )


def fluid_bound(arrivals_s: np.ndarray, rows: int, costs: Sequence[Cost], most_per_s: float = np.inf) -> float:
    """Effective accuracy of the best mix of rungs that clears each second's arrivals; no system can be above it.

    `most_per_s` are requests that the machine takes in at all. The best mix lies on the upper hull of (seconds of a
    row, accuracy), which begins at (0, 0): a row that is refused costs nothing and is wrong.
    """
    counts = np.bincount(arrivals_s.astype(np.int64)) if len(arrivals_s) else np.zeros(1, np.int64)
    seconds, accuracies = hull(costs)
    wanted = counts[counts > 0]
    if not len(wanted):
        return max(accuracies)
    taken = np.minimum(wanted, most_per_s)
    effective = np.interp(1.0 / (taken * rows), seconds, accuracies)
    return float((effective * taken).sum() / wanted.sum())


def hull(costs: Sequence[Cost]) -> tuple[list[float], list[float]]:
    """Seconds of a row and accuracies along the upper hull, ascending, from (0, 0)."""
    points = [(0.0, 0.0)]
    for cost in sorted(costs, key=lambda each: (each.row_s, -each.accuracy)):
        if cost.accuracy <= points[-1][1]:
            continue
        while len(points) > 1 and _slope(points[-2], points[-1]) <= _slope(points[-1], (cost.row_s, cost.accuracy)):
            points.pop()
        points.append((cost.row_s, cost.accuracy))
    return [x for x, _ in points], [y for _, y in points]


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / max(other[0] - one[0], 1e-12)


def best_rung(costs: Sequence[Cost]) -> Cost:
    """What loads are multiples of: the cheapest of those no client could tell from the most accurate one."""
    top = max(cost.accuracy for cost in costs)
    return min((cost for cost in costs if cost.accuracy >= top - CLOSE), key=lambda cost: cost.row_s)


def gap_closed(ours: float, static: float, bound: float) -> float | None:
    """The share of the way from the best static configuration to the bound; None where there is no way to go."""
    return (ours - static) / (bound - static) if bound - static > CLOSE / 2 else None


def recovery_s(records: Records, step_s: float, end_s: float, objective_s: float) -> float:
    """Seconds from a step in the load until p99 is back inside the objective for STAYS_S at least.

    Requests count at the time they were meant to be sent; one without an answer in time, refused or not, is outside.
    Seen in steps of WINDOW_S; `end_s` - `step_s` when it never comes back.
    """
    inside = (records.intended >= step_s) & (records.intended < end_s)
    windows = ((records.intended[inside] - step_s) / WINDOW_S).astype(np.int64)
    is_late = (records.status[inside] != 200) | (records.latency_s[inside] > objective_s)
    num = math.ceil((end_s - step_s) / WINDOW_S)
    totals, lates = np.bincount(windows, minlength=num), np.bincount(windows, weights=is_late, minlength=num)
    stays = round(STAYS_S / WINDOW_S)
    for first in range(num - stays + 1):
        if lates[first : first + stays].sum() <= 0.01 * totals[first : first + stays].sum():
            return first * WINDOW_S
    return end_s - step_s


def scaling_s(counts: Sequence[tuple[float, int]], asked_s: float, wanted: int) -> float | None:
    """Seconds from asking for `wanted` replicas until so many are seen in (time, count); None if never."""
    return next((at - asked_s for at, count in counts if at >= asked_s and count == wanted), None)


def replica_seconds(counts: Sequence[tuple[float, int]], end_s: float) -> float:
    """Area under (time, count)."""
    ends = [*(at for at, _ in counts[1:]), end_s]
    return float(sum(count * max(0.0, end - at) for (at, count), end in zip(counts, ends, strict=True)))
