from __future__ import annotations

import numpy as np
import pytest
import torch

from cluster.config import Experiment, Ladder, Model
from jobs.distil import LEAST_STEPS, distil, steps
from ladder.variants import OnnxPredictor, export_onnx, quantise
from tasks.task import Encoding, Task, load_task


@pytest.fixture(scope="module")
def encoding(digits_splits) -> Encoding:
    rows, _ = digits_splits["train"]
    task = load_task(experiment())
    return Encoding(tuple(map(str, range(10))), (8, 8, 1), "uint8", task.statistics([task.partial_statistics(rows)]))


def experiment(**train: object) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "digits",
            "data": {"source": {"kind": "digits"}},
            "train": train,
            "ladder": {"student_steps": 300},
        }
    )


@pytest.fixture(scope="module")
def teacher(digits_splits, encoding: Encoding) -> torch.nn.Module:
    rows, truth = map(torch.from_numpy, digits_splits["train"])
    torch.manual_seed(0)
    task = load_task(experiment())
    network = task.network(encoding)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for step in range(60):
        chosen = torch.arange(128) + 10 * step
        optimizer.zero_grad()
        task.loss(network(rows[chosen]), truth[chosen]).backward()
        optimizer.step()
    return network.eval()


def student(task: Task, encoding: Encoding) -> torch.nn.Module:
    torch.manual_seed(0)
    return task.students(encoding)["student"]


@pytest.mark.parametrize("augment", ["none", "shift"])
def test_a_student_learns_from_its_teacher(digits_splits, encoding: Encoding, teacher, augment: str):
    task = load_task(experiment(augment=augment))
    threads = torch.get_num_threads()

    taught = student(task, encoding)
    distil(teacher, {"student": taught}, *digits_splits["train"], task)

    rows, truth = digits_splits["validation"]
    with torch.inference_mode():
        guesses = taught(torch.from_numpy(rows)).argmax(dim=1).numpy()
    assert (guesses == truth).mean() > 0.9
    assert not taught.training
    assert torch.get_num_threads() == threads


def test_the_same_seed_teaches_the_same_whoever_is_beside(digits_splits, encoding: Encoding, teacher):
    task = load_task(experiment())

    first, second, beside = (student(task, encoding) for _ in range(3))
    distil(teacher, {"student": first}, *digits_splits["train"], task)
    distil(teacher, {"other": beside, "student": second}, *digits_splits["train"], task)

    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_fewer_rows_than_a_batch_are_enough(digits_splits, encoding: Encoding, teacher):
    task = load_task(experiment())
    rows, truth = digits_splits["train"]

    taught = student(task, encoding)
    distil(teacher, {"student": taught}, rows[:7], truth[:7], task)

    assert all(bool(torch.isfinite(weights).all()) for weights in taught.parameters())


def test_eight_bits_lose_no_accuracy_on_digits(digits_splits, encoding: Encoding, teacher):
    (rows, truth), (calibration, _) = digits_splits["validation"], digits_splits["train"]
    graph = export_onnx(teacher, encoding, load_task(experiment()))

    fp32, int8 = OnnxPredictor(graph)(rows), OnnxPredictor(quantise(graph, calibration[:512]))(rows)

    right = [(answers.argmax(axis=1) == truth).mean() for answers in (fp32, int8)]
    assert right[0] > 0.9
    assert abs(right[0] - right[1]) <= 0.01
    assert np.abs(fp32 - int8).mean() < 0.01


@pytest.mark.parametrize(
    ("num_rows", "train", "network", "expected"),
    [
        pytest.param(10, {"epochs": 20}, "small", LEAST_STEPS, id="little data: enough to learn from"),
        pytest.param(12_800, {"epochs": 10, "batch_size": 128}, "small", 1000, id="as many as the trained network"),
        pytest.param(6_400, {"epochs": 10, "batch_size": 128}, "large", 1000, id="twice as many as a large one"),
        pytest.param(1_000_000, {"epochs": 10}, "small", 2000, id="no more than the setting"),
    ],
)
def test_students_take_as_many_steps_as_the_trained_network_allows(
    num_rows: int, train: dict[str, int], network: str, expected: int
):
    made = experiment(**train).model_copy(update={"ladder": Ladder(), "model": Model(network=network)})

    assert steps(load_task(made), num_rows) == expected
