"""The loop without a cluster: Ray Train's local mode runs it in this process, as one rank."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from cluster.config import Experiment
from cluster.store import Store
from jobs.checkpoint import Course


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def experiment(seed: int = 0, model: dict[str, Any] | None = None, **train: Any) -> Experiment:
    train = {"epochs": 3, "precision": "fp32", "batch_size": 64, **train}
    source = {"kind": "digits"}
    tree = {"name": "digits", "seed": seed, "data": {"source": source}, "model": model or {}, "train": train}
    return Experiment.model_validate(tree)


def trained(made: Experiment, store: Store, dataset: str = "digits") -> tuple[Course, str]:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from jobs.loop import Trainer, Work, run_epochs

    def in_process(config: dict[str, Any]) -> tuple[Course, str]:
        trainer = Trainer(config["work"])
        return trainer.course, run_epochs(trainer)

    config = {"work": Work(made, store, dataset, stream=False, board=None)}
    scaling = ScalingConfig(num_workers=0)
    return TorchTrainer(in_process, train_loop_config=config, scaling_config=scaling).fit().return_value


def same(a: Course, b: Course) -> bool:
    return all(torch.equal(tensor, b.best_weights[name]) for name, tensor in a.best_weights.items())


def test_it_learns_the_digits(store: Store, publish_digits: Callable[..., str]):
    made = experiment(epochs=8)
    publish_digits(store, made)

    course, failure = trained(made, store)

    assert failure == ""
    assert course.history[course.best_epoch]["validation_accuracy"] > 0.95
    assert course.history[-1]["train_loss"] < course.history[0]["train_loss"]


def test_equal_seeds_give_equal_weights_and_another_seed_others(store: Store, publish_digits: Callable[..., str]):
    options: dict[str, Any] = {"model": {"dropout": 0.2}, "augment": "shift_flip", "epochs": 2}
    publish_digits(store, experiment())

    once, again, other = (trained(experiment(seed=seed, **options), store)[0] for seed in (1, 1, 2))

    assert same(once, again)
    assert not same(once, other)


def test_every_epoch_sees_whole_batches_of_rows(store: Store, publish_digits: Callable[..., str]):
    publish_digits(store, experiment())

    course, _ = trained(experiment(batch_size=100, epochs=2), store)

    assert [entry["rows"] for entry in course.history] == [1300, 1300]  # of 1,397
    assert [entry["epoch"] for entry in course.history] == [0, 1]


def test_a_batch_larger_than_the_data_is_the_data(store: Store, publish_digits: Callable[..., str]):
    publish_digits(store, experiment())

    course, failure = trained(experiment(batch_size=5000, epochs=1), store)

    assert failure == ""
    assert course.history[0]["rows"] == 1397


def test_training_stops_when_the_target_is_reached(store: Store, publish_digits: Callable[..., str]):
    publish_digits(store, experiment())

    course, _ = trained(experiment(epochs=10, early_stopping={"target": 0.5}), store)

    assert len(course.history) < 10
    assert course.over == "validation accuracy reached 0.5"


def test_bf16_learns_too(store: Store, publish_digits: Callable[..., str]):
    publish_digits(store, experiment())

    course, _ = trained(experiment(precision="bf16", epochs=4), store)

    assert course.history[course.best_epoch]["validation_accuracy"] > 0.8


def test_a_loss_that_is_not_finite_ends_the_training_with_a_mend(
    store: Store, publish_digits: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    from tasks.images import Images

    def infinite(self: Images, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return logits.sum() * float("inf")

    monkeypatch.setattr(Images, "loss", infinite)
    publish_digits(store, experiment())

    course, failure = trained(experiment(learning_rate=0.5), store)

    assert failure == "the loss is not finite in epoch 1; lower train.learning_rate (now 0.5)"
    assert course.history == []


def test_validation_counts_every_row_once(store: Store, publish_digits: Callable[..., str]):
    one_class = np.zeros((7, 8, 8, 1), np.uint8), np.zeros(7, np.int64)
    publish_digits(store, experiment(), validation=one_class)

    course, _ = trained(experiment(epochs=1), store)

    assert course.history[0]["validation_accuracy"] in (0.0, 1.0)
