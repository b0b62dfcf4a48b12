"""The model of one endpoint: loads versions from their bundles, swaps them, and answers rows of numbers.

Every protocol in front is a translation of `Core.predict`. Knows neither Ray nor HTTP, and never imports
torch: what a version runs is opened in `serve.ladder`.
"""

from __future__ import annotations

import dataclasses
import reprlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.config import Serve
from cluster.errors import RequestError, UserError
from ladder.bundle import Bundle
from serve.batcher import Batcher, Limits
from serve.ladder import Ladder, open_ladder
from tasks.task import Task, load_task

PASSES_PER_REQUEST = 16  # more rows than this many full batches in one request would keep all others waiting


@dataclass(frozen=True, eq=False)
class Model:
    """One loaded version, ready to answer; its rungs map rows [n, *shape] to float32 [n, num_labels]."""

    bundle: Bundle
    version: int
    ladder: Ladder
    task: Task


@dataclass(frozen=True)
class Answer:
    """Rows' probabilities float32 [n, num_labels], and who computed them in what time."""

    probabilities: np.ndarray
    model: Model
    variant: str  # the rung
    queue_ms: float
    compute_ms: float

    def parameters(self, request_id: str) -> dict[str, str | int | float]:
        """What every protocol says beside the answer: who gave it, and in what time."""
        return {
            "version": self.model.version,
            "variant": self.variant,
            "request_id": request_id,
            "queue_ms": round(self.queue_ms, 3),
            "compute_ms": round(self.compute_ms, 3),
        }


class Core:
    """One named model. Call every method but `load` from one event loop."""

    def __init__(self, name: str, serve: Serve) -> None:
        self.name, self.serve = name, serve
        self._batcher = Batcher(_limits(serve))
        self._model: Model | None = None
        self.refused: dict[str, Any] | None = None  # the version that was to be next and could not be loaded

    @staticmethod
    def load(bundle: Bundle, version: int, serve: Serve) -> Model:
        """Read, check and warm up a version; takes seconds, so call it from another thread.

        Raises:
            NotFoundError: a file is gone, or the bundle has no variant a replica can run.
            DamagedError: a file is not what the bundle's manifest says.
            TrimtabError: a rung does not load, or answers nonsense.
            ConfigError: `serve` allows none of the rungs, or names one that is not there.
        """
        ladder = open_ladder(bundle, serve.max_batch)
        ladder.check(_limits(serve))
        return Model(bundle, version, ladder, _task(bundle, serve))

    def use(self, model: Model) -> None:
        """Requests from now on get `model`; those already queued get the one they came for."""
        self._model = dataclasses.replace(model, task=_task(model.bundle, self.serve))
        self.refused = None

    def configure(self, serve: Serve) -> None:
        """New limits, at once and without loading anything.

        Raises:
            ConfigError: they allow no rung of the loaded version, or name one that is not there; nothing has changed.
        """
        if self._model is not None:
            self._model.ladder.check(_limits(serve))
        self.serve = serve
        self._batcher.configure(_limits(serve))
        if self._model is not None:
            self._model = dataclasses.replace(self._model, task=_task(self._model.bundle, serve))

    @property
    def is_ready(self) -> bool:
        return self._model is not None

    @property
    def max_rows(self) -> int:
        """Of one request."""
        return self.serve.max_batch * PASSES_PER_REQUEST

    def model(self, name: str, version: str | None = None) -> Model:
        """The loaded version. Raises RequestError 404 for another name or version, 503 when none is loaded."""
        if name != self.name:
            raise refusal(404, "model", name, "unknown model", f"this endpoint serves {self.name!r}")
        if self._model is None:
            raise RequestError(503, "no model version is loaded yet; try again in 1 s", {"retry-after": "1"})
        if version is not None and version != str(self._model.version):
            mend = f"version {self._model.version} is loaded; name it or leave the version out"
            raise refusal(404, "version", version, f"not a loaded version of {name}", mend)
        return self._model

    def deadline(self, arrived: float, bound_s: float) -> float:
        """When a request's answer is due, of which the client allows `bound_s`: the objective's time, if shorter.

        An answer that comes later all the same is still sent, as the client did not ask for that.
        """
        latency_ms = self.serve.objective.latency_ms
        return arrived + (bound_s if latency_ms is None else min(bound_s, latency_ms / 1000))

    async def predict(self, model: Model, rows: np.ndarray, deadline: float) -> Answer:
        """Rows [n, *shape] in the encoding's dtype, answered before `deadline` (time.monotonic()).

        Raises:
            RequestError: 429 when the queue is full or too long for the deadline, 504 when no rung can answer
                in time, or could any more when its turn came.
        """
        batched = await self._batcher.submit(model.ladder, rows, deadline)
        return Answer(batched.outputs, model, batched.variant, batched.queue_s * 1000, batched.compute_s * 1000)

    def close(self) -> None:
        self._batcher.close()


def refusal(status: int, field: str, value: object, problem: str, mend: str) -> RequestError:
    """A refused request in the same words as a user's mistake on the command line."""
    return RequestError(status, str(UserError(field, _Brief(value), problem, mend)))


class _Brief:
    """Shown by its beginning: what a client sent may be megabytes, of which an error shows some letters."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        value = self._value
        if isinstance(value, list | dict):
            return reprlib.repr(value)
        return repr(value[:1000] if isinstance(value, str | bytes) else value)


def _limits(serve: Serve) -> Limits:
    variants = None if serve.rungs is None else frozenset(serve.rungs)
    return Limits(serve.max_batch, variants, max_wait_s=serve.max_wait, max_queue=serve.max_queue)


def _task(bundle: Bundle, serve: Serve) -> Task:
    # The bundle remembers the limits of the day it was made; those of today count.
    return load_task(bundle.experiment.model_copy(update={"serve": serve}))
