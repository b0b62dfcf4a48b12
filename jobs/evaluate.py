"""The evaluation step: measure a run on the test split, and make the bundle that is served.

What is measured is the form that will be served (the ladder's top), on rows that no earlier step has looked at.
Knows metrics and what belongs into a bundle; how the ladder is made stands in `jobs.rungs`, the card's words and
pictures in `jobs.model_card`.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.config import Experiment
from cluster.errors import DataError
from cluster.experiment import parse
from cluster.store import Store
from jobs import learning_curve, model_card, rungs
from ladder import forms, reference
from ladder.bundle import CODE, KEPT, read_bundle, write_bundle
from ladder.embedding import Embedder
from ladder.forms import Forward
from ladder.profile import batched, measurable
from ladder.variants import REFERENCE
from tasks import own
from tasks.dataset import Dataset, read_dataset
from tasks.task import Encoding, Task, learner, load_task

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.registry import Registry
    from jobs.command import Context

PROBE_ROWS = 64


def body(context: Context) -> dict[str, Any]:
    """The step as `jobs.command` runs it."""
    keys = context.keys.dataset, context.keys.run, context.keys.bundle
    return run(context.experiment, context.store, *keys, context.registry, context.progress)


def run(
    experiment: Experiment,
    store: Store,
    dataset_key: str,
    run_key: str,
    key: str,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Publish `bundles/<key>` and register it as a model version; returns its figures.

    `progress` hears of the steps of the students' training, which takes most of the time.

    Raises:
        DataError: no test rows.
        NotFoundError: no such dataset or run.
        TrimtabError: the network has no form that could be served.
    """
    trained = store.manifest("runs", run_key)
    experiment = _as_trained(experiment, trained)
    if not store.has("bundles", key):
        _write(experiment, store, dataset_key, run_key, key, trained, progress)
    metrics = read_bundle(store, key).metrics
    figures = {"bundle": key, **scalars(metrics)}
    if registry is not None:
        version = registry.register(experiment.name, key, trained["mlflow_run"], scalars(metrics))
        figures |= {"model": version.name, "version": version.version}
    return figures


def _as_trained(experiment: Experiment, trained: dict[str, Any]) -> Experiment:
    """With the settings that the run had: a search may have chosen others than the file's."""
    made = parse(trained["experiment"])
    return experiment.model_copy(update={"model": made.model, "train": made.train})


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics that are one real number, rounded for people."""
    return {name: round(value, 4) for name, value in metrics.items() if isinstance(value, float)}


def _write(
    experiment: Experiment,
    store: Store,
    dataset_key: str,
    run_key: str,
    key: str,
    trained: dict[str, Any],
    progress: Progress | None,
) -> None:
    from safetensors.torch import load

    dataset = read_dataset(store, dataset_key)
    task = load_task(experiment, dataset.file)
    rows, truth = measurable(*dataset.load("test"), task, dataset.encoding)
    if len(rows) == 0:
        share = experiment.data.split.test
        raise DataError("data.split.test", share, "no row fell into the test split", "raise it or add data")
    weights = store.read("runs", run_key, trained["files"]["weights"])
    history = json.loads(store.read("runs", run_key, trained["files"]["history"]))
    network = task.network(dataset.encoding)
    learner(task, network).load_state_dict(load(weights))
    made, ladder = rungs.build(task, dataset, network, progress)
    variants, table = tuple(rung.variant for rung in ladder.rungs), ladder.to_json()

    forwards = {variant: forms.opened(variant, made[variant], task, dataset.encoding) for variant in variants}
    outputs = batched(forwards[variants[0]], rows)
    metrics = task.metrics(outputs, truth, dataset.encoding)
    files = {
        "weights": ("weights.safetensors", weights),
        **{variant: (f"{variant}{forms.suffix(variant)}", data) for variant, data in made.items()},
        "history": ("history.json", json.dumps(history, indent=1).encode()),
        "probe": ("probe.npy", _probe(dataset)),
        "reference": ("reference.npz", _reference(forwards, rows, outputs, _embeddings(made.get(REFERENCE), rows))),
        **{f"{KEPT}{name}": (name, dataset.file(name)) for name in dataset.files},
        **{f"{KEPT}{name}": (name, data) for name, data in task.accompany(forwards).items()},
    }
    if (code := own.find(experiment)) is not None:
        files |= {f"{CODE}{name}": (f"code/{name}", data) for name, data in code.files.items()}
    if "confusion" in metrics:
        picture = model_card.confusion_picture(metrics["confusion"], dataset.encoding.labels)
        files["confusion"] = ("confusion.png", picture)
    if sample := _sample(task, rows, truth, outputs, dataset.encoding):
        files["sample"], metrics["sample_label"] = sample
    files["ladder"] = ("ladder.png", model_card.ladder_picture(table))
    files["learning"] = ("learning.png", learning_curve.picture(history, trained["best_epoch"]))
    card = model_card.text(task, dataset, trained, metrics, table)
    files["card"] = ("card.md", card.encode())
    write_bundle(
        store,
        key,
        experiment=experiment,
        encoding=dataset.encoding,
        dataset=dataset_key,
        run=run_key,
        metrics=metrics,
        files=files,
        variants=variants,
        ladder=table,
    )


def _embeddings(graph: bytes | None, rows: np.ndarray) -> np.ndarray | None:
    """Of test rows by the trained network; None for one without a graph or without a last layer."""
    if graph is None:
        return None
    try:
        return batched(Embedder(graph), rows[: reference.MOST_ROWS])
    except ValueError:
        return None


def _reference(
    forwards: dict[str, Forward], rows: np.ndarray, outputs: np.ndarray, embeddings: np.ndarray | None
) -> bytes:
    """How every rung answers on test rows, which nothing was chosen by; `outputs` are the first one's."""
    some = rows[: reference.MOST_ROWS]
    top, *others = forwards
    answers = {top: outputs, **{variant: batched(forwards[variant], some) for variant in others}}
    return reference.pack(answers, embeddings)


def _probe(dataset: Dataset) -> bytes:
    """Some validation rows as .npy: what a replica times its rungs with, so that lengths are real ones."""
    rows, _ = dataset.load("validation")
    out = io.BytesIO()
    np.save(out, rows[:PROBE_ROWS], allow_pickle=False)
    return out.getvalue()


def _sample(
    task: Task, rows: np.ndarray, truth: np.ndarray, outputs: np.ndarray, encoding: Encoding
) -> tuple[tuple[str, bytes], str] | None:
    """A test row to try the endpoint with, the surest of the right answers, and what is true of it."""
    right = task.right(outputs, truth)
    right = np.where(truth < len(encoding.labels), right, 0.0) if encoding.labels else right  # show what it can do
    sure = outputs[:, : len(encoding.labels) or None].max(axis=1)
    chosen = int(np.where(right == right.max(), sure, -np.inf).argmax())
    file = task.sample(rows[chosen], encoding)
    if file is None:
        return None
    if not encoding.labels:
        return file, f"{truth[chosen]:g}"
    number = int(truth[chosen])
    return file, encoding.labels[number] if number < len(encoding.labels) else str(task.outside)


if __name__ == "__main__":
    from jobs import command

    raise SystemExit(command.main("evaluate", body))
