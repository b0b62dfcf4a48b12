"""Recommendation: MovieLens through the experiment's own steps, beside tuned EASE, ALS and ItemKNN on the same split.

All rank the whole catalogue less what a user has seen. The peers are tuned on the validation events and see them in a
user's history, as ours does. They are fitted with and without them among the training events; the better of the two on
the test events is shown, in their favour. Ours is not trained on them.
"""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks import report, rungs
from benchmarks.train_ingest import Silent
from benchmarks.use_cases import Context
from cluster import experiment as experiments
from jobs import evaluate, preprocess, train
from ladder.bundle import read_bundle
from ladder.profile import batched
from ladder.variants import OnnxPredictor
from tasks import neighbours, ranking
from tasks.catalogue import HISTORIES, Histories, unpack_histories
from tasks.dataset import read_dataset
from tasks.task import load_task

DATA = ("movielens_latest_small",)
EXPERIMENT = Path(__file__).resolve().parents[2] / "experiments" / "recommend.yaml"
SETTINGS = (
    "data.source.columns={user: userId, item: movieId, time: timestamp, rating: rating}",
    "data.source.item_columns={item: movieId, title: title, text: [genres, tags]}",
    "data.source.history=2700",  # of the longest, so that ours has seen all that the peers have
)
GOALS = {("ours", "HR@10"): 0.11, ("ours", "tail HR@50"): 0.12}
NAMES = {"hr_10": "HR@10", "ndcg_10": "nDCG@10", "hr_50": "HR@50", "tail_hr_50": "tail HR@50", "coverage": "coverage"}

Scorer = Callable[[np.ndarray], np.ndarray]  # histories int32 [n, length] -> scores float32 [n, items]


def run(context: Context) -> list[dict[str, Any]]:
    folder = Path(context.store.uri) / "movielens"
    files = prepared(context.data / DATA[0], folder)
    scores: dict[tuple[str, str], list[float]] = {}
    for seed in context.seeds:
        found = measure(context, seed, files)
        for (name, key), value in found.items():
            scores.setdefault((name, key), []).append(value)
            print(f"recommend, {name}, seed {seed}: {key} {value:.4f}", file=sys.stderr)
    best = max(sum(v) / len(v) for (name, key), v in scores.items() if key == "HR@10" and name in PEERS)
    goals = GOALS | {("ours", "HR@10"): max(GOALS["ours", "HR@10"], best)}
    return [
        report.over_seeds(f"recommend, {name}: {key}", values, _unit(key), goals.get((name, key)))
        for (name, key), values in scores.items()
    ]


def _unit(key: str) -> str:
    return "CPU-min" if "CPU" in key else "share"


