"""Whether a task of one's own keeps to what `tasks.task` asks of it: each method called once, on a few rows.

What is wrong is one ConfigError that names the method, what it gave and what is expected. Errors of its own the
task's guard turns into sentences already. Loads torch; knows no source of rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import ConfigError
from tasks.protocol_answers import check_outputs, check_serving
from tasks.protocol_network import check_training
from tasks.protocol_words import Say
from tasks.task import METHODS, Encoding, Rejected, Task

if TYPE_CHECKING:
    import torch

LABELS = ("a", "b")  # where there are no rows to learn them from
CLOSE = 1e-6  # of statistics: sums of floats may differ in their last digits


@dataclass(frozen=True)
class Example:
    """What a source gives: `label` a text, or a number as text where the task has values."""

    value: Any
    label: str


@dataclass(frozen=True)
class Tried:
    """A network of the task and its encoding, for whoever wants to try more with them."""

    encoding: Encoding
    network: torch.nn.Module
    num_rows: int
    num_rejected: int


def check(task: Task, examples: Sequence[Example]) -> Tried:
    """Call every method of `task` on these rows, or without any on what its `example` gives.

    Raises:
        ConfigError: a method is called otherwise than it is defined, or gave something else than it should.
    """
    say = Say(task.experiment.task)
    _check_settings(task)
    _check_signatures(task, say)
    _gather(task, say)
    shape = _shape(task, examples, say)
    rows, labels, num_rejected = _cleaned(task, examples, shape, say)
    names = _label_names(task, labels)
    encoding = _encoding(task, rows, labels, names, shape, say)
    truth = _truth(task, labels, names, len(rows))
    network, logits = check_training(task, encoding, rows, truth, say)
    outputs = check_outputs(task, encoding, logits, truth, say)
    check_serving(task, encoding, rows, outputs, say)
    return Tried(encoding, network, len(rows), num_rejected)


def check_network(task: Task, encoding: Encoding, rows: np.ndarray, truth: np.ndarray) -> None:
    """What trains alone, on encoded rows [n, *shape] and targets [n] that were prepared already. Raises ConfigError."""
    say = Say(task.experiment.task)
    _, logits = check_training(task, encoding, rows, truth, say)
    check_outputs(task, encoding, logits, truth, say)


def _check_settings(task: Task) -> None:
    allowed = {
        "takes": ("file", "text"),
        "targets": ("label", "value"),
        "ambiguous": (True, False),
        "trims": (True, False),
        "int8": ("static", "dynamic"),
    }
    for name, values in allowed.items():
        if getattr(task, name) not in values:
            problem, mend = (
                f"its `{name}` is {getattr(task, name)!r}",
                f"set it to one of {', '.join(map(repr, values))}",
            )
            raise ConfigError("task", task.experiment.task, problem, mend)


def _check_signatures(task: Task, say: Say) -> None:
    for method in METHODS:
        wanted = list(inspect.signature(getattr(Task, method)).parameters)[1:]
        try:
            inspect.signature(getattr(task, method)).bind(*wanted)
        except TypeError as error:
            call = f"{method}({', '.join(wanted)})"
            raise say.wrong(method, f"cannot be called as {call} ({error})", f"take {', '.join(wanted)}") from error


def _gather(task: Task, say: Say) -> None:
    """The other methods find what was gathered, as in the steps."""
    kept = task.gather()
    if not isinstance(kept, dict) or not all(isinstance(data, bytes) for data in kept.values()):
        raise say.wrong("gather", "gave something else than bytes by name", "give a dict of file names and bytes")
    given = task.files
    task.files = lambda name: kept[name] if name in kept else given(name)


def _shape(task: Task, examples: Sequence[Example], say: Say) -> tuple[int, ...]:
    shape = task.row_shape(iter([example.value for example in examples]))
    is_shape = isinstance(shape, tuple) and all(isinstance(side, int) and side > 0 for side in shape)
    if not is_shape or not shape:
        raise say.wrong("row_shape", f"gave {shape!r}", "give a tuple of whole numbers above 0")
    return shape


def _cleaned(
    task: Task, examples: Sequence[Example], shape: tuple[int, ...], say: Say
) -> tuple[np.ndarray, list[str], int]:
    """Encoded rows [n, *shape], their labels, and how many values were refused."""
    if not examples:
        made = task.example(Encoding(() if task.targets == "value" else LABELS, shape, "float32", {}), 4)
        say.array("example", made, (4, *shape), "fiub", f"give rows [4, {', '.join(map(str, shape))}]")
        return made, ["0", "1", "0", "1"] if task.targets == "value" else [*LABELS, *LABELS], 0
    rows: list[np.ndarray] = []
    labels: list[str] = []
    last: Rejected | None = None
    for example in examples:
        try:
            row, again = task.clean(example.value, shape), task.clean(example.value, shape)
        except Rejected as refusal:
            last = refusal
            continue
        expected = f"give numbers in an array of the shape {list(shape)} that row_shape() gave"
        say.array("clean", row, shape, "fiub", expected)
        if rows and row.dtype != rows[0].dtype:
            raise say.wrong("clean", f"gave {row.dtype} after {rows[0].dtype}", "give one dtype for all values")
        if not np.array_equal(row, again):
            raise say.wrong("clean", "gave two rows for one value", "give the same row for the same value")
        rows.append(row)
        labels.append(example.label)
    if not rows:
        raise say.wrong("clean", f"refused all {len(examples)} rows (the last: {last})", "take what the source has")
    return np.stack(rows), labels, len(examples) - len(rows)


def _label_names(task: Task, labels: Sequence[str]) -> tuple[str, ...]:
    if task.targets == "value":
        return ()
    names = sorted(set(labels))
    return tuple(names if len(names) > 1 else [*names, f"not {names[0]}"])


def _encoding(
    task: Task, rows: np.ndarray, labels: Sequence[str], names: tuple[str, ...], shape: tuple[int, ...], say: Say
) -> Encoding:
    halves = [task.partial_statistics(part) for part in np.array_split(rows, 2) if len(part)]
    whole = [task.partial_statistics(rows)]
    for part in halves + whole:
        if not isinstance(part, dict):
            raise say.wrong("partial_statistics", f"gave a {type(part).__name__}", "give a dict of sums")
        say.json("partial_statistics", part)
    merged, turned, together = (task.statistics(parts) for parts in (halves, halves[::-1], whole))
    if not isinstance(merged, dict):
        raise say.wrong("statistics", f"gave a {type(merged).__name__}", "give a dict")
    say.json("statistics", merged)
    if merged != turned:
        raise say.wrong("statistics", "depends on the order of its parts", "add whole numbers, whose sums do not")
    if not _close(merged, together):
        raise say.wrong("statistics", "depends on how rows were cut into parts", "merge sums, not means")
    if task.targets == "value":
        values = np.array(labels, np.float64)
        merged = merged | {"target": {"mean": float(values.mean()), "std": float(values.std()) or 1.0}}
    return Encoding(names, shape, rows.dtype.name, merged)


def _truth(task: Task, labels: Sequence[str], names: tuple[str, ...], n: int) -> np.ndarray:
    if task.targets == "value":
        return np.array(labels, np.float32)[:n]
    return np.array([names.index(label) for label in labels], np.int64)[:n]


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= CLOSE * max(1.0, abs(one))
    return bool(one == other)
