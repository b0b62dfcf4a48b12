"""What the adaptation actor sees at one tick: each replica's statistics, and what they say together.

A replica's counts only grow from its start, so what happened between two ticks is a difference: a reading that is
lost loses nothing, and a restarted replica counts from 0. Whatever is decided is decided from the merged figures of
a `Snapshot`, whose numbers are rounded, so that its JSON is short and reads back as exactly the same.

Pure: no clock, no I/O. Knows neither how statistics come here nor what is done about them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import mul
from typing import Any, ClassVar

import numpy as np

from serve.adapt.plain import Plain
from serve.adapt.rivals import Heard, Rivals, compared
from serve.sketch import NUM_BUCKETS, Sketch

REFUSALS = ("full", "overloaded", "hopeless", "late", "admission")
_OLD_S = 60.0
NUM_SHOWN = 8  # replicas of a snapshot that are listed one by one, those in most trouble first
_COUNTS = (
    ("arrived", "requests"),
    ("arrived", "rows"),
    ("answered", "requests"),
    ("answered", "rows"),
    ("in_time", "requests"),
    ("in_time", "rows"),
    *(("refused", kind) for kind in REFUSALS),
    ("refused_rows", ""),
    ("cancelled", ""),
    ("failed", ""),
    ("busy_s", ""),
    ("cpu_s", ""),
)
_AT = {"_".join(filter(None, names)): index for index, names in enumerate(_COUNTS)}
_SKETCHES = ("queue_delay", "latency", "loop_lag")
_NUM_ALL_BUCKETS = len(_SKETCHES) * NUM_BUCKETS
_RUNG_COUNTS = ("batches", "rows", "in_time_rows", "seconds")
_RUNG_MODEL = ("fixed_s", "per_row_s", "spread", "accuracy")


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One replica's statistics at one tick."""

    replica: str
    pid: int
    started: float  # unix, seconds
    at: float  # the replica's monotonic clock, seconds
    epoch: int
    version: int | None
    loading: bool
    counts: np.ndarray  # float64 [len(_COUNTS)]
    buckets: np.ndarray  # float64 [len(_SKETCHES) * NUM_BUCKETS]
    variants: tuple[str, ...]  # of the present version, most accurate first
    rungs: np.ndarray  # float64 [num_variants, 8]: `_RUNG_COUNTS`, then `_RUNG_MODEL`
    waiting_requests: int = 0
    waiting_rows: int = 0
    oldest_s: float = 0.0
    actor_age_s: float = 0.0
    forward_s: float = 0.0
    rivals: Mapping[str, Any] | None = None  # counts of each version, while there is a candidate beside it

    @classmethod
    def parse(cls, stats: Mapping[str, Any]) -> Sample:
        """From what a replica's `stats` answered; keys that are not known are ignored.

        Raises:
            ValueError: something is missing, or not of its kind.
        """
        try:
            waiting = stats.get("waiting") or {}
            rungs = stats["rungs"]
            return cls(
                str(stats["replica"]),
                int(stats["pid"]),
                float(stats["started"]),
                float(stats["at"]),
                int(stats["epoch"]),
                None if stats.get("version") is None else int(stats["version"]),
                bool(stats.get("loading", False)),
                np.array([stats.get(n, {}).get(part, 0) if part else stats.get(n) or 0 for n, part in _COUNTS], float),
                _buckets(stats),
                tuple(rungs),
                np.array([[r[key] for key in _RUNG_COUNTS + _RUNG_MODEL] for r in rungs.values()], float).reshape(
                    -1, 8
                ),
                int(waiting.get("requests", 0)),
                int(waiting.get("rows", 0)),
                float(waiting.get("oldest_s", 0.0)),
                float(stats.get("actor_age_s") or 0.0),
                float(stats.get("forward_s") or 0.0),
                stats.get("rivals"),
            )
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"no statistics of a replica: {error!r}") from error

    def continues(self, before: Sample) -> bool:
        """Whether the counts go on from `before`: the same process, and none has fallen."""
        return self.pid == before.pid and self.started == before.started


