"""What share of random search's compute ASHA with TPE needs to reach random search's best accuracy.

One fixed space (learning rate, width, batch, augmentation) over a part of CIFAR-10, for several seeds; a seed changes
rows, weights and points. Random search trains each of its trials to the end. The other then searches the same space on
the same rows until a trial is as good, within four times as many trials. Compute is CPU-seconds of the epochs of all
trials, those that were stopped among them. Neither knows of the other's trials.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks import report
from benchmarks.arena import private
from benchmarks.train_ingest import Silent
from cluster.config import Experiment
from cluster.experiment import parse
from cluster.store import Store
from tune import results

GOAL = 0.2
SPACE = {
    "learning_rate": {"log": [1e-4, 0.3]},
    "width": {"uniform": [0.5, 2.0]},
    "batch_size": {"choice": [32, 64, 128, 256, 512]},
    "augment": {"choice": ["none", "shift", "shift_flip"]},
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hpo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 seed, 1,500 rows, 8 trials of 6 epochs")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data/cifar10_subset"), help="train.parquet's folder"
    )
    parser.add_argument("--rows", type=int, default=5000, help="of the training file")
    parser.add_argument("--trials", type=int, default=20, help="of random search")
    parser.add_argument("--epochs", type=int, default=9, help="of a whole trial")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.trials, arguments.epochs, arguments.seeds = 1500, 8, 6, 1
    if not (arguments.data / "train.parquet").is_file():
        print(f"--data {arguments.data}: no train.parquet there; name the folder that holds it", file=sys.stderr)
        return 2
    with private("benchmark-hpo") as (_, folder):
        table = pq.read_table(arguments.data / "train.parquet").slice(0, arguments.rows)
        pq.write_table(table, folder / "rows.parquet")
        rounds = [measure(folder, seed, arguments.trials, arguments.epochs) for seed in range(arguments.seeds)]
    write(arguments.out, rounds, arguments)
    return 0


def experiment(name: str, rows: Path, seed: int, epochs: int, **tune: Any) -> Experiment:
    source = {"kind": "parquet", "path": str(rows), "input": "image", "label": "label_name"}
    image = {"height": 32, "width": 32, "channels": 3}
    data = {"source": source, "image": image, "split": {"validation": 0.2, "test": 0.1}}
    train = {"epochs": epochs, "early_stopping": None, "device": "cpu"}
    return parse({"name": name, "seed": seed, "data": data, "train": train, "tune": {"space": SPACE, **tune}})


def measure(folder: Path, seed: int, trials: int, epochs: int) -> dict[str, float]:
    """One seed: both searches."""
    from jobs import preprocess
    from tune import search

    store, rows, dataset = Store.open(str(folder)), folder / "rows.parquet", f"rows-{seed}"
    random = experiment("random", rows, seed, epochs, algorithm="random", early_stop=False, trials=trials)
    preprocess.run(random, store, dataset, lambda *_: None)
    search.run(random, store, dataset, f"random-{seed}", Silent("tune"))
    theirs = store.manifest("searches", f"random-{seed}")
    ours_made = experiment("asha-tpe", rows, seed, epochs, trials=4 * trials, target=theirs["best"]["accuracy"])
    search.run(ours_made, store, dataset, f"asha-tpe-{seed}", Silent("tune"))
    ours = store.manifest("searches", f"asha-tpe-{seed}")
    measured = {
        "share": ours["cpu_s"] / theirs["cpu_s"],
        "epochs": ours["epochs"] / theirs["epochs"],
        "reached": float(ours["best"]["accuracy"] >= theirs["best"]["accuracy"]),
        "trials": ours["trials"],
        "theirs": theirs["best"]["accuracy"],
        "ours": ours["best"]["accuracy"],
        "their_cpu_s": theirs["cpu_s"],
        "start_s": theirs["start_s"],
        "overhead_s": results.overhead_s(theirs) or 0.0,
        "our_overhead_s": results.overhead_s(ours) or 0.0,
    }
    print(f"seed {seed}: " + ", ".join(f"{name} {value:.3g}" for name, value in measured.items()), file=sys.stderr)
    return measured


def write(out: Path | None, rounds: list[dict[str, float]], arguments: argparse.Namespace) -> None:
    def of(name: str) -> list[float]:
        return [measured[name] for measured in rounds]

    shares = of("share")
    mean, reached = sum(shares) / len(shares), all(of("reached"))
    peer = "random search"
    figures = [
        report.figure(
            "ASHA with TPE to random search's best: share of its CPU time",
            shares,
            "share",
            goal=GOAL,
            met=reached and mean <= GOAL,
        )
        | {"mean": mean},
        report.figure("the same in epochs", of("epochs"), "share"),
        report.figure("seeds in which it got there", [sum(of("reached"))], f"of {len(rounds)}"),
        report.figure("best validation accuracy", of("ours"), "share", peer=peer, peer_values=of("theirs")),
        report.figure("trials until then", of("trials"), "trials"),
        report.figure("random search's epochs, CPU", of("their_cpu_s"), "CPU-s"),
        report.figure("from a search's start to its first epoch", of("start_s"), "s"),
        report.figure("overhead per whole trial", of("overhead_s"), "s"),
        report.figure("overhead per trial, most of them stopped early", of("our_overhead_s"), "s"),
    ]
    size = f"{arguments.rows:,} rows of CIFAR-10, {arguments.trials} random trials of {arguments.epochs} epochs"
    notes = (
        f"{size}; overhead is the time of a trial's place that no epoch took, validation within it; the goal is for "
        "the mean over seeds"
    )
    report.write(out, "hpo", quick=arguments.quick, seed=0, figures=figures, notes=notes)


if __name__ == "__main__":
    raise SystemExit(main())
