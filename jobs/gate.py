"""What the gate judges a new version by: it and the stable one measured on the same rows, taking turns on this machine.

The new version is first opened in a process of its own, as a replica would: what brings that one down refuses it. Which
figures are good enough is decided in `ladder.gate`; knows nothing of labels, registries and orders.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import median

import numpy as np

from ladder import gate
from ladder.bundle import Bundle
from ladder.forms import Forward
from ladder.gate import Check, Figures, Pair
from ladder.opening import executable, kept, open_one
from ladder.profile import batched, measurable
from tasks import own
from tasks.dataset import Dataset
from tasks.task import Task, load_task

Rows = tuple[np.ndarray, np.ndarray]  # encoded rows [n, *shape] and their targets [n]
OPENING_S = 300.0  # a version that takes longer to open is refused
ROUNDS, LEAST_ROUNDS, ROUNDS_S = 40, 5, 5.0  # timed passes of each rung and size, and when no further round begins
SHOWN = 200  # characters of what a process said last


def measure(stable: Bundle, candidate: Bundle, dataset: Dataset, recent: Rows) -> list[Check]:
    """All checks of `candidate` against `stable`, on the dataset's test split and on `recent` labelled rows.

    Raises NotFoundError or DamagedError where the stable version's files are gone or damaged.
    """
    opened = gate.opening(refusal(candidate))
    if not opened.passed:
        return [opened]
    differences = _differences(stable, candidate)
    if differences:  # then there is no row that both could answer
        nothing = Pair(np.empty(0), np.empty(0))
        schema, *_ = gate.judge(Figures(nothing, nothing, differences=differences), candidate.experiment.gate)
        return [opened, schema]
    task = load_task(stable.experiment, stable.file)
    tops = open_one(stable, executable(stable)[0]), open_one(candidate, executable(candidate)[0])
    test, on_test, outputs = _answered(task, tops, measurable(*dataset.load("test"), task, stable.encoding))
    _, on_recent, latest = _answered(task, tops, recent)
    num_nonfinite = sum(int((~np.isfinite(one)).any(axis=1).sum()) for one in (outputs[1], latest[1]))
    labels = candidate.encoding.labels
    rows_of = {label: np.flatnonzero(test == i) for i, label in enumerate(labels)}
    may_serve = candidate.experiment.serve.rungs or executable(candidate)
    figures = Figures(
        test=on_test,
        recent=on_recent,
        classes={label: rows for label, rows in rows_of.items() if len(rows)},
        calibration=None if num_nonfinite else _calibration(task, outputs, test, candidate),
        seconds=_timed(stable, candidate),
        num_bytes=(_num_bytes(stable), _num_bytes(candidate)),
        num_nonfinite=num_nonfinite,
        floor=candidate.experiment.serve.objective.accuracy_at_least,
        rungs={name: candidate.accuracies[name] for name in may_serve},
    )
    return [opened, *gate.judge(figures, candidate.experiment.gate)]


def refusal(candidate: Bundle) -> str:
    """Why a replica could not open it; empty if it could."""
    words = [sys.executable, "-m", "ladder.opening", candidate.store.uri, candidate.key]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **own.ship(candidate.experiment, candidate.store),
    }
    try:
        ended = subprocess.run(
            [*words, str(candidate.experiment.serve.max_batch)],
            env=environment,
            capture_output=True,
            timeout=OPENING_S,
        )
    except subprocess.TimeoutExpired:
        return f"it had not opened after {OPENING_S:.0f} s"
    if ended.returncode == 0:
        return ""
    if ended.returncode < 0:
        return f"it was ended by {signal.Signals(-ended.returncode).name}"
    said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    return said[-1][:SHOWN] if said else f"it ended with exit code {ended.returncode}"


def _differences(stable: Bundle, candidate: Bundle) -> list[str]:
    """What clients would notice, and what makes answers of the two no answers to the same rows."""
    ours, theirs = stable.encoding, candidate.encoding
    (our_input, our_output), (their_input, their_output) = _specs(stable), _specs(candidate)
    found = [
        f"{name} ({_shown(mine)} before, now {_shown(new)})"
        for name, mine, new in (
            ("labels", ours.labels, theirs.labels),
            ("rows' shape", ours.shape, theirs.shape),
            ("rows' dtype", ours.dtype, theirs.dtype),
            ("input", our_input, their_input),
            ("output", our_output, their_output),
        )
        if mine != new
    ]
    missing = [name for name in candidate.experiment.serve.rungs or () if name not in executable(candidate)]
    return [*found, *(f"no rung {name}, which serve.rungs names" for name in missing)]


def _specs(bundle: Bundle) -> tuple[object, object]:
    task = load_task(bundle.experiment, bundle.file)
    return task.input_spec(bundle.encoding), task.output_spec(bundle.encoding)


def _shown(value: object) -> str:
    if isinstance(value, tuple) and len(value) > 5:
        return f"{len(value)}: {', '.join(map(str, value[:3]))}, ..."
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _answered(
    task: Task, tops: tuple[Forward, Forward], given: Rows
) -> tuple[np.ndarray, Pair, tuple[np.ndarray, np.ndarray]]:
    """The truth, how right both versions are, and their outputs float32 [n, width], the stable version's first."""
    rows, truth = given
    if len(rows) == 0:
        nothing = np.empty((0, 1), np.float32)
        return truth, Pair(np.empty(0), np.empty(0)), (nothing, nothing)
    before, now = (batched(top, rows) for top in tops)
    right = np.where(np.isfinite(now).all(axis=1), task.right(np.nan_to_num(now), truth), 0.0)
    return truth, Pair(task.right(before, truth), right), (before, now)


def _calibration(
    task: Task, outputs: tuple[np.ndarray, np.ndarray], truth: np.ndarray, candidate: Bundle
) -> tuple[float, float] | None:
    """Of tasks whose metrics have it."""
    before, now = (task.metrics(one, truth, candidate.encoding).get("calibration_error") for one in outputs)
    return None if before is None or now is None else (float(before), float(now))


def _timed(stable: Bundle, candidate: Bundle) -> Mapping[tuple[str, int], tuple[float, float]]:
    """CPU seconds of one row and of a full batch, for each rung that both have, and for the new version's best.

    Rungs that a ladder leaves out may differ by chance, so like is compared with like. CPU time on one thread: what
    else the machine does meanwhile does not count.
    """
    known = kept(stable)
    top, *others = executable(candidate)
    pairs = {top: top if top in known else executable(stable)[0], **{name: name for name in others if name in known}}
    rows = candidate.probe(candidate.experiment.serve.max_batch)
    seconds = {}
    for variant, before in pairs.items():
        both = open_one(stable, before), open_one(candidate, variant)
        for size in sorted({1, len(rows)}):
            seconds[variant, size] = _side_by_side(both, rows[:size])
    return seconds


def _side_by_side(both: tuple[Forward, Forward], rows: np.ndarray) -> tuple[float, float]:
    taken: tuple[list[float], list[float]] = ([], [])
    for predictor in both:
        predictor(rows)  # the runtime's first allocations are not timed
    end = time.monotonic() + ROUNDS_S
    while len(taken[0]) < LEAST_ROUNDS or (len(taken[0]) < ROUNDS and time.monotonic() < end):
        for predictor, times in zip(both, taken, strict=True):
            start = time.thread_time()
            predictor(rows)
            times.append(time.thread_time() - start)
    return median(taken[0]), median(taken[1])


def _num_bytes(bundle: Bundle) -> int:
    return sum(bundle.files[variant]["bytes"] for variant in kept(bundle))
