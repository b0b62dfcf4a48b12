"""Which rung computes the next batch, and how many requests are in it.

The rule, for the queue in the order in which it will be served:

1. A request that no allowed rung would answer in time, even alone and at once, is refused.
2. The most accurate rung is taken that answers the earliest deadline in its batch, and at whose pace all that
   wait, and a share of those still to come, are answered in time. Where there is none, it is the fastest that
   answers the first request.
3. A rung that is not the best takes no more than it must: its batch ends where the rest can be left to the next
   better rung. So under load two neighbouring rungs share the work, which is where accuracy per second of compute
   is highest; without it a burst is over-served cheaply.
4. In 2 and 3 requests have only a share of the time that is left to them: a standing queue then waits so much of its
   deadlines, and what takes longer than predicted makes nobody late. Where no rung is so fast, it is the fastest, by
   all the time there is; and one request alone, where hardly any others come, has all of it too.

Pure: time is an argument, nothing is read or kept. Work is linear in what is refused and in twice the largest
batch; of a longer queue only its length and its last request are seen. Knows rungs by name, accuracy and time;
neither models nor rows.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import NamedTuple, Protocol

from ladder.latency import Latency

_LOOKED_AT = 2  # largest batches
_QUIET = 0.2  # of the time the best rung would be busy with what arrives
_ARRIVALS_SHARE = 0.3  # of the arrivals, by how much of the fastest rung they would take


class Waiting(Protocol):
    """A request in the queue, which is computed in one batch or not at all."""

    @property
    def num_rows(self) -> int: ...

    @property
    def deadline(self) -> float:
        """On the same clock as `now`, seconds."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One executable variant; a ladder has them most accurate first."""

    variant: str
    accuracy: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class Envelope:
    """What may be chosen from. `variants` None allows all; `spreads` is how cautious predictions are.

    `workers` is how many batches are computed at once, each at the pace of its rung.
    """

    max_batch: int = 32  # rows of one pass; a single larger request is computed in several
    variants: frozenset[str] | None = None
    least_accuracy: float = 0.0
    spreads: float = 2.0
    workers: int = 1
    planned: float = 0.5  # share of the time left; a standing queue waits so much of its deadlines, whatever clears it

    def allows(self, rung: Rung) -> bool:
        return rung.accuracy >= self.least_accuracy and (self.variants is None or rung.variant in self.variants)


class Choice(NamedTuple):
    """The batch is the first `num_requests` of the queue that are not in `refused` (positions in the queue).

    `variant` is None where nothing can be served: then `num_requests` is 0. `seconds` is the cautious prediction.
    """

    variant: str | None
    num_requests: int
    refused: tuple[int, ...]
    seconds: float


