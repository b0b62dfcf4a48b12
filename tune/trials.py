"""What became of a search's trials: their records, which are the best, and which one is chosen.

Pure: no Ray, no files, no clock. Knows figures, not how they were measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cluster.config import Objective, Tune

State = Literal["finished", "stopped", "failed", "crashed"]
METRICS = {"accuracy": "max", "loss": "min"}


@dataclass(frozen=True)
class Trial:
    """One trial; `accuracy` and `loss` are those of its best epoch by the search's metric, on the validation split."""

    trial: str
    config: Mapping[str, Any]  # values by dotted name
    state: State  # stopped: by the scheduler or the budget; failed: not finite; crashed: an error or a death
    epochs: int = 0
    best_epoch: int = -1
    accuracy: float | None = None
    loss: float | None = None
    latency_ms: float | None = None  # of one row through the exported network
    seconds: float = 0.0
    cpu_s: float = 0.0
    rows: int = 0
    failure: str = ""
    search: str = ""  # key of the earlier search it comes from; empty for this one's own

    def value(self, metric: str) -> float | None:
        """None where it has no figure, or none to trust."""
        if self.state in ("failed", "crashed"):
            return None
        return self.accuracy if metric == "accuracy" else self.loss

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "config": dict(self.config)}


def record(
    trial: str,
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    metric: str,
    error: str = "",
) -> Trial:
    """From a trial's reports in order; `error` is what ended it against its will."""
    epochs = [entry for entry in history if not entry.get("failure")]
    last = history[-1] if history else {}
    failure = error or str(last.get("failure") or "")
    state: State = "crashed" if error else "failed" if failure else "finished" if last.get("over") else "stopped"
    sign = 1 if METRICS[metric] == "max" else -1
    best = max(epochs, key=lambda entry: sign * entry[f"validation_{metric}"], default=None)
    common: dict[str, Any] = {
        "epochs": len(epochs),
        "latency_ms": last.get("latency_ms"),
        "seconds": float(sum(entry["seconds"] for entry in epochs)),
        "cpu_s": float(sum(entry["cpu_s"] for entry in epochs)),
        "rows": int(sum(entry["rows"] for entry in epochs)),
    }
    if best is None:
        # One that was stopped before its first epoch ended says nothing about its settings.
        return Trial(trial, config, state, failure=failure, **common)
    accuracy, loss = float(best["validation_accuracy"]), float(best["validation_loss"])
    best_epoch = int(best["epoch"])
    return Trial(trial, config, state, best_epoch=best_epoch, accuracy=accuracy, loss=loss, failure=failure, **common)


def ranked(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Those with a figure, the best first; equal ones by the other figure, then by their name."""
    good = [trial for trial in trials if trial.value(metric) is not None]
    return sorted(good, key=lambda trial: (_better_is_less(trial, metric), trial.trial))


def pareto(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Those that no other beats in both metric and latency, the best by the metric first."""
    front: list[Trial] = []
    for trial in ranked(trials, metric):
        if trial.latency_ms is not None and all(trial.latency_ms < (one.latency_ms or 0.0) for one in front):
            front.append(trial)
    return front


def chosen(trials: Sequence[Trial], section: Tune, objective: Objective) -> tuple[Trial | None, str]:
    """The best trial, and why it; None where none has a figure.

    With latency as a second aim the objective picks among the Pareto set: within `latency_ms` the best by the metric;
    without that bound the fastest that keeps `accuracy_at_least`; without either the best by the metric.
    """
    order = ranked(trials, section.metric)
    if not order:
        return None, "no trial has a figure"
    front = pareto(trials, section.metric) if section.latency else []
    if not front:
        return order[0], f"best {section.metric}"
    bound, floor = objective.latency_ms, objective.accuracy_at_least
    if bound is not None:
        within = [trial for trial in front if (trial.latency_ms or 0.0) <= bound]
        if within:
            return within[0], f"best {section.metric} within serve.objective.latency_ms {bound:g}"
        return front[-1], f"the fastest: none holds serve.objective.latency_ms {bound:g}"
    if floor is not None:
        above = [trial for trial in front if (trial.accuracy or 0.0) >= floor]
        if above:
            return above[-1], f"the fastest with serve.objective.accuracy_at_least {floor:g}"
        return front[0], f"best {section.metric}: none reaches serve.objective.accuracy_at_least {floor:g}"
    return front[0], f"best {section.metric} of the Pareto set"


def counts(trials: Sequence[Trial]) -> dict[str, int]:
    found = Counter(trial.state for trial in trials)
    states: tuple[State, ...] = ("finished", "stopped", "failed", "crashed")
    return {state: found[state] for state in states}


def _better_is_less(trial: Trial, metric: str) -> tuple[float, float]:
    accuracy, loss = -(trial.accuracy or 0.0), trial.loss if trial.loss is not None else float("inf")
    return (accuracy, loss) if metric == "accuracy" else (loss, accuracy)
