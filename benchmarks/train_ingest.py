"""Images per second of distributed training on one and on two CPU workers, against a plain loop in one process.

Same network, same global batch, same optimiser and precision, same rows of MNIST in memory; rounds interleaved. The
plain loop runs once on one thread, beside which one worker is held, and once on all cores, beside which two are. Epochs
are timed inside, the first one of each side is not counted; what Ray Train needs around them (start, validation,
checkpoints) is a figure of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.arena import has_mnist, private
from cluster.config import Experiment
from cluster.experiment import parse
from cluster.progress import Progress
from cluster.store import Store
from jobs import preprocess, train
from tasks.dataset import Dataset, read_dataset
from tasks.task import load_task

BATCH = 256
GOAL = 1.0  # of the images/s of a plain loop
PEERS = {1: "one thread", 2: "all cores"}  # a plain loop that uses as many cores as so many workers


class Silent(Progress):
    def update(self, done: float, total: float = 0, **figures: Any) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_ingest", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 epochs instead of 5 of 5")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"), help="folder of MNIST's gz files")
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    arguments = parser.parse_args()
    if not has_mnist(arguments.data):
        return 2
    num_rounds, epochs = (2, 2) if arguments.quick else (5, 5)
    recipes = {workers: experiment(arguments.data, epochs, workers) for workers in PEERS}
    with private("benchmark-ingest") as (_, folder):
        store = Store.open(str(folder))
        preprocess.run(recipes[1], store, "mnist", lambda *_: None)
        rounds = [measure(recipes, store, number) for number in range(num_rounds)]
    write(arguments.out, rounds, quick=arguments.quick)
    return 0


def experiment(data: Path, epochs: int, workers: int) -> Experiment:
    recipe = {"workers": workers, "epochs": epochs, "batch_size": BATCH, "early_stopping": None}
    source = {"kind": "idx", "path": str(data.absolute())}
    return parse({"name": "mnist", "data": {"source": source}, "train": recipe})


def measure(recipes: dict[int, Experiment], store: Store, number: int) -> dict[str, float]:
    """One round: images/s and CPU-seconds per 60,000 images of each side, and seconds around our epochs."""
    dataset = read_dataset(store, "mnist")
    measured: dict[str, float] = {}
    sides: list[int | str] = [*recipes, *PEERS.values()]
    for side in sides if number % 2 else sides[::-1]:
        if isinstance(side, int):
            started, key = time.perf_counter(), f"round-{number}-workers-{side}"
            train.run(recipes[side], store, "mnist", key, Silent("train"))
            manifest = store.manifest("runs", key)
            epochs = json.loads(store.read("runs", key, manifest["files"]["history"]))
            inside = sum(epoch["seconds"] for epoch in epochs)
            measured[f"{side} around"] = time.perf_counter() - started - inside
        else:
            epochs = plain_epochs(recipes[1], dataset, 1 if side == PEERS[1] else torch.get_num_threads())
        counted = epochs[1:]
        num_rows = sum(epoch["rows"] for epoch in counted)
        measured[f"{side} images"] = num_rows / sum(epoch["seconds"] for epoch in counted)
        measured[f"{side} cpu"] = sum(epoch["cpu_s"] for epoch in counted) * 60_000 / num_rows
    print(f"round {number}: " + ", ".join(f"{k} {v:.1f}" for k, v in sorted(measured.items())), file=sys.stderr)
    return measured


def plain_epochs(made: Experiment, dataset: Dataset, num_threads: int) -> list[dict[str, float]]:
    """What one would write by hand: a permutation, an index, a step."""
    from jobs.precision import uses_bf16

    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    torch.manual_seed(made.seed)
    rows, targets = map(torch.from_numpy, dataset.load("train"))
    network = load_task(made).network(dataset.encoding)
    num_steps, rate = len(rows) // BATCH, made.train.learning_rate
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=num_steps * made.train.epochs + 1)
    bf16 = uses_bf16(made.train.precision, torch.device("cpu"))
    epochs = []
    for _ in range(made.train.epochs):
        started, cpu = time.perf_counter(), time.process_time()
        order = torch.randperm(len(rows))
        for start in range(0, num_steps * BATCH, BATCH):
            mine = order[start : start + BATCH]
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = network(rows[mine])
            loss = torch.nn.functional.cross_entropy(logits.float(), targets[mine])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        epochs.append({"rows": num_steps * BATCH, "seconds": seconds, "cpu_s": cpu_s})
    torch.set_num_threads(before)
    return epochs


def write(out: Path | None, rounds: list[dict[str, float]], *, quick: bool) -> None:
    def of(name: str) -> list[float]:
        return [measured[name] for measured in rounds]

    figures = []
    for workers, side in PEERS.items():
        who = f"{workers} worker{'s' * (workers > 1)}"
        for what, key, unit in (("training", "images", "images/s"), ("training 60,000 images, CPU", "cpu", "CPU-s")):
            ours, theirs, peer = of(f"{workers} {key}"), of(f"{side} {key}"), f"plain PyTorch loop, {side}"
            figures.append(report.figure(f"{what}, {who}", ours, unit, peer=peer, peer_values=theirs))
        speed = figures[-2]
        speed |= {"goal": GOAL, "met": speed["ratio"]["median"] >= GOAL}
        around = "time around the epochs of a run (start, validation, checkpoints)"
        figures.append(report.figure(f"{around}, {who}", of(f"{workers} around"), "s"))
    notes = f"small network, global batch {BATCH}; more images/s is better, fewer CPU-s is better"
    report.write(out, "train_ingest", quick=quick, seed=0, figures=figures, notes=notes)


if __name__ == "__main__":
    raise SystemExit(main())
