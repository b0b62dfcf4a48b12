"""One trial of a search, as Ray Tune runs it: an epoch at a time, reported so that a scheduler may stop it.

A trial of one worker trains in the trial's own process, which is kept for the next trial with the rows in shared
memory and PyTorch loaded: a trial then costs little more than its epochs. One of several workers, or whose rows are
streamed, is a Ray Train run of its own, for which the trial's process only waits. Knows nothing of searches.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from cluster.config import Experiment
from cluster.store import Store
from jobs import checkpoint, fit
from jobs.alone import Alone
from jobs.loop import Work
from tasks.dataset import Dataset, SplitName, read_dataset
from tune import space

ALL_DONE = "all epochs done"
# What a trial whose loss is not finite reports: finite, because schedulers take means and percentiles.
FAILED = {"validation_accuracy": 0.0, "validation_loss": 1e9}
POLL_S = 0.3
STOP_S = 60.0  # to finish the epoch in which it is told to end

Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Brief:
    """What all trials of a search have in common; travels to each."""

    experiment: Experiment  # with its `tune` section
    store: Store
    dataset: str
    search: str  # its key
    timer: Any = None  # handle of the actor that measures latency, where that is an aim
    stream: bool = False
    needed: Mapping[str, Any] | None = None  # what Ray Train's workers reserve, where there are any

    def at(self, point: Mapping[str, Any]) -> Experiment:
        """The experiment that a trial at this point trains."""
        assert self.experiment.tune is not None
        return space.applied(self.experiment, point, workers=self.experiment.tune.workers)

    def latency(self, experiment: Experiment) -> dict[str, float]:
        """Milliseconds of the network that this experiment makes; empty where nobody asked."""
        import ray

        if self.timer is None:
            return {}
        measured: dict[str, float] = ray.get(self.timer.measure.remote(experiment))
        return measured


class TrialTrainer(Alone):
    """The training loop of a trial, whose rows all trials share; Ray Tune keeps its checkpoints."""

    def __init__(self, work: Work, rows: Mapping[SplitName, Rows]) -> None:
        self._rows = rows
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the rows lie in shared memory, read-only, and are only read
            super().__init__(work)

    def _dataset(self) -> Dataset:
        found = read_dataset(self.work.store, self.work.dataset)
        return Resident(**vars(found), resident=self._rows)


@dataclass(frozen=True)
class Resident(Dataset):
    """A dataset whose rows were read already."""

    resident: Mapping[SplitName, Rows]

    def load(self, split: SplitName) -> Rows:
        return self.resident[split]


class InProcess(tune.Trainable):
    """A trial in its own process; the process goes on to the next one."""

    def setup(self, config: dict[str, Any], brief: Brief, rows: Mapping[SplitName, Rows]) -> None:
        self._brief, self._rows = brief, rows
        self._begin(config)

    def step(self) -> dict[str, Any]:
        trainer = self._trainer
        failure = trainer.run_epoch(len(trainer.course.history))
        if failure:
            return {**FAILED, **self._latency, "failure": failure, "over": "", "done": True}
        over = trainer.course.over or (ALL_DONE if len(trainer.course.history) >= trainer.epochs else "")
        return {**trainer.course.history[-1], **self._latency, "failure": "", "over": over, "done": bool(over)}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        checkpoint.save(Path(checkpoint_dir), self._trainer.parts(), self._trainer.course)

    def load_checkpoint(self, checkpoint_dir: str | None) -> None:
        """Also another trial's, which population based training goes on from with changed settings."""
        assert checkpoint_dir is not None
        self._trainer.go_on(*checkpoint.load(Path(checkpoint_dir)))

    def _begin(self, point: dict[str, Any]) -> None:
        experiment = self._brief.at(point)
        self._latency = self._brief.latency(experiment)
        work = Work(experiment, self._brief.store, self._brief.dataset, stream=False, board=None)
        self._trainer = TrialTrainer(work, self._rows)


class Distributed(tune.Trainable):
    """A trial that is a Ray Train run: its workers' CPUs are theirs, this process waits and reserves next to none.

    The run has a process of its own: a trial that calls `fit` itself cannot be stopped while it waits there, and Ray
    Tune would wait with it. It is asked to end, and killed only when it does not: what is killed leaves its workers'
    CPUs reserved. Begun again after a death, it goes on from its own last checkpoint.
    """

    def setup(self, config: dict[str, Any], brief: Brief) -> None:
        self._brief = brief
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """The next epoch; when there is none, the last one again with the reason why it was the last."""
        import ray

        while True:
            ready, _ = ray.wait([self._ended], timeout=POLL_S)
            _, _, epochs = ray.get(self._board.read.remote(self._num_known))
            if epochs:
                self._num_known += 1
                return {**epochs[0], **self._latency, "failure": "", "over": "", "done": False}
            if ready:
                return {**ray.get(self._ended), **self._latency, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):  # they may be dead already
            ray.get(self._board.stop.remote(), timeout=STOP_S)
            ray.wait([self._ended], timeout=STOP_S)
        for actor in (self._driver, self._board):
            ray.kill(actor)

    def _begin(self, point: dict[str, Any]) -> None:
        import ray

        experiment = self._brief.at(point)
        self._latency, self._num_known = self._brief.latency(experiment), 0
        self._board = fit.board()
        self._driver = ray.remote(num_cpus=0)(Driver).remote()
        name = f"{self._brief.search}-{self.trial_id}"
        self._ended = self._driver.fit.remote(self._brief, experiment, name, self._board)


class Driver:
    """Runs one training as a Ray actor."""

    def fit(self, brief: Brief, experiment: Experiment, name: str, board: Any) -> dict[str, Any]:
        """The last epoch's figures with `over`, or `failure`. Raises TrimtabError when its workers died too often."""
        dataset = read_dataset(brief.store, brief.dataset)
        needed = dict(brief.needed or {})
        result = fit.to_end(
            lambda: fit.new_trainer(
                experiment, brief.store, dataset, name, stream=brief.stream, board=board, needed=needed
            ),
            goes_on=lambda: True,
        )
        if failure := result.return_value["failure"]:
            return {**FAILED, "failure": failure, "over": ""}
        with result.checkpoint.as_directory() as folder:
            course = checkpoint.load(Path(folder))[1]
        return {**course.history[-1], "failure": "", "over": course.over or ALL_DONE}
