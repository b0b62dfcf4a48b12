"""The evaluation step: measure a run on the test split, and make the bundle that is served.

What is measured is the form that will be served (the ladder's top), on rows that no earlier step has looked at.
Knows metrics and what belongs into a bundle; how the ladder is made stands in `jobs.rungs`, the card's words and
pictures in `jobs.model_card`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.config import Experiment
from cluster.errors import DataError
from cluster.experiment import parse
from cluster.store import Store
from jobs import model_card, rungs
from ladder.bundle import read_bundle, write_bundle
from ladder.profile import batched
from ladder.variants import OnnxPredictor
from tasks.dataset import read_dataset
from tasks.task import Encoding, load_task

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.registry import Registry
    from jobs.command import Context

BINS = 15


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
        TrimtabError: the network cannot be exported.
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
    """The metrics that are one number, rounded for people."""
    names = ("accuracy", "macro_f1", "log_loss", "calibration_error")
    return {name: round(float(metrics[name]), 4) for name in names}


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

    dataset, task = read_dataset(store, dataset_key), load_task(experiment)
    rows, truth = dataset.load("test")
    if len(rows) == 0:
        share = experiment.data.split.test
        raise DataError("data.split.test", share, "no row fell into the test split", "raise it or add data")
    weights = store.read("runs", run_key, trained["files"]["weights"])
    history = json.loads(store.read("runs", run_key, trained["files"]["history"]))
    network = task.network(dataset.encoding)
    network.load_state_dict(load(weights))
    graphs, ladder = rungs.build(task, dataset, network, progress)
    variants, table = tuple(rung.variant for rung in ladder.rungs), ladder.to_json()

    probabilities = batched(OnnxPredictor(graphs[variants[0]]), rows)
    metrics = measure(probabilities, truth, dataset.encoding.labels)
    files = {
        "weights": ("weights.safetensors", weights),
        **{variant: (f"{variant}.onnx", graph) for variant, graph in graphs.items()},
        "history": ("history.json", json.dumps(history, indent=1).encode()),
        "confusion": ("confusion.png", model_card.confusion_picture(metrics["confusion"], dataset.encoding.labels)),
    }
    if sample := _sample(rows, truth, probabilities, dataset.encoding):
        files["sample"], metrics["sample_label"] = sample
    files["ladder"] = ("ladder.png", model_card.ladder_picture(table))
    card = model_card.text(experiment, dataset, trained, metrics, table)
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


def measure(probabilities: np.ndarray, truth: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    """All metrics of probabilities float32 [n, num_labels] against true indices int64 [n], JSON-able.

    `confusion` is [true][predicted] in counts. A class that is never predicted has precision 0, one without
    rows recall 0, and F1 is 0 where both are.
    """
    n, k = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    right, support, guesses = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = right / np.maximum(guesses, 1), right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + guesses, 1)
    likelihood = probabilities[np.arange(n), truth].astype(np.float64)
    present = (support + guesses) > 0  # as scikit-learn counts: a label that nowhere occurs is no class of this test
    return {
        "accuracy": float(right.sum() / n),
        "macro_f1": float(f1[present].mean()),
        "log_loss": float(-np.log(np.maximum(likelihood, np.finfo(np.float32).eps)).mean()),
        "calibration_error": calibration_error(probabilities, truth),
        "rows": n,
        "classes": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "rows": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion": confusion.tolist(),
    }


def calibration_error(probabilities: np.ndarray, truth: np.ndarray, num_bins: int = BINS) -> float:
    """Expected calibration error over bins of equal width (Guo et al., On Calibration of Modern Neural Networks, 2017).

    The mean over rows of the gap, within a row's bin of confidence, between mean confidence and accuracy.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == truth).astype(np.float64)
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(truth))


def _sample(
    rows: np.ndarray, truth: np.ndarray, probabilities: np.ndarray, encoding: Encoding
) -> tuple[tuple[str, bytes], str] | None:
    """A test image to try the endpoint with: the surest of the right answers; None where rows are no images."""
    if encoding.dtype != "uint8" or len(encoding.shape) != 3 or encoding.shape[2] not in (1, 3):
        return None
    right = probabilities.argmax(axis=1) == truth
    chosen = int(np.where(right, probabilities.max(axis=1), 0.0).argmax())
    return ("sample.png", model_card.png(rows[chosen])), encoding.labels[int(truth[chosen])]


if __name__ == "__main__":
    from jobs import command

    raise SystemExit(command.main("evaluate", body))
