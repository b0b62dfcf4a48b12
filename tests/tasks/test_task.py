"""What every task has without saying anything: answers, how right they are, options, rows that are trimmed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cluster.config import Experiment
from cluster.errors import NotFoundError
from tasks.task import Ask, Encoding, Rejected, Task, TensorSpec, load_task, trimmed

LABELS = Encoding(("a", "b", "c"), (3,), "float32", {"high": 1.0})
VALUES = Encoding((), (3,), "float32", {"high": 1.0})
OUTPUTS = np.array([[0.2, 0.7, 0.1], [0.5, 0.25, 0.25]], np.float32)
NUMBERS = np.array([[1.5], [4.0]], np.float32)


@pytest.fixture
def labels(own_task: Callable[..., Experiment]) -> Task:
    return load_task(own_task())


@pytest.fixture
def values(own_task: Callable[..., Experiment]) -> Task:
    near = "    def right(self, outputs, truth):\n        return (abs(outputs[:, 0] - truth) < 1).astype(float)\n"
    return load_task(own_task("sums:Values", f"class Values(Sums):\n    targets = 'value'\n{near}"))


@pytest.mark.parametrize("made", [np.array, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    ("rows", "left"),
    [
        pytest.param([[1, 0, 2, 0], [3, 0, 0, 0]], [[1, 0, 2], [3, 0, 0]], id="zeros inside stay"),
        pytest.param([[1, 2]], [[1, 2]], id="nothing to cut"),
        pytest.param([[0, 0], [0, 0]], [[0], [0]], id="one column always stays"),
    ],
)
def test_columns_of_zeros_at_the_end_are_cut_off(made: Any, rows: list[list[int]], left: list[list[int]]) -> None:
    assert trimmed(made(rows)).tolist() == left


def test_labels_have_probabilities(labels: Task) -> None:
    logits = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.bfloat16)

    outputs = labels.outputs(logits)

    assert outputs.dtype == torch.float32
    assert outputs.sum().item() == pytest.approx(1.0)
    assert labels.output_spec(LABELS) == TensorSpec("probabilities", "FP32", (-1, 3))
    assert labels.labels(OUTPUTS, LABELS) == ["b", "a"]
    assert labels.right(OUTPUTS, np.array([1, 1])).tolist() == [1.0, 0.0]
    assert labels.agreement(OUTPUTS, OUTPUTS[::-1]).tolist() == [0.0, 0.0]
    assert labels.metrics(OUTPUTS, np.array([1, 1]), LABELS)["accuracy"] == 0.5


def test_values_are_themselves_and_the_task_says_what_is_close(values: Task) -> None:
    assert values.outputs(torch.tensor([[2.0]])).tolist() == [[2.0]]
    assert values.output_spec(VALUES) == TensorSpec("value", "FP32", (-1, 1))
    assert values.labels(NUMBERS, VALUES) is None
    assert values.answer(NUMBERS[0], VALUES, Ask()) == {"value": 1.5}
    assert values.agreement(NUMBERS, NUMBERS + 0.5).tolist() == [1.0, 1.0]
    figures = values.metrics(NUMBERS, np.array([1.0, 1.0], np.float32), VALUES)
    assert (figures["accuracy"], figures["mean_absolute_error"], figures["rows"]) == (0.5, 1.75, 2)


def test_a_task_of_values_that_does_not_say_what_is_close_is_told_to(own_task: Callable[..., Experiment]) -> None:
    task = load_task(own_task("sums:Values", "class Values(Sums):\n    targets = 'value'\n"))

    with pytest.raises(Exception, match=r"let right\(\) say when one is close enough"):
        task.right(NUMBERS, np.zeros(2))


@pytest.mark.parametrize(
    ("ask", "probabilities"),
    [
        pytest.param(Ask(), {"a": 0.2, "b": 0.7, "c": 0.1}, id="all by default, in the labels' order"),
        pytest.param(Ask(options={"top_k": "2"}), {"b": 0.7, "a": 0.2}, id="of the URL"),
        pytest.param(Ask({"top_k": 1}), {"b": 0.7}, id="of the body"),
        pytest.param(Ask({"top_k": 1}, {"top_k": "3"}), {"b": 0.7, "a": 0.2, "c": 0.1}, id="the URL's word counts"),
    ],
)
def test_the_likeliest_labels_come_first_where_some_are_asked_for(
    labels: Task, ask: Ask, probabilities: dict[str, float]
) -> None:
    answer = labels.answer(OUTPUTS[0], LABELS, ask)

    assert answer["label"] == "b"
    assert list(answer["probabilities"].items()) == [(name, pytest.approx(p)) for name, p in probabilities.items()]


@pytest.mark.parametrize("given", ["0", "4", "-1", "1.5", "two", "", "١", "9" * 30, 0, 4, True, 1.0, [1], "1_0"])
def test_other_numbers_of_labels_are_refused(labels: Task, given: Any) -> None:
    with pytest.raises(Rejected, match="is no whole number from 1 to 3"):
        labels.answer(OUTPUTS[0], LABELS, Ask({"top_k": given}))


@pytest.mark.parametrize("name", ["labels", "values"])
def test_unknown_options_are_refused(name: str, request: pytest.FixtureRequest) -> None:
    task = request.getfixturevalue(name)

    with pytest.raises(Rejected, match="option topk: is unknown"):
        task.answer(OUTPUTS[0], LABELS, Ask(options={"topk": "3"}))


@pytest.mark.parametrize(("dtype", "low", "high"), [("uint8", 0, 255), ("int64", 0, 255), ("float32", -9.0, 9.0)])
def test_example_rows_are_of_the_encodings_kind(labels: Task, dtype: str, low: float, high: float) -> None:
    rows = labels.example(Encoding((), (2, 3), dtype, {}), 5)

    assert (rows.shape, rows.dtype) == ((5, 2, 3), dtype)
    assert low <= rows.min() < rows.max() <= high


def test_files_are_those_that_came_with_the_dataset(own_task: Callable[..., Experiment]) -> None:
    assert load_task(own_task(), {"a": b"1"}.__getitem__).files("a") == b"1"
    with pytest.raises(NotFoundError, match="no file 'a' came with the dataset"):
        load_task(own_task()).files("a")
