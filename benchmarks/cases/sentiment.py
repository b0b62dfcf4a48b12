"""Sentiment of financial news: PhraseBank through the experiment's own steps, beside TF-IDF on the same rows.

The fine-tuned encoder of `experiments/sentiment.yaml`, its ladder, and the cheap default, a head on the frozen
encoder; accuracy also on the part of the test rows on which all annotators agreed.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline, make_union

from benchmarks import report, rungs
from benchmarks.train_ingest import Silent
from benchmarks.use_cases import Context
from cluster import experiment as experiments
from jobs import evaluate, preprocess, train
from ladder.bundle import read_bundle
from ladder.profile import batched
from ladder.variants import OnnxPredictor
from tasks.dataset import Dataset, read_dataset
from tasks.task import Task, load_task
from tasks.text import Text

DATA = ("financial_phrasebank",)
FILE = "financial_phrasebank.csv"
EXPERIMENT = Path(__file__).resolve().parents[2] / "experiments" / "sentiment.yaml"
FROZEN = ("text.encoder=frozen", "train.epochs=8", "train.batch_size=64", "train.learning_rate=0.001")
FROZEN += ("model.dropout=0.2", "train.keep=last")
GOALS = {("fine-tuned", "accuracy"): 0.84, ("fine-tuned", "macro F1"): 0.82, ("fine-tuned", "all agree"): 0.95}
GOALS |= {("frozen", "accuracy"): 0.81}

Scores = dict[tuple[str, str], list[float]]


def run(context: Context) -> list[dict[str, Any]]:
    scores: Scores = {}
    for seed in context.seeds:
        for name, more in (("fine-tuned", ()), ("frozen", FROZEN)):
            if name == "fine-tuned" and context.quick:
                continue  # minutes of CPU
            found = measure(context, name, seed, more)
            for key, value in found.items():
                scores.setdefault((name, key), []).append(value)
                print(f"sentiment, {name}, seed {seed}: {key} {value:.4f}", file=sys.stderr)
    return [
        report.over_seeds(f"sentiment, {name}: {key}", values, _unit(key), GOALS.get((name, key)))
        for (name, key), values in scores.items()
    ]


def _unit(key: str) -> str:
    return "CPU-min" if "CPU" in key else "share"


def measure(context: Context, name: str, seed: int, more: tuple[str, ...]) -> dict[str, float]:
    """One experiment with one seed: figures on the test split, of the ladder's top and of TF-IDF on the same rows."""
    path = context.data / DATA[0] / FILE
    made = experiments.load(EXPERIMENT, [f"data.source.path={path}", f"seed={seed}", *more])
    store, key = context.store, f"sentiment-{name}-{seed}"
    preprocess.run(made, store, key, lambda *_: None)
    train.run(made, store, key, key, Silent("train"))
    evaluate.run(made, store, key, key, key)
    bundle, dataset = read_bundle(store, key), read_dataset(store, key)
    rows, truth = dataset.load("test")
    texts, agreement = _texts(path, load_task(made, dataset.file))
    agreed = np.array([agreement[row.tobytes()] == 100 for row in rows])
    right = {v: batched(OnnxPredictor(bundle.read(v)), rows).argmax(1) == truth for v in bundle.variants}
    if seed == context.seeds[-1]:
        reached = {variant: {"test accuracy": float(found.mean())} for variant, found in right.items()}
        context.tables.append(rungs.table(f"Ladder of the {name} encoder", bundle, reached))
    return {
        "accuracy": bundle.metrics["accuracy"],
        "macro F1": bundle.metrics["macro_f1"],
        "all agree": float(right[bundle.variants[0]][agreed].mean()),
        "CPU of the epochs": store.manifest("runs", key)["cpu_s"] / 60,
        **{f"TF-IDF, {what}": value for what, value in _tf_idf(dataset, texts).items()},
    }


def _texts(path: Path, task: Task) -> tuple[dict[bytes, str], dict[bytes, int]]:
    """Text, and percent of the annotators that agreed on it, by the bytes of its row."""
    assert isinstance(task, Text)
    texts, agreement = {}, {}
    with path.open(encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            text = task.text(record["sentence"].encode(), "text/plain")
            row = task.row(text, task.settings.max_tokens)[0].tobytes()
            texts[row], agreement[row] = text, int(record["min_agreement_percent"])
    return texts, agreement


def _tf_idf(dataset: Dataset, texts: dict[bytes, str]) -> dict[str, float]:
    """Words and pairs of them, and letters 2 to 5, under a logistic regression."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2)
    model = make_pipeline(make_union(words, letters), LogisticRegression(C=10, max_iter=1000))
    (rows, y), (test_rows, truth) = dataset.load("train"), dataset.load("test")
    model.fit([texts[row.tobytes()] for row in rows], y)
    said = model.predict([texts[row.tobytes()] for row in test_rows])
    return {"accuracy": accuracy_score(truth, said), "macro F1": f1_score(truth, said, average="macro")}
