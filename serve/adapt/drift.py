"""Whether what an endpoint answers still looks like what its model was tested on: windows of answers, tested.

Several tests, because none of them sees everything: Kolmogorov-Smirnov on each output with Bonferroni's correction (S.
Rabanser, S. Günnemann, Z. Lipton, *Failing Loudly*, 2019), chi-square on the predicted classes for a shift of labels
alone, and the maximum mean discrepancy on the outputs, and on what the network makes of the inputs before its last
layer, with a threshold from the reference itself (A. Gretton et al., *A Kernel Two-Sample Test*, 2012). One window
proves little when there are many: only two in a row that the same test finds are drift. Drift that costs no accuracy
exists, so an alarm orders a look, never a training. Pure.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ladder.reference import Answers, answers

WINDOW = 100  # answers
ALPHA = 0.001  # of each test on one window
LEAST_EXPECTED = 5.0  # of a class in a window; rarer ones count together
CALIBRATION_WINDOWS = 2000
MOST_REFERENCE = 2000  # rows that a window is compared with
_SEED = 0


@dataclass(frozen=True)
class Finding:
    """What one test says about one window; `p` is the chance of so much in a window without drift."""

    test: str
    p: float
    statistic: float

    @property
    def alarms(self) -> bool:
        return self.p < ALPHA


@dataclass(frozen=True)
class Verdict:
    """Of one window: its findings, and the tests that found drift in this window and in the one before."""

    findings: tuple[Finding, ...]
    drift: tuple[str, ...]

    @property
    def severity(self) -> float:
        """How many powers of ten the surest finding is under its alarm; 0 without one."""
        least = min(max(finding.p, 1e-300) for finding in self.findings)
        return max(0.0, float(np.log10(ALPHA / least)))


class Reference:
    """Each rung's answers on held-out rows: never on training rows, of which a model is too sure."""

    def __init__(
        self, known: Mapping[str, Answers], *, has_classes: bool = True, embeddings: np.ndarray | None = None
    ) -> None:
        """`embeddings` float32 [m, e] are of held-out inputs."""
        self._known, self.has_classes = dict(known), has_classes
        self._inputs = None if embeddings is None else _Discrepancy(embeddings, "inputs")
        self._calibrated: dict[str, _Discrepancy] = {}

    def judge(self, outputs: np.ndarray, variants: Sequence[str]) -> tuple[Finding, ...]:
        """One window: outputs float32 [n, width] and the rung of each row; rows of an unknown rung are left out."""
        names = np.array(variants)
        parts = {name: answers(outputs[names == name]) for name in self._known if (names == name).any()}
        if not parts:
            return ()
        window = np.concatenate([part.columns for part in parts.values()])
        shares = {name: len(part) / len(window) for name, part in parts.items()}
        pool = np.concatenate([self._some(self._known[name].columns, share) for name, share in shares.items()])
        findings = [_columns(window, pool)]
        if self.has_classes:
            classes = np.concatenate([part.classes for part in parts.values()])
            findings.append(_classes(classes, [(self._known[name].classes, share) for name, share in shares.items()]))
        main = max(shares, key=shares.__getitem__)
        findings.append(self._discrepancy(main).judge(parts[main].columns))
        return tuple(findings)

    def judge_inputs(self, embeddings: np.ndarray) -> tuple[Finding, ...]:
        """One window of inputs, as embeddings float32 [n, e]."""
        return () if self._inputs is None else (self._inputs.judge(embeddings),)

    def _some(self, rows: np.ndarray, share: float) -> np.ndarray:
        """As many of a rung's rows as it has in the window, so that a mix is compared with the same mix."""
        most = min(len(rows), MOST_REFERENCE)
        return rows[: max(1, round(share * most))]

    def _discrepancy(self, variant: str) -> _Discrepancy:
        if variant not in self._calibrated:
            self._calibrated[variant] = _Discrepancy(self._known[variant].columns, "outputs")
        return self._calibrated[variant]


def follow(before: Verdict | None, findings: tuple[Finding, ...]) -> Verdict:
    """The verdict on a window after the one `before`."""
    now = {finding.test for finding in findings if finding.alarms}
    then = {finding.test for finding in before.findings if finding.alarms} if before else set()
    return Verdict(findings, tuple(sorted(now & then)))


def columns(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, list[str]]:
    """Outputs float32 [n, width] and rungs of rows of the sample (`cluster.served`)."""
    return np.array([row["outputs"] for row in rows], np.float32), [row["variant"] for row in rows]


