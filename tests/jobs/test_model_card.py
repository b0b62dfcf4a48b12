from __future__ import annotations

import pytest

from cluster.config import Train
from jobs import model_card


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
