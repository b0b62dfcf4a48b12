"""What the adaptation would do with a real trace and 1 to 1,000 replicas, in virtual time; and what deciding costs.

A window of the Twitter stream with a burst to 4.8 times the median, squeezed in time, as 0.7 of what the replicas at
first carry on the most accurate of four rungs (88, 85, 79, 70 %; 20, 7, 2.2, 0.7 ms a row); objective 100 ms at p99.
All contestants get the same requests: the adaptation, which may grow to twice the replicas; the best static choice by
a sweep of rung and batch in the same replica, deadlines and admission included; the most accurate rung under Ray
Serve's default autoscaling; Clipper's AIMD batches on the most accurate rung. Violations are late, refused and lost
requests. Nothing runs on Ray here: how near the simulation is to a real endpoint, another benchmark measures.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report, traces
from ladder.choose import Rung
from ladder.latency import Latency
from serve.adapt.bounds import Bounds
from serve.adapt.guard import Guard
from serve.adapt.signals import Sample, observe
from serve.adapt.simulator.bound import closed
from serve.adapt.simulator.control import Adaptive, Autoscaler, Controller, Fixed
from serve.adapt.simulator.outcome import Outcome
from serve.adapt.simulator.peers import Aimd, Fifo
from serve.adapt.simulator.replica import EPOCH_S, Replica, Request
from serve.adapt.simulator.run import predict
from serve.adapt.simulator.settings import Settings
from serve.adapt.state import State
from serve.adapt.step import step

LADDER = tuple(
    Rung(variant, accuracy, Latency(row_ms / 20_000, row_ms / 1000, 0.02))
    for variant, accuracy, row_ms in (
        ("large", 0.88, 20.0), ("middle", 0.85, 7.0), ("small", 0.79, 2.2), ("least", 0.70, 0.7),
    )
)  # fmt: skip
BEST_PER_S = 1 / LADDER[0].latency.per_row_s
LOAD = 0.7
SECONDS = {1: 240.0, 10: 120.0, 100: 30.0, 1000: 10.0}  # of virtual time
QUICK_SECONDS = {1: 60.0, 10: 20.0, 100: 5.0, 1000: 1.0}
RIVALS_UP_TO = 10  # replicas: what a rival does with more is the same
BATCHES = (1, 4, 32)
TICKS, QUICK_TICKS = 50, 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a shorter window, one seed")
    parser.add_argument("--data", type=Path, default=traces.data_folder(), help="folder with twitter_trace_2021")
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    arguments = parser.parse_args()
    if not traces.has_traces(arguments.data):
        print(f"--data {arguments.data}: no traces there; name the folder that holds them", file=sys.stderr)
        return 2
    seeds = (0,) if arguments.quick else (0, 1, 2)
    window = traces.twitter(arguments.data, "burst")
    figures = []
    for num, seconds in (QUICK_SECONDS if arguments.quick else SECONDS).items():
        trace = window.squeezed(window.seconds / seconds).scaled(LOAD * num * BEST_PER_S)
        figures += fleet_figures(trace, num, seeds)
    for num in SECONDS:
        figures += tick_figures(num, QUICK_TICKS if arguments.quick else TICKS)
    notes = f"{__doc__} Virtual seconds per number of replicas: {QUICK_SECONDS if arguments.quick else SECONDS}."
    report.write(arguments.out, "simulate", quick=arguments.quick, seed=0, figures=figures, notes=notes)
    return 0


def fleet_figures(trace: traces.Trace, num: int, seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    """Of all contestants with `num` replicas at first."""
    bounds = Bounds(objective_s=0.1, min_replicas=num, max_replicas=2 * num)
    adaptive, wall_s, cpu_s = [], [], []
    for seed in seeds:
        started, worked_s = time.perf_counter(), time.process_time()
        adaptive.append(predict(trace, LADDER, Settings(bounds), Adaptive(bounds), seed))
        wall_s.append((time.perf_counter() - started) * 3600 / trace.seconds)
        cpu_s.append((time.process_time() - worked_s) * 3600 / trace.seconds)
    kind = f"{num} replicas"
    figures = [
        *outcome_figures(f"adaptation, {kind}", adaptive),
        report.figure(f"wall time per trace hour, {kind}", wall_s, "s"),
        report.figure(f"processor time per trace hour, {kind}", cpu_s, "s"),
    ]
    if num > RIVALS_UP_TO:
        return figures
    rungs_alone = [predict(trace, LADDER, Settings(bounds), Fixed(), seed) for seed in seeds]
    static = best_static(trace, bounds, seeds)
    figures += outcome_figures(f"replicas alone, no adaptation, {kind}", rungs_alone)
    figures += outcome_figures(f"best static choice, {kind}", static)
    for name, controller, settings in rivals(bounds):
        made = [predict(trace, LADDER, settings, controller(), seed) for seed in seeds]
        figures += outcome_figures(f"{name}, {kind}", made)
        ours = [outcome.violations for outcome in adaptive]
        theirs = [max(outcome.violations, 1e-9) for outcome in made]
        figures.append(
            report.figure(
                f"violations beside {name}, {kind}", ours, "share", peer=name, peer_values=theirs, goal=0.1,
                met=sum(ours) <= 0.1 * sum(theirs),
            )
        )  # fmt: skip
    gaps = [
        closed(a.effective_accuracy, s.effective_accuracy, b.bound)
        for a, s, b in zip(rungs_alone, static, rungs_alone, strict=True)
    ]
    known = [gap for gap in gaps if gap is not None]
    if known:
        name = f"gap from best static choice to fluid bound closed by the ladder in as many replicas, {kind}"
        figures.append(report.figure(name, known, "share"))
    return figures


def rivals(bounds: Bounds) -> list[tuple[str, Any, Settings]]:
    best = Settings(bounds, variants=(LADDER[0].variant,), max_queue=10**6)

    def autoscaler() -> Controller:
        return Autoscaler(bounds)

    return [
        ("most accurate rung, Ray Serve's default autoscaling", autoscaler, replace(best, kind=Fifo)),
        ("most accurate rung, AIMD batches", Fixed, replace(best, kind=Aimd)),
    ]


def best_static(trace: traces.Trace, bounds: Bounds, seeds: tuple[int, ...]) -> list[Outcome]:
    """By mean effective accuracy, of every rung and batch bound, with as many replicas as there are at first."""
    found: list[list[Outcome]] = []
    for rung in LADDER:
        for max_batch in BATCHES:
            settings = Settings(replace(bounds, max_batch=max_batch), variants=(rung.variant,))
            found.append([predict(trace, LADDER, settings, Fixed(), seed) for seed in seeds])
    return max(found, key=lambda outcomes: sum(outcome.effective_accuracy for outcome in outcomes))


def outcome_figures(name: str, outcomes: list[Outcome]) -> list[dict[str, Any]]:
    def values(attribute: str) -> list[float]:
        return [float(getattr(outcome, attribute)) for outcome in outcomes]

    is_ours = name.startswith("adaptation")
    most = max(values("violations"))
    cycles = [float(len(outcome.cycles)) for outcome in outcomes]
    figures = [
        report.figure(
            f"violations, {name}", values("violations"), "share", goal=0.005 if is_ours else None,
            met=most <= 0.005 if is_ours else None,
        ),
        report.figure(
            f"effective accuracy, {name}", values("effective_accuracy"), "share", peer="fluid bound of these replicas",
            peer_values=values("bound"),
        ),
        report.figure(f"replica-seconds, {name}", values("replica_s"), "s"),
    ]  # fmt: skip
    if is_ours:
        figures += [
            report.figure(f"decisions, {name}", values("decisions_per_minute"), "1/min"),
            report.figure(f"limit cycles, {name}", cycles, "count", goal=0, met=not any(cycles)),
        ]
    return figures


def tick_figures(num: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of processor time of the parts of a tick over `num` replicas that have answered some requests."""
    bounds = Bounds(objective_s=0.1, min_replicas=num, max_replicas=2 * num)
    replicas = [worked(number) for number in range(num)]
    state, guard, previous = State(bounds), Guard(), {}
    parse, merge, decide = [], [], []
    for tick in range(rounds):
        now = 1.0 + 0.2 * tick
        stats = [replica.stats(now) for replica in replicas]
        begun = time.process_time()
        samples = {sample.replica: sample for sample in map(Sample.parse, stats)}
        parsed = time.process_time()
        snapshot = observe(previous, samples, now=EPOCH_S + now, target=num)
        merged = time.process_time()
        made = step(snapshot, state, guard, EPOCH_S + now)
        ended = time.process_time()
        state, guard, previous = made.state, made.guard, samples
        parse.append(1000 * (parsed - begun))
        merge.append(1000 * (merged - parsed))
        decide.append(1000 * (ended - merged))
    goal = 1.0 if num == max(SECONDS) else None
    met = float(np.median(decide)) < 1.0 if goal else None
    return [
        report.figure(f"tick: statistics read, {num} replicas", parse, "ms"),
        report.figure(f"tick: merged to a snapshot, {num} replicas", merge, "ms"),
        report.figure(f"tick: decided and judged, {num} replicas", decide, "ms", goal=goal, met=met),
    ]


def worked(number: int) -> Replica:
    """A replica that has answered forty requests."""
    settings = Settings()
    replica = Replica(number, 0.0, LADDER, settings.envelope, settings.max_queue)
    for place in range(40):
        now = place / 40
        replica.submit(Request(place, now, now + 0.1, 1), now)
        batch = replica.next(now)
        if batch is not None:
            replica.finish(batch, now + 0.005 + place / 10_000)
    return replica


if __name__ == "__main__":
    sys.exit(main())
