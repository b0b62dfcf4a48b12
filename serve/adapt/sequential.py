"""Is the candidate worse than the stable version? Tests that may be looked at after every request and stopped at will.

Each is a bet against "no worse": money that cannot be expected to grow while the candidate is no worse, so that the
chance that it ever grows to 1/a times as much is a at most (Ville 1939), however often somebody looks. Several bets
share the money and a little of it is dealt out anew at each look, so that a candidate that turns bad late is found
as well as one that was so from the start (Herbster & Warmuth 1998). Pure; knows neither requests nor rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from serve.adapt.plain import Plain

EXCESS = (0.02, 0.06, 0.2, 0.5, 0.9)  # by how much more often, beyond the tolerance, each bet has the candidate fail
SHARED = 0.001  # of the money, dealt out anew at each look at which it moved
PRIOR = (0.1, 5.0)  # failures and trials that count for the stable version before there are any
MEMORY = 1000.0  # trials of the stable version over which its rate is known: it may change with the load
RATES = (1e-4, 0.95)  # within which the stable version's is taken to be: a bet on never or always is lost for good
SLOW_CHANCE = 0.25  # of a look at which a candidate that is no slower seems to be slow
SLOW_BETS = (0.6, 0.95)


class Tally(NamedTuple):
    """What came since the last look: trials and failures of each version."""

    stable: int = 0
    stable_bad: int = 0
    candidate: int = 0
    candidate_bad: int = 0

    def plus(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(self, other, strict=True)))


NOTHING = Tally()


@dataclass(frozen=True, slots=True)
class Duel(Plain):
    """All trials of both versions so far, and the logarithms of the money on each bet; the last one is kept idle."""

    total: Tally = NOTHING
    waiting: Tally = NOTHING  # of only one version so far: nothing to compare yet
    known: tuple[float, float] = PRIOR  # of the stable version lately: failures, trials
    money: tuple[float, ...] = (-math.log(len(EXCESS) + 1),) * (len(EXCESS) + 1)

    @property
    def evidence(self) -> float:
        """Logarithm of the money: above log(1/a) no candidate that is no worse comes with a chance above a."""
        return _sum(self.money)


def faced(duel: Duel, seen: Tally, tolerance: float, most: float = math.inf) -> Duel:
    """After one more look. Null: the candidate fails at most `tolerance` more often than the stable version.

    The e-variable of two Bernoulli samples by Turner, Ly and Grünwald (2024), "Generic E-variables for exact
    sequential k-sample tests", whose null has here the boundary rate + tolerance. Both rates may change from look to
    look. Failures that come together are no independent ones, so a look counts as `most` trials of the candidate.
    """
    block = duel.waiting.plus(seen)
    total = duel.total.plus(seen)
    if not block.stable or not block.candidate:
        return replace(duel, total=total, waiting=block)
    failures, trials = duel.known
    rate, weight = min(max(failures / trials, RATES[0]), RATES[1]), min(1.0, most / block.candidate)
    gains = [weight * _gain(block, rate, min(rate + tolerance + excess, 0.98), tolerance) for excess in EXCESS]
    failures, trials = failures + block.stable_bad, trials + block.stable
    kept = min(1.0, MEMORY / trials)
    return Duel(total, Tally(), (failures * kept, trials * kept), moved(duel.money, [*gains, 0.0]))


def _gain(block: Tally, stable: float, candidate: float, tolerance: float) -> float:
    """Logarithm of how likely the block is with these two rates, against the nearest two of the null.

    With p, q the null's nearest rates the factor's mean under rates (t, t + tolerance) is a product of powers of two
    functions that are linear in t, so its logarithm is concave; at t = p it is 0, and so is its slope: that is what
    makes p the nearest. So the mean is nowhere above 1, and for a candidate that fails less often it is smaller.
    """
    if candidate - tolerance <= stable:
        return 0.0
    low = _nearest(block.stable, stable, block.candidate, candidate, tolerance)
    high = low + tolerance
    return (
        block.stable_bad * math.log(stable / low)
        + (block.stable - block.stable_bad) * math.log((1 - stable) / (1 - low))
        + block.candidate_bad * math.log(candidate / high)
        + (block.candidate - block.candidate_bad) * math.log((1 - candidate) / (1 - high))
    )


def _nearest(n: int, stable: float, m: int, candidate: float, tolerance: float) -> float:
    """The stable version's rate of the null that is nearest by relative entropy; 0 < stable < candidate - tolerance."""
    if not tolerance:
        return (n * stable + m * candidate) / (n + m)
    least, most = stable, candidate - tolerance
    for _ in range(50):
        low = (least + most) / 2
        high = low + tolerance
        slope = n * (stable - low) / (low * (1 - low)) + m * (candidate - high) / (high * (1 - high))
        least, most = (low, most) if slope > 0 else (least, low)
    return (least + most) / 2


@dataclass(frozen=True, slots=True)
class Pace(Plain):
    """Looks at which the candidate's passes were timed beside the stable version's."""

    looks: int = 0
    slow: int = 0
    money: tuple[float, ...] = (-math.log(len(SLOW_BETS) + 1),) * (len(SLOW_BETS) + 1)

    @property
    def evidence(self) -> float:
        return _sum(self.money)


def paced(pace: Pace, *, is_slow: bool) -> Pace:
    """Null: a look seems slow with a chance of `SLOW_CHANCE` at most, whatever came before."""
    gains = [math.log(p / SLOW_CHANCE if is_slow else (1 - p) / (1 - SLOW_CHANCE)) for p in SLOW_BETS]
    return Pace(pace.looks + 1, pace.slow + is_slow, moved(pace.money, [*gains, 0.0]))


def moved(money: Sequence[float], gains: Sequence[float]) -> tuple[float, ...]:
    """Logarithms of the money after each bet's gain (a logarithm too), and after `SHARED` of all was dealt out."""
    if not any(gains):
        return tuple(money)
    after = [held + gain for held, gain in zip(money, gains, strict=True)]
    dealt = math.log(SHARED / len(after)) + _sum(after)
    return tuple(_sum((math.log1p(-SHARED) + held, dealt)) for held in after)


def _sum(logs: Sequence[float]) -> float:
    most = max(logs)
    return most + math.log(sum(math.exp(value - most) for value in logs))
