"""An objective of 100 ms at p99 under real arrivals: who keeps it, and how right the answers are.

Hours of two public traces are squeezed in time and scaled to 0.5, 0.7 and 0.9 of what the best rung of CIFAR's ladder
can do on average, so that it saturates in the bursts. They are replayed open-loop, each against: Trimtab with its
ladder, its actor and up to two replicas, and with the choice inside one replica alone; Ray Serve with its default
autoscaling and with the best settings we found for it, both with the most accurate rung; a static configuration, the
best of a sweep over rung, largest batch and wait; and batches grown by additive increase and multiplicative decrease,
as Clipper has it, on the static configuration's rung. All on the same two processors. Then a step of three times the
load: seconds until p99 is back inside the objective. Then 1 -> 2 -> 1 replicas under load: what is lost, and how soon
it holds.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import endpoint, report, tally, traces
from benchmarks.burst import COLUMNS, row
from benchmarks.contenders import AUTO, MOST_ROWS, Trimtab, bind, experiment
from benchmarks.contest import INNER, OURS, ROWS, WINDOWS, Asked, Case, Contest
from benchmarks.tally import Cost
from ladder.choose import Rung
from ladder.latency import Latency
from serve.adapt.bounds import Bounds
from serve.adapt.simulator.control import Fixed
from serve.adapt.simulator.run import Settings, predict

OVERHEAD_S = 0.003  # of a request outside of its replica's queue and batch, for the simulator
STATIC = "best static"


def main() -> int:
    asked, no_peers, out = parse()
    bind()
    contest = Contest(asked)
    with endpoint.served(asked.scratch / "cifar", experiment("cifar", asked.data, quick=asked.quick)) as served:
        contest.trimtab(Trimtab.of(served))
    if not no_peers:
        contest.peers()
    made = Report(contest)
    more = {
        "tables": [made.table(case) for case in contest.cases],
        "runs": {case: {name: asdict(run) for name, run in runs.items()} for case, runs in contest.runs.items()},
    }
    report.write(out, "slo", quick=asked.quick, seed=0, figures=made.figures(), notes=made.notes(), **more)
    return 0


def parse() -> tuple[Asked, bool, Path | None]:
    """What is asked, whether without peers, and where the JSON goes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one window of 4 s, no sweep, a model of one epoch")
    parser.add_argument("--loads", type=float, nargs="+", help="of the best rung (0.5 0.7 0.9; quick: 0.7)")
    parser.add_argument("--windows", nargs="+", choices=list(WINDOWS), help="all by default; quick: the first")
    parser.add_argument("--seconds", type=float, default=12.0, help="into which a window is squeezed")
    parser.add_argument("--told-ms", type=float, default=100.0, help="objective that Trimtab's replicas are told")
    parser.add_argument("--no-peers", action="store_true", help="Trimtab and the static configurations alone")
    parser.add_argument("--no-steps", action="store_true", help="neither step nor scaling")
    parser.add_argument("--data", type=Path, default=traces.data_folder(), help="folder with traces, cifar10_subset")
    parser.add_argument("--scratch", type=Path, default=Path("~/.cache/trimtab-benchmarks"), help="models, peers; kept")
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    told = parser.parse_args()
    asked = Asked(
        told.data,
        told.scratch.expanduser().absolute(),
        tuple(told.loads or ([0.7] if told.quick else [0.5, 0.7, 0.9])),
        tuple(told.windows or list(WINDOWS)[: 1 if told.quick else None]),
        4.0 if told.quick else told.seconds,
        told.told_ms,
        not told.no_steps,
        told.quick,
    )
    return asked, told.no_peers, told.out


