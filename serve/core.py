"""The model of one endpoint: loads versions from their bundles, swaps them, and answers rows of numbers.

Every protocol in front is a translation of `Core.answer`. Knows neither Ray nor HTTP, and never imports
torch: what a version runs is opened in `serve.ladder`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import reprlib
import time
from typing import Any

import numpy as np

from cluster.config import Serve
from cluster.errors import ConfigError, RequestError, UserError
from ladder.bundle import Bundle
from serve.batcher import Batcher
from serve.counters import Counters
from serve.envelope import LiveEnvelope
from serve.ladder import check_rungs, open_forwards, open_ladder
from serve.limits import Limits, limits_of
from serve.model import Answer, Meant, Model, Question, Read, Say, open_task
from serve.queues import unadmitted
from serve.recorder import Recorder
from serve.rivals import Rivals

PASSES_PER_REQUEST = 16  # more rows than this many full batches in one request would keep all others waiting
# Through the proxy and back: 1 ms at the median and 8 ms at the 99th percentile on a machine that had three times as
# much to do as it has cores. Of a short objective it may not take more than a share.
WAY_S, WAY_SHARE = 0.005, 0.1
VERSION = "x-trimtab-version"  # header, or metadata, by which a client chooses
_FLOOR = "serve.objective.accuracy_at_least"
_log = logging.getLogger(__name__)


class Core:
    """One named model. Call every method but `load` from one event loop."""

    def __init__(self, name: str, serve: Serve) -> None:
        self.name, self.serve = name, serve
        self.envelope = LiveEnvelope()
        self.counters = Counters()
        limits = limits_of(serve, self.envelope)
        self._batcher = Batcher(limits, self.counters)
        self.rivals = Rivals(self, self._batcher, limits)
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
        task = open_task(bundle, serve, functools.cache(bundle.file))
        ladder = open_ladder(bundle, serve.max_batch, threads or serve.threads, task)
        ladder.check(limits_of(serve))
        task.open()
        return Model(bundle, version, ladder, task)

    def use(self, model: Model) -> None:
        """Requests from now on get `model`; those already queued get the one they came for."""
        self._model = model.renewed(self.serve)
        self.refused = None
        self._batcher.configure(self._limits())
        self.rivals.match()

    def configure(self, serve: Serve) -> None:
        """New limits, at once and without loading anything; the envelope on top of them stays.

        Raises:
            ConfigError: they allow no rung of the loaded version, or name one that is not there; nothing has changed.
        """
        if self._model is not None:
            self._model.ladder.check(limits_of(serve))
        self.serve = serve
        if self.recorder is not None:
            self.recorder.record = serve.record
        self._batcher.configure(self._limits())
        self.rivals.configure(limits_of(serve, self.envelope))
        if self._model is not None:
            self._model = self._model.renewed(serve)
            self.rivals.match()

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
        limits = limits_of(self.serve, envelope)
        if self._model is not None:
            if envelope.variants is not None:
                check_rungs(envelope.variants, self._model.ladder.variants, "envelope.variants")
            floor = self.serve.objective.accuracy_at_least or 0.0
            field = "envelope.least_accuracy" if envelope.least_accuracy > floor else _FLOOR
            self._model.ladder.check(limits, field)
        self.envelope = envelope
        self._batcher.configure(limits)
        self.rivals.configure(limits)
        self.rivals.want(envelope.candidate)

    @property
    def threads(self) -> int:
        """Of a forward pass, as it should be."""
        return self.envelope.threads or self.serve.threads

    @property
    def has_threads(self) -> bool:
        """Whether the loaded versions have as many threads as they should."""
        return all(model.ladder.threads == self.threads for model in self._models)

    async def thread(self) -> None:
        """Open the loaded versions' rungs anew with as many threads as they should have, and swap them in.

        Raises as `load` does.
        """
        while wrong := [model for model in self._models if model.ladder.threads != self.threads]:
            model, threads = wrong[0], self.threads
            forwards = await asyncio.to_thread(open_forwards, model.bundle, self.serve.max_batch, threads, model.task)
            model.ladder.use(forwards, threads)

    @property
    def stable(self) -> Model | None:
        """The version that answers all requests but a candidate's."""
        return self._model

    @property
    def _models(self) -> tuple[Model, ...]:
        return tuple(model for model in (self._model, self.rivals.candidate) if model is not None)

    @property
    def versions(self) -> list[str]:
        """Numbers of the loaded versions, the stable one first."""
        return [str(model.version) for model in self._models]

    def _limits(self) -> Limits:
        """Those of the serve section and the envelope, as far as the loaded version has the envelope's rungs."""
        limits = limits_of(self.serve, self.envelope)
        if self._model is None or any(map(limits.allows, self._model.ladder.rungs)):
            return limits
        words = "envelope %d allows no rung of version %d, whose rungs are those of the experiment until it changes"
        _log.warning(words, self.envelope.epoch, self._model.version)
        return limits_of(self.serve, self.envelope.model_copy(update={"variants": None, "least_accuracy": 0.0}))

    @property
    def is_ready(self) -> bool:
        return self._model is not None

    @property
    def max_rows(self) -> int:
        """Of one request."""
        return self.serve.max_batch * PASSES_PER_REQUEST

    def model(self, name: str, version: str | None = None, field: str = "version") -> Model:
        """The stable version, or the loaded one of that number, which `field` brought.

        Raises RequestError 404 for another name or version, 503 when none is loaded.
        """
        if name != self.name:
            raise refusal(404, "model", name, "unknown model", f"this endpoint serves {self.name!r}")
        if self._model is None:
            raise RequestError(503, "no model version is loaded yet; try again in 1 s", {"retry-after": "1"})
        if version is None or version == str(self._model.version):
            return self._model
        candidate = self.rivals.candidate
        if candidate is not None and version == str(candidate.version):
            return candidate
        have = " and ".join(self.versions)
        mend = f"version {have} is" if candidate is None else f"versions {have} are"
        words = f"{mend} loaded; name it or leave the version out"
        raise refusal(404, field, version, f"not a loaded version of {name}", words)

    def meant(self, name: str, version: str | None, wish: str | None, request_id: str) -> Meant:
        """Which version a request is for: the one its path names by number, else `wish`, else by its id.

        `wish` is the header's `stable`, `candidate` or a number. Raises RequestError as `model` does, and 404 for a
        candidate that is not there.
        """
        stable = self.model(name, version)
        if version is None and wish is None:
            return self.rivals.meant(stable, request_id)
        if version is not None:
            return Meant(stable, True)
        if wish == "stable":
            return Meant(stable, False)
        if wish != "candidate":
            return Meant(self.model(name, wish, VERSION), True)
        if self.rivals.candidate is None:
            state = self.rivals.state
            problem = f"is {state}" if state in ("loading", "refused") else "is not tried just now"
            raise refusal(404, VERSION, wish, f"a candidate {problem}", "leave the header out")
        return Meant(self.rivals.candidate, False)

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

    async def answer(
        self, meant: Meant, read: Read, say: Say, deadline: float, request_id: str, received: float
    ) -> Any:
        """What `say` makes of the answer to the rows that `read` brings; see `serve.model.Question` for all of these.

        Raises as `predict` does, and what the two raise.
        """
        model = meant.model
        if model is not self._model or self.rivals.candidate is not None:
            return await self.rivals.answer(meant, Question(read, say, deadline, request_id, received))
        rows, about = await read(model)
        self.arrive(len(rows))
        return say(await self.compute(model, rows, deadline, request_id, received), about)

    async def predict(
        self, model: Model, rows: np.ndarray, deadline: float, request_id: str = "", received: float | None = None
    ) -> Answer:
        """Rows [n, *shape] in the encoding's dtype, answered before `deadline` (time.monotonic()).

        `received` is when the request's first byte came, if not now; its time is counted from there.

        Raises:
            RequestError: 429 when the queue is full or too long for the deadline, or the envelope does not let it in;
                504 when no rung can answer in time, or could any more when its turn came.
        """
        self.arrive(len(rows))
        return await self.compute(model, rows, deadline, request_id, received)

    def arrive(self, num_rows: int) -> None:
        """A request to be counted. Raises RequestError 429 when the envelope does not let it in.

        It is drawn for each: by an id, a client that sends the same one always would be shut out for good.
        """
        counters, admit = self.counters, self.envelope.admit
        counters.arrived_requests += 1
        counters.arrived_rows += num_rows
        if random.random() >= admit:  # noqa: S311 (nothing secret)
            counters.refuse("admission", num_rows)
            raise unadmitted(admit)

    async def compute(
        self, model: Model, rows: np.ndarray, deadline: float, request_id: str, received: float | None
    ) -> Answer:
        """As `predict`, of a request that has arrived."""
        epoch = self.envelope.epoch
        try:
            outputs, variant, queue_s, compute_s = await self._batcher.submit(model.ladder, rows, deadline, received)
        except asyncio.CancelledError:
            self.left(len(rows), deadline)
            raise
        if self.recorder is not None:
            self.recorder.offer(request_id, model.version, variant, rows, outputs)
        return Answer(outputs, model, variant, queue_s * 1000, compute_s * 1000, epoch)

    def left(self, num_rows: int, deadline: float) -> None:
        """A request that has arrived, and that nobody waits for any more."""
        if time.monotonic() < deadline:
            self.counters.cancelled += 1
        else:
            self.counters.refuse("late", num_rows)

    @property
    def forward_s(self) -> float:
        """How long the present forward pass has run; 0 when none does."""
        return self._batcher.forward_s

    def statistics(self) -> dict[str, Any]:
        """All counts since the start, and what is so just now."""
        batcher, model, (requests, rows, busy_s) = self._batcher, self._model, self.rivals.load
        counts = self.counters.to_json(() if model is None else model.ladder.rungs)
        return {
            "epoch": self.envelope.epoch,
            "version": None if model is None else model.version,
            **counts,
            "busy_s": counts["busy_s"] + busy_s,
            "waiting": {
                "requests": batcher.num_waiting + requests,
                "rows": batcher.num_waiting_rows + rows,
                "oldest_s": batcher.oldest_s,
            },
            "forward_s": batcher.forward_s,
            "rivals": self.rivals.to_json(),
        }

    def close(self) -> None:
        self._batcher.close()
        self.rivals.close()


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
