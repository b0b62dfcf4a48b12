"""How unlikely a window is, by the topic's own past: the statistics behind the rules, as functions of counts.

Pure. Knows neither times nor alerts. Windows are tested again and again, so no test is at 5 %: `surprising` spends a
chance of false alarms per window, half of it on one window alone and half on two in a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

LEAST_EXPECTED = 5.0  # of a label in a window; rarer ones count together


def surprising(p: float, before: float | None, false_alarms: float) -> bool:
    """Whether a window with `p`, after one with `before`, is an alarm: wrong in `false_alarms` of all windows at most.

    Bonferroni's correction over the two ways to be one; windows of a stationary stream are independent.
    """
    in_a_row = pair_level(false_alarms)
    return p < false_alarms / 2 or (before is not None and before < in_a_row and p < in_a_row)


def pair_level(false_alarms: float) -> float:
    """What two windows in a row must each be below, so that both are by chance in half of `false_alarms`."""
    return math.sqrt(false_alarms / 2)


def correlation(counts: Sequence[tuple[int, int]]) -> float:
    """Of two events of one window, from (negatives, events) of many; 0 where windows differ by chance alone.

    By the method of moments (J. Kleinman, *Proportions with Extraneous Variance*, 1973): how much more the windows'
    shares spread than a binomial's would.
    """
    used = [(k, n) for k, n in counts if n > 1]
    total, negatives = sum(n for _, n in used), sum(k for k, _ in used)
    if len(used) < 2 or not 0 < negatives < total:
        return 0.0
    mean = negatives / total
    spread = sum((k - n * mean) ** 2 / (n * mean * (1 - mean)) for k, n in used) / (len(used) - 1)
    size = total / len(used)
    return min(0.99, max(0.0, (spread - 1) / (size - 1)))


def surge(negatives: int, events: int, past: Sequence[tuple[int, int]]) -> float:
    """The chance of so many negatives or more in a window of `events`, from (negatives, events) of windows before.

    The beta-binomial predictive of a share under Jeffreys' prior (A. Gelman et al., *Bayesian Data Analysis*, 3rd
    edition, section 2.4), wider by as much as windows differ among themselves (`correlation`).
    """
    from scipy import stats

    k, n = sum(k for k, _ in past), sum(n for _, n in past)
    mean = (k + 0.5) / (n + 1)
    strength = max(1e-3, 1 / (1 / (n + 2) + correlation(past)) - 1)
    return float(stats.betabinom.sf(negatives - 1, events, mean * strength, (1 - mean) * strength))


def labels(window: Mapping[str, int], past: Sequence[Mapping[str, int]]) -> float:
    """The chance of labels so different from those of the windows before, by a chi-square test.

    The statistic is divided by how much more than by chance the earlier windows differ (J. Rao, A. Scott, *The
    Analysis of Categorical Data from Complex Sample Surveys*, 1981).
    """
    from scipy import stats

    pooled: dict[str, int] = {}
    for counts in past:
        for label, count in counts.items():
            pooled[label] = pooled.get(label, 0) + count
    statistic, free = _chi_square(window, pooled)
    if not free:
        return 1.0
    each = [_chi_square(counts, pooled) for counts in past]
    usual = [found / df for found, df in each if df]
    return float(stats.chi2.sf(statistic / max(1.0, sum(usual) / max(1, len(usual))), free))


def _chi_square(window: Mapping[str, int], pooled: Mapping[str, int]) -> tuple[float, int]:
    """Statistic and degrees of freedom of a window's labels against the pooled ones, rare labels as one."""
    n, names = sum(window.values()), sorted({*window, *pooled})
    total = sum(pooled.values()) + 0.5 * len(names)
    if not n or not pooled:
        return 0.0, 0
    cells: list[tuple[float, float]] = []
    rare_observed = rare_expected = 0.0
    for name in names:
        expected, observed = n * (pooled.get(name, 0) + 0.5) / total, window.get(name, 0)
        if expected < LEAST_EXPECTED:
            rare_observed, rare_expected = rare_observed + observed, rare_expected + expected
        else:
            cells.append((observed, expected))
    if rare_expected:
        cells.append((rare_observed, rare_expected))
    spread = 1 + n / total  # the past is a sample too
    return sum((seen - expected) ** 2 / (expected * spread) for seen, expected in cells), len(cells) - 1


def longest_gap(num: int, total_s: float, chance: float) -> float:
    """Seconds that a gap exceeds with `chance`, after `num` gaps of `total_s` together.

    The predictive of exponential gaps whose rate has a gamma posterior, a Lomax distribution: wide while gaps are few.
    """
    return total_s * (math.pow(chance, -1 / num) - 1)


def trend(points: Sequence[tuple[float, int, int]]) -> tuple[float, float] | None:
    """Slope of the share of negatives per second and its standard error, from (time, negatives, events) of windows.

    Least squares, weighted by the windows' events. None with fewer than three windows or no spread of times.
    """
    weight = sum(n for _, _, n in points)
    if len(points) < 3 or not weight:
        return None
    middle, share = sum(t * n for t, _, n in points) / weight, sum(k for _, k, _ in points) / weight
    along = sum(n * (t - middle) ** 2 for t, _, n in points)
    if along <= 0:
        return None
    slope = sum((t - middle) * (k - n * share) for t, k, n in points) / along
    return slope, math.sqrt(max(share * (1 - share), 0.25 / weight) / along)