@dataclass(frozen=True, slots=True)
class RungSeen:
    """One rung of the present version, as the replicas know it now; `share` is of the rows computed lately."""

    variant: str
    accuracy: float
    fixed_s: float
    per_row_s: float
    spread: float
    share: float = 0.0
    rows_per_s: float = 0.0

    def seconds(self, rows: float) -> float:
        """Of one batch, as predicted."""
        return self.fixed_s + self.per_row_s * rows


@dataclass(frozen=True, slots=True)
class ReplicaSeen:
    replica: str
    arrivals_per_s: float  # rows
    utilisation: float
    waiting_rows: int
    oldest_s: float
    forward_s: float
    epoch: int
    version: int | None
    actor_age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot(Plain):
    """All replicas together at one tick. Rates are per second, times in seconds, shares from 0 to 1."""

    SHORT: ClassVar[bool] = True

    now: float  # unix
    interval_s: float  # since the snapshot before, as the replicas measured it
    requests_per_s: float = 0.0  # that arrived, also those that were refused
    arrivals_per_s: float = 0.0  # the same in rows
    answered_per_s: float = 0.0  # rows
    ended: int = 0  # requests answered, refused or failed since the snapshot before
    in_time: int = 0  # of those, answered before their deadline
    late: int = 0  # of those, let in and not answered in time
    refused: dict[str, int] | None = None  # of those, by kind; kinds without any are left out
    failed: int = 0
    cancelled: int = 0
    queue_delay_p50_s: float = 0.0
    queue_delay_p99_s: float = 0.0
    latency_p50_s: float = 0.0
    latency_p99_s: float = 0.0
    loop_lag_p99_s: float = 0.0
    waiting_rows: int = 0
    oldest_s: float = 0.0
    batch_rows: float = 0.0  # mean size of a batch; 0 when there was none
    accuracy: float = 0.0  # of the rows computed; 0 when there were none
    effective_accuracy: float = 0.0  # with rows answered late or refused counted as wrong; 0 when none ended
    utilisation: float = 0.0  # seconds of forward passes per second and worker
    cpus: float = 0.0  # processor seconds per second and replica
    rungs: tuple[RungSeen, ...] = ()  # most accurate first
    replicas: tuple[ReplicaSeen, ...] = ()  # the `NUM_SHOWN` in most trouble, or all
    missing: tuple[str, ...] = ()  # those that did not answer
    running: int = 0  # replicas that did
    target: int = 0  # replicas there are to be
    epochs: tuple[int, int] = (0, 0)  # least and largest that a replica holds
    version: int | None = None
    envelope: dict[str, Any] | None = None  # what the replicas were last told
    rivals: Rivals | None = None  # what a candidate has shown
    heard: Heard | None = None  # and what was found out beside the loop

    @property
    def share_in_time(self) -> float:
        """Of the requests that ended; 1 when none did."""
        return self.in_time / self.ended if self.ended else 1.0