def _columns(window: np.ndarray, pool: np.ndarray) -> Finding:
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ties, where the asymptotic form errs towards no alarm
        found = stats.ks_2samp(window, pool, axis=0, method="asymp")
    least = int(np.argmin(found.pvalue))
    p = min(1.0, float(found.pvalue[least]) * window.shape[1])
    return Finding("outputs, Kolmogorov-Smirnov", p, float(found.statistic[least]))


def _classes(window: np.ndarray, parts: Sequence[tuple[np.ndarray, float]]) -> Finding:
    from scipy import stats

    name, num = "predicted classes, chi-square", 1 + max(int(window.max()), *(int(rows.max()) for rows, _ in parts))
    expected = sum(share * (np.bincount(rows, minlength=num) + 0.5) / (len(rows) + 0.5 * num) for rows, share in parts)
    expected = np.asarray(expected) * len(window)
    observed = np.bincount(window, minlength=num).astype(float)
    rare = expected < LEAST_EXPECTED
    if rare.any():
        expected = np.append(expected[~rare], expected[rare].sum())
        observed = np.append(observed[~rare], observed[rare].sum())
    if len(expected) < 2:
        return Finding(name, 1.0, 0.0)
    # The reference is a sample too: its own spread is in the difference.
    spread = 1.0 + len(window) / sum(len(rows) for rows, _ in parts)
    statistic = float(((observed - expected) ** 2 / (expected * spread)).sum())
    return Finding(name, float(stats.chi2.sf(statistic, len(expected) - 1)), statistic)


class _Discrepancy:
    """The maximum mean discrepancy of a window to one half of a reference, judged by windows of the other half."""

    def __init__(self, reference: np.ndarray, of: str) -> None:
        self._name = f"{of}, maximum mean discrepancy"
        order = np.random.default_rng(_SEED).permutation(len(reference))
        half = min(len(reference) // 2, MOST_REFERENCE // 2)
        rows = reference.astype(np.float64)[order]
        self._pool, self._other = rows[:half], rows[half:]
        self._levels: dict[int, np.ndarray] = {}

    @cached_property
    def _width(self) -> float:
        """Of the Gaussian kernel: the median distance in the reference (Gretton et al.)."""
        some = self._pool[:500]
        distances = _distances(some, some)
        median = float(np.median(distances[np.triu_indices(len(some), 1)])) if len(some) > 1 else 1.0
        return median if median > 0 else 1.0

    def judge(self, window: np.ndarray) -> Finding:
        name = self._name
        if len(self._other) < 2 * len(window) or len(window) < 2:
            return Finding(name, 1.0, 0.0)  # too few held-out rows to know what is usual
        if len(window) not in self._levels:
            self._levels[len(window)] = self._usual(len(window))
        levels, statistic = self._levels[len(window)], self._statistic(window)
        above = int((levels >= statistic).sum())
        if above:
            return Finding(name, (above + 1) / (len(levels) + 1), statistic)
        # Beyond all that was drawn: the tail of what is usual, which falls about exponentially.
        high = np.quantile(levels, [0.9, 0.99])
        rate = float(np.log(10) / max(high[1] - high[0], 1e-12))
        return Finding(name, float(min(1 / len(levels), 0.01 * np.exp(-rate * (statistic - high[1])))), statistic)

    def _usual(self, n: int) -> np.ndarray:
        """The statistic of windows of n rows of the half that is not the pool, drawn with replacement."""
        generator = np.random.default_rng(_SEED)
        kernel_pool = self._kernel(self._other, self._pool).mean(axis=1)
        kernel_own = self._kernel(self._other, self._other)
        drawn = generator.integers(0, len(self._other), (CALIBRATION_WINDOWS, n))
        own = np.array([_off_diagonal(kernel_own[np.ix_(rows, rows)]) for rows in drawn])
        return np.asarray(own - 2 * kernel_pool[drawn].mean(axis=1))

    def _statistic(self, window: np.ndarray) -> float:
        """The squared discrepancy, but for the pool's own part, which is the same for all windows."""
        own = _off_diagonal(self._kernel(window, window))
        return own - 2 * float(self._kernel(window, self._pool).mean())

    def _kernel(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(-_distances(one, other) / self._width))


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squared, [len(one), len(other)]."""
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None, :] - 2 * one @ other.T
    return np.asarray(np.maximum(squares, 0.0))


def _off_diagonal(kernel: np.ndarray) -> float:
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))
