"""A search while it runs: what its trials are at, when its budget is spent, and what a person sees of it.

Knows figures and how Ray Tune describes a trial, not how trials work; `tune.relay` tells it what happens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from cluster.config import Tune
from cluster.progress import Progress
from tune.space import settings

MOST_FIRST_FAILURES = 5  # a search whose first trials all fail is over
SHOWN_TRIALS = 12
SAVE_EVERY_S = 2.0
METRIC = "validation_{}"
_ENDED = ("TERMINATED", "ERROR")


class Watch:
    """`spent_s` is what earlier lives of this search took; `save` keeps it for later ones."""

    def __init__(
        self,
        section: Tune,
        progress: Progress,
        *,
        num_trials: int | None,
        spent_s: float = 0.0,
        save: Callable[[float], None] = lambda _: None,
        on_end: Callable[[Any, list[dict[str, Any]]], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._section, self._progress, self._num_trials = section, progress, num_trials
        self._save, self._on_end, self._clock = save, on_end, clock
        self._born, self._began, self._saved = clock(), clock() - spent_s, -math.inf
        self._name, self._sign = METRIC.format(section.metric), 1 if section.metric == "accuracy" else -1
        self._history: dict[str, list[dict[str, Any]]] = {}
        self._best: dict[str, float] = {}
        self._num_failed = 0
        self.start_s = 0.0  # until the first epoch of this life was done
        self.over = ""  # why the search ends before its last trial, empty while it goes on

    @property
    def spent_s(self) -> float:
        return self._clock() - self._began

    def on_result(self, trials: Sequence[Any], trial: Any, result: dict[str, Any]) -> None:
        self.start_s = self.start_s or self._clock() - self._born
        self._history.setdefault(trial.trial_id, []).append(result)
        value = result.get(self._name)
        if not result.get("failure") and isinstance(value, int | float) and math.isfinite(value):
            before = self._best.get(trial.trial_id)
            self._best[trial.trial_id] = value if before is None else self._better(value, before)
            if self._section.target is not None and self._sign * value >= self._sign * self._section.target:
                self.over = f"a trial reached {self._section.metric} {self._section.target:g}"
        self.show(trials)

    def on_ended(self, trials: Sequence[Any], trial: Any, failed: bool) -> None:
        history = self._history.get(trial.trial_id, [])
        failure = str(history[-1].get("failure") or "") if history else ""
        if failed or failure:
            self._num_failed += 1
        num_ended = sum(one.status in _ENDED for one in trials)
        if not self._best and self._num_failed >= max(MOST_FIRST_FAILURES, num_ended):
            self.over = f"its first {self._num_failed} trials failed"
        self._on_end(trial, history)
        self.show(trials)

    def is_over(self) -> bool:
        if not self.over and self._section.minutes is not None and self.spent_s >= 60 * self._section.minutes:
            self.over = f"{self._section.minutes:g} minutes are spent"
        if self._clock() - self._saved >= SAVE_EVERY_S:
            self._saved = self._clock()
            self._save(self.spent_s)
        return bool(self.over)

    def show(self, trials: Sequence[Any]) -> None:
        """Say how far the search is: figures for a line, and the table of its trials."""
        num_ended = sum(trial.status in _ENDED for trial in trials)
        best = self._best_of_all()
        figures: dict[str, Any] = {f"best_{self._section.metric}": None if best is None else round(best, 4)}
        figures |= {"running": sum(trial.status == "RUNNING" for trial in trials)}
        figures |= {"failed": self._num_failed} if self._num_failed else {}
        left_s = self.left_s(num_ended)
        figures |= {} if left_s is None else {"left": _words(left_s)}
        figures["table"] = self._table(trials)
        done, total = (num_ended, self._num_trials) if self._num_trials else (self.spent_s, self._most_s())
        self._progress.update(done, total, **{name: value for name, value in figures.items() if value is not None})

    def left_s(self, num_ended: int) -> float | None:
        """The less of what the budget leaves and what the trials need at the pace so far; None if neither is known."""
        known = [] if self._section.minutes is None else [max(0.0, self._most_s() - self.spent_s)]
        if self._num_trials is not None and num_ended:
            known.append(max(0, self._num_trials - num_ended) * self.spent_s / num_ended)
        return min(known, default=None)

    def _most_s(self) -> float:
        return 60 * (self._section.minutes or 0.0)

    def _better(self, one: float, other: float) -> float:
        return max(one, other) if self._sign > 0 else min(one, other)

    def _best_of_all(self) -> float | None:
        best: float | None = None
        for value in self._best.values():
            best = value if best is None else self._better(value, best)
        return best

    def _table(self, trials: Sequence[Any]) -> list[dict[str, Any]]:
        """The trials that run, and the best of the others."""
        worst = -math.inf * self._sign
        order = sorted(trials, key=lambda trial: -self._sign * self._best.get(trial.trial_id, worst))
        order.sort(key=lambda trial: trial.status != "RUNNING")  # the sort is stable
        return [self._row(trial) for trial in order[:SHOWN_TRIALS] if trial.status != "PENDING"]

    def _row(self, trial: Any) -> dict[str, Any]:
        history, best = self._history.get(trial.trial_id, []), self._best.get(trial.trial_id)
        figure = None if best is None else round(best, 4)
        row = {"trial": trial.trial_id, "state": trial.status.lower(), "epochs": len(history)}
        return {**row, self._section.metric: figure, **settings(trial.config)}


def _words(seconds: float) -> str:
    return f"{seconds:.0f}s" if seconds < 90 else f"{seconds / 60:.0f}m" if seconds < 5400 else f"{seconds / 3600:.1f}h"
