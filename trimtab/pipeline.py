"""The way from an experiment file to a model version: what must run, what may be skipped, and running it.

Each step's result is found by the hash of its inputs; a step whose result is there is skipped and says so.
Steps run as Ray Jobs that outlive this process, or in it (`inline`). Knows the steps' order and keys, not
how a step works nor how things look on a screen.
"""

from __future__ import annotations

import importlib
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster import experiment as experiments
from cluster import progress, session, submit
from cluster.config import Experiment
from cluster.errors import TrimtabError
from cluster.progress import Event
from cluster.session import Session
from cluster.store import Kind, Store
from jobs import keys, sources
from jobs.keys import Keys
from tasks import own
from trimtab.screen import chatter_to_stderr

RESULTS: dict[str, Kind] = {"preprocess": "datasets", "tune": "searches", "train": "runs", "evaluate": "bundles"}
LOG_LINES_SHOWN = 20  # of a job that died without saying why


@dataclass(frozen=True)
class Planned:
    """One step of the plan; `why` says in words why it would run or be skipped."""

    step: str
    key: str
    skip: bool
    why: str


def plan(experiment: Experiment, store: Store) -> list[Planned]:
    """What `run` would do up to the model version. Raises DataError when the data cannot be used."""
    sources.preflight(experiment)
    found = keys.of(experiment)
    wanted = {"preprocess": found.dataset, "tune": found.search, "train": found.run, "evaluate": found.bundle}
    planned: list[Planned] = []
    for step, key in wanted.items():
        if not key:  # an experiment without a search
            continue
        if store.has(RESULTS[step], key):
            planned.append(Planned(step, key, True, "unchanged: same settings, data and code"))
        elif planned and not planned[-1].skip:
            planned.append(Planned(step, key, False, f"follows {planned[-1].step}"))
        else:
            planned.append(Planned(step, key, False, "no result yet for these settings, data and code"))
    return planned


def keys_of(planned: Sequence[Planned]) -> Keys:
    """The keys that the steps were planned with."""
    by_step = {step.step: step.key for step in planned}
    return Keys(by_step["preprocess"], by_step["train"], by_step["evaluate"], by_step.get("tune", ""))


def module(step: str, experiment: Experiment) -> str:
    """The module that does a step: `python -m` runs it as a job, its `body` does it here."""
    if experiment.tune is not None and step in ("tune", "train"):
        return {"tune": "tune.search", "train": "tune.refit"}[step]
    return f"jobs.{step}"


@dataclass(frozen=True)
class Runner:
    """Runs steps of one experiment: as Ray Jobs on `cluster`, or in this process when `inline`."""

    experiment: Experiment
    keys: Keys
    cluster: Session
    store: Store
    inline: bool
    listener: Callable[[Event], None]
    on_job: Callable[[str], None]  # told a job's id before it is followed

    def run(self, step: Planned) -> dict[str, Any]:
        """Run one step to its end; returns its figures.

        Raises:
            TrimtabError: as the step raised it, with its exit code, or the last lines of a job that died.
        """
        self.store.check_room(0)
        return self._inline(step) if self.inline else self._job(step)

    def _module(self, step: Planned) -> str:
        return module(step.step, self.experiment)

    def _inline(self, step: Planned) -> dict[str, Any]:
        with chatter_to_stderr(), progress.listening(self.listener):
            session.connect(self.cluster)
            command, job = importlib.import_module("jobs.command"), importlib.import_module(self._module(step))
            said = progress.Progress(step.step)
            context = command.Context(self.experiment, self.store, said, self.keys, True, time.time())
            figures: dict[str, Any] = job.body(context)
        return figures

    def _job(self, step: Planned) -> dict[str, Any]:
        job = self._running(step) or submit.submit(
            self.cluster,
            f"python -m {self._module(step)} - --keys {' '.join(self.keys.words())}",
            submission_id=f"{self.experiment.name}-{step.step}-{step.key[:8]}-{uuid.uuid4().hex[:4]}",
            env={
                experiments.ENVIRONMENT: self.experiment.model_dump_json(),
                "TRIMTAB_STORE": self.store.uri,
                experiments.ASKED_AT: str(time.time()),
                **own.ship(self.experiment, self.store),
            },
            metadata={"step": step.step, "key": step.key},
        )
        self.on_job(job)
        return _Follower(self.listener).follow(self.cluster, job, step.step)

    def _running(self, step: Planned) -> str | None:
        """The job that is making this very result already, started before a Ctrl-C or by someone else."""
        for job in submit.jobs(self.cluster):
            if job.metadata.get("key") == step.key and job.status not in submit.ENDED:
                return job.submission_id
        return None


class _Follower:
    """Reads a job's log: events go to the listener, the last other lines are kept for the worst case."""

    def __init__(self, listener: Callable[[Event], None]) -> None:
        self._listener = listener
        self._figures: dict[str, Any] | None = None
        self._error: TrimtabError | None = None
        self._tail: deque[str] = deque(maxlen=LOG_LINES_SHOWN)

    def follow(self, cluster: Session, job: str, step: str) -> dict[str, Any]:
        outcome = submit.follow(cluster, job, self._line)
        if self._error is not None:
            raise self._error
        if self._figures is None or outcome.status != "SUCCEEDED":
            last = "\n".join(self._tail) or outcome.message
            raise TrimtabError(f"{step} ended as {outcome.status} (job {job}); its last words:\n{last}")
        return self._figures

    def _line(self, line: str) -> None:
        event = progress.parse(line)
        if event is None:
            self._tail.append(line)
        elif event.kind == "result":
            self._figures = event.figures
        elif event.kind == "error":
            self._error = event.exception()
        else:
            self._listener(event)
