"""Which rung computes the next batch, and how many requests are in it.

The rule, for the queue in the order in which it will be served:

1. A request that no allowed rung would answer in time, even alone and at once, is refused.
2. The most accurate rung is taken that answers the earliest deadline in its batch, and at whose pace all that
   wait, and a share of those still to come, are answered in time. Where there is none, it is the fastest that
   answers the first request.
3. A rung that is not the best takes no more than it must: its batch ends where the rest can be left to the next
   better rung. So under load two neighbouring rungs share the work, which is where accuracy per second of compute
   is highest; without it a burst is over-served cheaply.

Pure: time is an argument, nothing is read or kept. Work is linear in what is refused and in twice the largest
batch; of a longer queue only its length and its last request are seen. Knows rungs by name, accuracy and time;
neither models nor rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ladder.latency import Latency

_LOOKED_AT = 2  # largest batches
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
    """What may be chosen from. `variants` None allows all; `spreads` is how cautious predictions are."""

    max_batch: int = 32  # rows of one pass; a single larger request is computed in several
    variants: frozenset[str] | None = None
    least_accuracy: float = 0.0
    spreads: float = 2.0

    def allows(self, rung: Rung) -> bool:
        return rung.accuracy >= self.least_accuracy and (self.variants is None or rung.variant in self.variants)


@dataclass(frozen=True, slots=True)
class Choice:
    """The batch is the first `num_requests` of the queue that are not in `refused` (positions in the queue).

    `variant` is None where nothing can be served: then `num_requests` is 0. `seconds` is the cautious prediction.
    """

    variant: str | None
    num_requests: int
    refused: tuple[int, ...]
    seconds: float


def choose(
    queue: Sequence[Waiting],
    ladder: Sequence[Rung],
    now: float,
    envelope: Envelope,
    arrivals_per_s: float | None = None,
) -> Choice:
    """The next batch of a queue whose worker is free at `now`; `arrivals_per_s` counts rows.

    Raises:
        ValueError: the envelope allows no rung of this ladder.
    """
    rungs = _allowed(ladder, envelope)
    paces = [_pace(rung, envelope) for rung in rungs]
    max_batch = envelope.max_batch
    totals, lefts, refused = _look(queue, paces, now, max_batch)
    if not totals:
        return Choice(None, 0, refused, 0.0)
    num_seen = len(totals)
    if num_seen + len(refused) < len(queue) and totals[-1] >= _LOOKED_AT * max_batch:
        totals.append(totals[-1] * (len(queue) - len(refused)) // num_seen)  # the last one's place, if all are alike
        lefts.append(max(queue[-1].deadline - now, lefts[-1]))  # one in a hurry says nothing of those before it
    fastest_s = min(fixed_s + row_s * max_batch for fixed_s, row_s in paces) / max_batch
    counted = (arrivals_per_s or 0.0) * _ARRIVALS_SHARE * min(1.0, (arrivals_per_s or 0.0) * fastest_s)
    chosen = (0, 0)
    least_s = float("inf")
    for i, (fixed_s, row_s) in enumerate(paces):
        size = _fitting(totals, lefts, num_seen, fixed_s, row_s, max_batch)
        if size == 0:
            continue
        full_s = fixed_s + row_s * max_batch
        free = 1.0 - counted * full_s / max_batch  # the share of its time that arrivals leave
        if free > 0 and _clears(totals, lefts, fixed_s, row_s, free, min(totals[size - 1], max_batch)):
            if i:
                size = _needed(totals, lefts, size, paces[i], paces[i - 1], free, max_batch)
            chosen = i, size
            break
        if full_s < least_s:
            chosen, least_s = (i, size), full_s
    i, size = chosen
    return Choice(rungs[i].variant, size, refused, _seconds(totals[size - 1], *paces[i], max_batch))


def predicted_wait(num_rows: int, ladder: Sequence[Rung], envelope: Envelope) -> float:
    """Seconds until `num_rows` waiting rows are through, all on the fastest rung: the least they will take.

    With a request's own rows among them, one that would end after its deadline can be refused as it arrives.
    Raises ValueError as `choose` does.
    """
    paces = [_pace(rung, envelope) for rung in _allowed(ladder, envelope)]
    return min(_seconds(num_rows, fixed_s, row_s, envelope.max_batch) for fixed_s, row_s in paces)


def _allowed(ladder: Sequence[Rung], envelope: Envelope) -> list[Rung]:
    rungs = [rung for rung in ladder if envelope.allows(rung)]
    if not rungs:
        raise ValueError(f"{envelope} allows none of {', '.join(rung.variant for rung in ladder) or 'no rungs'}")
    return rungs


def _pace(rung: Rung, envelope: Envelope) -> tuple[float, float]:
    """Seconds of a pass and of a row, with the envelope's caution."""
    latency = rung.latency
    caution = 1.0 + envelope.spreads * latency.spread
    return latency.fixed_s * caution, latency.per_row_s * caution


def _seconds(num_rows: int, fixed_s: float, row_s: float, max_batch: int) -> float:
    return -(-num_rows // max_batch) * fixed_s + num_rows * row_s


def _look(
    queue: Sequence[Waiting], paces: Sequence[tuple[float, float]], now: float, max_batch: int
) -> tuple[list[int], list[float], tuple[int, ...]]:
    """Rows up to and with each request that can be served, the seconds left to each, and who cannot be."""
    totals: list[int] = []
    lefts: list[float] = []
    refused: list[int] = []
    total, enough = 0, _LOOKED_AT * max_batch
    fixed_s, row_s = paces[-1]  # mostly the fastest
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
    return totals, lefts, tuple(refused)


def _fitting(
    totals: Sequence[int], lefts: Sequence[float], num_seen: int, fixed_s: float, row_s: float, max_batch: int
) -> int:
    """Of the requests at the front, how many one batch answers in time."""
    if totals[0] > max_batch:  # alone, in several passes
        return 1 if _seconds(totals[0], fixed_s, row_s, max_batch) <= lefts[0] else 0
    earliest_s = lefts[0]
    for size in range(num_seen):
        if lefts[size] < earliest_s:
            earliest_s = lefts[size]
        if totals[size] > max_batch or fixed_s + row_s * totals[size] > earliest_s:
            return size
    return num_seen


def _clears(
    totals: Sequence[int], lefts: Sequence[float], fixed_s: float, row_s: float, free: float, batch_rows: int
) -> bool:
    """Whether all are answered in time at this pace, in batches of so many rows."""
    if -(-totals[-1] // batch_rows) * fixed_s + totals[-1] * row_s > lefts[-1] * free:
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
