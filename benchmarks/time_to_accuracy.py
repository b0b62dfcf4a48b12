"""CPU-seconds until a network is right on 99 % of MNIST's validation rows, against PyTorch's own example for MNIST.

Both sides are trained in this process on one thread, on the same rows in memory, and are stopped by the same validation
rows, looked at after each epoch; seeds are interleaved. Validation counts as time. The other side is the network and
the settings of https://github.com/pytorch/examples (mnist): convolutions of 32 and 64 channels, a dense layer of 128,
dropout, Adadelta with a rate of 1.0 that shrinks by 0.7 per epoch, batches of 64. Test rows are counted once, at the
end, and decide nothing. CPU-seconds are `time.process_time`, which a busy machine disturbs less than it does seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import report
from benchmarks.arena import has_mnist, private
from cluster.config import Experiment
from cluster.experiment import parse
from cluster.store import Store
from jobs import preprocess
from tasks.dataset import SplitName, read_dataset

GOAL = 1 / 20  # of the example's CPU time
EXAMPLE_EPOCHS, EXAMPLE_BATCH, EXAMPLE_GAMMA = 14, 64, 0.7
RECIPE = {"epochs": 3, "batch_size": 256, "learning_rate": 0.02, "precision": "auto", "early_stopping": None}
BEST_RECIPE = {**RECIPE, "epochs": 20, "augment": "shift"}
EVALUATED_ROWS = 1000  # per forward pass

Rows = Mapping[SplitName, tuple[np.ndarray, np.ndarray]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_accuracy", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 seed, 6,000 training rows, to 95 %%")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"), help="folder of MNIST's gz files")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--examples", type=int, default=3, help="seeds of the other side, each of which takes minutes")
    parser.add_argument("--target", type=float, default=0.99, help="validation accuracy")
    parser.add_argument("--best", action="store_true", help="also one large network to 99.5 %%, which takes long")
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    arguments = parser.parse_args()
    if not has_mnist(arguments.data):
        return 2
    if arguments.quick:
        arguments.seeds, arguments.target = 1, 0.95
    torch.set_num_threads(1)
    with private("benchmark-accuracy") as (_, folder):
        store = Store.open(str(folder))
        preprocess.run(experiment(arguments.data, 0, RECIPE), store, "mnist", lambda *_: None)
        dataset = read_dataset(store, "mnist")
        rows: dict[SplitName, Any] = {name: dataset.load(name) for name in ("train", "validation", "test")}
        if arguments.quick:
            rows["train"] = tuple(part[:6000] for part in rows["train"])
        rounds = [
            measure(arguments.data, store, rows, seed, arguments.target, both=seed < arguments.examples)
            for seed in range(arguments.seeds)
        ]
        best = None
        if arguments.best:
            made = experiment(arguments.data, 0, BEST_RECIPE, network="large")
            best = ours(made, store, rows, 0.995)
    write(rounds, best, arguments)
    return 0


def experiment(data: Path, seed: int, recipe: dict[str, Any], network: str = "small") -> Experiment:
    source = {"kind": "idx", "path": str(data.absolute())}
    tree = {"name": "mnist", "seed": seed, "data": {"source": source}, "model": {"network": network}, "train": recipe}
    return parse(tree)


def measure(data: Path, store: Store, rows: Rows, seed: int, target: float, *, both: bool) -> dict[str, float]:
    """One seed of both sides, in an order that changes from seed to seed, or of ours alone."""
    made = experiment(data, seed, RECIPE)
    measured: dict[str, float] = {}
    sides = ("ours", "example") if seed % 2 else ("example", "ours")
    for side in sides if both else ("ours",):
        found = ours(made, store, rows, target) if side == "ours" else example(rows, seed, target)
        measured |= {f"{side} {name}": value for name, value in found.items()}
    print(f"seed {seed}: " + ", ".join(f"{name} {value:.4g}" for name, value in measured.items()), file=sys.stderr)
    return measured


def ours(made: Experiment, store: Store, rows: Rows, target: float) -> dict[str, float]:
    """Trimtab's own loop, alone in this process, until it is there or its epochs are done."""
    from jobs.loop import Work  # it loads Ray, which settles at once how it will speak to a cluster
    from tune.trial import TrialTrainer

    cpu = time.process_time()
    trainer = TrialTrainer(Work(made, store, "mnist", stream=False, board=None), rows)
    reached = 0.0
    for epoch in range(made.train.epochs):
        if failure := trainer.run_epoch(epoch):
            raise RuntimeError(failure)
        reached = trainer.course.history[-1]["validation_accuracy"]
        if reached >= target:
            break
    cpu_s = time.process_time() - cpu
    test = accuracy(trainer.network, *map(torch.from_numpy, rows["test"]))
    return {"cpu_s": cpu_s, "epochs": epoch + 1, "validation": reached, "test": test, "there": reached >= target}