class Report:
    """Figures and tables of a contest."""

    def __init__(self, contest: Contest) -> None:
        self._contest = contest
        costs = zip(contest.profiles, contest.costs, strict=True)
        self._ladder = [as_run(profiled, cost) for profiled, cost in costs]

    def figures(self) -> list[dict[str, Any]]:
        made = []
        for case in self._contest.cases:
            made += self._case_figures(case)
        for name, seconds in self._contest.recoveries.items():
            ours = name in (OURS, INNER)
            title = f"{name}: seconds from a step of 3 times the load until p99 is back inside"
            made.append(
                report.figure(title, [seconds], "s", goal=1.0 if ours else None, met=seconds < 1 if ours else None)
            )
        for name, value in self._contest.scaling.items():
            if value is not None:
                unit = "requests" if name in ("lost", "requests") else "share" if name == "in time" else "s"
                goal = 0.0 if name == "lost" else None
                met = value == 0 if name == "lost" else None
                made.append(
                    report.figure(f"replicas 1 -> 2 -> 1 under load: {name}", [value], unit, goal=goal, met=met)
                )
        return made

    def _case_figures(self, case: Case) -> list[dict[str, Any]]:
        runs, static = self._contest.runs[case.name], self._contest.statics[case.name]
        bound = tally.fluid_bound(case.arrivals, ROWS, self._contest.costs, self._contest.most_per_s)
        made = []
        for name in (OURS, INNER):
            ours, theirs = runs[name].found, runs[static].found
            met = ours.effective > theirs.effective and bound - ours.effective <= 0.01
            closed = tally.gap_closed(ours.effective, theirs.effective, bound)
            made.append(
                report.figure(
                    f"{case.name}: {name}: effective accuracy",
                    [ours.effective],
                    "share",
                    peer=f"best static ({static})",
                    peer_values=[max(theirs.effective, 1e-9)],
                    goal=0.01,
                    met=met,
                )
                | {"bound": bound, "to_bound": bound - ours.effective, "gap_closed": closed}
            )
            met = ours.violations <= 0.005
            made.append(
                report.figure(f"{case.name}: {name}: violations", [ours.violations], "share", goal=0.005, met=met)
            )
            if name == INNER:
                title = f"{case.name}: {name}: in time, beside what the simulator predicted"
                predicted = [self._predicted(case)]
                made.append(
                    report.figure(
                        title,
                        [ours.in_time],
                        "share",
                        peer="simulator",
                        peer_values=[max(each, 1e-9) for each in predicted],
                    )
                )
            if (default := AUTO.title) in runs:
                ratio = runs[default].found.violations / max(ours.violations, 0.5 / ours.requests)
                title = f"{case.name}: violations of Ray Serve's default autoscaling over those of {name}"
                made.append(report.figure(title, [ratio], "times", goal=10, met=ratio >= 10))
        return made

    def table(self, case: Case) -> dict[str, Any]:
        runs, static = self._contest.runs[case.name], self._contest.statics[case.name]
        lines = []
        for name, run in runs.items():
            kind = f"{name} ({STATIC})" if name == static else name
            lines.append([*row(kind, [run.found]), f"{run.replica_s:.0f}", str(run.actions)])
        columns = [*COLUMNS, "replica-seconds", "changes of replicas"]
        return {"title": f"{case.name}, shares of all requests", "columns": columns, "rows": lines}

    def _predicted(self, case: Case) -> float:
        """The share in time that the simulator expects of one replica without the actor."""
        bounds = Bounds(objective_s=self._contest.asked.told_ms / 1000)
        settings = Settings(bounds, rows=ROWS, overhead_s=OVERHEAD_S)
        return predict(case.arrivals, self._ladder, settings, Fixed()).in_time

    def notes(self) -> str:
        made = self._contest
        rungs = "; ".join(f"{c.variant} {c.accuracy:.4f} at {c.row_s * 1000:.3f} ms a row" for c in made.costs)
        return (
            f"Rungs: {rungs}. Load 1.0 is {made.base:.0f} requests/s of {ROWS} images. Each window is an hour, "
            f"squeezed into {made.asked.seconds:g} s. The goal of effective accuracy is the distance from the fluid "
            "bound, and to be above the best static one. Ray Serve's default waits 30 s before it adds a replica, "
            "which is longer than a squeezed window"
        )


def as_run(profiled: dict[str, Any], cost: Cost) -> Rung:
    """A rung for the simulator: the profile's form, at the pace that was measured through the endpoint."""
    latency = Latency.from_json(profiled["latency"])
    factor = cost.row_s * MOST_ROWS / latency.predict(MOST_ROWS)
    return Rung(cost.variant, cost.accuracy, Latency(latency.fixed_s * factor, latency.per_row_s * factor))


if __name__ == "__main__":
    raise SystemExit(main())
