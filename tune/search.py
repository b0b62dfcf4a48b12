"""The tune step: run trials under a budget, and publish which settings are best and what all of them came to.

Ray Tune runs the trials, Optuna draws their settings, ASHA stops those that lag. A search that was killed goes on with
the same key from the trials it had; a published one is never run again. What a trial does stands in `tune.trial`, what
becomes of the best one in `tune.refit`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.config import Experiment, Tune
from cluster.errors import ConfigError, DataError
from cluster.progress import Progress
from cluster.store import Store
from jobs import checkpoint, fit
from jobs.checkpoint import Course
from tasks.dataset import Dataset, read_dataset
from tune import earlier, population, results, trials
from tune.room import Room, room
from tune.runlog import RunLog, run_log
from tune.space import Space
from tune.spec import space_of
from tune.watch import Watch

if TYPE_CHECKING:
    from ray.tune import ResultGrid

    from cluster.registry import Registry
    from jobs.command import Context

REDUCTION = 3  # ASHA keeps one of so many trials at each rung
# Read by Ray Tune when a search starts: its tables and log files are ours, its state is saved often enough that a
# death costs seconds, an interrupt ends the step instead of the trials one by one, and a trial that does not end when
# it is told to is killed after minutes instead of ten.
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "150",
    "TUNE_GLOBAL_CHECKPOINT_S": "2",
}


def body(context: Context) -> dict[str, Any]:
    """The step as `jobs.command` runs it."""
    keys = context.keys
    return run(context.experiment, context.store, keys.dataset, keys.search, context.progress, context.registry)


def run(
    experiment: Experiment,
    store: Store,
    dataset_key: str,
    key: str,
    progress: Progress,
    registry: Registry | None = None,
) -> dict[str, Any]:
    """Search and publish `searches/<key>`; returns its figures. Does nothing but that when it is published already.

    Raises:
        ConfigError: no search in the experiment, an impossible space, more workers than the cluster has.
        DataError: no validation rows to compare trials on.
        NotFoundError: no such dataset.
        TrimtabError: no trial came to a figure.
    """
    if store.has("searches", key):
        return results.figures(store.manifest("searches", key))
    section = required(experiment)
    search = Search(experiment, section, space_of(experiment), store, read_dataset(store, dataset_key), key)
    if search.dataset.num_rows("validation") == 0:
        share = experiment.data.split.validation
        raise DataError("data.split.validation", share, "no row fell into the validation split", "raise it or add data")
    with run_log(registry, experiment.name, key, search.params(), dataset_key) as log:
        found = search.run(progress, log)
        best = found.require_best()
        manifest = results.publish(found, store, key, log.run_id)
        log.finish([(trial, found.histories[trial.trial]) for trial in found.own])
    num_run = len(found.own)
    progress.update(num_run, num_run, **{f"best_{section.metric}": best.value(section.metric), "trial": best.trial})
    search.discard()
    return results.figures(manifest)


def required(experiment: Experiment) -> Tune:
    """The experiment's `tune` section. Raises ConfigError when it has none."""
    if experiment.tune is None:
        raise ConfigError("tune", None, "is missing", "add `tune: {space: {learning_rate: {log: [1.0e-4, 0.1]}}}`")
    return experiment.tune


