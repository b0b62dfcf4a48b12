"""Where rows come from: one class per kind of source, found by the experiment's `data.source.kind`.

`preflight` and `fingerprint` are quick and need no cluster; `read` gives the rows. Knows no Ray, so that
planning stays instant, and nothing of what is done with the rows.
"""

from __future__ import annotations

from typing import Any, Protocol

from cluster import experiment as experiments
from cluster.config import Experiment
from cluster.errors import DataError
from jobs.source_arrays import Digits, Idx, Torchvision
from jobs.source_images import ImageFolder
from jobs.source_interactions import Interactions
from jobs.source_rows import Reading
from jobs.source_tables import Csv, Jsonl, Parquet, Table


class Kind(Protocol):
    def check(self) -> None:
        """Raises DataError for what can be seen without reading the rows."""

    def has_test(self) -> bool:
        """Whether the source brings test rows of its own."""

    def state(self) -> object:
        """JSON-able; differs when the input does."""

    def read(self) -> Reading:
        """Raises DataError when the source cannot be read."""


KINDS: dict[str, Any] = {
    "digits": Digits,
    "idx": Idx,
    "torchvision": Torchvision,
    "image_folder": ImageFolder,
    "parquet": Parquet,
    "csv": Csv,
    "jsonl": Jsonl,
    "interactions": Interactions,
}


def preflight(experiment: Experiment) -> None:
    """Raises DataError for every mistake that can be found before a cluster is asked for anything."""
    kind = _kind(experiment)
    kind.check()
    share = experiment.data.split.test
    if share is not None and kind.has_test():
        problem = "the source brings its own test rows"
        raise DataError("data.split.test", share, problem, "remove it, or take the source's test rows away")


def fingerprint(experiment: Experiment) -> str:
    """16 hex digits that change when the input does: by names, sizes and times of its files. Raises DataError."""
    return experiments.fingerprint(_kind(experiment).state())


def read(experiment: Experiment) -> Reading:
    """Raises DataError when the source cannot be read or downloaded."""
    return _kind(experiment).read()


def _kind(experiment: Experiment) -> Kind:
    source = experiment.data.source
    made = KINDS[source.kind]
    kind: Kind = made(source, experiment) if issubclass(made, Table | Interactions) else made(source)
    return kind
