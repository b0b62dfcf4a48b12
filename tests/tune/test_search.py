"""Searches on a real cluster: on a curve whose best point is known, and on the digits; deaths and refusals."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.config import Experiment
from cluster.errors import ConfigError, NotFoundError, TrimtabError
from cluster.experiment import ENVIRONMENT, parse
from cluster.progress import Progress
from cluster.registry import Registry
from cluster.session import Session
from cluster.store import Store
from jobs import checkpoint
from tasks.dataset import read_dataset
from tune import earlier, refit, results, search
from tune.results import Found
from tune.room import Room
from tune.runlog import RunLog
from tune.search import Search
from tune.spec import space_of

SPACE = {"learning_rate": {"log": [1e-4, 1.0]}}
BEST_RATE = 0.01


class Told(Progress):
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("tune")
        self.said: list[tuple[float, float, dict[str, Any]]] = []

    def update(self, done: float, total: float = 0, **figures: Any) -> None:
        self.said.append((done, total, figures))


def experiment(train: Mapping[str, Any] | None = None, **tune: Any) -> Experiment:
    recipe = {"epochs": 9, "batch_size": 64, "early_stopping": None, "device": "cpu", **(train or {})}
    tree = {"name": "digits", "data": {"source": {"kind": "digits"}}, "train": recipe}
    return parse({**tree, "tune": {"space": SPACE, **tune}})


class OnACurve(Search):
    """A search whose trials compute a curve instead of training: it is highest at BEST_RATE, and rises with epochs."""

    def trainable(self, found: Room, stream: bool, timer: Any) -> Any:
        from ray import tune

        epochs, best = self.experiment.train.epochs, BEST_RATE

        class Curve(tune.Trainable):  # inside, so that it travels by value: workers cannot import a test
            def setup(self, config: dict[str, Any]) -> None:
                self.reset_config(config)

            def reset_config(self, new_config: dict[str, Any]) -> bool:
                self.rate, self.level, self.history = new_config["train.learning_rate"], 0.0, []
                return True

            def step(self) -> dict[str, Any]:
                if self.rate > 0.9:
                    os._exit(1)  # as a machine that runs out of memory
                if self.rate > 0.5:
                    return {"validation_accuracy": 0.0, "validation_loss": 1e9, "failure": "not finite", "done": True}
                self.level += max(0.0, 1 - abs(math.log10(self.rate / best)) / 2) / epochs
                entry = {"epoch": len(self.history), "train_loss": 0.0, "validation_loss": 1 - self.level}
                figures = {"validation_accuracy": self.level, "seconds": 0.01, "cpu_s": 0.01, "rows": 100}
                self.history.append({**entry, **figures})
                over = "all epochs done" if len(self.history) == epochs else ""
                return {**entry, **figures, "failure": "", "over": over, "done": bool(over)}

            def save_checkpoint(self, checkpoint_dir: str) -> None:
                checkpoint.save(Path(checkpoint_dir), {"level": self.level}, checkpoint.Course(self.history))

            def load_checkpoint(self, checkpoint_dir: str | None) -> None:
                parts, course = checkpoint.load(Path(str(checkpoint_dir)))
                self.level, self.history = parts["level"], course.history

        return tune.with_resources(Curve, dict(found.reserved))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, publish_digits: Callable[..., str]) -> Store:
    made = Store.open(str(tmp_path_factory.mktemp("tune") / "store"))
    publish_digits(made, experiment())
    return made


def on_a_curve(store: Store, made: Experiment, key: str, told: Told | None = None) -> Found:
    assert made.tune is not None
    found = OnACurve(made, made.tune, space_of(made), store, read_dataset(store, "digits"), key)
    return found.run(told or Told(), RunLog(None, made.name, key, None))


def test_asha_stops_trials_that_lag_and_the_best_is_near_the_top(shared: Store, ray_cluster: Session) -> None:
    told = Told()

    found = on_a_curve(shared, experiment(trials=16, parallel=2), "curve", told)

    best = found.require_best()
    states = [trial.state for trial in found.own]
    assert len(states) == 16
    assert "stopped" in states
    assert best.state == "finished"
    assert abs(math.log10(best.config["train.learning_rate"] / BEST_RATE)) < 0.7
    assert sum(trial.epochs for trial in found.own) < 16 * 9
    assert any("table" in figures and "left" in figures for _, _, figures in told.said)


def test_a_failed_and_a_crashed_trial_are_counted_and_survived(
    shared: Store, ray_cluster: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.tune import Result

    # What Ray Tune knows of a trial whose worker died early, sometimes.
    monkeypatch.setattr(Result, "config", property(lambda self: None if self.error else self.metrics["config"]))
    made = experiment(
        algorithm="random",
        trials=3,
        parallel=1,
        early_stop=False,
        space={"learning_rate": {"choice": [0.01, 0.6, 1.0]}},
    )

    found = on_a_curve(shared, made, "failures")

    by_rate = {trial.config["train.learning_rate"]: trial for trial in found.own}
    assert {rate: trial.state for rate, trial in by_rate.items()} == {0.01: "finished", 0.6: "failed", 1.0: "crashed"}
    assert by_rate[0.6].failure == "not finite"
    assert by_rate[1.0].failure
    assert found.require_best().config == {"train.learning_rate": 0.01}


def test_a_search_whose_every_trial_fails_ends_early_and_says_why(shared: Store, ray_cluster: Session) -> None:
    made = experiment(trials=30, parallel=1, space={"learning_rate": {"uniform": [0.6, 0.8]}})

    found = on_a_curve(shared, made, "hopeless")

    with pytest.raises(TrimtabError, match=r"its first \d trials failed .*; the first: not finite"):
        found.require_best()
    assert len(found.own) < 10


def test_population_based_training_takes_over_the_best_and_changes_it(shared: Store, ray_cluster: Session) -> None:
    tree = {"learning_rate": {"log": [1e-4, 0.1]}}
    made = experiment({"epochs": 15}, algorithm="pbt", trials=4, parallel=2, space=tree)

    found = on_a_curve(shared, made, "population")

    assert len(found.own) == 4
    assert all(1e-4 <= trial.config["train.learning_rate"] <= 0.1 for trial in found.own)
    best = found.courses[found.require_best().trial].history
    assert [entry["epoch"] for entry in best] == list(range(15))
    firsts = [course.history[0]["validation_loss"] for course in found.courses.values()]
    assert len(set(firsts)) < len(firsts)  # one of them goes on where another was


@pytest.fixture(scope="module")
def searched(shared: Store, ray_cluster: Session) -> tuple[dict[str, Any], Experiment]:
    """A search over the digits with everything in it; its figures."""
    tree = {**SPACE, "batch_size": {"choice": [64, 128]}}
    made = experiment({"epochs": 3}, trials=4, parallel=2, refit="train_and_validation", latency=True, space=tree)
    figures = search.run(made, shared, "digits", "searched", Told(), Registry.open(shared))
    return figures, made


def test_a_search_publishes_its_table_and_its_picture_and_is_not_run_again(shared: Store, searched: Any) -> None:
    figures, made = searched

    manifest = shared.manifest("searches", "searched")
    table = earlier.read_table(shared, "searched", manifest)
    assert len(table) == 4 == figures["trials"]["run"]
    assert all(trial.latency_ms and trial.latency_ms > 0 for trial in table)
    assert shared.read("searches", "searched", manifest["files"]["picture"]).startswith(b"\x89PNG")
    assert figures["pareto"]
    told = Told()
    assert search.run(made, shared, "digits", "searched", told) == figures
    assert told.said == []
    assert not [name for name in checkpoint.names(shared) if name.startswith("searched")]


def test_each_trial_is_a_child_run_with_its_curve(shared: Store, searched: Any) -> None:
    registry, manifest = Registry.open(shared), shared.manifest("searches", "searched")

    children = registry.children("digits", manifest["mlflow_run"])

    assert children == {f"searched-{trial.trial}" for trial in earlier.read_table(shared, "searched", manifest)}


def test_the_best_settings_are_trained_on_all_rows_and_the_run_says_where_they_are_from(
    shared: Store, searched: Any
) -> None:
    _, made = searched
    best = shared.manifest("searches", "searched")["best"]

    refit.run(made, shared, "digits", "searched", "refitted", Told(), Registry.open(shared))

    run = shared.manifest("runs", "refitted")
    assert run["origin"]["trial"] == best["trial"]
    assert run["experiment"]["train"]["learning_rate"] == best["config"]["train.learning_rate"]
    assert run["epochs"] == best["best_epoch"] + 1 == run["best_epoch"] + 1
    batch = best["config"]["train.batch_size"]
    assert run["rows"] == run["epochs"] * (1597 // batch * batch)  # training and validation rows
    tags = Registry.open(shared)._client().get_run(run["mlflow_run"]).data.tags
    assert tags["trimtab.trial"] == best["trial"]
    assert tags["mlflow.parentRunId"] == shared.manifest("searches", "searched")["mlflow_run"]


def test_a_search_begins_with_what_an_earlier_one_of_the_same_settings_found(
    shared: Store, searched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, made = searched
    tree = json.loads(made.model_dump_json())
    more = parse({**tree, "tune": {**tree["tune"], "trials": 9}})
    changes = ({"train": {**tree["train"], "weight_decay": 0.5}}, {"text": {"layers": 2}}, {"settings": {"depth": 2}})
    others = [parse({**tree, **change}) for change in changes]

    known = earlier.trials(shared, more, "digits", space_of(more))

    assert {trial.search for trial in known} == {"searched"}
    assert len(known) == 4
    assert [earlier.trials(shared, other, "digits", space_of(other)) for other in others] == [[], [], []]
    assert earlier.trials(shared, more, "another", space_of(more)) == []
    with monkeypatch.context() as patch:  # it was made with settings that there are no more
        patch.setattr(earlier, "parse", lambda found: parse({**found, "gone": 1}))
        assert earlier.trials(shared, more, "digits", space_of(more)) == []
    monkeypatch.setattr(earlier, "code_version", lambda *_: "of code that trains otherwise")
    assert earlier.trials(shared, more, "digits", space_of(more)) == []


def test_a_search_whose_driver_was_killed_goes_on_with_the_trials_it_had(shared: Store, ray_cluster: Session) -> None:
    recipe = {"epochs": 3, "batch_size": 16}
    endless = experiment(recipe, trials=1000, parallel=1, algorithm="random", early_stop=False)
    code = (
        "import sys; from cluster import experiment, session; from cluster.progress import Progress;"
        "from cluster.store import Store; session.connect(); from tune import search;"
        "search.run(experiment.load('-'), Store.open(sys.argv[1]), 'digits', 'killed', Progress('tune'))"
    )
    env = {**os.environ, ENVIRONMENT: endless.model_dump_json()}
    folder = Path(checkpoint.storage_path(shared)) / "killed"
    command = [sys.executable, "-c", code, shared.uri]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as driver:
        while len(before := _ended(folder)) < 2:
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.05)
        driver.kill()

    # The same search, that now has an end in sight.
    search.run(experiment(recipe, trials=1000, parallel=1, target=0.3), shared, "digits", "killed", Told())

    manifest = shared.manifest("searches", "killed")
    table = {trial.trial: trial for trial in earlier.read_table(shared, "killed", manifest)}
    assert manifest["over"] == "a trial reached accuracy 0.3"
    assert before < set(table)
    assert {(table[name].state, table[name].epochs) for name in before} == {("finished", 3)}


def _ended(folder: Path) -> set[str]:
    """Trials that a later life would find ended: Ray Tune has written so."""
    states = sorted(folder.glob("experiment_state-*.json"))
    text = states[-1].read_text() if states else ""
    ended = [path.parent.name for path in folder.glob("*/result.json") if '"over": "all' in path.read_text()]
    return {name for name in ended if name in text and "TERMINATED" in text}


def test_a_trial_of_two_workers_is_a_ray_train_run_of_its_own(shared: Store, ray_cluster: Session) -> None:
    made = experiment({"epochs": 2}, trials=1, workers=2)

    figures = search.run(made, shared, "digits", "two-workers", Told())

    (trial,) = earlier.read_table(shared, "two-workers", shared.manifest("searches", "two-workers"))
    assert (trial.state, trial.epochs) == ("finished", 2)
    assert trial.rows == 2 * 1397 // 64 * 64 - 64
    assert figures["best_accuracy"] > 0.5


def test_a_search_that_was_not_run_has_nothing_to_train(store: Store) -> None:
    with pytest.raises(NotFoundError, match="trimtab tune"):
        refit.run(experiment(), store, "digits", "nowhere", "key", Told())


def test_more_workers_than_the_cluster_has_are_refused(shared: Store, ray_cluster: Session) -> None:
    with pytest.raises(ConfigError, match=r"tune.workers = 64: the cluster has 6 CPUs"):
        search.run(experiment({"batch_size": 64}, workers=64), shared, "digits", "too-much", Told())


def test_the_overhead_of_a_trial_counts_what_no_epoch_took() -> None:
    manifest = {"trials": 4, "seconds": 30.0, "start_s": 10.0, "parallel": 2, "training_s": 36.0}

    assert results.overhead_s(manifest) == 1.0
