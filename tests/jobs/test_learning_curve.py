from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs import learning_curve


def history(num_epochs: int, **figures: float) -> list[dict[str, Any]]:
    names = {"train_loss": 1.0, "validation_loss": 1.0, "validation_accuracy": 0.5, **figures}
    return [
        {"epoch": epoch, **{name: value / (epoch + 1) for name, value in names.items()}} for epoch in range(num_epochs)
    ]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize(
    "epochs",
    [
        pytest.param(history(1), id="one epoch"),
        pytest.param(history(50), id="many"),
        pytest.param(history(3, train_loss=0.0), id="a loss of nothing, which has no logarithm"),
        pytest.param(history(3, validation_loss=-2.0), id="a loss below nothing"),
    ],
)
def test_a_history_becomes_a_picture(epochs: list[dict[str, Any]]) -> None:
    png = learning_curve.picture(epochs, best_epoch=0)

    assert pixels(png).shape == (320, 800, 3)
    assert png == learning_curve.picture(epochs, best_epoch=0)


def test_other_figures_make_another_picture() -> None:
    first, second = (learning_curve.picture(history(5, validation_accuracy=value), 0) for value in (0.5, 0.9))

    assert (pixels(first) != pixels(second)).any()