@dataclass(frozen=True)
class Search:
    """One search: its experiment with the `tune` section and space, the dataset, and its key."""

    experiment: Experiment
    section: Tune
    space: Space
    store: Store
    dataset: Dataset
    key: str

    @property
    def num_trials(self) -> int | None:
        """No more than the space has points; None where time alone is the bound."""
        most = self.section.num_trials
        return most if most is None else int(min(most, self.space.size))

    def params(self) -> dict[str, Any]:
        tree = self.section.model_dump(mode="json")
        return {f"tune.{name}": value for name, value in tree.items()} | {"seed": self.experiment.seed}

    def run(self, progress: Progress, log: RunLog) -> results.Found:
        """All trials, to the end of the budget. This process must be a driver."""
        os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
        for name in ("ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        import ray

        from tune.relay import watching

        known = earlier.trials(self.store, self.experiment, self.dataset.key, self.space)
        stream = fit.must_stream(self.dataset, self.section.workers)
        own_process = self.section.workers == 1 and not stream
        cores = os.cpu_count() if len(ray.nodes()) == 1 else None
        found = room(self.experiment, ray.cluster_resources(), cores, own_process)
        watch = self._watch(progress, log)
        timer = self._timer()
        try:
            with watching(watch):
                grid = self._tuner(self.trainable(found, stream, timer), found, known).fit()
        finally:
            if timer is not None:
                ray.kill(timer)
        return self._found(grid, known, watch, found.parallel)

    def discard(self) -> None:
        """Remove what only a search that goes on needs, its trials' checkpoints among it."""
        checkpoint.discard(self.store, self.key)
        for name in checkpoint.names(self.store):
            if name.startswith(f"{self.key}-"):
                checkpoint.discard(self.store, name)

    def _watch(self, progress: Progress, log: RunLog) -> Watch:
        def ended(trial: Any, history: list[dict[str, Any]]) -> None:
            error = "it died" if trial.status == "ERROR" else ""
            log.write(trials.record(trial.trial_id, trial.config, history, self.section.metric, error), history)

        spent = f"checkpoints/{self.key}/spent_s"
        before = self.store.get(spent)
        return Watch(
            self.section,
            progress,
            num_trials=self.num_trials,
            spent_s=float(before) if before else 0.0,
            save=lambda seconds: self.store.put(spent, repr(seconds).encode()),
            on_end=ended,
        )

    def _timer(self) -> Any:
        import ray

        from tune.timer import Timer

        return ray.remote(num_cpus=0)(Timer).remote(self.store, self.dataset.key) if self.section.latency else None

    def trainable(self, found: Room, stream: bool, timer: Any) -> Any:
        from ray import tune

        from tune.trial import Brief, Distributed, InProcess

        brief = Brief(self.experiment, self.store, self.dataset.key, self.key, timer, stream, found.needed)
        if found.needed is None:
            rows = {"train": self.dataset.load("train"), "validation": self.dataset.load("validation")}
            trainable = tune.with_parameters(InProcess, brief=brief, rows=rows)
        else:
            trainable = tune.with_parameters(Distributed, brief=brief)
        return tune.with_resources(trainable, dict(found.reserved))

    def _tuner(self, trainable: Any, found: Room, known: Sequence[trials.Trial]) -> Any:
        """A new search, or the one of this key that was cut off."""
        from ray import tune
        from ray.tune.logger import JsonLoggerCallback

        from tune.relay import Halt, Relay

        kept = checkpoint.storage_path(self.store, self.key)
        if tune.Tuner.can_restore(kept):
            try:
                return tune.Tuner.restore(kept, trainable=trainable)
            except Exception:  # whatever a file that was cut off in the middle makes its readers raise
                checkpoint.discard(self.store, self.key)
        is_pbt = self.section.algorithm == "pbt"
        return tune.Tuner(
            trainable,
            param_space=population.first_points(self.space) if is_pbt else None,
            tune_config=tune.TuneConfig(
                search_alg=self._study(known),
                scheduler=self._scheduler(),
                num_samples=self.num_trials or -1,
                # Population based training pauses trials, and a paused one counts; what each reserves bounds it.
                max_concurrent_trials=None if is_pbt else found.parallel,
                reuse_actors=True,
                trial_name_creator=lambda trial: str(trial.trial_id),
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name=self.key,
                storage_path=checkpoint.storage_path(self.store),
                verbose=0,
                stop=Halt(),
                callbacks=[Relay(), JsonLoggerCallback()],
                failure_config=tune.FailureConfig(max_failures=1),
                checkpoint_config=tune.CheckpointConfig(
                    num_to_keep=4 if is_pbt else 1,
                    checkpoint_frequency=1 if found.needed is None else 0,
                    checkpoint_at_end=False,
                ),
            ),
        )

    def _study(self, known: Sequence[trials.Trial]) -> Any:
        if self.section.algorithm == "pbt":  # Ray Tune lets it draw for itself
            from ray.tune.search.basic_variant import BasicVariantGenerator

            return BasicVariantGenerator(random_state=self.experiment.seed)
        from tune.study import Study

        names, modes = [f"validation_{self.section.metric}"], [trials.METRICS[self.section.metric]]
        if self.section.latency:
            names, modes = [*names, "latency_ms"], [*modes, "min"]
        points = [(trial.config, values) for trial in known if len(values := self._values(trial)) == len(names)]
        is_random = self.section.algorithm == "random"
        return Study(self.space, names, modes, self.experiment.seed, is_random=is_random, known=points)

    def _values(self, trial: trials.Trial) -> list[float]:
        """Those there are of what the search looks for."""
        aims = [trial.value(self.section.metric), *([trial.latency_ms] if self.section.latency else [])]
        return [value for value in aims if value is not None]

    def _scheduler(self) -> Any:
        from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

        metric, mode = f"validation_{self.section.metric}", trials.METRICS[self.section.metric]
        epochs = self.experiment.train.epochs
        if self.section.algorithm == "pbt":
            return population.scheduler(self.space, metric, mode, epochs)
        if not self.section.early_stop or epochs == 1:
            return FIFOScheduler()
        return ASHAScheduler(
            time_attr="training_iteration",
            metric=metric,
            mode=mode,
            max_t=epochs + 1,  # a trial ends by itself, and one of several workers says so by a last report
            grace_period=max(1, epochs // REDUCTION**2),
            reduction_factor=REDUCTION,
        )

    def _found(self, grid: ResultGrid, known: Sequence[trials.Trial], watch: Watch, parallel: int) -> results.Found:
        own: list[trials.Trial] = []
        histories: dict[str, Sequence[Mapping[str, Any]]] = {}
        courses: dict[str, Course] = {}
        for result in grid:
            name, history = results.history(result)
            course = results.course(result) if self.section.algorithm == "pbt" else None
            if course is not None:  # a trial that took over another's weights has that one's history
                courses[name] = course
                last = history[-1] if history else {}
                more = {"failure": last.get("failure", ""), "over": last.get("over", "")}
                history = [*course.history[:-1], {**course.history[-1], **more}]
            error = results.reason(result.error) if result.error else ""
            own.append(trials.record(name, result.config or self._given(name), history, self.section.metric, error))
            histories[name] = history
        return results.Found(
            self.experiment,
            self.dataset.key,
            self.space,
            own,
            known,
            histories,
            over=watch.over,
            seconds=watch.spent_s,
            start_s=watch.start_s,
            parallel=parallel,
            courses=courses,
        )

    def _given(self, name: str) -> dict[str, Any]:
        """The settings of a trial without a report: Ray Tune asks its worker for them, which may have died."""
        kept = self.store.get(f"checkpoints/{self.key}/{name}/params.json")
        return dict(json.loads(kept)) if kept else {}


if __name__ == "__main__":
    from jobs import command

    raise SystemExit(command.main("tune", body, module="tune.search"))
