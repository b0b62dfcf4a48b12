"""What adaptation may do at most and how fast: the experiment's word, in the form that the pure code reads.

Settings that no ladder could keep are refused here, with the figure that makes them impossible. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.config import Experiment
from cluster.errors import ConfigError
from ladder.choose import Rung
from serve.adapt.candidacy import Rules
from serve.adapt.plain import Plain

# Sections of an experiment that hold as they are when a version is deployed; the bundle says how it was made.
TODAY = ("serve", "adapt", "retrain", "gate", "rollout")


@dataclass(frozen=True, slots=True)
class Bounds(Plain):
    """Times in seconds, shares from 0 to 1. `objective_s` is what a request may take: the time-out, or less."""

    objective_s: float = 30.0
    share_in_time: float = 0.99  # of the requests that are to be answered in time
    floor: float = 0.0  # accuracy below which no rung may answer
    rungs: tuple[str, ...] | None = None  # those the experiment allows; None for all
    min_replicas: int = 1
    max_replicas: int = 1
    max_batch: int = 32
    max_wait_s: float = 0.0
    cores: int = 1  # of a replica: threads times concurrency at most
    threads: int = 1
    concurrency: int = 1
    tick_s: float = 0.2
    cooldown_s: float = 1.0
    dwell_s: float = 5.0
    replica_cooldown_s: float = 10.0
    patience_s: float = 60.0
    actions_per_minute: int = 30
    rollout: Rules = field(default_factory=Rules)

    @classmethod
    def of(cls, experiment: Experiment) -> Bounds:
        serve, adapt = experiment.serve, experiment.adapt
        objective, timeout_s = serve.objective, serve.request_timeout
        threads, concurrency = serve.threads, serve.concurrency
        return cls(
            objective_s=timeout_s if objective.latency_ms is None else min(timeout_s, objective.latency_ms / 1000),
            share_in_time=objective.percentile / 100,
            floor=objective.accuracy_at_least or 0.0,
            rungs=None if serve.rungs is None else tuple(serve.rungs),
            min_replicas=serve.replicas.min,
            max_replicas=serve.replicas.max,
            max_batch=serve.max_batch,
            max_wait_s=serve.max_wait,
            cores=max(int(serve.cpus_per_replica), threads * concurrency),
            threads=threads,
            concurrency=concurrency,
            tick_s=adapt.tick_ms / 1000,
            cooldown_s=adapt.cooldown,
            dwell_s=adapt.dwell,
            replica_cooldown_s=adapt.replica_cooldown,
            patience_s=adapt.patience,
            actions_per_minute=adapt.actions_per_minute,
            rollout=Rules.from_json(dict(experiment.rollout)),
        )


def impossible(experiment: Experiment, ladder: Sequence[Rung]) -> ConfigError | None:
    """Why no replica could keep what the experiment promises with this ladder; None when it can.

    `ladder` has each rung's accuracy and its time on the machine that serves, in any order.
    """
    serve = experiment.serve
    allowed = [rung for rung in ladder if serve.rungs is None or rung.variant in serve.rungs]
    if not allowed:
        have = ", ".join(rung.variant for rung in ladder) or "none"
        return ConfigError("serve.rungs", serve.rungs, "allows no rung of this version", f"it has {have}")
    floor, best = serve.objective.accuracy_at_least or 0.0, max(allowed, key=lambda rung: rung.accuracy)
    if best.accuracy < floor:
        problem = f"the best allowed rung, {best.variant}, reaches {best.accuracy:.4f}"
        return ConfigError("serve.objective.accuracy_at_least", floor, problem, "lower it, or train a better version")
    accurate = [rung for rung in allowed if rung.accuracy >= floor]
    fastest = min(accurate, key=lambda rung: rung.latency.predict(1))
    least_ms, latency_ms = fastest.latency.predict(1) * 1000, serve.objective.latency_ms
    if latency_ms is not None and least_ms > latency_ms:
        problem = f"the fastest allowed rung, {fastest.variant}, takes {least_ms:.3g} ms for one row alone"
        mend = "raise it, allow a cheaper rung, or lower accuracy_at_least"
        return ConfigError("serve.objective.latency_ms", latency_ms, problem, mend)
    return None