class Outlook:
    """The allowed rungs of a ladder and their paces, as they are predicted now.

    Made once for an envelope; `renew` when a latency model has been corrected.
    """

    __slots__ = ("_planned", "_spreads", "_workers", "fastest_s", "max_batch", "paces", "rungs")

    def __init__(self, ladder: Sequence[Rung], envelope: Envelope) -> None:
        """Raises ValueError when the envelope allows no rung of this ladder."""
        self.rungs = [rung for rung in ladder if envelope.allows(rung)]
        if not self.rungs:
            names = ", ".join(rung.variant for rung in ladder) or "no rungs"
            raise ValueError(f"{envelope} allows none of {names}")
        self.max_batch, self._spreads, self._workers = envelope.max_batch, envelope.spreads, envelope.workers
        self._planned = envelope.planned
        self.paces: list[tuple[float, float]] = []  # seconds of a pass and of a row, with the envelope's caution
        self.fastest_s = 0.0  # of a row in a full batch
        self.renew()

    def renew(self) -> None:
        """Predict anew."""
        paces, spreads, max_batch, least_s = [], self._spreads, self.max_batch, math.inf
        for rung in self.rungs:
            latency = rung.latency
            caution = 1.0 + spreads * latency.spread
            pace = fixed_s, row_s = latency.fixed_s * caution, latency.per_row_s * caution
            paces.append(pace)
            full_s = fixed_s + row_s * max_batch
            if full_s < least_s:
                least_s = full_s
        self.paces, self.fastest_s = paces, least_s / max_batch

    def choose(self, queue: Sequence[Waiting], now: float, arrivals_per_s: float = 0.0) -> Choice:
        """The next batch of a queue of which a worker is free at `now`; `arrivals_per_s` counts rows."""
        paces, max_batch = self.paces, self.max_batch
        totals, lefts, least_left_s, refused = _look(queue, paces, now, max_batch)
        if not totals:
            return Choice(None, 0, refused, 0.0)
        num_seen = len(totals)
        if num_seen + len(refused) < len(queue) and totals[-1] >= _LOOKED_AT * max_batch:
            totals.append(totals[-1] * (len(queue) - len(refused)) // num_seen)  # the last one's place, if all alike
            lefts.append(max(queue[-1].deadline - now, lefts[-1]))  # one in a hurry says nothing of those before it
        counted = arrivals_per_s * _ARRIVALS_SHARE * min(1.0, arrivals_per_s * self.fastest_s / self._workers)
        share = self._planned
        if num_seen == 1 and arrivals_per_s * _seconds(totals[0], *paces[0], max_batch) < _QUIET * totals[0]:
            share = 1.0
        planned = lefts if share == 1.0 else [left_s * share for left_s in lefts]
        index, size = self._decide(totals, planned, least_left_s * share, num_seen, counted)
        if size == 0:
            index, size = self._decide(totals, lefts, least_left_s, num_seen, math.inf)
        return Choice(self.rungs[index].variant, size, refused, _seconds(totals[size - 1], *paces[index], max_batch))

    def _decide(
        self, totals: list[int], lefts: list[float], least_left_s: float, num_seen: int, counted: float
    ) -> tuple[int, int]:
        """The rung and how many requests it takes; none where no rung answers the first in time.

        With `counted` arrivals a second that no rung keeps up with, it is the fastest.
        """
        paces, max_batch = self.paces, self.max_batch
        index, size = 0, 0
        least_s = math.inf
        for i, (fixed_s, row_s) in enumerate(paces):
            fits = _fitting(totals, lefts, least_left_s, num_seen, fixed_s, row_s, max_batch)
            if fits == 0:
                continue
            full_s = fixed_s + row_s * max_batch
            free = self._workers - counted * full_s / max_batch  # of the workers' time, what arrivals leave
            batch_rows = min(totals[fits - 1], max_batch)
            if free > 0 and _clears(totals, lefts, least_left_s * free, fixed_s, row_s, free, batch_rows):
                if i:
                    fits = _needed(totals, lefts, fits, paces[i], paces[i - 1], free, max_batch)
                index, size = i, fits
                break
            if full_s < least_s:
                index, size, least_s = i, fits, full_s
        return index, size

    def admits(self, new: Waiting, queue: Sequence[Waiting], num_waiting: int, free_at: float) -> bool:
        """Whether `new` and all those it goes before are answered in time, by the fastest rung at least.

        `queue` is the one it would enter, `num_waiting` are the rows in all, and a worker is free at `free_at`.
        """
        num_own = new.num_rows
        num_rows = num_waiting + num_own
        if self.makes(num_rows, num_own, new.deadline - free_at):
            return True
        if not queue or new.deadline >= (last := queue[-1].deadline) or not self.makes(num_rows, 0, last - free_at):
            return False
        before = sum(waiting.num_rows for waiting in queue if waiting.deadline <= new.deadline)
        return self.makes(before + num_own, num_own, new.deadline - free_at)

    def makes(self, num_rows: int, num_own: int, left_s: float) -> bool:
        """`wait_s(num_rows, num_own) <= left_s`, but sooner."""
        if self._workers == 1:
            fixed_s, row_s = self.paces[-1]  # mostly the fastest
            if -(-num_rows // self.max_batch) * fixed_s + num_rows * row_s <= left_s:
                return True
        return self.wait_s(num_rows, num_own) <= left_s

    def wait_s(self, num_rows: int, num_own: int = 0) -> float:
        """Seconds until `num_rows` waiting rows are through, all on the fastest rung: the least they will take.

        The last `num_own` of them are of one request, whose passes follow each other on one worker.
        """
        max_batch, workers, least_s = self.max_batch, self._workers, math.inf
        passes = -(-num_rows // max_batch)
        rounds = max(-(-passes // workers), -(-num_own // max_batch))
        rows = num_rows if workers == 1 or not passes else max(num_rows * rounds / passes, num_own)
        for fixed_s, row_s in self.paces:
            seconds = rounds * fixed_s + rows * row_s
            if seconds < least_s:
                least_s = seconds
        return least_s


def choose(
    queue: Sequence[Waiting],
    ladder: Sequence[Rung],
    now: float,
    envelope: Envelope,
    arrivals_per_s: float | None = None,
) -> Choice:
    """`Outlook.choose` for this once.

    Raises:
        ValueError: the envelope allows no rung of this ladder.
    """
    return Outlook(ladder, envelope).choose(queue, now, arrivals_per_s or 0.0)


def predicted_wait(num_rows: int, ladder: Sequence[Rung], envelope: Envelope) -> float:
    """`Outlook.wait_s` for this once: with a request's own rows among them, it can be refused as it arrives.

    Raises ValueError as `choose` does.
    """
    return Outlook(ladder, envelope).wait_s(num_rows)


def _seconds(num_rows: int, fixed_s: float, row_s: float, max_batch: int) -> float:
    return -(-num_rows // max_batch) * fixed_s + num_rows * row_s


def _look(
    queue: Sequence[Waiting], paces: Sequence[tuple[float, float]], now: float, max_batch: int
) -> tuple[list[int], list[float], float, tuple[int, ...]]:
    """Rows up to and with each request that can be served, seconds left to each, a least of these, who cannot be.

    Nearly always all can be, and nobody is in a hurry: that is found without a step for each request here and below.
    """
    enough = _LOOKED_AT * max_batch
    fixed_s, row_s = paces[-1]  # mostly the fastest
    first = islice(queue, enough)  # each has a row
    rows, lefts = [], []
    for waiting in first:
        rows.append(waiting.num_rows)
        lefts.append(waiting.deadline - now)
    if not rows:
        return [], [], 0.0, ()
    most, least_left_s = max(rows), min(lefts)
    if most > max_batch or fixed_s + row_s * most > least_left_s:
        return _look_at_each(queue, paces, now, max_batch)
    totals = list(accumulate(rows))
    if totals[-1] > enough:
        seen = bisect_left(totals, enough) + 1
        del totals[seen:], lefts[seen:]
    return totals, lefts, least_left_s, ()


def _look_at_each(
    queue: Sequence[Waiting], paces: Sequence[tuple[float, float]], now: float, max_batch: int
) -> tuple[list[int], list[float], float, tuple[int, ...]]:
    totals: list[int] = []
    lefts: list[float] = []
    refused: list[int] = []
    total, enough = 0, _LOOKED_AT * max_batch
    fixed_s, row_s = paces[-1]
    for position, waiting in enumerate(queue):
        num_rows, left_s = waiting.num_rows, waiting.deadline - now
        passes = 1 if num_rows <= max_batch else -(-num_rows // max_batch)
        if passes * fixed_s + num_rows * row_s > left_s and all(
            _seconds(num_rows, *pace, max_batch) > left_s for pace in paces
        ):
            refused.append(position)
            continue
        total += num_rows
        totals.append(total)
        lefts.append(left_s)
        if total >= enough:
            break
    return totals, lefts, min(lefts, default=0.0), tuple(refused)


def _fitting(
    totals: Sequence[int],
    lefts: Sequence[float],
    least_left_s: float,
    num_seen: int,
    fixed_s: float,
    row_s: float,
    max_batch: int,
) -> int:
    """Of the requests at the front, how many one batch answers in time."""
    if totals[0] > max_batch:  # alone, in several passes
        return 1 if _seconds(totals[0], fixed_s, row_s, max_batch) <= lefts[0] else 0
    if fixed_s + row_s * max_batch <= least_left_s:
        return bisect_right(totals, max_batch, 0, num_seen)
    earliest_s = lefts[0]
    for size in range(num_seen):
        if lefts[size] < earliest_s:
            earliest_s = lefts[size]
        if totals[size] > max_batch or fixed_s + row_s * totals[size] > earliest_s:
            return size
    return num_seen


def _clears(
    totals: Sequence[int],
    lefts: Sequence[float],
    least_free_s: float,
    fixed_s: float,
    row_s: float,
    free: float,
    batch_rows: int,
) -> bool:
    """Whether all are answered in time at this pace, in batches of so many rows."""
    whole_s = -(-totals[-1] // batch_rows) * fixed_s + totals[-1] * row_s
    if whole_s <= least_free_s:
        return True
    if whole_s > lefts[-1] * free:
        return False  # mostly the first to be late
    for total, left_s in zip(totals, lefts, strict=True):
        if -(-total // batch_rows) * fixed_s + total * row_s > left_s * free:
            return False
    return True


def _needed(
    totals: Sequence[int],
    lefts: Sequence[float],
    size: int,
    pace: tuple[float, float],
    better: tuple[float, float],
    free: float,
    max_batch: int,
) -> int:
    """How few at `pace` so that the rest is answered in time at the better rung's; at most `size`.

    From the last request to the first: what one needs holds for those before it, so this is linear.
    """
    fixed_s, row_s = pace
    better_fixed_s, better_row_s = better
    batch_rows = min(totals[size - 1], max_batch)
    needed = 1
    ends_s = _seconds(totals[0], fixed_s, row_s, max_batch)
    for last in range(len(totals) - 1, 0, -1):
        if last < needed:
            break
        left_s = lefts[last] * free
        while needed < size and last >= needed:
            rest = totals[last] - totals[needed - 1]
            if ends_s + -(-rest // batch_rows) * better_fixed_s + rest * better_row_s <= left_s:
                break
            needed += 1
            ends_s = fixed_s + totals[needed - 1] * row_s  # several requests: one pass
        if needed == size:
            break
    return needed
