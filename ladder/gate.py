"""Whether a new version may answer anybody: its figures against those of the stable version, one check after another.

A loss counts only where it is larger than what is allowed and than what chance explains; the two versions answered the
same rows, so it is judged by the rows on which they differ. Pure: what is measured, and how, is in `jobs.gate`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cluster.config import Gate

CHANCE = 0.02  # that a version which loses exactly what it may is refused, for each check that chance plays a part in
MAYBE = ", which may be chance"


@dataclass(frozen=True)
class Check:
    """`value` and `bound` are None where there was nothing to measure."""

    name: str
    value: float | None
    bound: float | None
    passed: bool
    words: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Pair:
    """How right two versions were on the same rows: float64 [n] from 0 to 1 each."""

    stable: np.ndarray
    candidate: np.ndarray

    def __len__(self) -> int:
        return len(self.stable)

    @property
    def loss(self) -> float:
        """What the candidate is less right, on average; below 0 where it is better."""
        return float((self.stable - self.candidate).mean()) if len(self) else 0.0

    def only(self, rows: np.ndarray) -> Pair:
        return Pair(self.stable[rows], self.candidate[rows])


@dataclass(frozen=True)
class Figures:
    """All that was measured of the two versions."""

    test: Pair
    recent: Pair  # on labels of feedback that nothing was learnt from
    classes: dict[str, np.ndarray] = field(default_factory=dict)  # rows of the test split by label, int64 [m]
    calibration: tuple[float, float] | None = None  # expected calibration errors, the stable version's first
    seconds: Mapping[tuple[str, int], tuple[float, float]] = field(default_factory=dict)  # by rung and rows, likewise
    num_bytes: tuple[int, int] = (0, 0)  # of what a replica loads, likewise
    differences: Sequence[str] = ()  # in what answers look like
    num_nonfinite: int = 0  # rows with an answer that is not finite
    floor: float | None = None  # serve.objective.accuracy_at_least
    rungs: Mapping[str, float] = field(default_factory=dict)  # that may serve: accuracy on the validation split


def judge(figures: Figures, rules: Gate) -> list[Check]:
    """Every check, in a fixed order; the version may go on when all have passed."""
    checks = [_schema(figures), _finite(figures), _test(figures, rules), _recent(figures, rules)]
    checks += [_floor(figures.floor, figures), _rungs(figures.floor, figures)] if figures.floor is not None else []
    checks += [_classes(figures, rules)] if figures.classes else []
    checks += [_calibration(figures.calibration, rules)] if figures.calibration is not None else []
    return [*checks, _latency(figures, rules), _size(figures, rules)]


def opening(reason: str) -> Check:
    """The first check, by itself: a version that does not open shows nothing else. `reason` is empty if it did."""
    words = f"a replica cannot open it: {reason}" if reason else "opens as in a replica"
    return Check("opening", None, None, not reason, words)


def reasons(checks: Sequence[Check]) -> str:
    """Why a version is refused, in a sentence; empty when it is not."""
    return "; ".join(check.words for check in checks if not check.passed)


def chance(pair: Pair, allowed: float) -> float:
    """Chance of a loss as large as this one, where the candidate truly loses `allowed`.

    No loss at all: the exact test of McNemar (Psychometrika, 1947), of the rows that only one of the two got right.
    Some: the score test for paired shares of T. Tango (Statistics in Medicine 17, 1998), which in simulation refuses 0
    to 3 % at CHANCE = 2 % whatever the share of such rows. Where rows are right in parts: a paired t-test.
    """
    from scipy.stats import binom, norm, ttest_1samp

    difference = pair.stable - pair.candidate
    lost, won = int((difference > 0).sum()), int((difference < 0).sum())
    if lost + won == 0:
        return 1.0
    if np.isin(difference, (-1.0, 0.0, 1.0)).all():
        if allowed == 0.0:
            return float(binom.sf(lost - 1, lost + won, 0.5))
        return float(norm.sf(_score(lost, won, len(pair), allowed)))
    if len(pair) < 2 or np.ptp(difference) == 0.0:
        return 1.0 if pair.loss <= allowed else 0.0
    return float(ttest_1samp(difference, allowed, alternative="greater").pvalue)


def _score(lost: int, won: int, num: int, allowed: float) -> float:
    """Tango's statistic: the loss beyond `allowed`, in its deviations, where that is what is truly lost."""
    b = (2 * num - lost + won) * allowed - lost - won
    share = (math.sqrt(b * b + 8 * num * won * allowed * (1 - allowed)) - b) / (4 * num)  # of rows won, likeliest
    return (lost - won - num * allowed) / math.sqrt(num * (2 * share + allowed * (1 - allowed)))


