"""Each trial as a child of its search's run in the registry, written beside the search and never in its way.

A registry that is slow or away stops no trial: what did not get through is written at the end, which does raise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cluster.registry import Registry
from tune.trials import Trial

FIGURES = ("train_loss", "validation_loss", "validation_accuracy", "seconds", "latency_ms")
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "crashed": "FAILED"}


class RunLog:
    """`run_id` is MLflow's id of the search's own run; None without a registry."""

    def __init__(self, registry: Registry | None, experiment: str, search: str, run_id: str | None) -> None:
        self._registry, self._experiment, self._search, self.run_id = registry, experiment, search, run_id
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trial-log")

    def write(self, trial: Trial, history: Sequence[Mapping[str, Any]]) -> None:
        """Log an ended trial, some time soon."""
        if self._registry is not None:
            self._pool.submit(self._write, trial, history)

    def finish(self, trials: Sequence[tuple[Trial, Sequence[Mapping[str, Any]]]]) -> None:
        """Log what is missing: a search that was killed and went on does not hear of its first trials again."""
        self.close()
        if self._registry is None or self.run_id is None:
            return
        known = self._registry.children(self._experiment, self.run_id)
        for trial, history in trials:
            if self._key(trial) not in known:
                self._write(trial, history)

    def close(self) -> None:
        self._pool.shutdown(wait=True)

    def _key(self, trial: Trial) -> str:
        return f"{self._search}-{trial.trial}"

    def _write(self, trial: Trial, history: Sequence[Mapping[str, Any]]) -> None:
        assert self._registry is not None
        tags = {"trimtab.search": self._search, "trimtab.trial": trial.trial, "state": trial.state}
        tags |= {"failure": trial.failure[:500]} if trial.failure else {}
        run_id = self._registry.start_run(
            self._experiment, self._key(trial), dict(trial.config), tags, parent=self.run_id
        )
        epochs = [entry for entry in history if not entry.get("failure")]
        points = [(int(e["epoch"]), {name: e[name] for name in FIGURES if e.get(name) is not None}) for e in epochs]
        self._registry.log_history(run_id, points)
        self._registry.end_run(run_id, STATUS[trial.state])


@contextlib.contextmanager
def run_log(
    registry: Registry | None, experiment: str, search: str, params: Mapping[str, Any], dataset: str
) -> Iterator[RunLog]:
    """The search's own run, which ends as the block does."""
    run_id = None
    if registry is not None:
        run_id = registry.start_run(experiment, search, dict(params), {"dataset": dataset, "trimtab.kind": "search"})
    log, status = RunLog(registry, experiment, search, run_id), "FAILED"
    try:
        yield log
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        log.close()
        if registry is not None and run_id is not None:
            registry.end_run(run_id, status)
