"""Requests that the candidate answers beside the stable version, unseen by anyone, and how far the two agree.

One at a time, only while nobody waits, and only for a share of the time: who sent the request has the stable version's
answer already. Knows neither which requests are chosen nor what is made of the counts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from cluster.errors import RequestError, first_line
from serve.batcher import Batcher
from serve.model import Answer, Model
from serve.tally import ShadowCount

LEAST_S = 1.0  # that it may take: a busy machine stands still for some tenths of it
PATIENCE = 20.0  # or so many times what the stable version took, where that is longer
REST, MOST_REST_S = 4.0, 2.0  # times what one took, before the next: a fifth of a core; one that hangs takes none
_log = logging.getLogger(__name__)

Rows = Callable[[], Awaitable[np.ndarray]]


class Shadow:
    """Call it from one event loop."""

    def __init__(self, count: ShadowCount) -> None:
        self._count = count
        self._running: asyncio.Task[None] | None = None
        self._rests_until = 0.0  # time.monotonic()
        self._told = 0  # the version whose failure the log has

    def offer(self, candidate: Model, batcher: Batcher, rows: Rows, answer: Answer, is_busy: bool) -> None:
        """Have the candidate answer what the stable version answered with `answer`, unless there is no time for it."""
        num_rows = len(answer.outputs)
        if is_busy or time.monotonic() < self._rests_until or not (self._running is None or self._running.done()):
            self._count.shed += num_rows
            return
        self._running = asyncio.get_running_loop().create_task(self._mirror(candidate, batcher, rows, answer))

    async def _mirror(self, candidate: Model, batcher: Batcher, rows: Rows, answer: Answer) -> None:
        count, num_rows, began = self._count, len(answer.outputs), time.monotonic()
        bound_s = max(LEAST_S, PATIENCE * answer.compute_ms / 1000)
        try:
            async with asyncio.timeout(bound_s):
                batched = await batcher.submit(candidate.ladder, await rows(), began + bound_s)
            agreed, difference = compared(batched.outputs, candidate, answer)
        except Exception as error:
            if isinstance(error, RequestError) and error.status == 429:
                count.shed += num_rows
                return
            self._tell(candidate, error)
            count.failed += num_rows
        else:
            count.agreed += agreed
            count.difference += difference
        count.rows += num_rows
        ended = time.monotonic()
        self._rests_until = ended + min(REST * (ended - began), MOST_REST_S)

    def _tell(self, candidate: Model, error: Exception) -> None:
        if self._told != candidate.version:
            self._told = candidate.version
            _log.warning("version %d fails in shadow: %s", candidate.version, first_line(error), exc_info=error)


def compared(outputs: np.ndarray, candidate: Model, answer: Answer) -> tuple[float, float]:
    """The agreement of outputs [n, width] with the stable version's answer, and their mean difference, summed over n.

    Where the versions have other labels, the same label is agreement, and outputs have no difference.

    Raises ValueError for outputs of another form than the candidate's, and what the task does.
    """
    num_rows, stable = len(answer.outputs), answer.model
    if outputs.shape != (num_rows, candidate.width):
        raise ValueError(f"outputs {outputs.shape} for {num_rows} rows")
    if outputs.shape == answer.outputs.shape and candidate.bundle.encoding.labels == stable.bundle.encoding.labels:
        agreed = stable.task.agreement(outputs, answer.outputs)
        difference = np.abs(outputs.astype(np.float64) - answer.outputs).mean(axis=1)
        return float(np.sum(agreed)), float(np.sum(difference))
    return _labelled_alike(candidate.task.labels(outputs, candidate.bundle.encoding), answer), 0.0


def _labelled_alike(labels: list[str] | None, answer: Answer) -> float:
    stable: Any = answer.model
    expected = stable.task.labels(answer.outputs, stable.bundle.encoding)
    if labels is None or expected is None:
        return 0.0
    return float(sum(one == other for one, other in zip(labels, expected, strict=True)))