def _loses(pair: Pair, allowed: float, level: float = CHANCE) -> bool:
    return pair.loss > allowed and chance(pair, allowed) < level


def _schema(figures: Figures) -> Check:
    num = len(figures.differences)
    words = f"answers in another form: {', '.join(figures.differences)}" if num else "answers in the same form"
    return Check("schema", num, 0, not num, words)


def _finite(figures: Figures) -> Check:
    num = figures.num_nonfinite
    words = f"{num:,} answers are not finite" if num else "all answers are finite"
    return Check("finite", num, 0, not num, words)


def _test(figures: Figures, rules: Gate) -> Check:
    return _accuracy("accuracy", "of the test split", figures.test, rules.max_accuracy_loss)


def _recent(figures: Figures, rules: Gate) -> Check:
    num = len(figures.recent)
    if num < rules.least_recent:
        words = f"{num:,} labels of feedback held out, fewer than {rules.least_recent:,}: not judged by them"
        return Check("recent", None, rules.max_recent_loss, True, words)
    return _accuracy("recent", "of the labels of feedback held out", figures.recent, rules.max_recent_loss)


def _accuracy(name: str, rows: str, pair: Pair, allowed: float) -> Check:
    passed = not _loses(pair, allowed)
    by_chance = MAYBE if passed and pair.loss > allowed else ""
    before, now = (float(part.mean()) if len(pair) else 0.0 for part in (pair.stable, pair.candidate))
    words = f"{now:.4f} right {rows} ({len(pair):,} rows), the stable version {before:.4f}"
    return Check(name, pair.loss, allowed, passed, words + by_chance if passed else f"only {words}")


def _floor(floor: float, figures: Figures) -> Check:
    accuracy = float(figures.test.candidate.mean())
    passed = accuracy >= floor
    words = f"{accuracy:.4f} right of the test split, serve.objective.accuracy_at_least is {floor:g}"
    return Check("floor", accuracy, floor, passed, words if passed else f"only {words}")


def _rungs(floor: float, figures: Figures) -> Check:
    """A replica chooses among rungs by their accuracy on the validation split, and refuses a version of none."""
    best = max(figures.rungs, key=lambda variant: figures.rungs[variant])
    accuracy = figures.rungs[best]
    passed = accuracy >= floor
    words = f"{best}, the best rung, has {accuracy:.4f} right of the validation split"
    more = "" if passed else f", and serve.objective.accuracy_at_least is {floor:g}: no rung would serve"
    return Check("rungs", accuracy, floor, passed, words + more)


def _classes(figures: Figures, rules: Gate) -> Check:
    """The label that loses most; of many labels one loses much by chance, so each has its part of the chance."""
    pairs = {label: figures.test.only(rows) for label, rows in figures.classes.items()}
    level = CHANCE / len(pairs)
    lost = [label for label, pair in pairs.items() if _loses(pair, rules.max_class_loss, level)]
    worst = max(lost or pairs, key=lambda label: pairs[label].loss)
    loss = pairs[worst].loss
    words = f"label {worst} is found {loss:.4f} less often" if loss > 0 else "every label is found as often"
    more = f", and {len(lost) - 1} other labels too" if len(lost) > 1 else ""
    more = MAYBE if not lost and loss > rules.max_class_loss else more
    return Check("classes", loss, rules.max_class_loss, not lost, words + more)


def _calibration(errors: tuple[float, float], rules: Gate) -> Check:
    before, now = errors
    passed = now - before <= rules.max_calibration_loss
    words = f"calibration error {now:.4f}, the stable version's {before:.4f}"
    return Check("calibration", now - before, rules.max_calibration_loss, passed, words)


def _latency(figures: Figures, rules: Gate) -> Check:
    if not figures.seconds:
        return Check("latency", None, rules.max_slowdown, True, "no rung to be timed against")
    times = {key: now / max(before, 1e-9) for key, (before, now) in figures.seconds.items()}
    (variant, rows), worst = max(times.items(), key=lambda item: item[1])
    now = figures.seconds[variant, rows][1]
    what = f"{rows} row{'s' if rows > 1 else ''}"
    words = f"{variant} computes {what} in {1000 * now:.3g} ms, {worst:.2f} times the stable version's time"
    return Check("latency", worst, rules.max_slowdown, worst <= rules.max_slowdown, words)


def _size(figures: Figures, rules: Gate) -> Check:
    before, now = figures.num_bytes
    growth = now / max(before, 1)
    words = f"{now / 2**20:.1f} MiB, {growth:.2f} times the stable version's size"
    return Check("size", growth, rules.max_growth, growth <= rules.max_growth, words)
