"""What one kind of problem knows: the `Task` base class and how a task is found by its name.

The same object cleans rows in preprocessing, builds the network in training and reads requests in serving,
so the three cannot drift apart. Knows no Ray, no files and no HTTP; torch only inside the methods that train.
"""

from __future__ import annotations

import abc
import hashlib
import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.config import Experiment
from cluster.errors import ConfigError

if TYPE_CHECKING:
    import torch

BUILT_IN = {"images": "tasks.images:Images"}
# Further modules whose code decides a built-in task's results.
HELPERS = {"images": ("tasks.cnn",)}


class Rejected(Exception):
    """A row or a request body that cannot be used; `reason` is a short slug that is counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


@dataclass(frozen=True)
class Encoding:
    """What a dataset fixed and a model must keep: label order, row shape, statistics of the training rows."""

    labels: tuple[str, ...]
    shape: tuple[int, ...]  # of one encoded row, for images (height, width, channels)
    dtype: str  # numpy name of an encoded row's dtype, for images "uint8"
    statistics: dict[str, Any]  # from the training split alone; JSON-able

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "labels": list(self.labels), "shape": list(self.shape)}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> Encoding:
        return Encoding(tuple(tree["labels"]), tuple(tree["shape"]), tree["dtype"], tree["statistics"])


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the Open Inference Protocol; -1 in `shape` is the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Task(abc.ABC):
    """Subclass this for a problem of your own and name it `my_package.my_module:MyTask` in the experiment."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    # Preprocessing

    @abc.abstractmethod
    def row_shape(self, values: Iterable[bytes | np.ndarray]) -> tuple[int, ...]:
        """Shape of encoded rows: from the experiment, or from the first good value. Raises DataError."""

    @abc.abstractmethod
    def clean(self, value: bytes | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """One source value as an encoded row of `shape`. Raises Rejected."""

    @abc.abstractmethod
    def partial_statistics(self, rows: np.ndarray) -> dict[str, Any]:
        """Exact, mergeable sums over encoded rows [n, *shape] (integers: order must not matter)."""

    @abc.abstractmethod
    def statistics(self, partials: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The merged statistics kept in the Encoding, JSON-able."""

    # Training

    @abc.abstractmethod
    def network(self, encoding: Encoding) -> torch.nn.Module:
        """Maps encoded rows [n, *shape] in the encoding's dtype to logits float32 [n, num_labels].

        Normalising is part of the network, so serving cannot forget it.
        """

    def larger(self, network: torch.nn.Module, encoding: Encoding) -> dict[str, torch.nn.Module]:  # noqa: ARG002
        """Slower and more accurate forms of the trained network by name, best last; by default none.

        For rungs above it, without further training: it is asked several times. A name becomes part of a
        variant's: `views` gives `onnx-views-fp32` and `onnx-views-int8`.
        """
        return {}

    def students(self, encoding: Encoding) -> dict[str, torch.nn.Module]:  # noqa: ARG002
        """Smaller networks of the same form by name, for cheaper rungs of the ladder; by default none.

        They learn from the trained network's answers. A name becomes the first part of a variant's: `student`
        gives `student-fp32` and `student-int8`. `torch.manual_seed` was called with the experiment's seed.
        """
        return {}

    def augment(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG002
        """Encoded rows [n, *shape] changed at random for training; by default unchanged."""
        return rows

    @abc.abstractmethod
    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of logits float32 [n, num_labels] against int64 [n]."""

    # Serving

    @abc.abstractmethod
    def input_spec(self, encoding: Encoding) -> TensorSpec: ...

    @abc.abstractmethod
    def decode(self, body: bytes, content_type: str, encoding: Encoding) -> np.ndarray:
        """A request body as one encoded row. Raises Rejected (unusable body), KeyError never.

        `content_type` is lower case without parameters, for example `image/png`.
        """

    @abc.abstractmethod
    def media_types(self) -> tuple[str, ...]:
        """Content types `decode` takes, for example `image/png`."""

    def answer(self, probabilities: np.ndarray, encoding: Encoding) -> dict[str, Any]:
        """What `/predict` says about one row: probabilities float32 [num_labels]."""
        pairs = {label: round(float(p), 6) for label, p in zip(encoding.labels, probabilities, strict=True)}
        return {"label": encoding.labels[int(probabilities.argmax())], "probabilities": pairs}


def load_task(experiment: Experiment) -> Task:
    """Raises ConfigError when the task cannot be imported or is not a Task."""
    module_name, class_name = _location(experiment.task)
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "task", experiment.task, f"cannot be imported ({error})", "check its name and the path"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ConfigError("task", experiment.task, "is not a subclass of tasks.task.Task", "derive it from Task")
    return found(experiment)


def code_version(experiment: Experiment, *modules: str) -> str:
    """16 hex digits of the code that decides a step's result: the task's files and `modules`.

    Finds files without importing them: `trimtab plan` must not load torch.
    """
    module_name, _ = _location(experiment.task)
    helpers = HELPERS.get(experiment.task, ())
    digest = hashlib.sha256()
    for name in sorted({module_name, "tasks.task", *helpers, *modules}):
        try:
            spec = importlib.util.find_spec(name)
        except ImportError:
            spec = None
        if spec is None or spec.origin is None:
            raise ConfigError("task", experiment.task, f"module {name} is not found", "check its name and the path")
        digest.update(name.encode() + b"\0" + Path(spec.origin).read_bytes())
    return digest.hexdigest()[:16]


def _location(name: str) -> tuple[str, str]:
    if ":" not in name and name not in BUILT_IN:
        raise ConfigError("task", name, "unknown task", f"use {', '.join(BUILT_IN)} or my_package.my_module:MyTask")
    module_name, _, class_name = BUILT_IN.get(name, name).partition(":")
    return module_name, class_name
