"""Images: MNIST and a part of CIFAR-10 as their experiments have them.

The recipes were chosen on validation rows; the test split is read after the weights are fixed. Each with its ladder:
how many times as fast as the trained network in fp32 a rung is, with one image, that loses at most 2.5 points of the
most accurate rung's on the test split.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report, rungs
from benchmarks.train_ingest import Silent
from benchmarks.use_cases import Context
from cluster import experiment as experiments
from jobs import evaluate, preprocess, train
from ladder.bundle import read_bundle
from ladder.profile import batched
from ladder.variants import OnnxPredictor
from tasks.dataset import read_dataset

DATA = ("mnist", "cifar10_subset")
EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
RUNS = {"MNIST": "mnist", "CIFAR": "cifar"}  # names of their files
MOST_LOST = 0.025  # of test accuracy, on a rung that counts as fast
FAST = f"fastest rung within {MOST_LOST:.1%}, b = 1"
GOALS = {("MNIST", "test accuracy"): 0.99, ("CIFAR", "test accuracy"): 0.80, ("CIFAR", FAST): 20.0}
UNITS = {FAST: "times", "epochs": "epochs", "CPU of the epochs": "CPU-min"}


def run(context: Context) -> list[dict[str, Any]]:
    scores: dict[tuple[str, str], list[float]] = {}
    for seed in context.seeds:
        for name in list(RUNS)[: 1 if context.quick else None]:
            for key, value in measure(context, name, seed).items():
                scores.setdefault((name, key), []).append(value)
                print(f"images, {name}, seed {seed}: {key} {value:.4f}", file=sys.stderr, flush=True)
    return [
        report.over_seeds(f"images, {name}: {key}", values, UNITS.get(key, "share"), GOALS.get((name, key)))
        for (name, key), values in scores.items()
    ]


def measure(context: Context, name: str, seed: int) -> dict[str, float]:
    file = RUNS[name]
    made = experiments.load(EXPERIMENTS / f"{file}.yaml", [*_source(context.data, file), f"seed={seed}"])
    store, key = context.store, f"images-{file}-{seed}"
    preprocess.run(made, store, key, lambda *_: None)
    train.run(made, store, key, key, Silent("train"))
    evaluate.run(made, store, key, key, key)
    bundle, run = read_bundle(store, key), store.manifest("runs", key)
    rows, truth = read_dataset(store, key).load("test")
    right = {
        variant: float(np.mean(batched(OnnxPredictor(bundle.read(variant)), rows).argmax(1) == truth))
        for variant in bundle.variants
    }
    top = bundle.variants[0]
    if seed == context.seeds[-1]:
        reached = {variant: {"test accuracy": share} for variant, share in right.items()}
        context.tables.append(rungs.table(f"Ladder of {name}", bundle, reached))
    near = [variant for variant in bundle.variants if right[top] - right[variant] <= MOST_LOST]
    return {
        "test accuracy": right[top],
        "epochs": run["epochs"],
        "CPU of the epochs": run["cpu_s"] / 60,
        FAST: max(rungs.faster(bundle, variant, "1") for variant in near),
    }


def _source(data: Path, file: str) -> list[str]:
    if file == "mnist":
        return [f"data.source.path={data / 'mnist'}"]
    return [
        f"data.source.{key}={data / 'cifar10_subset' / name}"
        for key, name in (("path", "train.parquet"), ("test_path", "test.parquet"))
    ]