def observe(
    previous: Mapping[str, Sample],
    samples: Mapping[str, Sample],
    *,
    now: float,
    target: int,
    envelope: Mapping[str, Any] | None = None,
    missing: Sequence[str] = (),
    concurrency: int = 1,
) -> Snapshot:
    """What happened between two ticks, from each replica's last sample before and its sample now, both by name.

    `target` is how many replicas there are to be, `missing` are those that were asked and did not answer, and
    `concurrency` is how many forward passes a replica runs at once where the envelope does not say.
    A replica that is new, or was started again, counts from its start; one that was never seen and has run for more
    than a minute, as all have at an actor's first tick, counts from now on.
    """
    now = round(now, 3)
    told, gone = dict(envelope or {}) or None, tuple(sorted(missing))
    if not samples:
        return Snapshot(now, 0.0, target=target, missing=gone, envelope=told)
    found = list(samples.values())
    before = [_before(sample, previous.get(sample.replica), now) for sample in found]
    counts = np.array([s.counts for s in found]) - np.array([old.counts for old, _ in before])
    scalars = np.maximum(counts, 0.0)  # [num_replicas, len(_COUNTS)]
    seconds = np.array([elapsed_s for _, elapsed_s in before])
    ended_rows = float(scalars[:, (_AT["answered_rows"], _AT["refused_rows"])].sum())
    workers = int((envelope or {}).get("concurrency") or concurrency)
    ladder = _ladder(found, [old for old, _ in before], seconds, ended_rows)
    return Snapshot(
        now=now,
        interval_s=_short(float(np.median(seconds))),
        **_counted(scalars, seconds, workers),
        **_quantiles(found, [old for old, _ in before]),
        **ladder,
        waiting_rows=sum(s.waiting_rows for s in found),
        oldest_s=_short(max(s.oldest_s for s in found)),
        replicas=_troubled(found, scalars, seconds, workers),
        missing=gone,
        running=len(found),
        target=target,
        epochs=(min(s.epoch for s in found), max(s.epoch for s in found)),
        envelope=told,
        rivals=_rivals([(s.rivals, old.rivals) for s, (old, _) in zip(found, before, strict=True)], ladder),
    )


def carried(
    previous: Mapping[str, Sample], samples: Mapping[str, Sample], missing: Sequence[str] = ()
) -> dict[str, Sample]:
    """What the next tick's `previous` is: the last sample of each replica that is there, also if it is missing now."""
    kept = {name: sample for name, sample in previous.items() if name in missing}
    return {**kept, **samples}


def _before(sample: Sample, last: Sample | None, now: float) -> tuple[Sample, float]:
    """From what a replica's counts go on, and the seconds since then."""
    if last is not None and sample.continues(last):
        return last, max(sample.at - last.at, 0.0)
    age_s = now - sample.started
    if last is None and age_s > _OLD_S:
        return sample, 0.0
    nothing = {name: np.zeros_like(getattr(sample, name)) for name in ("counts", "buckets", "rungs")}
    return replace(sample, rivals=None, **nothing), max(age_s, 0.0)


def _rivals(pairs: Sequence[Any], ladder: Mapping[str, Any]) -> Rivals | None:
    best: RungSeen | None = next(iter(ladder.get("rungs", ())), None)
    return compared(pairs, ladder["version"], (best.fixed_s, best.per_row_s) if best else (0.0, 0.0))


def _counted(scalars: np.ndarray, seconds: np.ndarray, workers: int) -> dict[str, Any]:
    total = dict(zip(_AT, scalars.sum(axis=0).tolist(), strict=True))
    rates = dict(zip(_AT, (scalars * _per_s(seconds)[:, None]).sum(axis=0).tolist(), strict=True))
    refused = {kind: int(total[f"refused_{kind}"]) for kind in REFUSALS if total[f"refused_{kind}"]}
    answered, in_time, failed = (int(total[key]) for key in ("answered_requests", "in_time_requests", "failed"))
    worked_s = float(seconds.sum()) or math.inf
    return {
        "requests_per_s": _short(rates["arrived_requests"]),
        "arrivals_per_s": _short(rates["arrived_rows"]),
        "answered_per_s": _short(rates["answered_rows"]),
        "ended": answered + sum(refused.values()) + failed,
        "in_time": in_time,
        "late": max(answered - in_time, 0) + refused.get("late", 0),
        "refused": refused or None,
        "failed": failed,
        "cancelled": int(total["cancelled"]),
        "utilisation": _short(total["busy_s"] / worked_s / workers),
        "cpus": _short(total["cpu_s"] / worked_s),
    }


def _per_s(seconds: np.ndarray) -> np.ndarray:
    rates: np.ndarray = np.divide(1.0, seconds, out=np.zeros_like(seconds), where=seconds > 0)
    return rates


