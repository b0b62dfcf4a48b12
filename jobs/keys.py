"""The keys of a pipeline's results: hashes of everything that decides them, so that nothing runs twice.

A key changes with the part of the experiment a step reads, with its input and with the code that does the
work; it does not change with the rest of the file. Loads neither Ray nor torch: `trimtab plan` calls this.
"""

from __future__ import annotations

from cluster.config import Experiment
from cluster.experiment import fingerprint
from jobs import sources
from tasks.task import code_version

SOURCES = ("jobs.sources", "jobs.source_arrays", "jobs.source_images", "jobs.source_rows", "jobs.source_tables")
PREPROCESS_CODE = ("jobs.preprocess", *SOURCES)
TRAIN_CODE = ("jobs.loop", "jobs.train", "jobs.checkpoint")
EVALUATE_CODE = ("jobs.evaluate", "ladder.variants", "ladder.bundle")


def dataset_key(experiment: Experiment) -> str:
    """Raises DataError when the data cannot be found."""
    inputs = sources.fingerprint(experiment)
    code = code_version(experiment, *PREPROCESS_CODE)
    return fingerprint(experiment.data, experiment.seed, experiment.task, inputs, code)


def run_key(experiment: Experiment, dataset: str) -> str:
    code = code_version(experiment, *TRAIN_CODE)
    return fingerprint(experiment.train, experiment.model, experiment.seed, experiment.task, dataset, code)


def bundle_key(experiment: Experiment, run: str) -> str:
    return fingerprint(experiment.name, run, code_version(experiment, *EVALUATE_CODE))