def prepared(data: Path, folder: Path) -> list[str]:
    """Settings that name the events as they come, and a file of the films with all tags that people gave them."""
    folder.mkdir(parents=True, exist_ok=True)
    tags: dict[str, dict[str, None]] = defaultdict(dict)
    with (data / "tags.csv").open(encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            tags[record["movieId"]][record["tag"]] = None
    with (data / "movies.csv").open(encoding="utf-8", newline="") as file, (folder / "films.jsonl").open("w") as out:
        for record in csv.DictReader(file):
            out.write(json.dumps({**record, "tags": list(tags[record["movieId"]])}) + "\n")
    return [f"data.source.path={data / 'ratings.csv'}", f"data.source.items={folder / 'films.jsonl'}", *SETTINGS]


def measure(context: Context, seed: int, files: list[str]) -> dict[tuple[str, str], float]:
    made = experiments.load(EXPERIMENT, [*files, f"seed={seed}"])
    store, key = context.store, f"recommend-{seed}"
    preprocess.run(made, store, key, lambda *_: None)
    train.run(made, store, key, key, Silent("train"))
    evaluate.run(made, store, key, key, key)
    bundle, dataset = read_bundle(store, key), read_dataset(store, key)
    rows, truth = dataset.load("test")
    task = load_task(made, dataset.file)
    found: dict[tuple[str, str], float] = {}
    reached: dict[str, dict[str, float]] = {}
    for variant in bundle.variants:
        figures = task.metrics(batched(OnnxPredictor(bundle.read(variant)), rows), truth, dataset.encoding)
        name = "ours" if variant == bundle.variants[0] else f"ours, {variant}"
        reached[variant] = {shown: figures[key] for key, shown in NAMES.items()}
        found |= {(name, shown): value for shown, value in reached[variant].items()}
    found["ours", "CPU of the epochs"] = store.manifest("runs", key)["cpu_s"] / 60
    if seed == context.seeds[-1]:
        context.tables.append(rungs.table("Ladder of the recommender", bundle, reached))
    if seed == context.seeds[0]:
        found |= peers(
            dataset.file(HISTORIES),
            len(bundle.encoding.labels),
            dataset.load("validation"),
            (rows, truth),
            context.quick,
        )
    return found


# Peers


@dataclass(frozen=True)
class Events:
    """One user's row each in a matrix float32 [users, items]; `users` and `items` int64 [events], the same."""

    users: np.ndarray
    items: np.ndarray
    num_users: int
    num_items: int

    @property
    def matrix(self) -> Any:
        ones = np.ones(len(self.users), np.float32)
        return sparse.csr_matrix((ones, (self.users, self.items)), shape=(self.num_users, self.num_items))


def histories_matrix(rows: np.ndarray, num_items: int) -> Any:
    who, place = np.nonzero(rows)
    return sparse.csr_matrix((np.ones(len(who), np.float32), (who, rows[who, place] - 1)), shape=(len(rows), num_items))


def ease(events: Events, strength: float) -> Scorer:
    """EASE (H. Steck, *Embarrassingly Shallow Autoencoders for Sparse Data*, 2019), few lines of our own.

    With fewer users than items the inverse is one of [users, users], by Woodbury's identity.
    """
    x = events.matrix.toarray()
    half = np.linalg.solve(x @ x.T + strength * np.eye(len(x), dtype=np.float32), x)  # [users, items]
    diagonal = 1.0 - (x * half).sum(0)  # of the inverse, times the strength

    def score(rows: np.ndarray) -> np.ndarray:
        h = histories_matrix(rows, events.num_items)
        return np.asarray(((h @ x.T) @ half - h.toarray()) / diagonal, np.float32)

    return score


def item_knn(events: Events, num_neighbours: int, shrink: float, decay: float) -> Scorer:
    near = neighbours.similarities(events.users, events.items, events.num_items, num_neighbours, shrink)
    return lambda rows: neighbours.scores(rows, near, decay)


def als(events: Events, factors: int, regularization: float, alpha: float) -> Scorer:
    """Implicit ALS (Y. Hu et al., 2008) of the package `implicit` where it is installed, else few lines of our own."""
    x = events.matrix
    try:
        from implicit.cpu.als import AlternatingLeastSquares
    except ImportError:
        users, items = _own_als(x, factors, regularization, alpha)
        del users
    else:
        model = AlternatingLeastSquares(factors, regularization, alpha, random_state=0, num_threads=1)
        model.fit(x, show_progress=False)
        items = np.asarray(model.item_factors)
    gram = items.T @ items + regularization * np.eye(factors, dtype=np.float32)

    def score(rows: np.ndarray) -> np.ndarray:
        return np.stack([_folded(items, gram, row[row > 0] - 1, alpha) @ items.T for row in rows])

    return score


def _folded(items: np.ndarray, gram: np.ndarray, chosen: np.ndarray, alpha: float) -> np.ndarray:
    """A user's factors from what they chose; confidence `alpha` where they chose, 1 elsewhere, as `implicit` has it."""
    theirs = items[chosen]
    return np.asarray(np.linalg.solve(gram + (alpha - 1) * theirs.T @ theirs, alpha * theirs.sum(0)), np.float32)


def _own_als(x: Any, factors: int, regularization: float, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    users, items = (generator.standard_normal((n, factors)).astype(np.float32) * 0.01 for n in x.shape)
    for _ in range(15):
        for mine, theirs, matrix in ((users, items, x), (items, users, x.T.tocsr())):
            gram = theirs.T @ theirs + regularization * np.eye(factors, dtype=np.float32)
            for i in range(len(mine)):
                mine[i] = _folded(theirs, gram, matrix.indices[matrix.indptr[i] : matrix.indptr[i + 1]], alpha)
    return users, items


PEERS: dict[str, tuple[Callable[..., Scorer], dict[str, tuple[float, ...]]]] = {
    "EASE": (ease, {"strength": (5, 10, 20, 50, 100, 200, 500, 1000, 2000)}),
    "ALS": (als, {"factors": (16, 32, 64, 128), "regularization": (0.01, 1.0, 10.0), "alpha": (1.0, 5.0, 20.0)}),
    "ItemKNN": (item_knn, {"num_neighbours": (10, 20, 100), "shrink": (0, 20, 100), "decay": (1.0, 0.9, 0.8, 0.7)}),
}


def peers(
    histories: bytes,
    num_items: int,
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    quick: bool,
) -> dict[tuple[str, str], float]:
    """Each with the settings that have the best HR@10 on the validation events."""
    known = unpack_histories(histories)
    before, after = _events(known, 2, num_items), _events(known, 1, num_items)
    counts = np.bincount(before.items, minlength=num_items)
    found: dict[tuple[str, str], float] = {}
    for name, (fit, grid) in PEERS.items():
        tried = [(_figures(fit(before, **settings), validation, counts)["hr_10"], settings) for settings in _grid(grid)]
        best = max(tried[: 2 if quick else None], key=lambda each: each[0])[1]
        print(f"recommend, {name}: best on validation {best}", file=sys.stderr)
        fitted = [_figures(fit(events, **best), test, counts) for events in (before, after)]
        figures = max(fitted, key=lambda each: each["hr_10"])
        found |= {(name, shown): figures[key] for key, shown in NAMES.items()}
    return found


def _events(known: Histories, held_out: int, num_items: int) -> Events:
    users, items = known.training(held_out)
    return Events(users, items, len(known.ends), num_items)


def _grid(grid: dict[str, tuple[float, ...]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _figures(score: Scorer, rows: tuple[np.ndarray, np.ndarray], counts: np.ndarray) -> dict[str, Any]:
    return ranking.figures(ranking.without(score(rows[0]), *rows), rows[1], counts)
