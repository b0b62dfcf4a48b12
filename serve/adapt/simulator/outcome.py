"""What came of a simulation: who was answered in time, how well, at what cost, and whether the control oscillated.

Counts are the client's: an answer after its deadline, a refusal and a lost request are all violations. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

STATIONARY = 1.3  # between highest and lowest load, as means over `_SMOOTH_S`, of a time that counts as stationary
_SMOOTH_S = 10


@dataclass(frozen=True, slots=True)
class Action:
    """One field that was changed: to more (+1) or less (-1) of it; `at` in virtual seconds."""

    at: float
    rule: str
    field: str
    before: Any
    after: Any
    direction: int
    protective: bool = False
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Cycle:
    """More reversals of one field than there may be, in a time of stationary load."""

    field: str
    since: float
    until: float
    num_reversals: int


class Tally:
    """Counts as the simulation goes, per virtual second of arrival."""

    def __init__(self, num_seconds: int) -> None:
        self.arrived = np.zeros(num_seconds)
        self.rows = np.zeros(num_seconds)
        self.in_time = np.zeros(num_seconds)
        self.right = np.zeros(num_seconds)  # in time, times the rung's accuracy
        self.replicas = np.zeros(num_seconds)  # running, summed over each second
        self.ends: Counter[str] = Counter()  # "in time", "late", "lost", or the kind of refusal
        self.rows_by_variant: Counter[str] = Counter()
        self.num_batches = 0


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Shares are of all requests. The arrays have one value per virtual second."""

    num_requests: int
    in_time: float
    late: float
    lost: float  # with a replica that died, or no replica there
    refused: dict[str, float]  # by kind
    effective_accuracy: float
    bound: float  # the fluid bound with the replicas that there were
    mix: dict[str, float]  # of the rows computed
    replica_s: float  # from the order of each until its end
    num_batches: int
    num_ticks: int
    actions: tuple[Action, ...]
    proposals_refused: dict[str, int]  # by rule
    cycles: tuple[Cycle, ...]
    seconds: float
    arrived_per_s: np.ndarray
    in_time_per_s: np.ndarray
    replicas_per_s: np.ndarray

    @property
    def violations(self) -> float:
        return 1.0 - self.in_time

    @property
    def actions_by_rule(self) -> dict[str, int]:
        """Changed fields."""
        return dict(Counter(action.rule for action in self.actions))

    @property
    def decisions_per_minute(self) -> float:
        """Changed fields per minute."""
        return 60.0 * len(self.actions) / self.seconds

    def back_inside_s(self, since_s: float, share: float = 0.99) -> float | None:
        """Seconds from `since_s` after which at least this share of every second's arrivals was in time."""
        first = int(since_s)
        ok = self.in_time_per_s[first:] >= share * self.arrived_per_s[first:]
        bad = np.flatnonzero(~ok)
        if not len(bad):
            return 0.0
        return float(bad[-1] + 1) if bad[-1] + 1 < len(ok) else None


def made(
    tally: Tally,
    bound: float,
    replica_s: float,
    num_ticks: int,
    actions: Sequence[Action],
    proposals_refused: Counter[str],
    seconds: float,
) -> Outcome:
    total = sum(tally.ends.values())
    shares = {kind: count / total for kind, count in tally.ends.items()} if total else {}
    num_rows = sum(tally.rows_by_variant.values()) or 1
    return Outcome(
        num_requests=total,
        in_time=shares.pop("in time", 0.0) if total else 1.0,
        late=shares.pop("late", 0.0),
        lost=shares.pop("lost", 0.0),
        refused=shares,
        effective_accuracy=float(tally.right.sum()) / total if total else 0.0,
        bound=bound,
        mix={name: count / num_rows for name, count in tally.rows_by_variant.items()},
        replica_s=replica_s,
        num_batches=tally.num_batches,
        num_ticks=num_ticks,
        actions=tuple(actions),
        proposals_refused=dict(proposals_refused),
        cycles=tuple(limit_cycles(actions, tally.arrived)),
        seconds=seconds,
        arrived_per_s=tally.arrived,
        in_time_per_s=tally.in_time,
        replicas_per_s=tally.replicas,
    )


def limit_cycles(actions: Sequence[Action], arrived: np.ndarray, most: int = 3, window_s: float = 120.0) -> list[Cycle]:
    """Where the same field changed its direction more than `most` times within `window_s` of stationary load.

    `arrived` is [num_seconds]. A controller that follows its load may turn as often as the load does; one that turns
    while nothing happens excites itself.
    """
    found = []
    for name in sorted({action.field for action in actions}):
        mine = [action for action in actions if action.field == name and action.direction]
        turns = [b for a, b in pairwise(mine) if a.direction != b.direction]
        first = 0
        while first + most < len(turns):
            last = first
            while last + 1 < len(turns) and turns[last + 1].at - turns[first].at <= window_s:
                last += 1
            num, since, until = last - first + 1, turns[first].at, turns[last].at
            if num > most and _is_stationary(arrived, since, until):
                found.append(Cycle(name, since, until, num))
                first = last
            first += 1
    return found


def _is_stationary(arrived: np.ndarray, since: float, until: float) -> bool:
    """The load from shortly before until shortly after."""
    part = arrived[max(int(since) - _SMOOTH_S, 0) : int(until) + 1]
    if len(part) < _SMOOTH_S:
        return True
    smooth = np.convolve(part, np.full(_SMOOTH_S, 1 / _SMOOTH_S), mode="valid")
    noise = 4 * np.sqrt(smooth.mean() / _SMOOTH_S)  # of a Poisson process' means
    return bool(smooth.max() - smooth.min() <= max((STATIONARY - 1) * smooth.min(), noise))
