"""Whether a version is wrong more often than it was, by the labels of its answers: ADWIN over their errors.

Labels come late and in any order, and what is believed of an answer may change. So the newest labelled answers are gone
through anew, in the order in which they were answered, from where the last change was on: each counts once, however
often one looks and whoever goes on after a death. ADWIN says that there is a change, its likelihood where (D. Hinkley,
*Inference about the Change-Point in a Sequence of Random Variables*, 1970). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from serve.adapt.plain import Plain
from serve.adapt.streams import Stream

DELTA = 0.01
MOST, KEPT = 4000, 2000  # labelled answers that are gone through: at most, and after the oldest are let go


@dataclass(frozen=True)
class Errors:
    """Of n labelled answers in the order of their times: unix nanoseconds int64 [n], how wrong they were float64 [n]
    from 0 to 1, and how much more the rung that answered errs than the most accurate one, float64 [n].
    """

    at_ns: np.ndarray
    wrong: np.ndarray
    losses: np.ndarray

    def since(self, at_ns: int) -> Errors:
        return self.after(int(np.searchsorted(self.at_ns, at_ns)))

    def after(self, num: int) -> Errors:
        return Errors(self.at_ns[num:], self.wrong[num:], self.losses[num:])

    def levelled(self) -> np.ndarray:
        """The errors as if one rung had given all answers, in [0, 1]: another mix of rungs is no change."""
        most = float(self.losses.max(initial=0.0))
        return np.asarray((self.wrong - self.losses + most) / (1.0 + most))


@dataclass(frozen=True)
class Change(Plain):
    """Of the share of wrong answers at `since`, the time of the first answer after it; found at `at` (unix seconds)."""

    at: float
    since: float
    before: float
    num_before: int
    after: float
    num_after: int
    is_rise: bool

    def __str__(self) -> str:
        moment = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return (
            f"{100 * self.before:.3g} % of {self.num_before} labelled answers were wrong until {moment}, "
            f"{100 * self.after:.3g} % of {self.num_after} from then on, found by ADWIN"
        )


@dataclass(frozen=True)
class Watch(Plain):
    """From one look to the next; its JSON is kept. Answers before `since_ns` do not count any more."""

    bundle: str = ""
    version: int = 0
    since_ns: int = 0
    rise: Change | None = None  # that has not been followed by a fall


def follow(watch: Watch, errors: Errors, now: float) -> tuple[Watch, tuple[Change, ...]]:
    """The changes that were not known before, the oldest first, and what to remember; `now` in unix seconds."""
    found: list[Change] = []
    errors = errors.since(watch.since_ns)
    if len(errors.at_ns) > MOST:
        errors = errors.after(len(errors.at_ns) - KEPT)
        watch = replace(watch, since_ns=int(errors.at_ns[0]))
    while (num := _alarmed(errors)) is not None:
        values = errors.levelled()[:num]
        first = _likeliest(values)
        before, after = errors.wrong[:first], errors.wrong[first:num]
        since_ns, is_rise = int(errors.at_ns[first]), bool(values[first:].mean() > values[:first].mean())
        means = round(float(before.mean()), 4), round(float(after.mean()), 4)
        change = Change(now, since_ns / 1e9, means[0], len(before), means[1], len(after), is_rise)
        found.append(change)
        watch = replace(watch, since_ns=since_ns, rise=change if is_rise else None)
        errors = errors.after(first)
    return watch, tuple(found)


def _alarmed(errors: Errors) -> int | None:
    """How many answers ADWIN had seen when it found a change; None where it finds none."""
    stream = Stream(DELTA, every=1)
    for i, value in enumerate(errors.levelled().tolist()):
        if stream.feed((value,)) is not None:
            return i + 1
    return None


def _likeliest(values: np.ndarray) -> int:
    """Before which of n values in [0, 1] their mean changed, 1 to n - 1: where two means explain them best."""
    num = np.arange(1, len(values))
    sums = np.cumsum(values)
    left, right = sums[:-1] / num, (sums[-1] - sums[:-1]) / (len(values) - num)
    return 1 + int(np.argmin(num * _entropy(left) + (len(values) - num) * _entropy(right)))


def _entropy(mean: np.ndarray) -> np.ndarray:
    """Of a coin with this mean, in nats: the price of a value."""
    from scipy import special

    return np.asarray(special.entr(mean) + special.entr(1.0 - mean))
