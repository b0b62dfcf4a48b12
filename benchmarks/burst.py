"""A burst of one and a half times what the best rung can do: what is answered in time, and how right it is.

Open loop, 5 s at 0.5, 10 s at 1.5 and 8 s at 0.5 times the capacity, which is measured first, in requests of 1 and of
32 images; the objective is 100 ms from the moment a request was meant to be sent. Trimtab with its whole ladder in one
replica against each rung alone, the best rung with the best of some batch sizes and waits, and Ray Serve with the
most accurate rung: as it comes, and as fast as its options make it. All on the same two processors.

Capacity is that of the cheapest rung no client could tell from the most accurate one (on CIFAR an int8 form, which is
several times as fast as fp32: at 1.5 times fp32's capacity int8 alone is the answer). The bound is fluid: per second
the best mix of rungs that clears the arrivals. `--case mnist` shows a ladder whose int8 form loses nothing: there the
load is a multiple of fp32's capacity, and the best static configuration is already the answer.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import endpoint, openloop, report, tally
from benchmarks.contenders import BATCH, DEFAULT, Trimtab, bind, experiment, peer, say
from benchmarks.openloop import Plan, Records
from benchmarks.servers import PeerError
from benchmarks.tally import Cost, Tally

OBJECTIVE_S = 0.1  # from the intended time to the whole answer, as the client sees it
PHASES = ((5.0, 0.5), (10.0, 1.5), (8.0, 0.5))
QUICK_PHASES = ((1.0, 0.5), (2.0, 1.5), (1.0, 0.5))
SWEEP = ((8, 0.0), (64, 0.0), (32, 0.005))  # (largest batch, wait) beside (32, 0)
PEERS = (DEFAULT, BATCH)
OURS, BEST_STATIC = "Trimtab", "best static"

Runs = dict[str, list[Tally]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.burst", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 s bursts, no sweep, a model of one epoch")
    parser.add_argument("--case", choices=("cifar", "mnist"), default="cifar")
    parser.add_argument("--rows", type=int, nargs="+", choices=(1, 32), help="images of a request (1 32; quick: 1)")
    parser.add_argument("--told-ms", type=float, default=100.0, help="objective that Trimtab's replicas are told")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-peers", action="store_true", help="Trimtab and its single rungs alone")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with cifar10_subset, mnist")
    parser.add_argument("--scratch", type=Path, default=Path("~/.cache/trimtab-benchmarks"), help="models, peers; kept")
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    told = parser.parse_args()
    sizes: list[int] = told.rows or ([1] if told.quick else [1, 32])
    bind()
    scratch = told.scratch.expanduser().absolute()
    figures = []
    burst = Burst(told.case, scratch, told.told_ms, quick=told.quick)
    with endpoint.served(scratch / told.case, experiment(told.case, told.data, quick=told.quick)) as served:
        burst.measure(Trimtab.of(served))
        runs: dict[int, Runs] = {rows: {} for rows in sizes}
        for number in range(told.rounds):
            for rows in sizes:
                burst.ours(Trimtab.of(served), rows, number, runs[rows])
    if not told.no_peers:
        for number in range(told.rounds):
            burst.peers(sizes, number, runs)
    for rows in sizes:
        figures += burst.figures(rows, runs[rows])
    more = {
        "tables": [burst.table(rows, runs[rows]) for rows in sizes],
        "runs": {
            rows: {name: [asdict(each) for each in found] for name, found in runs[rows].items()} for rows in sizes
        },
    }
    report.write(told.out, "burst", quick=told.quick, seed=0, figures=figures, notes=burst.notes(), **more)
    return 0


class Burst:
    """What is known of the machine, and the runs on it."""

    def __init__(self, case: str, scratch: Path, told_ms: float, *, quick: bool) -> None:
        self.case, self.scratch, self.told_ms, self.quick = case, scratch, told_ms, quick
        self.phases = QUICK_PHASES if quick else PHASES
        self.model = scratch / f"{case}-best.onnx"
        self.requests_per_s: dict[int, float] = {}

    def measure(self, trimtab: Trimtab) -> None:
        """Capacities and costs of all rungs."""
        seconds = 1.0 if self.quick else 3.0
        self.images, self.labels = trimtab.images, trimtab.labels
        self.costs: list[Cost] = trimtab.costs(seconds)
        self.best = tally.best_rung(self.costs)
        self.model.write_bytes(trimtab.endpoint.bundle.read(self.best.variant))
        slower = self._slowdown(trimtab) if self.case == "mnist" else 1.0
        cheapest = min(self.costs, key=lambda cost: cost.row_s)
        self.most_per_s = trimtab.capacity(cheapest.variant, 1, seconds)
        for rows in (1, 32):
            self.requests_per_s[rows] = float(trimtab.capacity(self.best.variant, rows, seconds)) / slower
        say(f"best rung {self.best.variant}: {self.requests_per_s} requests/s by rows; at most {self.most_per_s:.0f}")

    def _slowdown(self, trimtab: Trimtab) -> float:
        """Of the network in fp32 against the best rung, as profiled when the ladder was made."""
        ladder = trimtab.endpoint.bundle.ladder or {}
        seconds = {each["variant"]: each["seconds"]["32"] for each in (*ladder["rungs"], *ladder["left_out"])}
        return float(seconds["onnx-fp32"] / seconds[self.best.variant])

    def arrivals(self, rows: int, number: int) -> np.ndarray:
        base = self.requests_per_s[rows]
        return openloop.poisson([(seconds, share * base) for seconds, share in self.phases], seed=number)

    # Runs

    def ours(self, trimtab: Trimtab, rows: int, number: int, runs: Runs) -> None:
        def run(name: str, **settings: Any) -> None:
            trimtab.set(self.told_ms, **settings)
            self._count(name, rows, trimtab.load(self.arrivals(rows, number), rows, number), runs)

        run(OURS)
        for cost in self._candidates():
            run(f"{cost.variant} alone", rungs=[cost.variant])
        if self.quick:
            return
        alone = {cost.variant: runs[f"{cost.variant} alone"][number].effective for cost in self.costs}
        rung = max(alone, key=lambda variant: alone[variant])
        for max_batch, wait_s in SWEEP:
            name = f"{rung} alone, batch {max_batch}, wait {wait_s * 1000:g} ms"
            run(name, rungs=[rung], max_batch=max_batch, max_wait=f"{wait_s}s")

    def _candidates(self) -> list[Cost]:
        """All rungs; in a hurry the best one and the next three that are cheaper."""
        if not self.quick:
            return self.costs
        cheaper = [cost for cost in self.costs if cost.row_s < self.best.row_s and cost.accuracy < self.best.accuracy]
        return [self.best, *cheaper[:3]]

    def peers(self, rows: list[int], number: int, runs: dict[int, Runs]) -> None:
        for made in PEERS:
            try:
                with peer(made, self.model, self.scratch) as (target, _):
                    for each in rows:
                        plan = Plan(target, each, number)
                        records = openloop.replay(plan, self.arrivals(each, number), self.images, self.labels)
                        self._count(made.title, each, records, runs[each])
            except PeerError as error:
                say(f"{made.title}: left out, it {error}")

    def _count(self, name: str, rows: int, records: Records, runs: Runs) -> None:
        found = tally.tally(records, OBJECTIVE_S)
        runs.setdefault(name, []).append(found)
        say(f"{rows} a request, {name}: {shown(found)}")

    # Figures

    def figures(self, rows: int, runs: Runs) -> list[dict[str, Any]]:
        statics = {name: found for name, found in runs.items() if " alone" in name}
        static = max(statics, key=lambda name: float(np.median([each.effective for each in statics[name]])))
        bounds = [self._bound(rows, number) for number in range(len(runs[OURS]))]
        made = [self._goal_figure(rows, runs, static, bounds)]
        default = DEFAULT.title
        if default in runs:
            ours, theirs = values(runs[OURS], "violations"), values(runs[default], "violations")
            # A run without a violation counts as half of one, so that there is a ratio.
            least = [0.5 / each.requests for each in runs[OURS]]
            ratio = [t / max(o, at_least) for o, t, at_least in zip(ours, theirs, least, strict=True)]
            name = f"{rows} a request: violations of Ray Serve's default over Trimtab's"
            made.append(report.figure(name, ratio, "times", goal=10, met=min(ratio) >= 10))
        return made

    def table(self, rows: int, runs: Runs) -> dict[str, Any]:
        return {
            "title": f"{self.case}, requests of {rows}, shares of all requests",
            "columns": COLUMNS,
            "rows": [row(name, found) for name, found in runs.items()],
        }

    def _bound(self, rows: int, number: int) -> float:
        return tally.fluid_bound(self.arrivals(rows, number), rows, self.costs, self.most_per_s)

    def _goal_figure(self, rows: int, runs: Runs, static: str, bounds: list[float]) -> dict[str, Any]:
        """Effective accuracy against the best static configuration, and how far it is from the bound."""
        ours = values(runs[OURS], "effective")
        theirs = [max(each, 1e-9) for each in values(runs[static], "effective")]  # a ratio needs something
        gaps = [bound - o for bound, o in zip(bounds, ours, strict=True)]
        above = self.case == "mnist" or all(o > t for o, t in zip(ours, theirs, strict=True))
        name = f"{rows} a request: effective accuracy"
        goal, met = 0.01, above and max(gaps) <= 0.01
        made = report.figure(
            name, ours, "share", peer=f"best static ({static})", peer_values=theirs, goal=goal, met=met
        )
        closed = [tally.gap_closed(o, t, b) for o, t, b in zip(ours, theirs, bounds, strict=True)]
        return made | {"bound": report.spread(bounds, 4), "to_bound": report.spread(gaps, 4), "gap_closed": closed}

    def notes(self) -> str:
        rungs = "; ".join(f"{c.variant} {c.accuracy:.4f} at {c.row_s * 1000:.3f} ms a row" for c in self.costs)
        loads = ", ".join(f"{per_s:.0f}/s of {rows}" for rows, per_s in self.requests_per_s.items())
        words = (
            f"{self.case}: {rungs}. Capacity (1.0) in requests: {loads}. Accuracies are of the test split. The goal "
        )
        words += "of effective accuracy is the distance from the fluid bound, and to be above the best static one"
        if self.case == "mnist":
            words += "; here int8 loses nothing and is that already, so being as good is all there is to gain"
        return words


COLUMNS = ["who", "effective accuracy", "in time", "late", "refused", "failed", "accuracy of answers", "p99 ms"]


def row(name: str, found: list[Tally]) -> list[str]:
    """One line of a table: medians over rounds."""
    fields = ("effective", "in_time", "late", "refused", "failed", "accuracy")
    medians = [float(np.median(values(found, field))) for field in fields]
    p99_ms = float(np.median(values(found, "p99_ms")))
    return [name, *(f"{median:.4f}" for median in medians), f"{p99_ms:.0f}" if np.isfinite(p99_ms) else "no answer"]


def values(found: list[Tally], field: str) -> list[float]:
    return [float(getattr(each, field)) for each in found]


def shown(found: Tally) -> str:
    mix = ", ".join(f"{name} {share:.2f}" for name, share in found.mix.items() if share >= 0.005)
    shares = ("effective", "in_time", "late", "refused", "failed", "accuracy")
    words = [f"{found.requests} requests", *(f"{name} {getattr(found, name):.4f}" for name in shares)]
    words += [f"p50/p99 {found.p50_ms:.0f}/{found.p99_ms:.0f} ms"]
    words += [f"client late {found.client_late_ms:.1f} ms", f"cpu {found.client_cpu:.2f}"]
    return ", ".join(words) + (f" [{mix}]" if mix else "")


if __name__ == "__main__":
    raise SystemExit(main())
