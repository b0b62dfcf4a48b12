"""The model of one endpoint: loads versions from their bundles, swaps them, and answers rows of numbers.

Every protocol in front is a translation of `Core.predict`. Knows neither Ray nor HTTP, and never imports
torch: what a version runs is opened in `serve.ladder`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import reprlib
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cluster.config import Serve
from cluster.errors import ConfigError, RequestError, UserError
from ladder.bundle import Bundle
from serve.batcher import Batcher, Limits
from serve.counters import Counters
from serve.envelope import LiveEnvelope, admits
from serve.ladder import Ladder, check_rungs, open_forwards, open_ladder
from serve.queues import unadmitted
from serve.recorder import Recorder
from tasks.task import Files, Task, load_task

PASSES_PER_REQUEST = 16  # more rows than this many full batches in one request would keep all others waiting
# Through the proxy and back: 1 ms at the median and 8 ms at the 99th percentile on a machine that had three times as
# much to do as it has cores. Of a short objective it may not take more than a share.
WAY_S, WAY_SHARE = 0.005, 0.1
_FLOOR = "serve.objective.accuracy_at_least"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Model:
    """One loaded version, ready to answer; its rungs map rows [n, *shape] to float32 [n, width]."""

    bundle: Bundle
    version: int
    ladder: Ladder
    task: Task


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


class Core:
    """One named model. Call every method but `load` from one event loop."""

    def __init__(self, name: str, serve: Serve) -> None:
        self.name, self.serve = name, serve
        self.envelope = LiveEnvelope()
        self.counters = Counters()
        self._batcher = Batcher(_limits(serve, self.envelope), self.counters)
        self._model: Model | None = None
        self.refused: dict[str, Any] | None = None  # the version that was to be next and could not be loaded
        self.recorder: Recorder | None = None

    @staticmethod
    def load(bundle: Bundle, version: int, serve: Serve, threads: int | None = None) -> Model:
        """Read, check and warm up a version; takes seconds, so call it from another thread.

        `threads` are those of a forward pass, if not what `serve` says.

        Raises:
            NotFoundError: a file is gone, or the bundle has no variant a replica can run.
            DamagedError: a file is not what the bundle's manifest says.
            TrimtabError: a rung does not load, or answers nonsense.
            ConfigError: `serve` allows none of the rungs, or names one that is not there.
        """
        ladder = open_ladder(bundle, serve.max_batch, threads or serve.threads)
        ladder.check(_limits(serve))
        task = _task(bundle, serve, functools.cache(bundle.file))
        task.open()
        return Model(bundle, version, ladder, task)

    def use(self, model: Model) -> None:
        """Requests from now on get `model`; those already queued get the one they came for."""
        self._model = _renewed(model, self.serve)
        self.refused = None
        self._batcher.configure(self._limits())

    def configure(self, serve: Serve) -> None:
        """New limits, at once and without loading anything; the envelope on top of them stays.

        Raises:
            ConfigError: they allow no rung of the loaded version, or name one that is not there; nothing has changed.
        """
        if self._model is not None:
            self._model.ladder.check(_limits(serve))
        self.serve = serve
        if self.recorder is not None:
            self.recorder.record = serve.record
        self._batcher.configure(self._limits())
        if self._model is not None:
            self._model = _renewed(self._model, serve)

    def apply(self, envelope: LiveEnvelope) -> None:
        """A new envelope, from the next batch and the next request on.

        Raises:
            ConfigError: it is not newer than the one that holds, allows no rung of the loaded version, or names one
                that is not there; nothing has changed.
        """
        if envelope == self.envelope:
            return
        if envelope.epoch <= self.envelope.epoch:
            mend = "send a larger epoch"
            raise ConfigError("envelope.epoch", envelope.epoch, f"{self.envelope.epoch} holds already", mend)
        limits = _limits(self.serve, envelope)
        if self._model is not None:
            if envelope.variants is not None:
                check_rungs(envelope.variants, self._model.ladder.variants, "envelope.variants")
            floor = self.serve.objective.accuracy_at_least or 0.0
            field = "envelope.least_accuracy" if envelope.least_accuracy > floor else _FLOOR
            self._model.ladder.check(limits, field)
        self.envelope = envelope
        self._batcher.configure(limits)

    @property
    def threads(self) -> int:
        """Of a forward pass, as it should be."""
        return self.envelope.threads or self.serve.threads

    @property
    def has_threads(self) -> bool:
        """Whether the loaded version has as many threads as it should."""
        return self._model is None or self._model.ladder.threads == self.threads

    async def thread(self) -> None:
        """Open the loaded version's rungs anew with as many threads as they should have, and swap them in.

        Raises as `load` does.
        """
        while not self.has_threads and self._model is not None:
            model, threads = self._model, self.threads
            max_batch = self.serve.max_batch
            forwards = await asyncio.to_thread(open_forwards, model.bundle, max_batch, threads)
            model.ladder.use(forwards, threads)

    def _limits(self) -> Limits:
        """Those of the serve section and the envelope, as far as the loaded version has the envelope's rungs."""
        limits = _limits(self.serve, self.envelope)
        if self._model is None or any(map(limits.allows, self._model.ladder.rungs)):
            return limits
        words = "envelope %d allows no rung of version %d, whose rungs are those of the experiment until it changes"
        _log.warning(words, self.envelope.epoch, self._model.version)
        return _limits(self.serve, self.envelope.model_copy(update={"variants": None, "least_accuracy": 0.0}))

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

        The objective is a promise to the client, so a little of it is left for the way to and from the replica. An
        answer that comes later all the same is still sent, as the client did not ask for that.
        """
        latency_ms = self.serve.objective.latency_ms
        if latency_ms is None:
            return arrived + bound_s
        objective_s = latency_ms / 1000
        return arrived + min(bound_s, objective_s - min(WAY_S, WAY_SHARE * objective_s))

    async def predict(
        self, model: Model, rows: np.ndarray, deadline: float, request_id: str = "", received: float | None = None
    ) -> Answer:
        """Rows [n, *shape] in the encoding's dtype, answered before `deadline` (time.monotonic()).

        `received` is when the request's first byte came, if not now; its time is counted from there.

        Raises:
            RequestError: 429 when the queue is full or too long for the deadline, or the envelope does not let it in;
                504 when no rung can answer in time, or could any more when its turn came.
        """
        envelope, counters = self.envelope, self.counters
        counters.arrived_requests += 1
        counters.arrived_rows += len(rows)
        if envelope.admit < 1.0 and not admits(envelope.admit, request_id):
            counters.refuse("admission", len(rows))
            raise unadmitted(envelope.admit)
        try:
            outputs, variant, queue_s, compute_s = await self._batcher.submit(model.ladder, rows, deadline, received)
        except asyncio.CancelledError:
            if time.monotonic() < deadline:
                counters.cancelled += 1
            else:
                counters.refuse("late", len(rows))
            raise
        if self.recorder is not None:
            self.recorder.offer(request_id, model.version, variant, rows, outputs)
        return Answer(outputs, model, variant, queue_s * 1000, compute_s * 1000, envelope.epoch)

    @property
    def forward_s(self) -> float:
        """How long the present forward pass has run; 0 when none does."""
        return self._batcher.forward_s

    def statistics(self) -> dict[str, Any]:
        """All counts since the start, and what is so just now."""
        batcher, model = self._batcher, self._model
        waiting = {"requests": batcher.num_waiting, "rows": batcher.num_waiting_rows, "oldest_s": batcher.oldest_s}
        return {
            "epoch": self.envelope.epoch,
            "version": None if model is None else model.version,
            **self.counters.to_json(() if model is None else model.ladder.rungs),
            "waiting": waiting,
            "forward_s": batcher.forward_s,
        }

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


def _limits(serve: Serve, envelope: LiveEnvelope | None = None) -> Limits:
    """The envelope's word where it has one; it neither allows a rung that `serve` does not, nor lowers its floor."""
    over = envelope or LiveEnvelope()
    allowed = [set(names) for names in (serve.rungs, over.variants) if names is not None]
    return Limits(
        over.max_batch or serve.max_batch,
        frozenset(set.intersection(*allowed)) if allowed else None,
        max(over.least_accuracy, serve.objective.accuracy_at_least or 0.0),
        over.caution,
        over.concurrency or serve.concurrency,
        max_wait_s=serve.max_wait if over.max_wait_s is None else over.max_wait_s,
        max_queue=over.max_queue or serve.max_queue,
    )


def _task(bundle: Bundle, serve: Serve, files: Files) -> Task:
    # The bundle remembers the limits of the day it was made; those of today count.
    return load_task(bundle.experiment.model_copy(update={"serve": serve}), files)


def _renewed(model: Model, serve: Serve) -> Model:
    """The model with other limits; what its task has read stays in memory."""
    return dataclasses.replace(model, task=_task(model.bundle, serve, model.task.files))
