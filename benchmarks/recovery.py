"""What deaths of workers cost a training: wall time, steps done again, accuracy. Two CPU workers on MNIST.

A round trains once undisturbed and once with `--kills` deaths, of one worker each by SIGKILL in an epoch's second half,
with the same seed; the order changes from round to round. Every death ends both workers: new ones start and go on from
the last checkpoint. Starting them is most of the price, so it is small for a training of hours and large for this one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import report
from benchmarks.arena import has_mnist, private
from cluster.config import Experiment
from cluster.experiment import parse
from cluster.progress import Progress
from cluster.session import Session
from cluster.store import Store
from jobs import preprocess, train

WORKERS, BATCH = 2, 256
MOST_LOSS = 0.002  # of accuracy


class Killer(Progress):
    """Kills a worker in the second half of each of the first `kills` epochs after the first one.

    Positions are in epochs; `resumed_at` is where the next start began, at an epoch's end since the last of these is
    the only checkpoint of a training so short.
    """

    def __init__(self, cluster: Session, kills: int) -> None:
        super().__init__("train")
        self._cluster, self._kills = cluster, kills
        self.killed_at: list[float] = []
        self.resumed_at: list[int] = []

    def update(self, done: float, total: float = 0, **figures: Any) -> None:  # noqa: ARG002
        if len(self.resumed_at) < len(self.killed_at):  # the dead one's last word stands until the next has begun
            if done < self.killed_at[-1]:
                self.resumed_at.append(math.floor(done))
            return
        if len(self.killed_at) == self._kills or done % 1 < 0.5 or int(done) <= len(self.killed_at):
            return
        for process in psutil.Process(self._cluster.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "TrainWorker" in " ".join(process.cmdline()):
                    process.send_signal(signal.SIGKILL)
                    self.killed_at.append(done)
                    return


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 round of 4 epochs with 1 death")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"), help="folder of MNIST's gz files")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    arguments = parser.parse_args()
    if not has_mnist(arguments.data):
        return 2
    num_rounds, epochs, kills = (1, 4, 1) if arguments.quick else (3, 12, arguments.kills)
    with private("benchmark-recovery") as (cluster, folder):
        store = Store.open(str(folder))
        preprocess.run(experiment(arguments.data, 0, epochs), store, "mnist", lambda *_: None)
        rounds = [
            measure(experiment(arguments.data, seed, epochs), store, cluster, kills) for seed in range(num_rounds)
        ]
    write(arguments.out, rounds, kills, quick=arguments.quick)
    return 0


def experiment(data: Path, seed: int, epochs: int) -> Experiment:
    recipe = {"workers": WORKERS, "epochs": epochs, "batch_size": BATCH, "early_stopping": None, "max_failures": 100}
    source = {"kind": "idx", "path": str(data.absolute())}
    return parse({"name": "mnist", "seed": seed, "data": {"source": source}, "train": recipe})


def measure(made: Experiment, store: Store, cluster: Session, kills: int) -> dict[str, float]:
    """One seed, undisturbed and with deaths."""
    measured: dict[str, float] = {}
    for number in (0, kills) if made.seed % 2 else (kills, 0):
        killer, key = Killer(cluster, number), f"seed-{made.seed}-kills-{number}"
        started = time.perf_counter()
        train.run(made, store, "mnist", key, killer)
        side = "with deaths" if number else "undisturbed"
        manifest = store.manifest("runs", key)
        history = json.loads(store.read("runs", key, manifest["files"]["history"]))
        steps = history[0]["rows"] / BATCH
        measured |= {
            f"{side} s": time.perf_counter() - started,
            f"{side} accuracy": manifest["metrics"]["validation_accuracy"],
            f"{side} kills": len(killer.killed_at),
            f"{side} steps lost": steps * (sum(killer.killed_at) - sum(killer.resumed_at)),
            f"{side} starts": history[-1]["attempt"],
        }
    print(f"seed {made.seed}: " + ", ".join(f"{name} {value:.4g}" for name, value in measured.items()), file=sys.stderr)
    return measured


def write(out: Path | None, rounds: list[dict[str, float]], kills: int, *, quick: bool) -> None:
    def of(name: str) -> list[float]:
        return [measured[name] for measured in rounds]

    pairs = zip(of("with deaths accuracy"), of("undisturbed accuracy"), strict=True)
    differences = [abs(ours - theirs) for ours, theirs in pairs]
    deaths = max(1.0, sum(of("with deaths kills")))
    more_s = (sum(of("with deaths s")) - sum(of("undisturbed s"))) / deaths
    name, peer, peer_s = f"a training with {kills} deaths", "the same undisturbed", of("undisturbed s")
    figures = [
        report.figure(name, of("with deaths s"), "s", peer=peer, peer_values=peer_s),
        report.figure("one death", [more_s], "s"),
        report.figure("steps done again", of("with deaths steps lost"), "steps"),
        report.figure(
            "deaths", of("with deaths kills"), "deaths", goal=kills, met=min(of("with deaths kills")) == kills
        ),
        report.figure(
            "difference in validation accuracy", differences, "share", goal=MOST_LOSS, met=max(differences) <= MOST_LOSS
        ),
    ]
    notes = f"{WORKERS} workers, global batch {BATCH}; a step is lost when it was done after the last checkpoint"
    report.write(out, "recovery", quick=quick, seed=0, figures=figures, notes=notes)


if __name__ == "__main__":
    raise SystemExit(main())
