"""Gathers requests' rows into forward passes, which run one at a time on a thread beside the event loop.

Everything but the forward pass itself happens on the loop, so there are no locks. Knows nothing of models,
HTTP or Ray: a request brings rows, the function that computes them, and the moment its answer is due.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cluster.errors import RequestError

Forward = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Limits:
    """What bounds a batch and the queue."""

    max_batch: int = 32  # rows of one forward pass
    max_wait_s: float = 0.0  # how long the first row waits for company
    max_queue: int = 512  # requests waiting


@dataclass(frozen=True)
class Batched:
    """One request's part of a batch: `outputs` has one row per row submitted."""

    outputs: np.ndarray
    queue_s: float  # from submission until the forward pass began
    compute_s: float  # of the whole batch


@dataclass(eq=False, slots=True)
class _Waiting:
    forward: Forward
    rows: np.ndarray
    arrived: float
    deadline: float  # time.monotonic()
    answer: asyncio.Future[Batched]


class Batcher:
    """Call every method from one event loop; `close` when done."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._queue: deque[_Waiting] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        # One thread: forward passes never compete with each other for the processor.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="forward")

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    def configure(self, limits: Limits) -> None:
        """Hold from the next batch and the next request on."""
        self._limits = limits
        if self._timer is not None:  # set for the earlier wait
            self._timer.cancel()
            self._waited(asyncio.get_running_loop())

    def submit(self, forward: Forward, rows: np.ndarray, deadline: float) -> asyncio.Future[Batched]:
        """`rows` [n, ...] to be computed by `forward` before `deadline` (time.monotonic()).

        Rows are batched with neighbours that bring the very same `forward`. Cancelling the future takes
        the request out of the queue. More rows than `max_batch` are computed in several passes.

        Raises:
            RequestError: 429, the queue is full. The future raises 504 when the deadline passed
                before the forward pass began, else whatever `forward` raised.
        """
        if len(self._queue) >= self._limits.max_queue:
            self._forget_finished()
        if len(self._queue) >= self._limits.max_queue:
            message = f"{len(self._queue)} requests are waiting, as many as serve.max_queue allows; try again in 1 s"
            raise RequestError(429, message, {"retry-after": "1"})
        loop = asyncio.get_running_loop()
        waiting = _Waiting(forward, rows, time.monotonic(), deadline, loop.create_future())
        self._queue.append(waiting)
        self._next(loop)
        return waiting.answer

    def close(self) -> None:
        """Waiting requests are cancelled; a forward pass in progress is not waited for."""
        for waiting in self._queue:
            waiting.answer.cancel()
        self._queue.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _forget_finished(self) -> None:
        self._queue = deque(waiting for waiting in self._queue if not waiting.answer.done())

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start a forward pass, or see to it that one starts when the first row has waited long enough."""
        if self._busy or not self._queue:
            return
        left_s = self._queue[0].arrived + self._limits.max_wait_s - time.monotonic()
        if left_s > 0 and sum(len(waiting.rows) for waiting in self._queue) < self._limits.max_batch:
            if self._timer is None:
                self._timer = loop.call_later(left_s, self._waited, loop)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = self._take()
        if batch:
            self._busy = True
            self._pool.submit(self._run, loop, batch, self._limits.max_batch)

    def _waited(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._next(loop)

    def _take(self) -> list[_Waiting]:
        """The next batch: from the queue's front, one model, at most `max_batch` rows or one request."""
        batch: list[_Waiting] = []
        num_rows, now = 0, time.monotonic()
        while self._queue:
            first = self._queue[0]
            if first.answer.done():  # its caller has gone
                self._queue.popleft()
            elif first.deadline <= now:
                self._queue.popleft().answer.set_exception(late(now - first.arrived))
            elif batch and (
                num_rows + len(first.rows) > self._limits.max_batch or first.forward is not batch[0].forward
            ):
                break
            else:
                batch.append(self._queue.popleft())
                num_rows += len(first.rows)
        return batch

    def _run(self, loop: asyncio.AbstractEventLoop, batch: list[_Waiting], max_batch: int) -> None:
        """The only code off the loop."""
        outputs: np.ndarray | None = None
        error: Exception | None = None
        started = time.monotonic()
        try:
            rows = batch[0].rows if len(batch) == 1 else np.concatenate([waiting.rows for waiting in batch])
            passes = []
            for start in range(0, len(rows), max_batch):
                if start and batch[0].answer.done():
                    break  # only a request that is alone has several passes, and nobody waits for it any more
                passes.append(batch[0].forward(rows[start : start + max_batch]))
            outputs = passes[0] if len(passes) == 1 else np.concatenate(passes)
        except Exception as e:
            error = e
        loop.call_soon_threadsafe(self._finish, loop, batch, outputs, error, started, time.monotonic())

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiting],
        outputs: np.ndarray | None,
        error: Exception | None,
        started: float,
        ended: float,
    ) -> None:
        self._busy = False
        self._next(loop)  # first the thread gets its next batch, then the answers go out
        start = 0
        for waiting in batch:
            stop = start + len(waiting.rows)
            if waiting.answer.done():
                pass
            elif outputs is None:
                waiting.answer.set_exception(error or RuntimeError("the forward pass gave nothing"))
            else:
                waiting.answer.set_result(Batched(outputs[start:stop], started - waiting.arrived, ended - started))
            start = stop


def late(after_s: float) -> RequestError:
    """What a request hears whose deadline has passed."""
    return RequestError(
        504,
        f"no answer within the request's deadline ({after_s:.3g} s passed); "
        "try again, raise x-request-timeout-seconds or serve.request_timeout, or add replicas",
    )
