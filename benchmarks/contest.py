"""Contenders under the windows of traces: Trimtab, static configurations, and the peers; what each did is counted.

Knows whom to start in which order, not what is made of the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import openloop, steps, tally, traces
from benchmarks.burst import OBJECTIVE_S, SWEEP, shown
from benchmarks.contenders import AIMD, AUTO, AUTO_BATCH, Replicas, Trimtab, peer, say
from benchmarks.openloop import Plan, Target
from benchmarks.servers import PeerError
from benchmarks.tally import Cost, Tally
from benchmarks.traces import Trace

ROWS = 4  # a request: what saturates is the model, not the way to it
REPLICAS = 2
OURS, INNER = "Trimtab", "Trimtab without its actor"
WITH_ACTOR: dict[str, Any] = {"adapt": True, "replicas": {"min": 1, "max": REPLICAS}}
PEERS = (AUTO, AUTO_BATCH, AIMD)
# By name, with the loads it is replayed at: all, or the one in the middle.
WINDOWS: dict[str, tuple[Callable[[Path], Trace], bool]] = {
    "twitter-burst": (lambda data: traces.twitter(data, "burst"), True),
    "twitter-calm": (lambda data: traces.twitter(data, "calm"), False),
    "azure-code": (lambda data: traces.azure(data, "code"), False),
}


@dataclass(frozen=True)
class Asked:
    """What a run was asked to do. A window is squeezed into `seconds`."""

    data: Path
    scratch: Path
    loads: tuple[float, ...]
    windows: tuple[str, ...]
    seconds: float
    told_ms: float  # the objective that replicas are told
    with_steps: bool
    quick: bool


@dataclass
class Run:
    """One contender on one window."""

    found: Tally
    replica_s: float
    actions: int  # changes of the number of replicas


@dataclass(frozen=True)
class Case:
    """A window at a load: the arrivals all contenders get."""

    window: str
    load: float
    arrivals: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.window} at {self.load:g}"


class Contest:
    """The cases, and what came of them."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._best_model, self._static_model = asked.scratch / "slo-best.onnx", asked.scratch / "slo-static.onnx"
        self.cases: list[Case] = []
        self.runs: dict[str, dict[str, Run]] = {}  # by case and contender
        self.statics: dict[str, str] = {}  # by case, which static configuration is the best
        self.recoveries: dict[str, float] = {}
        self.scaling: dict[str, float | None] = {}

    # Trimtab and the static configurations

    def trimtab(self, trimtab: Trimtab) -> None:
        seconds = 1.0 if self.asked.quick else 3.0
        self.images, self.labels = trimtab.images, trimtab.labels
        self.costs: list[Cost] = trimtab.costs(seconds)
        self.best = tally.best_rung(self.costs)
        self.profiles = trimtab.rungs
        self._best_model.write_bytes(trimtab.endpoint.bundle.read(self.best.variant))
        self.base = trimtab.capacity(self.best.variant, ROWS, seconds)
        self.most_per_s = max(trimtab.capacity(self.costs[-1].variant, ROWS, seconds), self.base)
        say(f"best rung {self.best.variant}: {self.base:.0f} requests/s of {ROWS}; at most {self.most_per_s:.0f}")
        self.cases = list(self._cases())
        for case in self.cases:
            self._ours(trimtab, case, INNER)
            self._statics(trimtab, case)
        if self.asked.with_steps:
            self._recovery(INNER, self._told(trimtab).target)
            self.scaling = steps.scaling(
                self._told(trimtab), ROWS, self.base, self.asked.told_ms, quick=self.asked.quick
            )
        for case in self.cases:
            self._ours(trimtab, case, OURS, **WITH_ACTOR)
        if self.asked.with_steps:
            self._recovery(OURS, self._told(trimtab, **WITH_ACTOR).target)
        static = self.statics[self.cases[0].name].partition(",")[0].removesuffix(" alone")
        self._static_model.write_bytes(trimtab.endpoint.bundle.read(static))

    def _cases(self) -> Iterator[Case]:
        loads = self.asked.loads
        for name in self.asked.windows:
            read, at_all_loads = WINDOWS[name]
            trace = read(self.asked.data)
            squeezed = trace.squeezed(trace.seconds / self.asked.seconds)
            for load in loads if at_all_loads else loads[len(loads) // 2 :][:1]:
                yield Case(name, load, squeezed.scaled(load * self.base).arrivals(seed=0))

    def _ours(self, trimtab: Trimtab, case: Case, name: str, **settings: Any) -> None:
        pid = trimtab.endpoint.cluster.pid or 0
        self._count(case, name, self._told(trimtab, **settings).target, pid)

    def _told(self, trimtab: Trimtab, **settings: Any) -> Trimtab:
        trimtab.set(self.asked.told_ms, **settings)
        return trimtab

    def _statics(self, trimtab: Trimtab, case: Case) -> None:
        """Each rung alone; then, once, the best of them with other batches and waits."""
        found = self.runs[case.name]
        for cost in self.costs:
            if cost.row_s * ROWS * self.base * case.load < 2.0:  # slower ones are overloaded all the time
                self._ours(trimtab, case, f"{cost.variant} alone", rungs=[cost.variant])
        best = max((name for name in found if "alone" in name), key=lambda name: found[name].found.effective)
        if not self.asked.quick and case is self.cases[0]:
            for max_batch, wait_s in SWEEP:
                name = f"{best}, batch {max_batch}, wait {wait_s * 1000:g} ms"
                more = {"rungs": [best.removesuffix(" alone")], "max_batch": max_batch, "max_wait": f"{wait_s}s"}
                self._ours(trimtab, case, name, **more)
            best = max((name for name in found if "alone" in name), key=lambda name: found[name].found.effective)
        self.statics[case.name] = best

    # Peers

    def peers(self) -> None:
        for made in PEERS:
            model = self._static_model if made is AIMD else self._best_model
            replicas = 1 if made is AIMD else REPLICAS
            try:
                with peer(made, model, self.asked.scratch, replicas) as (target, server):
                    for case in self.cases:
                        self._count(case, made.title, target, server.pid)
                    if made is not AIMD and self.asked.with_steps:
                        self._recovery(made.title, target)
            except PeerError as error:
                say(f"{made.title}: left out, it {error}")

    # What both have

    def _count(self, case: Case, name: str, target: Target, pid: int) -> None:
        with Replicas(pid) as replicas:
            records = openloop.replay(Plan(target, ROWS), case.arrivals, self.images, self.labels)
        found = tally.tally(records, OBJECTIVE_S)
        began = records.started
        counts = [(max(at, began), count) for at, count in replicas.counts]
        run = Run(found, tally.replica_seconds(counts, began + self.asked.seconds), len(replicas.counts) - 1)
        self.runs.setdefault(case.name, {})[name] = run
        say(f"{case.name}, {name}: {shown(found)}; {run.replica_s:.0f} replica-seconds")

    def _recovery(self, name: str, target: Target) -> None:
        quick = self.asked.quick
        self.recoveries[name] = steps.recovery(target, ROWS, self.base, self.images, self.labels, quick=quick)
        say(f"step, {name}: p99 back inside after {self.recoveries[name]:.2f} s")
