"""A model version's ladder: its variants measured, put in order, and those left out that are of no use.

Accuracy is that on the validation split: the test split says how good the version is and chooses nothing.
Times are of the machine the bundle is made on; a replica takes them as a first guess and learns its own. Knows
forms and rows, not how either was made.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from ladder import forms
from ladder.forms import Forward
from ladder.latency import Latency
from tasks.task import Encoding, Task

ROUNDS = 30  # timed passes of each variant at each size
LEAST_ROUNDS = 3
SECONDS = 3.0  # after so long no further round begins
MOST_PASS_S = 0.5  # larger batches than the reference computes in this time are left to the line
BATCH_ROWS = 256
ANSWER_BYTES = 256 * 1024**2  # of one form's answers: a catalogue of 50,000 items has as many numbers for each row
_CLOSE = 1e-9  # a loss equal to the budget is within it, whatever the floats say


@dataclass(frozen=True)
class Measured:
    """One variant's figures; `seconds` maps a batch's rows to the median time of a pass on one thread."""

    variant: str
    accuracy: float  # on the validation split
    agreement: float  # with the reference's answers, as the task has it
    seconds: dict[int, float]
    latency: Latency
    num_bytes: int
    load_s: float
    memory_bytes: int = 0  # that loading it took; 0 where it is not known
    is_finite: bool = True

    def to_json(self) -> dict[str, Any]:
        return {
            "variant": self.variant,
            "accuracy": self.accuracy,
            "agreement": self.agreement,
            "latency": self.latency.to_json(),
            "seconds": {str(rows): seconds for rows, seconds in self.seconds.items()},
            "bytes": self.num_bytes,
            "load_s": self.load_s,
            "memory_bytes": self.memory_bytes,
        }


@dataclass(frozen=True)
class LeftOut:
    variant: str
    reason: str
    measured: Measured | None = None  # None where it could not be made

    def to_json(self) -> dict[str, Any]:
        figures = self.measured.to_json() if self.measured and self.measured.is_finite else {"variant": self.variant}
        return {**figures, "reason": self.reason}


@dataclass(frozen=True)
class Ladder:
    """`rungs` from the most accurate to the cheapest; at least one."""

    reference: str
    num_rows: int  # of the validation split
    rungs: tuple[Measured, ...]
    left_out: tuple[LeftOut, ...]

    def to_json(self) -> dict[str, Any]:
        """What the bundle's manifest keeps as `ladder`."""
        return {
            "reference": self.reference,
            "rows": self.num_rows,
            "rungs": [rung.to_json() for rung in self.rungs],
            "left_out": [each.to_json() for each in self.left_out],
        }


def arrange(measured: Sequence[Measured], reference: str, max_loss: float, num_rows: int) -> Ladder:
    """The ladder of these variants; `max_loss` is the share of right answers a rung may lose on the reference.

    1. Left out is what answers NaN, what loses more than `max_loss`, and what is dominated: another is at least
       as accurate and faster at every measured size.
    2. Left out is also what two others that share its work would do better: at every size it is under the line
       between a more accurate and a cheaper one, and under load neighbouring rungs share the work.
    3. The top is the reference, or a form of the same network (a name with the same first part) that dominates
       it. A smaller network that seems better on the validation rows is mostly lucky: it neither stands above
       its teacher nor takes its place. For the same reason no accuracy counts as higher than the reference's.

    Raises:
        ValueError: the reference is not among them, or answers NaN.
    """
    by_name = {each.variant: each for each in measured}
    if reference not in by_name or not by_name[reference].is_finite:
        raise ValueError(f"no finite answers of the reference {reference}")
    first = by_name[reference]
    left_out = {each.variant: reason for each in measured if (reason := _refusal(each, first, max_loss))}
    capped = [
        replace(each, accuracy=min(each.accuracy, first.accuracy)) for each in measured if each.variant not in left_out
    ]
    forms = [each for each in capped if _network(each) == _network(first) and _dominates(each, first)]
    top = min([first, *forms], key=_largest_s)
    for each in capped:
        better = [other for other in capped if _dominates(other, each)]
        if better and each.variant != top.variant:
            by = min(better, key=_largest_s).variant
            left_out[each.variant] = f"dominated by {by}: no more accurate, and slower at every size"
    kept = [each for each in capped if each.variant not in left_out]
    kept.sort(
        key=lambda each: (each.variant != top.variant, -each.accuracy, each.variant != reference, -_largest_s(each))
    )
    while found := next(filter(None, (_shared(kept, i) for i in range(1, len(kept) - 1))), None):
        each, above, below = found
        left_out[each.variant] = f"less accurate than {above.variant} and {below.variant} in its time together"
        kept.remove(each)
    return Ladder(
        reference,
        num_rows,
        tuple(by_name[each.variant] for each in kept),
        tuple(LeftOut(name, reason, by_name[name]) for name, reason in left_out.items()),
    )


