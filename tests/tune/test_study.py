"""Points from Optuna on a curve whose best is known: learned from, remembered, and never drawn twice."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from tune.space import Dimension, Space
from tune.study import Study

RATE = Dimension("train.learning_rate", "log", (1e-5, 1.0))
NETWORK = Dimension("model.network", "choice", ("small", "large"))
WIDTH = Dimension("model.width", "uniform", (0.5, 2.0), {"model.network": ("small",)})
SPACE = Space((RATE, NETWORK, WIDTH))


def study(space: Space = SPACE, seed: int = 0, **more: Any) -> Study:
    return Study(space, ["validation_accuracy"], ["max"], seed, **more)


def accuracy(point: dict[str, Any]) -> float:
    """Highest at rate 0.01, the small network, width 1.5."""
    off = abs(math.log10(point["train.learning_rate"] / 0.01)) / 5
    return 1 - off - (abs(point["model.width"] - 1.5) / 5 if "model.width" in point else 0.3)


def played(searcher: Study, num: int) -> list[dict[str, Any]]:
    points = []
    for i in range(num):
        point = searcher.suggest(f"t{i}")
        points.append(point)
        searcher.on_trial_complete(f"t{i}", {"validation_accuracy": accuracy(point)})
    return points


def test_it_comes_near_the_best_point_of_a_conditional_space() -> None:
    points = played(study(), 40)

    assert max(map(accuracy, points)) > 0.95
    assert sum(map(accuracy, points[-10:])) > sum(map(accuracy, points[:10]))
    assert all(SPACE.holds(point) for point in points)


@pytest.mark.parametrize("is_random", [True, False])
def test_the_same_seed_gives_the_same_points(is_random: bool) -> None:
    assert played(study(is_random=is_random), 10) == played(study(is_random=is_random), 10)
    assert played(study(is_random=is_random), 3) != played(study(seed=1, is_random=is_random), 3)


def test_a_trial_counts_by_its_best_report() -> None:
    searcher = study()
    searcher.suggest("a")
    for value in (0.5, 0.9, math.nan, 0.7):
        searcher.on_trial_result("a", {"validation_accuracy": value})

    searcher.on_trial_complete("a", {"validation_accuracy": 0.6})

    assert searcher._study.best_value == 0.9


def test_an_infinite_loss_counts_as_the_worst_seen_and_a_crash_not_at_all() -> None:
    searcher = study()
    for name in ("a", "b", "failed", "crashed"):
        searcher.suggest(name)
    searcher.on_trial_complete("a", {"validation_accuracy": 0.4})
    searcher.on_trial_complete("b", {"validation_accuracy": 0.8})

    searcher.on_trial_complete("failed", {"validation_accuracy": 0.0, "failure": "not finite"})
    searcher.on_trial_complete("crashed", error=True)

    assert [trial.value for trial in searcher._study.trials] == [0.4, 0.8, 0.4, None]


def test_a_small_space_is_given_out_once_and_is_then_finished() -> None:
    searcher = study(Space((NETWORK,)), known=[({"model.network": "small"}, [0.5])])

    assert searcher.suggest("a") == {"model.network": "large"}
    assert searcher.suggest("b") == Searcher.FINISHED


def test_it_goes_on_from_its_saved_state(tmp_path: Path) -> None:
    searcher, other = study(), study()
    played(searcher, 12)
    searcher.save(str(tmp_path / "state"))

    other.restore(str(tmp_path / "state"))

    assert other.suggest("next") == searcher.suggest("next")
    other.on_trial_complete("unknown", {"validation_accuracy": 0.1})  # told of a trial that was not asked for


def test_known_points_are_learned_from() -> None:
    known = [({"train.learning_rate": 0.01, "model.network": "small", "model.width": 1.4}, [0.97])]

    searcher = study(known=known)

    assert searcher._study.best_value == 0.97
    assert searcher.suggest("a") != known[0][0]