class Example(nn.Module):
    """The network of PyTorch's example; uint8 [n, 28, 28, 1] -> log probabilities [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        features = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)]
        head = [nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10), nn.LogSoftmax(1)]
        self.layers = nn.Sequential(*features, *head)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        images = rows.permute(0, 3, 1, 2).float() / 255
        answer: torch.Tensor = self.layers((images - 0.1307) / 0.3081)
        return answer


def example(rows: Rows, seed: int, target: float) -> dict[str, float]:
    """PyTorch's example, stopped as ours is. Its rows are in memory too: no data loader slows it down."""
    cpu = time.process_time()
    torch.manual_seed(seed)
    x, y = map(torch.from_numpy, rows["train"])
    held = tuple(map(torch.from_numpy, rows["validation"]))
    network = Example()
    optimizer = torch.optim.Adadelta(network.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=EXAMPLE_GAMMA)
    reached = 0.0
    epochs = 0
    while epochs < EXAMPLE_EPOCHS and reached < target:
        epochs += 1
        network.train()
        for mine in torch.randperm(len(x)).split(EXAMPLE_BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            nn.functional.nll_loss(network(x[mine]), y[mine].long()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        reached = accuracy(network, *held)
    cpu_s = time.process_time() - cpu
    test = accuracy(network, *map(torch.from_numpy, rows["test"]))
    return {"cpu_s": cpu_s, "epochs": epochs, "validation": reached, "test": test, "there": reached >= target}


def accuracy(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    network.eval()
    with torch.inference_mode():
        starts = range(0, len(y), EVALUATED_ROWS)
        parts = [(x[start : start + EVALUATED_ROWS], y[start : start + EVALUATED_ROWS]) for start in starts]
        return sum(int((network(rows).argmax(1) == truth).sum()) for rows, truth in parts) / len(y)


def write(rounds: list[dict[str, float]], best: dict[str, float] | None, arguments: argparse.Namespace) -> None:
    def of(name: str) -> list[float]:
        return [float(measured[name]) for measured in rounds if name in measured]

    peer, theirs = "PyTorch's example", of("example cpu_s")
    what = f"to {arguments.target:.1%} of the validation rows"
    time_figure = report.figure(
        what, of("ours cpu_s")[: len(theirs)], "CPU-s", peer=peer, peer_values=theirs, goal=GOAL
    )
    time_figure["met"] = all(of("ours there")) and time_figure["ratio"]["median"] <= GOAL
    figures = [
        time_figure,
        report.figure(f"{what}, all seeds", of("ours cpu_s"), "CPU-s"),
        report.figure("epochs", of("ours epochs"), "epochs"),
        report.figure("the example's epochs", of("example epochs"), "epochs"),
        report.figure("test accuracy then", of("ours test"), "share"),
        report.figure("the example's test accuracy then", of("example test"), "share"),
        report.figure("mean test accuracy", [sum(of("ours test")) / len(rounds)], "share"),
        report.figure("seeds that got there", [sum(of("ours there"))], f"of {len(rounds)}"),
        report.figure("the example's seeds that got there", [sum(of("example there"))], f"of {len(theirs)}"),
    ]
    if best is not None:
        figures += [
            report.figure("large network to 99.5%", [best["cpu_s"]], "CPU-s", goal=0.995, met=bool(best["there"])),
            report.figure("its test accuracy", [best["test"]], "share"),
        ]
    notes = f"one thread; small network, batch {RECIPE['batch_size']}, {RECIPE['epochs']} epochs of one-cycle"
    report.write(arguments.out, "time_to_accuracy", quick=arguments.quick, seed=0, figures=figures, notes=notes)


if __name__ == "__main__":
    raise SystemExit(main())