def measure(
    found: Mapping[str, bytes],
    reference: str,
    rows: np.ndarray,
    truth: np.ndarray,
    max_batch: int,
    task: Task,
    encoding: Encoding,
    answers: Mapping[str, np.ndarray] | None = None,
) -> list[Measured]:
    """Each form on encoded rows [n, *shape] and their targets [n], n at least 1; takes seconds.

    `answers` are those to all rows, where they are known.

    Sizes are 1, 2, 4 ... `max_batch`. Variants take turns, so that a slow moment of the machine meets all.
    """
    predictors, loads, memory = {}, {}, {}
    for variant, data in found.items():
        before, start = _resident_bytes(), time.perf_counter()
        predictors[variant] = forms.opened(variant, data, task, encoding)
        loads[variant] = time.perf_counter() - start
        # A small one may fit into what the process had already: it takes its file's size all the same.
        memory[variant] = max(_resident_bytes() - before, len(data))
    if answers is None:
        answers = {variant: batched(predictor, rows) for variant, predictor in predictors.items()}
    samples = _timed(predictors, reference, rows, max_batch)
    return [
        Measured(
            variant,
            accuracy=float(task.right(answers[variant], truth).mean()),
            agreement=float(task.agreement(answers[variant], answers[reference]).mean()),
            seconds={size: median(times) for size, times in samples[variant].items()},
            latency=Latency.fit([(size, s) for size, times in samples[variant].items() for s in times]),
            num_bytes=len(data),
            load_s=loads[variant],
            memory_bytes=memory[variant],
            is_finite=bool(np.isfinite(answers[variant]).all()),
        )
        for variant, data in found.items()
    ]


def measurable(rows: np.ndarray, truth: np.ndarray, task: Task, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """All rows [n, *shape] and targets [n], or as many drawn from them as have answers that fit into ANSWER_BYTES."""
    most = max(1, ANSWER_BYTES // (4 * task.output_spec(encoding).shape[1]))
    if len(rows) <= most:
        return rows, truth
    chosen = np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))  # the same for all versions
    return rows[chosen], truth[chosen]


def sizes(max_batch: int) -> list[int]:
    """1, 2, 4 ... and `max_batch` itself."""
    return [*(2**i for i in range((max_batch - 1).bit_length())), max_batch]


def _refusal(each: Measured, reference: Measured, max_loss: float) -> str | None:
    if not each.is_finite:
        return "answers NaN or infinity"
    loss = reference.accuracy - each.accuracy
    if loss > max_loss + _CLOSE:
        return f"loses {loss:.4f} of the reference's accuracy, more than ladder.max_accuracy_loss {max_loss:g}"
    return None


def _dominates(one: Measured, other: Measured) -> bool:
    return one.accuracy >= other.accuracy and all(one.seconds[n] < other.seconds[n] for n in other.seconds)


def _shared(kept: Sequence[Measured], i: int) -> tuple[Measured, Measured, Measured] | None:
    """The rung at `i` with two that do its work better together, if there are such."""
    each = kept[i]
    for above in kept[:i]:
        for below in kept[i + 1 :]:
            if all(_is_under(each, above, below, size) for size in each.seconds):
                return each, above, below
    return None


def _is_under(each: Measured, above: Measured, below: Measured, size: int) -> bool:
    """Whether a mix of the two others that takes as long is right more often, by more than `_CLOSE`."""
    most_s, least_s = above.seconds[size], below.seconds[size]
    if most_s <= least_s:
        return False
    share = (each.seconds[size] - least_s) / (most_s - least_s)
    return min(share, 1.0) * (above.accuracy - below.accuracy) > each.accuracy - below.accuracy + _CLOSE


def _largest_s(each: Measured) -> float:
    return each.seconds[max(each.seconds)]


def _network(each: Measured) -> str:
    return each.variant.partition("-")[0]


def batched(predictor: Forward, rows: np.ndarray) -> np.ndarray:
    """Answers float32 [n, width] of encoded rows [n, *shape], some at a time; n is at least 1."""
    return np.concatenate([predictor(batch) for batch in np.array_split(rows, -(-len(rows) // BATCH_ROWS))])


def _timed(
    predictors: Mapping[str, Forward], reference: str, rows: np.ndarray, max_batch: int
) -> dict[str, dict[int, list[float]]]:
    """Seconds of each pass, by variant and size."""
    batches: dict[int, np.ndarray] = {}
    for size in sizes(max_batch):
        batches[size] = np.resize(rows, (size, *rows.shape[1:]))  # repeats the rows where they are few
        if _pass_s(predictors[reference], batches[size]) > MOST_PASS_S:
            break
    for predictor in predictors.values():
        for batch in batches.values():
            predictor(batch)  # the runtime's first allocations are not timed
    samples: dict[str, dict[int, list[float]]] = {variant: {size: [] for size in batches} for variant in predictors}
    end = time.perf_counter() + SECONDS
    for done in range(ROUNDS):
        if done >= LEAST_ROUNDS and time.perf_counter() > end:
            break
        for size, batch in batches.items():
            for variant, predictor in predictors.items():
                samples[variant][size].append(_pass_s(predictor, batch))
    return samples


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _pass_s(predictor: Forward, batch: np.ndarray) -> float:
    start = time.perf_counter()
    predictor(batch)
    return time.perf_counter() - start
