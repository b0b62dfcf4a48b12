"""Gathers requests' rows into forward passes, which run on threads beside the event loop, short ones on it.

The queue is in the order of deadlines; which rung computes the next batch, and how many requests are in it, is
decided in `ladder.choose` when a thread is free. Everything but a long forward pass itself happens on the loop, so
there are no locks. Knows nothing of models, HTTP or Ray: a request brings rows, a ladder, and a deadline.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

import numpy as np

from ladder.choose import Outlook
from ladder.latency import learn
from serve.counters import Counters
from serve.ladder import Ladder
from serve.limits import Limits
from serve.queues import Arrivals, Batch, Batched, NotFiniteError, Queues, Waiting, full, hopeless, late, overloaded
from serve.workers import Workers

# A pass that is predicted to be shorter runs on the loop: handing it to a thread and back would take about as long as
# it does, and no request is kept waiting for longer than by reading another one's JSON.
INLINE_S = 0.0003


class Batcher:
    """Call every method from one event loop; `close` when done."""

    def __init__(self, limits: Limits | None = None, counters: Counters | None = None) -> None:
        self._limits = limits or Limits()
        self.counters = counters or Counters()
        self._queues = Queues()
        self._arrivals = Arrivals()
        self._outlooks: dict[Ladder, Outlook] = {}
        self._running: list[Batch] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_called = False  # `_next`, at the loop's next turn
        self._workers = Workers("forward")

    @property
    def num_waiting(self) -> int:
        self._queues.forget_cancelled()
        return self._queues.num_waiting

    @property
    def num_waiting_rows(self) -> int:
        self._queues.forget_cancelled()
        return self._queues.num_rows

    @property
    def oldest_s(self) -> float:
        """How long the one that waits longest has waited; 0 when nobody does."""
        self._queues.forget_cancelled()
        now = time.monotonic()
        return now - min((waiting.arrived for waiting in self._queues), default=now)

    @property
    def forward_s(self) -> float:
        """How long the forward pass that runs longest has run; 0 when none does."""
        now = time.monotonic()
        return now - min((batch.started_pass or now for batch in self._running), default=now)

    def configure(self, limits: Limits) -> None:
        """Hold from the next batch and the next request on."""
        more = limits.workers > self._limits.workers
        self._limits = limits
        self._outlooks.clear()
        if self._timer is not None:  # set for the earlier wait
            self._timer.cancel()
            self._waited(asyncio.get_running_loop())
        elif more and self._queues:
            self._next(asyncio.get_running_loop())

    @property
    def is_waited_for(self) -> bool:
        """Whether a request waits, or has until a moment ago."""
        return bool(self._queues)

    def needs_s(self, ladder: Ladder, num_rows: int) -> float:
        """How long rows that came now would take, with all that is before them, as predicted."""
        now = time.monotonic()
        return self._free_at(now) - now + self._outlook(ladder).wait_s(self._queues.num_rows + num_rows, num_rows)

    def submit(
        self,
        ladder: Ladder,
        rows: np.ndarray,
        deadline: float,
        received: float | None = None,
        *,
        is_counted: bool = True,
    ) -> asyncio.Future[Batched]:
        """`rows` [n, ...] to be computed by a rung of `ladder` before `deadline` (time.monotonic()).

        Rows are batched with neighbours that bring the very same `ladder`. Cancelling the future takes
        the request out of the queue. More rows than `max_batch` are computed in several passes. `received` is
        when its first byte came, if not now: from then on its time is counted. One that is not counted as answered
        is counted by who submits it.

        Raises:
            RequestError: 429, the queue is full, or so long that the deadline would pass in it; 504, no rung
                is fast enough for the deadline. The future raises 504 when that shows only later, else
                whatever the forward pass raised.
        """
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        began = now if received is None else received
        waiting = Waiting(ladder, rows, now, deadline, began, loop.create_future(), is_counted)
        self._arrivals.count(waiting.num_rows, now)
        self._admit(waiting)
        self._queues.enter(waiting)
        if len(self._running) < self._limits.workers:
            if self._outlook(ladder).rungs[0].latency.fixed_s < INLINE_S:
                self._soon(loop)
            else:
                self._next(loop)
        return waiting.future

    def close(self) -> None:
        """Waiting requests are cancelled; a forward pass in progress is not waited for."""
        for waiting in self._queues:
            waiting.future.cancel()
        self._queues.forget_cancelled()
        self._workers.close()

    # Arrivals

    def _admit(self, new: Waiting) -> None:
        """Raises RequestError for what could not be answered in time, or would make another one late."""
        queues, outlook = self._queues, self._outlook(new.ladder)
        if queues.num_waiting < self._limits.max_queue and self._makes(new, outlook):
            return
        queues.forget_cancelled()  # they must not keep others out
        if queues.num_waiting >= self._limits.max_queue:
            self.counters.refuse("full", new.num_rows)
            raise full(queues.num_waiting)
        if self._makes(new, outlook):
            return
        left_s, least_s = new.deadline - new.arrived, outlook.wait_s(new.num_rows, new.num_rows)
        if least_s > left_s:
            self.counters.refuse("hopeless", new.num_rows)
            raise hopeless(least_s, left_s)
        self.counters.refuse("overloaded", new.num_rows)
        raise overloaded(self.needs_s(new.ladder, new.num_rows), left_s)

    def _makes(self, new: Waiting, outlook: Outlook) -> bool:
        queues = self._queues
        return outlook.admits(new, queues.of(new.ladder), queues.num_rows, self._free_at(new.arrived))

    def _free_at(self, now: float) -> float:
        """When the next thread is free, as predicted."""
        running = self._running
        if len(running) < self._limits.workers:
            return now
        return max(now, running[0].until if len(running) == 1 else min(batch.until for batch in running))

    def _outlook(self, ladder: Ladder) -> Outlook:
        found = self._outlooks.get(ladder)
        if found is None:
            found = self._outlooks[ladder] = Outlook(ladder.rungs, ladder.within(self._limits))
        return found

    # The next batch

    def _soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at the queue when all that the loop has read by now is in it."""
        if not self._is_called:
            self._is_called = True
            loop.call_soon(self._called, loop)

    def _called(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_called = False
        self._next(loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start forward passes, or see to it that one starts when the first row has waited long enough."""
        while self._queues and len(self._running) < self._limits.workers:
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
            if batch is None:
                return
            self._running.append(batch)
            if batch.until - now < INLINE_S:
                self._compute(batch)
                self._learn(batch)
                self._tell(batch)
                if self._queues:
                    self._soon(loop)  # not at once: what the loop has to read and send comes first
                return
            self._workers.run(partial(self._run, loop, batch), len(self._running))

    def _waited(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._next(loop)

    def _may_wait_s(self, now: float) -> float:
        """How long the most urgent request may wait for company, which must not cost it the best rung."""
        first, limits = self._queues.most_urgent[0], self._limits
        if self._queues.num_rows >= limits.max_batch:
            return 0.0
        best = self._outlook(first.ladder).rungs[0]
        latest = first.deadline - best.latency.upper(limits.max_batch, limits.spreads)
        return min(first.arrived + limits.max_wait_s, latest) - now

    def _take(self, now: float) -> Batch | None:
        """The next batch; who cannot be answered in time any more is told so."""
        limits, queues = self._limits, self._queues
        queues.forget_cancelled(2 * limits.max_batch)  # as many requests as the choice looks at, at most
        while queues:
            queue = queues.most_urgent
            ladder = queue[0].ladder
            choice = self._outlook(ladder).choose(queue, now, self._arrivals.rows_per_s(now))
            requests, refused = queues.take(ladder, choice.num_requests, choice.refused)
            for waiting in refused:
                if not waiting.future.done():
                    self.counters.refuse("late", waiting.num_rows)
                    waiting.future.set_exception(late(now - waiting.arrived))
            if choice.variant is not None:
                return Batch(requests, ladder, choice.variant, limits.max_batch, now + choice.seconds)
        return None

    # The forward pass

    def _run(self, loop: asyncio.AbstractEventLoop, batch: Batch) -> None:
        """The only code off the loop."""
        self._compute(batch)
        try:  # noqa: SIM105 (dearer, and for each batch)
            loop.call_soon_threadsafe(self._finish, loop, batch)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    @staticmethod
    def _compute(batch: Batch) -> None:
        batch.started = batch.started_pass = started = time.monotonic()
        requests, outputs = batch.requests, []
        try:
            forward = batch.ladder.forwards[batch.variant]
            rows = requests[0].rows if len(requests) == 1 else np.concatenate([waiting.rows for waiting in requests])
            for start in range(0, len(rows), batch.max_batch):
                if start and requests[0].future.done():
                    break  # only a request that is alone has several passes, and nobody waits for it any more
                part = rows[start : start + batch.max_batch]
                outputs.append(forward(part))
                ended = time.monotonic()
                batch.passes.append((len(part), ended - started))
                batch.started_pass = started = ended
            whole = outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
            if len(whole) != len(rows):
                raise ValueError(f"the forward pass gave {len(whole)} rows for {len(rows)}")
            batch.outputs = whole
        except Exception as e:
            batch.error = e
        batch.ended = time.monotonic()

    def _finish(self, loop: asyncio.AbstractEventLoop, batch: Batch) -> None:
        self._learn(batch)
        self._next(loop)  # first the thread gets its next batch, then the answers go out
        self._tell(batch)

    def _learn(self, batch: Batch) -> None:
        ladder = batch.ladder
        spent = ladder.spent
        for num_rows, seconds in batch.passes:
            spent.passes += 1
            spent.rows += num_rows
            spent.seconds += seconds
            learn(ladder.latencies, ladder.by_variant[batch.variant].latency, num_rows, seconds)
        if len(self._outlooks) > 1:
            self._outlooks.clear()  # one of them may be of a version that has gone
        elif ladder in self._outlooks:
            self._outlooks[ladder].renew()
        self._running.remove(batch)

    def _tell(self, batch: Batch) -> None:
        if batch.outputs is None:
            self._fail(batch)
        else:
            self._answer(batch, batch.outputs)

    def _answer(self, batch: Batch, outputs: np.ndarray) -> None:
        counters, started, variant = self.counters, batch.started, batch.variant
        compute_s, now, stop = batch.ended - started, time.monotonic(), 0
        num_requests = num_rows = in_time = in_time_rows = 0
        is_finite = bool(np.isfinite(outputs).all())
        for waiting in batch.requests:
            start, stop = stop, stop + waiting.num_rows
            if waiting.future.done():
                continue
            if not is_finite and not np.isfinite(outputs[start:stop]).all():
                counters.failed += 1
                waiting.future.set_exception(NotFiniteError(f"{variant} answers NaN or infinity for this input"))
                continue
            waiting.future.set_result(Batched(outputs[start:stop], variant, started - waiting.arrived, compute_s))
            if not waiting.is_counted:
                continue
            num_requests += 1
            num_rows += waiting.num_rows
            if now <= waiting.deadline:
                in_time += 1
                in_time_rows += waiting.num_rows
            counters.queue_delay.add(started - waiting.arrived)
            counters.latency.add(now - waiting.received)
        counters.answered_requests += num_requests
        counters.answered_rows += num_rows
        counters.in_time_requests += in_time
        counters.in_time_rows += in_time_rows
        counters.busy_s += compute_s
        counters.computed(variant, stop, in_time_rows, compute_s)

    def _fail(self, batch: Batch) -> None:
        error = batch.error or RuntimeError("the forward pass gave nothing")
        self.counters.busy_s += batch.ended - batch.started
        for waiting in batch.requests:
            if not waiting.future.done():
                self.counters.failed += 1
                waiting.future.set_exception(error)
