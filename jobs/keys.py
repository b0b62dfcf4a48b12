"""The keys of a pipeline's results: hashes of everything that decides them, so that nothing runs twice.

A key changes with the part of the experiment a step reads, with its input and with the code that does the
work; it does not change with the rest of the file. Loads neither Ray nor torch: `trimtab plan` calls this.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.config import Experiment
from cluster.experiment import fingerprint
from jobs import sources
from tasks.task import code_version

# Modules whose code decides a step's result; tests/jobs/test_keys.py keeps the lists whole.
PREPROCESS_CODE = (
    "jobs.preprocess",
    "jobs.cleaner",
    "jobs.verdicts",
    "jobs.shards",
    "jobs.sources",
    "jobs.source_arrays",
    "jobs.source_images",
    "jobs.source_records",
    "jobs.source_rows",
    "jobs.source_tables",
)
TRAIN_CODE = ("jobs.train", "jobs.loop", "jobs.feed", "jobs.checkpoint")
EVALUATE_CODE = (
    "jobs.evaluate",
    "jobs.model_card",
    "jobs.rungs",
    "jobs.distil",
    "ladder.variants",
    "ladder.profile",
    "ladder.latency",
    "ladder.bundle",
)


@dataclass(frozen=True)
class Keys:
    """Of the dataset, the training run and the bundle."""

    dataset: str
    run: str
    bundle: str


def of(experiment: Experiment) -> Keys:
    """Raises DataError when the data cannot be found."""
    code = {part: code_version(experiment, *modules) for part, modules in _CODE.items()}
    data = experiment.data, experiment.seed, experiment.task, sources.fingerprint(experiment)
    dataset = fingerprint(*data, code["dataset"])
    run = fingerprint(experiment.train, experiment.model, experiment.seed, experiment.task, dataset, code["run"])
    return Keys(dataset, run, fingerprint(experiment.name, experiment.ladder, run, code["bundle"]))


_CODE = {"dataset": PREPROCESS_CODE, "run": TRAIN_CODE, "bundle": EVALUATE_CODE}
