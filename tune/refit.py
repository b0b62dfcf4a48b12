"""The training step of an experiment with a search: train with the best settings, and say where they come from.

On the training rows as any training; with the validation rows too, for as many epochs as the best trial needed to its
best; after population based training not at all, as its best trial's weights are the result.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config import Experiment
from cluster.errors import NotFoundError
from cluster.progress import Progress
from cluster.store import Store
from jobs import checkpoint, train
from tasks.dataset import read_dataset
from tune.results import COURSE
from tune.search import required
from tune.space import applied

if TYPE_CHECKING:
    from cluster.registry import Registry
    from jobs.command import Context


def body(context: Context) -> dict[str, Any]:
    """The step as `jobs.command` runs it."""
    keys = context.keys
    found = context.experiment, context.store, keys.dataset, keys.search, keys.run
    return run(*found, context.progress, context.registry, context.inline, context.asked_at)


def run(
    experiment: Experiment,
    store: Store,
    dataset_key: str,
    search_key: str,
    key: str,
    progress: Progress,
    registry: Registry | None = None,
    inline: bool = False,
    asked_at: float | None = None,
) -> dict[str, Any]:
    """Publish `runs/<key>` with the best settings of `searches/<search_key>`; returns its figures.

    `inline` and `asked_at` are those of `jobs.train.run`.

    Raises:
        ConfigError: no search in the experiment.
        NotFoundError: the search was not run yet.
        TrimtabError: as `jobs.train.run` does.
    """
    required(experiment)
    if not store.has("searches", search_key):
        raise NotFoundError(f"search {search_key} was not run yet; run it: trimtab tune")
    search = store.manifest("searches", search_key)
    best, origin = tuned(experiment, search), _origin(experiment, search, search_key)
    if COURSE not in search["files"]:
        return train.run(
            best, store, dataset_key, key, progress, registry, origin=origin, inline=inline, asked_at=asked_at
        )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / checkpoint.STATE).write_bytes(store.read("searches", search_key, search["files"][COURSE]))
        course = checkpoint.load(Path(folder))[1]
    return train.adopt(best, store, read_dataset(store, dataset_key), key, course, progress, registry, origin)


def tuned(experiment: Experiment, search: dict[str, Any]) -> Experiment:
    """The experiment with a published search's best settings, ready to be trained."""
    section, best = required(experiment), search["best"]
    if section.refit == "train":
        return applied(experiment, best["config"])
    epochs = best["best_epoch"] + 1
    return applied(experiment, best["config"], rows=section.refit, epochs=epochs, early_stopping=None)


def _origin(experiment: Experiment, search: dict[str, Any], search_key: str) -> dict[str, Any]:
    best, metric = search["best"], search["metric"]
    return {
        "search": search_key,
        "trial": best["trial"],
        "config": best["config"],
        "metric": metric,
        "value": best[metric],
        "trials": search["trials"] + search["earlier_trials"],
        "with_validation": required(experiment).refit == "train_and_validation",
        "mlflow_run": search["mlflow_run"],
    }


if __name__ == "__main__":
    from jobs import command

    raise SystemExit(command.main("train", body, module="tune.refit"))
