"""The loop without a cluster: Ray Train's local mode runs it in this process, as one rank."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from cluster.config import Experiment
from cluster.errors import ConfigError
from cluster.store import Store
from jobs.checkpoint import Course
from tasks.dataset import read_dataset
from tasks.task import load_task


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
        return trainer.course, run_epochs(trainer).failure

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


@pytest.mark.parametrize(
    ("from_step", "num_epochs", "words"),
    [
        pytest.param(0, 0, "in epoch 1 at step 1, before anything was learned; look at the rows", id="the first step"),
        pytest.param(30, 1, "in epoch 2 at step 10; lower train.learning_rate (now 0.5)", id="the second epoch"),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_training_in_its_step_and_keeps_what_was_good(
    store: Store,
    publish_digits: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    from_step: int,
    num_epochs: int,
    words: str,
):
    from tasks.images import Images

    num_calls = 0

    def infinite(self: Images, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal num_calls
        num_calls += torch.is_grad_enabled()
        return self.cross_entropy(logits, targets) * (float("inf") if num_calls > from_step else 1.0)

    monkeypatch.setattr(Images, "loss", infinite)
    publish_digits(store, experiment())

    course, failure = trained(experiment(learning_rate=0.5), store)

    assert words in failure
    assert num_calls == from_step + 1
    assert len(course.history) == num_epochs
    assert all(tensor.isfinite().all() for tensor in course.best_weights.values())


def test_an_average_is_what_is_validated_and_kept(store: Store, publish_digits: Callable[..., str]):
    publish_digits(store, experiment())

    averaged, plain = (trained(experiment(epochs=2, ema=ema), store)[0] for ema in (0.9, None))

    assert averaged.history[0]["train_loss"] == plain.history[0]["train_loss"]  # it learns as it would without
    assert averaged.history[0]["validation_loss"] != plain.history[0]["validation_loss"]
    assert not same(averaged, plain)


def test_balanced_labels_count_the_same_in_the_loss(store: Store, publish_digits: Callable[..., str]):
    from jobs.alone import Alone
    from jobs.loop import Work

    rows, truth = np.zeros((40, 8, 8, 1), np.uint8), np.array([0] * 30 + [1] * 10)
    publish_digits(store, experiment(), train=(rows, truth))
    logits, targets = torch.tensor([[2.0, 0.0] + [-9.0] * 8] * 2), torch.tensor([0, 1])
    row_losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none").tolist()

    losses = {
        rule: Alone(Work(experiment(class_weights=rule), store, "digits", stream=False, board=None))
        .task.loss(logits, targets)
        .item()
        for rule in ("none", "balanced")
    }

    # Of ten labels each would have 4 of the 40 rows.
    assert losses["none"] == pytest.approx(sum(row_losses) / 2)
    assert losses["balanced"] == pytest.approx((4 / 30 * row_losses[0] + 4 / 10 * row_losses[1]) / 2)


def test_float16_without_a_gpu_is_refused(store: Store, publish_digits: Callable[..., str]):
    publish_digits(store, experiment())

    with pytest.raises(ConfigError, match=r"train.precision.*needs a GPU"):
        trained(experiment(precision="fp16"), store)


def test_an_epoch_says_where_its_time_and_memory_went(store: Store, publish_digits: Callable[..., str]):
    publish_digits(store, experiment())

    course, _ = trained(experiment(epochs=1, accumulate=2, clip_norm=1.0), store)

    (entry,) = course.history
    phases = [entry[f"{phase}_s"] for phase in ("data", "forward", "backward", "sync", "optimiser")]
    assert all(seconds >= 0 for seconds in phases)
    assert 0.5 * entry["seconds"] < sum(phases) <= entry["seconds"]
    assert entry["rows_per_s"] == pytest.approx(entry["rows"] / entry["seconds"])
    assert entry["peak_memory_bytes"] > 10 * 1024**2
    assert "straggler" not in entry


def test_images_lie_in_memory_with_their_channels_last(store: Store, publish_digits: Callable[..., str]):
    from jobs.alone import Alone
    from jobs.loop import Work

    publish_digits(store, experiment())
    trainer = Alone(Work(experiment(ema=0.9), store, "digits", stream=False, board=None))
    trainer.go_on(trainer.parts(), trainer.course)

    kernels = [module.weight for module in trainer.kept.modules() if isinstance(module, torch.nn.Conv2d)]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_validation_counts_every_row_once(store: Store, publish_digits: Callable[..., str]):
    one_class = np.zeros((7, 8, 8, 1), np.uint8), np.zeros(7, np.int64)
    publish_digits(store, experiment(), validation=one_class)

    course, _ = trained(experiment(epochs=1), store)

    assert course.history[0]["validation_accuracy"] in (0.0, 1.0)


def test_what_does_not_learn_is_asked_once_and_only_its_head_is_kept(
    store: Store, publish_digits: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    from tasks.images import Images

    class Body(torch.nn.Module):
        """Pixels as they are, and a note of how many rows went through."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(1 / 255), requires_grad=False)
            self.num_rows = 0

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            self.num_rows += len(rows)
            return rows.flatten(1) * self.scale

    body = Body()
    monkeypatch.setattr(Images, "network", lambda *_: torch.nn.Sequential(body, torch.nn.Linear(64, 10)))
    monkeypatch.setattr(Images, "frozen", lambda _, network: (network[0], network[1]))
    made = experiment(epochs=4)
    publish_digits(store, made)

    course, failure = trained(made, store)

    assert failure == ""
    assert body.num_rows == 1397 + 200
    assert set(course.best_weights) == {"weight", "bias"}
    assert course.history[-1]["validation_accuracy"] > 0.9


def test_groups_of_parameters_learn_at_their_own_rates(
    store: Store, publish_digits: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    from tasks.images import Images

    def groups(_: Images, network: torch.nn.Module, recipe: Any) -> list[dict[str, Any]]:
        *first, last = network.parameters()
        return [{"params": first, "lr": 0.0}, {"params": [last], "lr": recipe.learning_rate}]

    monkeypatch.setattr(Images, "parameter_groups", groups)
    made = experiment(epochs=1)
    publish_digits(store, made)
    torch.manual_seed(made.seed)
    before = load_task(made).network(read_dataset(store, "digits").encoding).state_dict()

    course, _ = trained(made, store)

    changed = {name for name, tensor in course.best_weights.items() if not torch.equal(tensor, before[name])}
    assert {name for name in changed if "running" not in name and "num_batches" not in name} == {list(before)[-1]}


def test_rows_of_like_length_come_together_and_all_of_them():
    from jobs.feed import _by_length

    lengths = torch.randint(1, 20, (256,), generator=torch.Generator().manual_seed(0))
    rows = (torch.arange(20)[None, :] < lengths[:, None]).int()

    order = _by_length(torch.randperm(256), rows, 8, torch.Generator().manual_seed(0))

    longest = lengths[order].reshape(-1, 8).amax(1)
    assert sorted(order.tolist()) == list(range(256))
    assert longest.float().mean() < 1.1 * lengths.float().mean()
    assert longest.tolist() != sorted(longest.tolist())
