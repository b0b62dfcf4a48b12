"""Search spaces as people write them: what is understood, and every mistake in one sentence."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.experiment import parse
from tune.space import Dimension, Space
from tune.spec import space_of


def space(tree: dict[str, Any], **tune: Any) -> Space:
    source = {"source": {"kind": "digits"}}
    return space_of(parse({"name": "digits", "data": source, "tune": {"space": tree, **tune}}))


@pytest.mark.parametrize(
    ("tree", "dimension"),
    [
        pytest.param(
            {"learning_rate": {"log": [1e-4, 1]}},
            Dimension("train.learning_rate", "log", (1e-4, 1.0)),
            id="logarithmic, a whole bound",
        ),
        pytest.param(
            {"model.width": {"uniform": [0.5, 2]}}, Dimension("model.width", "uniform", (0.5, 2.0)), id="dotted"
        ),
        pytest.param({"batch_size": {"int": [16, 64]}}, Dimension("train.batch_size", "int", (16, 64)), id="whole"),
        pytest.param(
            {"augment": {"choice": ["none", "shift"]}},
            Dimension("train.augment", "choice", ("none", "shift")),
            id="choice",
        ),
    ],
)
def test_a_range_is_read(tree: dict[str, Any], dimension: Dimension) -> None:
    assert space(tree).dimensions == (dimension,)


def test_a_condition_comes_before_what_hangs_on_it() -> None:
    tree = {
        "width": {"uniform": [0.5, 2.0], "when": {"network": ["small"]}},
        "network": {"choice": ["small", "large"], "when": {"augment": "shift"}},
        "augment": {"choice": ["none", "shift"]},
    }

    dimensions = space(tree).dimensions

    assert [each.name for each in dimensions] == ["train.augment", "model.network", "model.width"]
    assert dimensions[2].when == {"model.network": ("small",)}


RATE = {"learning_rate": {"log": [1e-4, 1e-1]}}
NETWORK = {"network": {"choice": ["small", "large"]}}
WIDTH = {"width": {"uniform": [1.0, 2.0], "when": {"network": "small"}}}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        pytest.param({"learning_rat": {"log": [1, 2]}}, "did you mean `learning_rate`?", id="name"),
        pytest.param({"serve.max_batch": {"int": [1, 2]}}, "no setting of train or model", id="another section"),
        pytest.param({"workers": {"int": [1, 2]}}, "cannot be searched over; set tune.workers", id="workers"),
        pytest.param({"epochs": {"int": [1, 2]}}, "set train.epochs instead", id="a trial's budget"),
        pytest.param({"width": {"unifrom": [1, 2]}}, "unknown kind of range; did you mean `uniform`?", id="kind"),
        pytest.param({"width": {}}, "has no range", id="nothing"),
        pytest.param({"width": {"uniform": [1.0, 2.0], "log": [1.0, 2.0]}}, "has 2 ranges", id="two kinds"),
        pytest.param({"width": {"uniform": 1.0}}, "is not a list of values", id="no list"),
        pytest.param({"width": {"uniform": [1.0]}}, "has 1 bounds; give two", id="one bound"),
        pytest.param({"width": {"uniform": [2.0, 1.0]}}, "is empty", id="wrong way round"),
        pytest.param({"width": {"uniform": [1.0, 1.0]}}, "is empty", id="one point"),
        pytest.param({"width": {"uniform": [1.0, float("inf")]}}, "is not a finite number", id="infinite"),
        pytest.param({"width": {"uniform": [True, 2]}}, "is not a finite number", id="a truth value"),
        pytest.param({"learning_rate": {"log": ["1e-4", 0.1]}}, "YAML wants a dot before the e", id="YAML's numbers"),
        pytest.param({"weight_decay": {"log": [0, 0.1]}}, "a logarithmic range begins above 0", id="log of zero"),
        pytest.param({"batch_size": {"int": [1.5, 8]}}, "bounds that are not whole", id="half an integer"),
        pytest.param({"batch_size": {"uniform": [8, 64]}}, "valid integer", id="real numbers for a whole setting"),
        pytest.param({"learning_rate": {"log": [1e-4, 100]}}, "less than or equal to 10", id="out of bounds"),
        pytest.param({"augment": {"choice": []}}, "is not a list of values", id="no choice"),
        pytest.param({"augment": {"choice": ["none", "none"]}}, "the same choice twice", id="twice"),
        pytest.param({"wait": {"choice": ["1m", "2m"]}}, "cannot be searched over", id="how long to wait"),
        pytest.param({"augment": {"choice": ["none", "shfit"]}}, "is no augmentation; use none", id="typo"),
        pytest.param({"augment": {"choice": [["none"]]}}, "no single value", id="a list in the list"),
        pytest.param({**RATE, "train.learning_rate": {"log": [1e-3, 1e-2]}}, "stands there twice", id="two names"),
        pytest.param({"width": {"uniform": [1.0, 2.0], "when": "small"}}, "is not a condition", id="no condition"),
        pytest.param(
            {"width": {"uniform": [1.0, 2.0], "when": {"network": "small"}}},
            "is not searched over",
            id="hangs on a fixed setting",
        ),
        pytest.param(
            {**RATE, "width": {"uniform": [1.0, 2.0], "when": {"learning_rate": 7.0}}},
            "never has this value",
            id="a condition that never holds",
        ),
        pytest.param(
            {
                "network": {"choice": ["small", "large"], "when": {"augment": "none"}},
                "augment": {"choice": ["none", "shift"], "when": {"network": "small"}},
            },
            "each waits for the other",
            id="in a circle",
        ),
    ],
)
def test_a_mistake_is_one_sentence(tree: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        space(tree)

    assert caught.value.field.startswith("tune.space")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("tree", "tune", "words"),
    [
        pytest.param(
            {"network": {"choice": ["small", "large"]}}, {}, "can change in the middle", id="nothing to change"
        ),
        pytest.param(
            {
                **RATE,
                "network": {"choice": ["small", "large"]},
                "width": {"uniform": [1.0, 2.0], "when": {"network": "small"}},
            },
            {},
            "hangs on another setting",
            id="conditions",
        ),
        pytest.param(RATE, {"refit": "train_and_validation"}, "trains nothing again", id="a refit"),
    ],
)
def test_what_population_based_training_cannot_do_is_refused(
    tree: dict[str, Any], tune: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        space(tree, algorithm="pbt", **tune)


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        pytest.param({"trials": 0}, "tune.trials = 0", id="no trials"),
        pytest.param({"minutes": 0.0}, "tune.minutes = 0.0", id="no time"),
        pytest.param({"metric": "accurcy"}, "'accuracy' or 'loss'", id="unknown metric, the known ones listed"),
        pytest.param({"algorithm": "grid"}, "'tpe', 'random' or 'pbt'", id="unknown algorithm"),
        pytest.param({"target": 99.0}, "is no accuracy", id="per cent"),
        pytest.param({"trails": 3}, "did you mean `trials`?", id="unknown key"),
    ],
)
def test_an_impossible_budget_or_aim_is_refused(tune: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        space(RATE, **tune)


def test_without_a_budget_there_are_sixteen_trials_and_with_minutes_as_many_as_fit() -> None:
    source = {"source": {"kind": "digits"}}
    counts = [
        parse({"name": "d", "data": source, "tune": {"space": RATE, **budget}}).tune
        for budget in ({}, {"minutes": 1.0}, {"minutes": 1.0, "trials": 3})
    ]

    assert [section.num_trials for section in counts if section] == [16, None, 3]
