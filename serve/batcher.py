"""Gathers requests' rows into forward passes, which run one at a time on a thread beside the event loop.

The queue is in the order of deadlines; which rung computes the next batch, and how many requests are in it, is
decided in `ladder.choose` when the thread is free. Everything but the forward pass itself happens on the loop, so
there are no locks. Knows nothing of models, HTTP or Ray: a request brings rows, a ladder, and a deadline.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ladder.choose import Envelope, Rung, choose, predicted_wait
from ladder.latency import learn
from serve.ladder import Ladder
from serve.queues import Arrivals, Batched, Queues, Waiting, full, hopeless, late, overloaded


@dataclass(frozen=True, slots=True)
class Limits(Envelope):
    """The envelope, and what else bounds the queue."""

    max_wait_s: float = 0.0  # how long a row waits for company
    max_queue: int = 512  # requests waiting


@dataclass(eq=False, slots=True)
class _Batch:
    """What the thread is given, and what it brings back."""

    requests: list[Waiting]
    ladder: Ladder
    rung: Rung
    max_batch: int
    started: float = 0.0
    ended: float = 0.0
    passes: list[tuple[int, float]] = field(default_factory=list)  # (rows, seconds) of those that went well
    outputs: np.ndarray | None = None
    error: Exception | None = None


class Batcher:
    """Call every method from one event loop; `close` when done."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._queues = Queues()
        self._arrivals = Arrivals()
        self._busy = False
        self._free_at = 0.0  # when the pass in progress ends, as predicted
        self._timer: asyncio.TimerHandle | None = None
        # One thread: forward passes never compete with each other for the processor.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="forward")

    @property
    def num_waiting(self) -> int:
        return self._queues.num_waiting

    def configure(self, limits: Limits) -> None:
        """Hold from the next batch and the next request on."""
        self._limits = limits
        if self._timer is not None:  # set for the earlier wait
            self._timer.cancel()
            self._waited(asyncio.get_running_loop())

    def submit(self, ladder: Ladder, rows: np.ndarray, deadline: float) -> asyncio.Future[Batched]:
        """`rows` [n, ...] to be computed by a rung of `ladder` before `deadline` (time.monotonic()).

        Rows are batched with neighbours that bring the very same `ladder`. Cancelling the future takes
        the request out of the queue. More rows than `max_batch` are computed in several passes.

        Raises:
            RequestError: 429, the queue is full, or so long that the deadline would pass in it; 504, no rung
                is fast enough for the deadline. The future raises 504 when that shows only later, else
                whatever the forward pass raised.
        """
        waiting = Waiting(ladder, rows, time.monotonic(), deadline)
        self._arrivals.count(waiting.num_rows, waiting.arrived)
        self._admit(waiting)
        self._queues.enter(waiting)
        self._next(waiting.get_loop())
        return waiting

    def close(self) -> None:
        """Waiting requests are cancelled; a forward pass in progress is not waited for."""
        for waiting in list(self._queues):
            waiting.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _admit(self, new: Waiting) -> None:
        """Raises RequestError for what could not be answered in time, or would make another one late."""
        queues, rungs, left_s = self._queues, new.ladder.rungs, new.deadline - new.arrived
        if queues.num_waiting >= self._limits.max_queue:
            raise full(queues.num_waiting)
        limits, queue = new.ladder.within(self._limits), queues.of(new.ladder)
        free_at = max(new.arrived, self._free_at)
        wait_s = predicted_wait(queues.num_rows + new.num_rows, rungs, limits)
        if free_at + wait_s <= new.deadline:
            return
        if queue and new.deadline < queue[-1].deadline and free_at + wait_s <= queue[-1].deadline:
            before = sum(waiting.num_rows for waiting in queue if waiting.deadline <= new.deadline)
            wait_s = predicted_wait(before + new.num_rows, rungs, limits)
            if free_at + wait_s <= new.deadline:
                return
        least_s = predicted_wait(new.num_rows, rungs, limits)
        raise hopeless(least_s, left_s) if least_s > left_s else overloaded(free_at - new.arrived + wait_s, left_s)

    # The next batch

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start a forward pass, or see to it that one starts when the first row has waited long enough."""
        if self._busy or not self._queues:
            return
        now = time.monotonic()
        if self._limits.max_wait_s > 0 and (left_s := self._may_wait_s(now)) > 0:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_later(left_s, self._waited, loop)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = self._take(now)
        if batch is not None:
            self._busy = True
            self._pool.submit(self._run, loop, batch)

    def _waited(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._next(loop)

    def _may_wait_s(self, now: float) -> float:
        """How long the most urgent request may wait for company, which must not cost it the best rung."""
        first, limits = self._queues.most_urgent[0], self._limits
        if self._queues.num_rows >= limits.max_batch:
            return 0.0
        best = next(filter(first.ladder.within(limits).allows, first.ladder.rungs))
        latest = first.deadline - best.latency.upper(limits.max_batch, limits.spreads)
        return min(first.arrived + limits.max_wait_s, latest) - now

    def _take(self, now: float) -> _Batch | None:
        """The next batch; who cannot be answered in time any more is told so."""
        while self._queues:
            queue = self._queues.most_urgent
            ladder = queue[0].ladder
            limits = ladder.within(self._limits)
            choice = choose(queue, ladder.rungs, now, limits, self._arrivals.rows_per_s(now))
            requests, refused = self._queues.take(ladder, choice.num_requests, choice.refused)
            for waiting in refused:
                waiting.set_exception(late(now - waiting.arrived))
            if choice.variant is not None:
                self._free_at = now + choice.seconds
                return _Batch(requests, ladder, ladder.by_variant[choice.variant], limits.max_batch)
        return None

    # The forward pass

    def _run(self, loop: asyncio.AbstractEventLoop, batch: _Batch) -> None:
        """The only code off the loop."""
        batch.started = started = time.monotonic()
        requests, forward, outputs = batch.requests, batch.ladder.forwards[batch.rung.variant], []
        try:
            rows = requests[0].rows if len(requests) == 1 else np.concatenate([waiting.rows for waiting in requests])
            for start in range(0, len(rows), batch.max_batch):
                if start and requests[0].done():
                    break  # only a request that is alone has several passes, and nobody waits for it any more
                part = rows[start : start + batch.max_batch]
                outputs.append(forward(part))
                ended = time.monotonic()
                batch.passes.append((len(part), ended - started))
                started = ended
            batch.outputs = outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
        except Exception as e:
            batch.error = e
        batch.ended = time.monotonic()
        loop.call_soon_threadsafe(self._finish, loop, batch)

    def _finish(self, loop: asyncio.AbstractEventLoop, batch: _Batch) -> None:
        for num_rows, seconds in batch.passes:
            learn(batch.ladder.latencies, batch.rung.latency, num_rows, seconds)
        self._busy, self._free_at = False, 0.0
        self._next(loop)  # first the thread gets its next batch, then the answers go out
        start, outputs, compute_s = 0, batch.outputs, batch.ended - batch.started
        for waiting in batch.requests:
            stop = start + waiting.num_rows
            if waiting.done():
                pass
            elif outputs is None:
                waiting.set_exception(batch.error or RuntimeError("the forward pass gave nothing"))
            else:
                queue_s = batch.started - waiting.arrived
                waiting.set_result(Batched(outputs[start:stop], batch.rung.variant, queue_s, compute_s))
            start = stop
