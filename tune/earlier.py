"""What earlier searches of the same experiment found out, as far as it holds for this one.

A trial counts when the same code trained it on the same rows with the very settings that this search would use at some
point of its space; then it need not run again. Knows published searches, not how one runs.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.config import Experiment
from cluster.errors import ConfigError
from cluster.experiment import parse
from cluster.store import Store
from jobs.keys import TRAIN_CODE
from tasks.task import code_version
from tune.space import Space, applied
from tune.trials import Trial

TABLE = "trials"
DECIDE = ("task", "model", "text", "recommend", "settings", "train")  # what a training reads beside its rows


def trials(store: Store, experiment: Experiment, dataset: str, space: Space) -> list[Trial]:
    """Trials with a figure, their `config` in this search's words and `search` saying where they are from.

    Those of population based training are none of them: their settings changed on the way.
    """
    assert experiment.tune is not None
    found: dict[str, Trial] = {}
    code = code_version(experiment, *TRAIN_CODE)
    for key in store.keys("searches"):
        manifest = store.manifest("searches", key)
        if manifest["dataset"] != dataset or manifest.get("code") != code:
            continue
        try:
            before = parse(manifest["experiment"])
        except ConfigError:  # with settings that this Trimtab does not know any more
            continue
        if before.name != experiment.name or before.tune is None:
            continue
        if before.tune.algorithm == "pbt" or before.tune.metric != experiment.tune.metric:
            continue
        for trial in read_table(store, key, manifest):
            point = _here(trial, before, experiment, space)
            if point is not None and not trial.search and trial.value(before.tune.metric) is not None:
                found[f"{key}-{trial.trial}"] = dataclasses.replace(trial, config=point, search=key)
    return list(found.values())


def read_table(store: Store, key: str, manifest: dict[str, Any]) -> list[Trial]:
    """The published trials of a search."""
    table = pq.read_table(pa.BufferReader(store.read("searches", key, manifest["files"][TABLE])))
    names = [each.name for each in dataclasses.fields(Trial)]
    return [
        Trial(**{name: json.loads(row[name]) if name == "config" else row[name] for name in names})
        for row in table.to_pylist()
    ]


def _here(trial: Trial, before: Experiment, experiment: Experiment, space: Space) -> dict[str, Any] | None:
    """The point of `space` at which this experiment is what that trial trained; None where there is none."""
    assert before.tune is not None
    assert experiment.tune is not None
    try:
        then = applied(before, trial.config, workers=before.tune.workers)
    except ConfigError:
        return None
    point: dict[str, Any] = {}
    for dimension in space.dimensions:
        section, _, setting = dimension.name.partition(".")
        if dimension.exists(point):
            point[dimension.name] = getattr(getattr(then, section), setting)
    if not space.holds(point):
        return None
    now = applied(experiment, point, workers=experiment.tune.workers)
    same = all(getattr(now, name) == getattr(then, name) for name in DECIDE)
    return point if same and (trial.latency_ms is not None or not experiment.tune.latency) else None
