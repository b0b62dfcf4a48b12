from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cluster.config import Experiment
from cluster.errors import ConfigError
from cluster.progress import Progress
from jobs import room


class Told(Progress):
    def __init__(self) -> None:
        super().__init__("train")
        self.waiting: list[str] = []

    def update(self, done: float, total: float = 0, **figures: Any) -> None:
        self.waiting.append(figures["waiting"])


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def experiment(**train: Any) -> Experiment:
    return Experiment.model_validate({"name": "digits", "data": {"source": {"kind": "digits"}}, "train": train})


def waited(told: Told, sizes: Iterator[int], free: float = 100.0, **train: Any) -> tuple[dict[str, Any], float]:
    """What each worker reserves on a cluster that has so many CPUs at each look, and how long that took."""
    clock = Clock()
    has = {"cpus": 0}

    def cluster() -> dict[str, float]:
        has["cpus"] = next(sizes, has["cpus"])
        return {"CPU": float(has["cpus"])}

    needed = room.wait(experiment(**train), told, cluster, lambda: {"CPU": free}, clock, clock.sleep)
    return needed, clock.now


def test_more_workers_than_cpus_are_refused_at_once_with_what_there_is() -> None:
    told = Told()

    with pytest.raises(ConfigError, match=r"train.workers = 4: the cluster has 2 CPUs; .*train.wait: 10m"):
        waited(told, iter([2]), workers=4)

    assert told.waiting == []


def test_one_that_is_asked_to_waits_for_nodes_aloud() -> None:
    told = Told()

    needed, seconds = waited(told, iter([2, 2, 8]), workers=4, wait="10m")

    assert needed["resources_per_worker"] == {"CPU": 1.0}
    assert seconds == 2.0
    assert told.waiting == ["the cluster has 2 CPUs, 4 workers need more"] * 2


def test_it_waits_no_longer_than_it_may() -> None:
    with pytest.raises(ConfigError, match="the cluster has 2 CPUs after 60 s of waiting"):
        waited(Told(), iter([2]), workers=4, wait="1m")


def test_a_cluster_that_is_large_enough_and_busy_is_said_so() -> None:
    told = Told()

    waited(told, iter([8]), free=1.5, workers=4)

    assert told.waiting == ["1.5 of the cluster's 8 CPUs are free, 4 are needed"]


def test_a_missing_gpu_is_refused_where_one_was_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"train.device = 'cuda': the cluster has 0 GPUs for 2 workers"):
        waited(Told(), iter([8]), workers=2, device="cuda")