def _buckets(stats: Mapping[str, Any]) -> np.ndarray:
    row = np.zeros(_NUM_ALL_BUCKETS)
    for place, name in enumerate(_SKETCHES):
        for index, count in ((stats.get(name) or {}).get("b") or {}).items():
            bucket = int(index)
            if not 0 <= bucket < NUM_BUCKETS:
                raise ValueError(f"no statistics of a replica: {name} has no bucket {index}")
            row[place * NUM_BUCKETS + bucket] = count
    return row


def _quantiles(found: Sequence[Sample], before: Sequence[Sample]) -> dict[str, Any]:
    total = np.zeros(_NUM_ALL_BUCKETS)
    for sample, old in zip(found, before, strict=True):  # one by one: a matrix of a thousand is slower to make
        if old is not sample:
            np.add(total, sample.buckets, total)
            np.subtract(total, old.buckets, total)
    counts = np.maximum(total, 0.0).astype(int).reshape(len(_SKETCHES), NUM_BUCKETS).tolist()
    delay, latency, lag = map(Sketch, counts)
    return {
        "queue_delay_p50_s": _short(delay.quantile(0.5)),
        "queue_delay_p99_s": _short(delay.quantile(0.99)),
        "latency_p50_s": _short(latency.quantile(0.5)),
        "latency_p99_s": _short(latency.quantile(0.99)),
        "loop_lag_p99_s": _short(lag.quantile(0.99)),
    }


def _ladder(
    found: Sequence[Sample], before: Sequence[Sample], seconds: np.ndarray, ended_rows: float
) -> dict[str, Any]:
    """The ladder that most replicas have, its mix, and what came of it."""
    (version, variants), _ = Counter((s.version, s.variants) for s in found).most_common(1)[0]
    if not variants:
        return {"version": version}
    having = [i for i, s in enumerate(found) if (s.version, s.variants) == (version, variants)]
    now = np.array([found[i].rungs for i in having])
    # Of a version that came just now nothing is known to have been computed yet.
    then = np.array([before[i].rungs if before[i].variants == variants else found[i].rungs for i in having])
    added = np.maximum(now[:, :, :4] - then[:, :, :4], 0.0)  # [num_having, num_variants, 4]
    batches, rows, in_time, _ = added.sum(axis=0).T.tolist()
    rates = (added[:, :, 1] * _per_s(seconds[having])[:, None]).sum(axis=0).tolist()
    models, total = now[:, :, 4:].mean(axis=0).tolist(), sum(rows)
    accuracies = [model[3] for model in models]
    return {
        "version": version,
        "rungs": tuple(
            RungSeen(variant, *map(_short, (accuracy, fixed_s, row_s, spread, count / total if total else 0.0, rate)))
            for variant, (fixed_s, row_s, spread, accuracy), count, rate in zip(
                variants, models, rows, rates, strict=True
            )
        ),
        "batch_rows": _short(total / sum(batches)) if sum(batches) else 0.0,
        "accuracy": _short(sum(map(mul, accuracies, rows)) / total) if total else 0.0,
        "effective_accuracy": _short(min(sum(map(mul, accuracies, in_time)) / ended_rows, 1.0)) if ended_rows else 0.0,
    }


def _troubled(
    found: Sequence[Sample], scalars: np.ndarray, seconds: np.ndarray, workers: int
) -> tuple[ReplicaSeen, ...]:
    busy = (scalars[:, _AT["busy_s"]] * _per_s(seconds) / workers).tolist()
    rates = (scalars[:, _AT["arrived_rows"]] * _per_s(seconds)).tolist()
    order = sorted(range(len(found)), key=lambda i: (-max(found[i].forward_s, found[i].oldest_s), -busy[i]))
    return tuple(
        ReplicaSeen(
            s.replica,
            _short(rates[i]),
            _short(busy[i]),
            s.waiting_rows,
            _short(s.oldest_s),
            _short(s.forward_s),
            s.epoch,
            s.version,
            _short(s.actor_age_s),
        )
        for i in order[:NUM_SHOWN]
        for s in (found[i],)
    )


def _short(number: float) -> float:
    """Five significant digits: what nobody could measure better costs no room in the journal."""
    return float(f"{number:.5g}") if math.isfinite(number) else 0.0
