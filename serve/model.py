"""One loaded version of a model, and what it answered.

Knows neither how a version is loaded nor who asks it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cluster.config import Serve
from ladder.bundle import KEPT, Bundle
from ladder.forms import is_torch
from serve.ladder import Ladder
from tasks.task import Files, Task, load_task

# Sections that say nothing about how a request becomes a row.
_NOT_READ = {"serve", "train", "tune", "ladder", "adapt", "retrain", "gate", "rollout", "alerts", "kubernetes"}


@dataclass(frozen=True, eq=False)
class Model:
    """One loaded version, ready to answer; its rungs map rows [n, *shape] to float32 [n, width]."""

    bundle: Bundle
    version: int
    ladder: Ladder
    task: Task

    @property
    def width(self) -> int:
        """Of an answer."""
        return self.task.output_spec(self.bundle.encoding).shape[1]

    @property
    def platform(self) -> str:
        """What runs the most accurate rung, as the Open Inference Protocol names it."""
        return "pytorch" if is_torch(self.ladder.variants[0]) else "onnxruntime_onnx"

    def renewed(self, serve: Serve) -> Model:
        """The model with other limits; what its task has read stays in memory."""
        return dataclasses.replace(self, task=open_task(self.bundle, serve, self.task.files))


class Answer(NamedTuple):
    """Rows' outputs float32 [n, width], as the task has them, and who computed them in what time."""

    outputs: np.ndarray
    model: Model
    variant: str  # the rung
    queue_ms: float
    compute_ms: float
    epoch: int = 0  # of the envelope

    def parameters(self, request_id: str) -> dict[str, str | int | float]:
        """What every protocol says beside the answer: who gave it, and in what time."""
        return {
            "version": self.model.version,
            "variant": self.variant,
            "envelope_epoch": self.epoch,
            "request_id": request_id,
            "queue_ms": round(self.queue_ms, 3),
            "compute_ms": round(self.compute_ms, 3),
        }


Read = Callable[[Model], Awaitable[tuple[np.ndarray, Any]]]
Say = Callable[[Answer, Any], Any]


class Question(NamedTuple):
    """A request in the words of its protocol: each version reads the rows as it does, and its answer is said so.

    `read` gives encoded rows [n, *shape], and what else `say` needs to know of them.
    """

    read: Read
    say: Say
    deadline: float  # time.monotonic()
    id: str
    received: float  # its first byte


class Meant(NamedTuple):
    """The version that a request is meant for; no other one may answer if it `is_exact`, asked for by number."""

    model: Model
    is_exact: bool


def open_task(bundle: Bundle, serve: Serve, files: Files) -> Task:
    """A bundle's task with the limits of today: it remembers those of the day it was made. Raises ConfigError."""
    return load_task(bundle.experiment.model_copy(update={"serve": serve}), files)


def read_alike(one: Bundle, other: Bundle) -> bool:
    """Whether both versions surely make the same row of a request, so that it need not be read again."""

    def reading(bundle: Bundle) -> tuple[object, ...]:
        kept = {role: entry["sha256"] for role, entry in bundle.files.items() if role.startswith(KEPT)}
        return bundle.encoding, kept, bundle.experiment.model_dump(exclude=_NOT_READ)

    return reading(one) == reading(other)
