"""The executable form of one model version: all its rungs, loaded, checked and timed on this machine.

Which of them computes a batch is decided in `ladder.choose`; batches are made in `serve.batcher`. Imports
torch only for a rung that torch runs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeVar

import numpy as np

from cluster.errors import ConfigError
from ladder.bundle import Bundle
from ladder.choose import Envelope, Rung
from ladder.forms import Forward, is_torch
from ladder.latency import Latency
from ladder.opening import executable, opened_all
from ladder.profile import sizes
from tasks.task import Task

ROUNDS = 5  # timed passes of each rung at each size
PROFILE_S = 1.0  # after so long a slow rung is timed no further: every batch corrects its model anyway

E = TypeVar("E", bound=Envelope)


@dataclasses.dataclass(slots=True, eq=False)
class Spent:
    """What all forward passes of one loaded version took."""

    passes: int = 0
    rows: int = 0
    seconds: float = 0.0


class Ladder:
    """Rungs, most accurate first, and what computes them. Compared by identity: one per loaded version."""

    def __init__(self, rungs: Sequence[Rung], forwards: Mapping[str, Forward]) -> None:
        """Raises ValueError without a rung, or when one has no forward pass."""
        if not rungs or any(rung.variant not in forwards for rung in rungs):
            raise ValueError(f"no forward pass for one of {[rung.variant for rung in rungs]}")
        self.rungs = tuple(rungs)
        self.forwards = dict(forwards)  # replaced as a whole by `use`
        self.threads = 1  # of a forward pass
        self.by_variant = {rung.variant: rung for rung in rungs}
        self.latencies = tuple(rung.latency for rung in rungs)
        self.spent = Spent()

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(self.by_variant)

    def use(self, forwards: Mapping[str, Forward], threads: int) -> None:
        """From the next batch on, for all rungs."""
        self.forwards, self.threads = dict(forwards), threads

    def check(self, envelope: Envelope, floor: str = "serve.objective.accuracy_at_least") -> None:
        """Raises ConfigError when the envelope names a rung that is not here, or allows none.

        `floor` names the setting that `least_accuracy` comes from.
        """
        if envelope.variants is not None:
            check_rungs(sorted(envelope.variants), self.variants)
        if not any(map(envelope.allows, self.rungs)):
            _refuse_floor(envelope.least_accuracy, {rung.variant: rung.accuracy for rung in self.rungs}, floor)

    def within(self, envelope: E) -> E:
        """The envelope, but for a version that is going and has none of the rungs allowed now: then all it has.

        What was promised to its last requests is an answer of that version.
        """
        if any(map(envelope.allows, self.rungs)):
            return envelope
        return dataclasses.replace(envelope, variants=None, least_accuracy=0.0)


def check_rungs(wanted: Sequence[str], have: Sequence[str], field: str = "serve.rungs") -> None:
    """Raises ConfigError when `field` names what a version has not, or nothing."""
    mend = f"use one or more of {', '.join(have)}"
    if unknown := [name for name in wanted if name not in have]:
        raise ConfigError(field, unknown[0], "no rung of this version", mend)
    if not wanted:
        raise ConfigError(field, [], "allows no rung", mend)


def check_served(bundle: Bundle) -> None:
    """Raises ConfigError when its serve section allows none of a bundle's rungs, or names what it has not."""
    serve, have, accuracies = bundle.experiment.serve, executable(bundle), bundle.accuracies
    if serve.gpus_per_replica and not any(map(is_torch, have)):
        problem = f"this version was made for none, and has no form that runs on one ({', '.join(have)})"
        mend = "set it to 0, or make a version with it: trimtab run"
        raise ConfigError("serve.gpus_per_replica", serve.gpus_per_replica, problem, mend)
    if serve.rungs is not None:
        check_rungs(serve.rungs, have)
    floor = serve.objective.accuracy_at_least
    allowed = have if serve.rungs is None else serve.rungs
    if floor is not None and have and all(accuracies[variant] < floor for variant in allowed):
        _refuse_floor(floor, {variant: accuracies[variant] for variant in have}, "serve.objective.accuracy_at_least")


def _refuse_floor(least_accuracy: float, accuracies: Mapping[str, float], field: str) -> NoReturn:
    have = ", ".join(f"{variant} ({accuracy:.4f})" for variant, accuracy in accuracies.items())
    mend = f"lower it, or allow more of {have}"
    raise ConfigError(field, least_accuracy, "no allowed rung reaches it on the validation split", mend)


def open_ladder(bundle: Bundle, max_batch: int, threads: int = 1, task: Task | None = None) -> Ladder:
    """Read and check all rungs of a bundle, run each once, and time them up to `max_batch` rows; takes seconds.

    Raises:
        NotFoundError: a file is gone, or the bundle has no variant a replica can run.
        DamagedError: a file is not what the bundle's manifest says.
        TrimtabError: a rung does not load, or answers nonsense.
    """
    rows = bundle.probe(max_batch)
    forwards = opened_all(bundle, rows, threads, task)
    accuracies, samples = bundle.accuracies, time_passes(forwards, rows)
    rungs = [Rung(variant, accuracies[variant], Latency.fit(samples[variant])) for variant in forwards]
    ladder = Ladder(rungs, forwards)
    ladder.threads = threads
    return ladder


def open_forwards(bundle: Bundle, max_batch: int, threads: int, task: Task | None = None) -> dict[str, Forward]:
    """All rungs of a bundle anew, each run once. Raises as `open_ladder` does."""
    return opened_all(bundle, bundle.probe(max_batch), threads, task)


def time_passes(forwards: Mapping[str, Forward], rows: np.ndarray) -> dict[str, list[tuple[int, float]]]:
    """(rows, seconds) of passes of 1, 2, 4 ... up to all `rows`, at least one of each rung.

    Rungs take turns, so that a moment in which the machine is busy does not count against one of them.
    """
    samples: dict[str, list[tuple[int, float]]] = {variant: [] for variant in forwards}
    spent_s = dict.fromkeys(forwards, 0.0)
    for size in sizes(len(rows)) * ROUNDS:
        for variant, forward in forwards.items():
            if spent_s[variant] > PROFILE_S:
                continue
            started = time.perf_counter()
            forward(rows[:size])
            seconds = time.perf_counter() - started
            samples[variant].append((size, seconds))
            spent_s[variant] += seconds
    return samples
