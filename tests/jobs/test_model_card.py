from __future__ import annotations

from unittest.mock import Mock

import pytest

from cluster.config import Train
from cluster.experiment import parse
from jobs import model_card
from tasks.dataset import Dataset
from tasks.task import Encoding, load_task


@pytest.mark.parametrize("with_validation", [True, False])
def test_a_card_says_which_search_chose_the_settings(with_validation: bool) -> None:
    origin = {
        "search": "s1",
        "trial": "t7",
        "trials": 20,
        "metric": "accuracy",
        "value": 0.98765,
        "config": {"train.learning_rate": 0.0123456, "model.network": "small"},
        "with_validation": with_validation,
    }

    words = model_card._origin(origin)

    assert "train.learning_rate 0.01235, model.network small were chosen by trial `t7`, the best of 20" in words
    assert ("learned from the validation rows" in words) is with_validation
    assert model_card._origin({}) == ""


def test_a_card_says_what_not_every_training_does() -> None:
    plain, special = Train(), Train(clip_norm=2.0, ema=0.99, class_weights="balanced")

    assert model_card._beside(plain) == ""
    assert model_card._beside(special) == (
        "gradients clipped to norm 2, weights averaged with decay 0.99, labels weighed by their rarity, "
    )


@pytest.mark.parametrize(
    ("task", "says", "says_not"),
    [
        pytest.param("images", ("gives one of them to every input", "are scaled"), "outside", id="images"),
        pytest.param("sentiment", ("gives one of them to every input",), "are scaled", id="texts"),
        pytest.param("answers", ("like none of them that it is outside",), "every input", id="with a way out"),
    ],
)
def test_the_limits_are_those_of_the_task(task: str, says: tuple[str, ...], says_not: str) -> None:
    source = {"kind": "csv", "path": "a.csv", "input": "text", "label": "label"}
    experiment = parse({"name": "small", "task": task, "data": {"source": source}})
    dataset = Mock(Dataset, encoding=Mock(Encoding, labels=("a", "b")))

    words = model_card._limits(
        load_task(experiment, Mock()), dataset, {"classes": {"a": {"f1": 0.5}, "b": {"f1": 0.75}}}
    )

    assert all(each in words for each in says)
    assert says_not not in words
    assert "weakest class there is a (F1 0.5000)" in words
