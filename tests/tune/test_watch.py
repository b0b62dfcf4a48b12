"""A search as its watch sees it: its budget, its aim and what a person is told, by fake trials and a fake clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.config import Tune
from cluster.progress import Progress
from tune.watch import SAVE_EVERY_S, Watch

SPACE: dict[str, Any] = {"learning_rate": {"log": [1e-4, 1e-1]}}


class Told(Progress):
    def __init__(self) -> None:
        super().__init__("tune")
        self.said: list[tuple[float, float, dict[str, Any]]] = []

    def update(self, done: float, total: float = 0, **figures: Any) -> None:
        self.said.append((done, total, figures))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def watched(num_trials: int | None = 4, spent_s: float = 0.0, **tune: Any) -> tuple[Watch, Told, Clock, list[float]]:
    told, clock, saved = Told(), Clock(), list[float]()
    section = Tune(space=SPACE, **tune)
    made = Watch(section, told, num_trials=num_trials, spent_s=spent_s, save=saved.append, clock=clock)
    return made, told, clock, saved


def trials(*states: str) -> list[Any]:
    config = {"train.learning_rate": 0.012345}
    return [SimpleNamespace(trial_id=f"t{i}", status=state, config=config) for i, state in enumerate(states)]


def report(value: float, metric: str = "accuracy") -> dict[str, Any]:
    return {f"validation_{metric}": value, "failure": ""}


def test_a_person_sees_the_best_so_far_the_time_left_and_the_trials() -> None:
    watch, told, clock, _ = watched()
    every = trials("TERMINATED", "RUNNING", "PENDING")
    watch.on_result(every, every[0], report(0.8))
    clock.now += 10
    watch.on_result(every, every[1], report(0.9))

    done, total, figures = told.said[-1]

    assert (done, total) == (1, 4)
    assert figures["best_accuracy"] == 0.9
    assert figures["left"] == "30s"
    assert figures["table"] == [
        {"trial": "t1", "state": "running", "epochs": 1, "accuracy": 0.9, "learning_rate": 0.01235},
        {"trial": "t0", "state": "terminated", "epochs": 1, "accuracy": 0.8, "learning_rate": 0.01235},
    ]


def test_minutes_spent_before_a_death_count() -> None:
    watch, _, clock, saved = watched(minutes=1.0, spent_s=50.0)

    assert not watch.is_over()
    clock.now += 10
    assert watch.is_over()

    assert watch.over == "1 minutes are spent"
    assert saved == [50.0, 60.0]
    assert clock.now - 100 > SAVE_EVERY_S


def test_with_minutes_alone_the_time_is_what_goes_by() -> None:
    watch, told, clock, _ = watched(num_trials=None, minutes=2.0)
    every = trials("RUNNING")
    clock.now += 30
    watch.on_result(every, every[0], report(0.5))

    assert told.said[-1][:2] == (30, 120)
    assert told.said[-1][2]["left"] == "2m"


@pytest.mark.parametrize(
    ("metric", "target", "value", "reached"),
    [
        pytest.param("accuracy", 0.9, 0.91, True, id="accuracy above"),
        pytest.param("accuracy", 0.9, 0.89, False, id="accuracy below"),
        pytest.param("loss", 0.5, 0.4, True, id="loss below"),
        pytest.param("loss", 0.5, 0.6, False, id="loss above"),
        pytest.param("accuracy", 0.9, float("nan"), False, id="no number"),
    ],
)
def test_the_target_ends_the_search(metric: str, target: float, value: float, reached: bool) -> None:
    watch, _, _, _ = watched(metric=metric, target=target)
    every = trials("RUNNING")

    watch.on_result(every, every[0], report(value, metric))

    assert watch.is_over() is reached


def test_five_failures_before_any_figure_end_the_search_and_later_ones_do_not() -> None:
    hopeless, _, _, _ = watched()
    hopeful, told, _, _ = watched()
    every = trials(*["ERROR"] * 5, "RUNNING")
    hopeful.on_result(every, every[5], report(0.5))

    for trial in every[:5]:
        for watch in (hopeless, hopeful):
            watch.on_ended(every, trial, failed=True)

    assert hopeless.over == "its first 5 trials failed"
    assert not hopeful.is_over()
    assert told.said[-1][2]["failed"] == 5
