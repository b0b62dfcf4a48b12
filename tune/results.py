"""What a search comes to: its trials read back from Ray Tune, its table, its picture and its manifest.

Knows records and files; how a trial is run stands in `tune.trial`.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.config import Experiment
from cluster.errors import TrimtabError
from cluster.store import Store
from jobs import checkpoint
from jobs.checkpoint import Course
from jobs.keys import TRAIN_CODE
from tasks.task import code_version
from tune.earlier import TABLE
from tune.picture import parallel_coordinates
from tune.space import Space, settings
from tune.trials import Trial, chosen, counts, pareto

if TYPE_CHECKING:
    from ray.tune import Result

COURSE = "course"
REPORTED = (
    "epoch", "train_loss", "validation_loss", "validation_accuracy", "seconds", "cpu_s", "rows",
    "latency_ms", "latency_batch_ms", "failure", "over", "timestamp",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """All trials of a search; `histories` are their reports, `courses` those of population based training."""

    experiment: Experiment
    dataset: str
    space: Space
    own: Sequence[Trial]
    known: Sequence[Trial]  # from earlier searches
    histories: Mapping[str, Sequence[Mapping[str, Any]]]
    over: str
    seconds: float
    start_s: float  # of them, until the first trial's first epoch was done
    parallel: int
    courses: Mapping[str, Course] = field(default_factory=dict)

    @property
    def best(self) -> tuple[Trial | None, str]:
        assert self.experiment.tune is not None
        return chosen([*self.own, *self.known], self.experiment.tune, self.experiment.serve.objective)

    def require_best(self) -> Trial:
        """Raises TrimtabError when no trial came to a figure."""
        best, _ = self.best
        if best is not None:
            return best
        failures = [trial.failure for trial in self.own if trial.failure]
        reason = f"; the first: {failures[0]}" if failures else ""
        problem = self.over or "no trial ended an epoch"
        raise TrimtabError(f"the search found nothing: {problem} ({len(self.own)} trials){reason}")


def publish(found: Found, store: Store, key: str, mlflow_run: str | None) -> dict[str, Any]:
    """Make `searches/<key>`: manifest, `trials.parquet`, `search.png`. Raises StoreError, or TrimtabError as above."""
    section = found.experiment.tune
    assert section is not None
    best, why = found.require_best(), found.best[1]
    every = [*found.own, *found.known]
    front = pareto(every, section.metric) if section.latency else []
    picture = parallel_coordinates(found.space, every, section.metric, best)
    with store.stage("searches", key) as staging:
        files = {
            TABLE: staging.write("trials.parquet", _parquet(every)),
            "picture": staging.write("search.png", picture),
        }
        if best.trial in found.courses:
            files[COURSE] = staging.write("course.pt", _course_bytes(found.courses[best.trial]))
        return staging.publish(
            {
                "experiment": found.experiment.model_dump(mode="json"),
                "dataset": found.dataset,
                "code": code_version(found.experiment, *TRAIN_CODE),
                "metric": section.metric,
                "best": best.to_json(),
                "why": why,
                "pareto": [trial.to_json() for trial in front],
                "trials": len(found.own),
                "earlier_trials": len(found.known),
                "states": counts(found.own),
                "failures": {trial.trial: trial.failure for trial in found.own if trial.failure},
                "over": found.over or "all trials done",
                "seconds": found.seconds,
                "start_s": found.start_s,
                "parallel": found.parallel,
                "epochs": sum(trial.epochs for trial in found.own),
                "training_s": sum(trial.seconds for trial in found.own),
                "cpu_s": sum(trial.cpu_s for trial in found.own),
                "mlflow_run": mlflow_run,
                "files": files,
            }
        )


def figures(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a person sees of a published search."""
    best = manifest["best"]
    shown = {
        "trials": {"run": manifest["trials"], "earlier": manifest["earlier_trials"], **manifest["states"]},
        "best_trial": best["trial"],
        f"best_{manifest['metric']}": round(best[manifest["metric"]], 4),
        "best_settings": settings(best["config"]),
        "chosen_as": manifest["why"],
        "ended": manifest["over"],
        "start_s": round(manifest["start_s"], 1),
        "overhead_s_per_trial": overhead_s(manifest),
    }
    if manifest["pareto"]:
        front = [f"{t['accuracy']:.4f} at {t['latency_ms']:.3f} ms ({t['trial']})" for t in manifest["pareto"]]
        shown["pareto"] = front
    return {name: value for name, value in shown.items() if value is not None}


def overhead_s(manifest: dict[str, Any]) -> float | None:
    """Seconds of a trial's place that no epoch took, after the search had started: validation is part of it."""
    if not manifest["trials"]:
        return None
    places_s = (manifest["seconds"] - manifest["start_s"]) * manifest["parallel"]
    return round(max(0.0, float(places_s - manifest["training_s"])) / int(manifest["trials"]), 2)


def history(result: Result) -> tuple[str, list[dict[str, Any]]]:
    """A trial's name and reports, one per epoch: a trial that began again after a death told some of them twice."""
    name, frame = Path(str(result.path)).name, result.metrics_dataframe
    entries: dict[Any, dict[str, Any]] = {}
    for row in [] if frame is None else frame.to_dict("records"):
        entry = {field: row[field] for field in REPORTED if field in row and row[field] == row[field]}  # NaN: absent
        entries["failure" if entry.get("failure") else entry.get("epoch")] = entry
    return name, list(entries.values())


def course(result: Result) -> Course | None:
    """What a trial's last checkpoint remembers; None when it has none."""
    if result.checkpoint is None:
        return None
    with result.checkpoint.as_directory() as folder:
        return checkpoint.load(Path(folder))[1]


def reason(error: BaseException) -> str:
    """The last line of what Ray says, which is the trial's own error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _parquet(every: Sequence[Trial]) -> bytes:
    """One row per trial; `config` is JSON, and each setting is a column of text beside it."""
    names = sorted({name for trial in every for name in trial.config})
    rows = []
    for trial in every:
        row = {**trial.to_json(), "config": json.dumps(dict(trial.config), sort_keys=True)}
        rows.append(row | {name: _text(trial.config.get(name)) for name in names})
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, compression="zstd")
    return out.getvalue()


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _course_bytes(one: Course) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), {}, one)
        return (Path(folder) / checkpoint.STATE).read_bytes()
