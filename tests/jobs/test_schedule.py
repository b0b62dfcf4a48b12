from __future__ import annotations

import pytest
import torch

from cluster.config import Train
from jobs.schedule import rates


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param(
            {"schedule": "constant", "warmup": 0.25},
            [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1],
            id="constant after a warm-up",
        ),
        pytest.param({"schedule": "constant", "warmup": 0.0}, [1.0] * 10, id="constant from the start"),
        pytest.param(
            {"schedule": "cosine", "warmup": 0.2},
            [1 / 3, 2 / 3, 1, 0.96194, 0.85355, 0.69134, 0.5, 0.30866, 0.14645, 0.03806],
            id="cosine after a warm-up",
        ),
        pytest.param(
            {"schedule": "cosine", "warmup": 0.0},
            [1, 0.97553, 0.90451, 0.79389, 0.65451, 0.5, 0.34549, 0.20611, 0.09549, 0.02447],
            id="cosine from the start",
        ),
        pytest.param(
            {"schedule": "one_cycle", "warmup": 0.0},
            [1, 0.97553, 0.90451, 0.79389, 0.65451, 0.5, 0.34549, 0.20611, 0.09549, 0.02447],
            id="one cycle without a rise is a cosine",
        ),
    ],
)
def test_the_learning_rate_of_each_of_ten_steps(settings: dict[str, object], expected: list[float]) -> None:
    recipe = Train.model_validate({"learning_rate": 0.5, **settings})

    found = [rates(recipe, step, 10).learning_rate / 0.5 for step in range(10)]

    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("num_steps", [4, 10, 200])
def test_one_cycle_is_that_of_pytorch(num_steps: int) -> None:
    recipe, optimizer = Train(learning_rate=0.02), torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=num_steps + 1, pct_start=0.25)

    for step in range(num_steps):
        now, (group,) = rates(recipe, step, num_steps), optimizer.param_groups
        assert (now.learning_rate, now.momentum) == pytest.approx((group["lr"], group["betas"][0]))
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_a_training_of_hardly_any_steps_has_rates_too(schedule: str, num_steps: int) -> None:
    recipe = Train.model_validate({"schedule": schedule})

    assert all(0 < rates(recipe, step, num_steps).learning_rate <= 0.01 for step in range(num_steps))
