"""Alerts of `trimtab monitor`: how often they are false on a stream that does not change, and how late on a surge.

PhraseBank in random order, an event every ten seconds, with predictions made at the accuracy that was measured for the
model on it: the rules are judged here, not the model. One topic; windows of 60 events.
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.use_cases import Context
from cluster.config import Alerts
from serve.watch.events import Event, Seen
from serve.watch.monitor import Monitor

DATA = ("financial_phrasebank",)
FILE = "financial_phrasebank.csv"
LABELS = ("negative", "neutral", "positive")
ACCURACY = 0.85
EVERY_S = 10.0
WINDOWS, QUICK_WINDOWS = 15_000, 1000  # stationary, of each seed
SURGES, BEFORE, MOST = (0.2, 0.3, 0.5, 0.8), 30, 40  # shares of true negatives; windows before, and of the surge
REPEATS, QUICK_REPEATS = 20, 3  # of each surge and seed
RULES = Alerts()


def run(context: Context) -> list[dict[str, Any]]:
    truth = labels(context.data / DATA[0] / FILE)
    windows, repeats = (QUICK_WINDOWS, QUICK_REPEATS) if context.quick else (WINDOWS, REPEATS)
    false, rows = [], []
    for seed in context.seeds:
        false.append(1000 * false_alarms(truth, windows, seed) / windows)
        print(f"monitoring, seed {seed}: {false[-1]:.2f} false alarms in 1,000 windows", file=sys.stderr)
    goal, mean = 1000 * 2 * RULES.false_alarms, sum(false) / len(false)  # surge and drift, each
    figures = [
        report.figure("monitoring: false alarms", false, "per 1,000 windows", goal=goal, met=mean <= goal)
        | {"mean": mean, "windows": windows * len(false)}
    ]
    usual = sum(label == "negative" for label in truth) / len(truth)
    for share in SURGES:
        delays = [delay(truth, share, 1000 * seed + i) for seed in context.seeds for i in range(repeats)]
        noticed = [float(found) for found in delays if found is not None]
        rows.append([f"{usual:.3f} to {share}", f"{len(noticed)} of {len(delays)}", *_quantiles(noticed)])
        if noticed:
            name = f"monitoring: delay where noticed, {usual:.3f} to {share} negative"
            figures.append(report.figure(name, noticed, "events") | {"noticed": len(noticed) / len(delays)})
    columns = ["surge", f"noticed within {MOST} windows", "median delay, events", "90th percentile"]
    context.tables.append({"title": "Surges of negatives in PhraseBank", "columns": columns, "rows": rows})
    return figures


def labels(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [record["label"] for record in csv.DictReader(file)]


def false_alarms(truth: Sequence[str], windows: int, seed: int) -> int:
    """Alerts raised over so many windows of the sentences in random order, again and again."""
    generator = random.Random(seed)
    monitor, num = Monitor(RULES), 0
    events = (one for _ in iter(int, 1) for one in _shuffled(truth, generator))
    for i in range(int(windows * RULES.window / EVERY_S)):
        found = monitor.step(*event(i, next(events), generator))
        num += sum(alert.state == "raised" for alert in found)
    return num


def delay(truth: Sequence[str], share: float, seed: int) -> int | None:
    """Events from the beginning of a surge to its alert; None where there is none within MOST windows."""
    generator = random.Random(seed)
    monitor, size = Monitor(RULES), int(RULES.window / EVERY_S)
    begin = BEFORE * size + generator.randrange(size)  # anywhere in a window
    bad, others = [one for one in truth if one == "negative"], [one for one in truth if one != "negative"]
    for i in range(begin + MOST * size):
        if i < begin:
            label = generator.choice(truth)
        else:
            label = generator.choice(bad if generator.random() < share else others)
        for alert in monitor.step(*event(i, label, generator)):
            if alert.state == "raised" and i >= begin:
                return i - begin
    return None


def event(i: int, label: str, generator: random.Random) -> tuple[Event, Seen, str]:
    """The i-th event, and what a model of this accuracy might say about it."""
    said = label if generator.random() < ACCURACY else generator.choice([one for one in LABELS if one != label])
    sure = generator.betavariate(8, 2)
    score = sure if said == "negative" else (1 - sure) / 2
    made = Event(1.7e9 + i * EVERY_S, f"sentence {i}", None, None, None)
    return made, Seen(said, said == "negative", score), "news"


def _shuffled(truth: Sequence[str], generator: random.Random) -> Iterator[str]:
    return iter(generator.sample(truth, len(truth)))


def _quantiles(values: list[float]) -> list[str]:
    if not values:
        return ["-", "-"]
    ordered = sorted(values)
    return [f"{ordered[len(ordered) // 2]:.0f}", f"{ordered[int(0.9 * (len(ordered) - 1))]:.0f}"]
