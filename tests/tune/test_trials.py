"""Records of trials: what became of one, which are the best, and which one the objective picks."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import Objective, Tune
from tune.trials import State, Trial, chosen, counts, pareto, ranked, record

SPACE: dict[str, Any] = {"learning_rate": {"log": [1e-4, 1e-1]}}


def entry(epoch: int, accuracy: float, **more: Any) -> dict[str, Any]:
    figures = {
        "validation_accuracy": accuracy,
        "validation_loss": 1 - accuracy,
        "seconds": 2.0,
        "cpu_s": 1.0,
        "rows": 100,
    }
    return {"epoch": epoch, "failure": "", "over": "", **figures, **more}


def test_a_trials_figures_are_those_of_its_best_epoch() -> None:
    history = [entry(0, 0.5), entry(1, 0.9), entry(2, 0.8, over="all epochs done")]

    trial = record("a", {}, history, "accuracy")

    assert (trial.state, trial.accuracy, trial.best_epoch, trial.epochs) == ("finished", 0.9, 1, 3)
    assert (trial.seconds, trial.cpu_s, trial.rows) == (6.0, 3.0, 300)


@pytest.mark.parametrize(
    ("history", "error", "state", "failure"),
    [
        pytest.param([entry(0, 0.5)], "", "stopped", "", id="by the scheduler"),
        pytest.param([entry(0, 0.5, over="no better")], "", "finished", "", id="by itself"),
        pytest.param([entry(0, 0.5), {"failure": "not finite"}], "", "failed", "not finite", id="not finite"),
        pytest.param([entry(0, 0.5)], "died", "crashed", "died", id="died later"),
        pytest.param([], "died", "crashed", "died", id="died at once"),
        pytest.param([], "", "stopped", "", id="stopped before its first epoch ended"),
    ],
)
def test_what_became_of_a_trial(history: list[dict[str, Any]], error: str, state: State, failure: str) -> None:
    trial = record("a", {}, history, "accuracy", error)

    assert (trial.state, trial.failure) == (state, failure)
    assert trial.value("accuracy") == (0.5 if history and state in ("stopped", "finished") else None)


def trial(name: str, accuracy: float, latency_ms: float | None = None, state: State = "finished") -> Trial:
    return Trial(name, {}, state, accuracy=accuracy, loss=1 - accuracy, latency_ms=latency_ms)


FAST, FAIR, BEST = trial("fast", 0.8, 1.0), trial("fair", 0.9, 2.0), trial("best", 0.95, 8.0)
BEATEN = trial("beaten", 0.85, 3.0)
ALL = [BEATEN, FAST, BEST, FAIR]


def test_the_best_come_first_and_failures_nowhere() -> None:
    failed = trial("failed", 0.99, state="failed")

    assert [each.trial for each in ranked([*ALL, failed], "accuracy")] == ["best", "fair", "beaten", "fast"]
    assert [each.trial for each in ranked(ALL, "loss")] == ["best", "fair", "beaten", "fast"]
    assert counts([*ALL, failed]) == {"finished": 4, "stopped": 0, "failed": 1, "crashed": 0}


def test_the_pareto_set_leaves_out_what_another_beats_in_both() -> None:
    assert pareto(ALL, "accuracy") == [BEST, FAIR, FAST]
    assert pareto([FAIR, trial("same", 0.9, 2.0)], "accuracy") == [FAIR]


@pytest.mark.parametrize(
    ("objective", "name", "words"),
    [
        pytest.param({}, "best", "of the Pareto set", id="no objective"),
        pytest.param({"latency_ms": 5.0}, "fair", "within serve.objective.latency_ms 5", id="a bound"),
        pytest.param({"latency_ms": 0.5}, "fast", "none holds", id="a bound that none holds"),
        pytest.param({"accuracy_at_least": 0.85}, "fair", "the fastest with", id="a floor"),
        pytest.param({"accuracy_at_least": 0.99}, "best", "none reaches", id="a floor that none reaches"),
        pytest.param({"accuracy_at_least": 0.7, "latency_ms": 9.0}, "best", "within", id="both: the bound goes first"),
    ],
)
def test_the_objective_picks(objective: dict[str, float], name: str, words: str) -> None:
    picked, why = chosen(ALL, Tune(space=SPACE, latency=True), Objective(**objective))

    assert picked is not None
    assert picked.trial == name
    assert words in why


def test_with_one_aim_the_best_is_picked_whatever_the_objective() -> None:
    picked, _ = chosen(ALL, Tune(space=SPACE), Objective(latency_ms=5.0))

    assert picked == BEST
    assert chosen([], Tune(space=SPACE), Objective())[0] is None
