"""Test accuracy, epochs and time of the experiments for MNIST (three seeds) and for a CIFAR-10 subset (one).

The recipes are those of `experiments/mnist.yaml` and `experiments/cifar.yaml`, chosen on validation rows; the test
split is read once per run, by the evaluation step, after the weights are fixed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.arena import private
from benchmarks.train_ingest import Silent
from cluster import experiment as experiments
from cluster.store import Store
from jobs import evaluate, preprocess, train

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
MNIST_GOAL = 0.990


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="MNIST with one seed, 3 epochs; no CIFAR")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with mnist, cifar10_subset")
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    arguments = parser.parse_args()
    if not (arguments.data / "mnist").is_dir():
        print(f"--data {arguments.data}: no folder mnist there; name the folder that holds it", file=sys.stderr)
        return 2
    mnist = [f"data.source.path={arguments.data.absolute()}/mnist"]
    cifar = [f"data.source.{k}={arguments.data.absolute()}/cifar10_subset/{f}.parquet" for k, f in CIFAR_FILES]
    with private("benchmark-accuracy") as (_, folder):
        store = Store.open(str(folder))
        seeds = (0,) if arguments.quick else (0, 1, 2)
        more = ["train.epochs=3"] if arguments.quick else []
        runs = {"mnist": [measure(store, "mnist", [*mnist, *more], seed) for seed in seeds]}
        if not arguments.quick:
            runs["cifar"] = [measure(store, "cifar", cifar, 0)]
    write(arguments.out, runs, quick=arguments.quick)
    return 0


CIFAR_FILES = (("path", "train"), ("test_path", "test"))


def measure(store: Store, name: str, overrides: list[str], seed: int) -> dict[str, Any]:
    """Preprocess, train and evaluate one experiment with one seed."""
    made = experiments.load(EXPERIMENTS / f"{name}.yaml", [*overrides, f"seed={seed}"])
    key = f"{name}-{seed}"
    preprocess.run(made, store, key, lambda *_: None)
    started = time.perf_counter()
    train.run(made, store, key, key, Silent("train"))
    wall_s = time.perf_counter() - started
    accuracy = read_accuracy(store, evaluate.run(made, store, key, key, key)["bundle"])
    run = store.manifest("runs", key)
    print(f"{key}: accuracy {accuracy:.4f}, {run['epochs']} epochs, {wall_s:.0f} s", file=sys.stderr)
    validation = run["metrics"]["validation_accuracy"]
    return {**run, "accuracy": accuracy, "validation": validation, "wall_s": wall_s}


def read_accuracy(store: Store, key: str) -> float:
    return float(store.manifest("bundles", key)["metrics"]["accuracy"])


def write(out: Path | None, runs: dict[str, list[dict[str, Any]]], *, quick: bool) -> None:
    figures = []
    for name, measured in runs.items():
        accuracies = [run["accuracy"] for run in measured]
        mean = sum(accuracies) / len(accuracies)
        goal = MNIST_GOAL if name == "mnist" else None
        met = mean >= goal if goal else None
        figures.append(
            report.figure(f"{name}: test accuracy", accuracies, "share", goal=goal, met=met) | {"mean": mean}
        )
        for title, field, unit in (
            ("validation accuracy", "validation", "share"),
            ("epochs", "epochs", "epochs"),
            ("training step, wall", "wall_s", "s"),
            ("epochs alone, wall", "seconds", "s"),
            ("CPU of the workers' epochs", "cpu_s", "CPU-s"),
        ):
            figures.append(report.figure(f"{name}: {title}", [run[field] for run in measured], unit))
    notes = (
        "2 workers on CPU; the goal is for the mean over seeds; a seed changes weights, order and the validation rows"
    )
    report.write(out, "accuracy", quick=quick, seed=0, figures=figures, notes=notes)


if __name__ == "__main__":
    raise SystemExit(main())
