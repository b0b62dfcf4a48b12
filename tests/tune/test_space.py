"""A space drawn from by hand: what exists where, what belongs to it, and what an experiment becomes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cluster.config import Experiment
from cluster.errors import ConfigError
from cluster.experiment import parse
from tune.space import Dimension, Space, applied, settings

RATE = Dimension("train.learning_rate", "log", (1e-4, 1e-1))
NETWORK = Dimension("model.network", "choice", ("small", "large"))
WIDTH = Dimension("model.width", "uniform", (0.5, 2.0), {"model.network": ("small",)})
BATCH = Dimension("train.batch_size", "int", (16, 64))
SPACE = Space((RATE, NETWORK, WIDTH, BATCH))


class Answers:
    """A chooser that says what it was told to and remembers what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.asked = answers, []  # type: ignore[var-annotated]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.asked.append((name, low, high, log))
        return self.answers[name.partition(".")[2]]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        self.asked.append((name, low, high))
        return self.answers[name.partition(".")[2]]

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        self.asked.append((name, choices))
        return self.answers[name.partition(".")[2]]


def experiment(**sections: Any) -> Experiment:
    return parse({"name": "digits", "data": {"source": {"kind": "digits"}}, **sections})


def test_each_setting_is_asked_for_in_its_own_way() -> None:
    chooser = Answers(learning_rate=0.01, network="small", width=1.5, batch_size=32)

    point = SPACE.draw(chooser)

    assert point == {
        "train.learning_rate": 0.01,
        "model.network": "small",
        "model.width": 1.5,
        "train.batch_size": 32,
    }
    assert chooser.asked == [
        ("train.learning_rate", 1e-4, 1e-1, True),
        ("model.network", ["small", "large"]),
        ("model.width", 0.5, 2.0, False),
        ("train.batch_size", 16, 64),
    ]


def test_a_setting_whose_condition_does_not_hold_is_not_asked_for() -> None:
    point = SPACE.draw(Answers(learning_rate=0.01, network="large", batch_size=32))

    assert "model.width" not in point


POINT = {"train.learning_rate": 0.01, "model.network": "small", "model.width": 1.0, "train.batch_size": 32}


@pytest.mark.parametrize(
    ("change", "belongs"),
    [
        pytest.param({}, True, id="as drawn"),
        pytest.param({"train.learning_rate": 1e-4}, True, id="on the bound"),
        pytest.param({"train.learning_rate": 0.2}, False, id="beyond a bound"),
        pytest.param({"train.batch_size": 32.5}, False, id="not whole"),
        pytest.param({"model.network": "huge"}, False, id="no such choice"),
        pytest.param({"model.network": "large"}, False, id="a setting too many"),
        pytest.param({"model.dropout": 0.1}, False, id="an unknown setting"),
    ],
)
def test_a_point_of_an_earlier_search_is_known_to_belong_here(change: dict[str, Any], belongs: bool) -> None:
    assert SPACE.holds({**POINT, **change}) is belongs


def test_a_point_without_a_setting_that_must_be_there_does_not_belong() -> None:
    assert not SPACE.holds({name: value for name, value in POINT.items() if name != "model.width"})


def test_values_changed_by_a_factor_are_brought_back_inside() -> None:
    changed = {"train.learning_rate": 0.12, "model.network": "huge", "model.width": 0.1, "train.batch_size": 38.4}

    assert SPACE.mended(changed) == {
        "train.learning_rate": 0.1,
        "model.network": "small",
        "model.width": 0.5,
        "train.batch_size": 38,
    }


def test_a_space_of_choices_has_a_size_and_one_of_real_numbers_none() -> None:
    assert Space((NETWORK, BATCH)).size == 2 * 49
    assert math.isinf(SPACE.size)


def test_an_experiment_takes_a_points_values_and_loses_its_search() -> None:
    made = experiment(train={"workers": 2}, tune={"space": {"learning_rate": {"log": [1e-4, 1e-1]}}})

    tuned = applied(made, {"train.learning_rate": 0.02, "model.width": 1.5}, workers=1)

    assert (tuned.train.learning_rate, tuned.train.workers, tuned.model.width) == (0.02, 1, 1.5)
    assert tuned.tune is None
    assert tuned.train.collective_timeout == made.train.collective_timeout
    assert applied(made, {}).train == made.train


def test_values_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size 2 is below workers 4"):
        applied(experiment(), {"train.batch_size": 2}, workers=4)


def test_settings_are_shown_short() -> None:
    assert settings({"train.learning_rate": 0.0123456, "model.network": "small"}) == {
        "learning_rate": 0.01235,
        "network": "small",
    }
