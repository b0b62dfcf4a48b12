from __future__ import annotations

from typing import Any, cast

import pytest

from cluster.progress import Progress
from cluster.registry import Registry
from jobs.follower import Follower, RunLog

ENTRY = {
    "epoch": 2,
    "attempt": 1,
    "world_size": 2,
    "train_loss": 0.5,
    "validation_accuracy": 0.75,
    "rows_per_s": 1234.4,
    "sync_s": 0.25,
}


class Said(Progress):
    def __init__(self) -> None:
        super().__init__("train")
        self.figures: list[dict[str, Any]] = []

    def update(self, done: float, total: float = 0, **figures: Any) -> None:
        self.figures.append(figures)


class Kept:
    """A registry that keeps what is logged, or is away."""

    def __init__(self, is_away: bool = False) -> None:
        self.logged: list[tuple[dict[str, float], int]] = []
        self._is_away = is_away

    def log(self, run_id: str, metrics: dict[str, float], step: int) -> None:
        if self._is_away:
            raise OSError("away")
        self.logged.append((metrics, step))


def follower(registry: Kept) -> tuple[Follower, Said]:
    said = Said()
    made = Follower(said, num_epochs=5)
    made.log = RunLog(cast("Registry", registry), "run")
    return made, said


def test_a_finished_epoch_is_said_and_all_its_figures_are_metrics() -> None:
    registry = Kept()
    made, said = follower(registry)

    made.hear(2.5, ENTRY, finished=False)
    made.hear(3, ENTRY, finished=True)

    assert said.figures == [{"loss": 0.5, "accuracy": 0.75, "rows_per_s": 1234}] * 2
    figures = {"train_loss": 0.5, "validation_accuracy": 0.75, "rows_per_s": 1234.4, "sync_s": 0.25}
    assert registry.logged == [(figures, 2)]


def test_a_registry_that_is_away_stops_no_training() -> None:
    made, said = follower(Kept(is_away=True))

    made.hear(3, ENTRY, finished=True)

    assert len(said.figures) == 1


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        pytest.param({}, None, id="none stands out"),
        pytest.param(
            {"straggler": 3, "straggler_ratio": 2.04},
            "worker 3 takes 2.0 times as long as the others",
            id="one is slow",
        ),
    ],
)
def test_a_slow_worker_is_named(figures: dict[str, float], words: str | None) -> None:
    made, said = follower(Kept())

    made.hear(3, {**ENTRY, **figures}, finished=True)

    assert said.figures[0].get("straggler") == words
