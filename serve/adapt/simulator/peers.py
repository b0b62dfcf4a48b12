"""Rivals inside a replica: no ladder, no admission; requests are computed as they come, on one rung.

Only for comparison; nothing that serves imports this. Pure.
"""

from __future__ import annotations

from serve.adapt.simulator.replica import Batch, Replica, Request


class Fifo(Replica):
    """What `serve.batch` does: the first rung allowed, whatever waits, `max_batch` rows at most; nobody is refused."""

    def refusal(self, new: Request, now: float) -> str | None:  # noqa: ARG002 (nothing keeps anybody out)
        return None

    def next(self, now: float) -> Batch | None:
        if not self.queue:
            return None
        rung, rows, num_requests = self.outlook.rungs[0], 0, 0
        for request in self.queue:
            rows += request.num_rows
            if num_requests and rows > self.most_rows:
                break
            num_requests += 1
        until = now + rung.latency.predict(rows)
        return self.begin(self._taken(num_requests, ()), self._places[rung.variant], now, until)

    @property
    def most_rows(self) -> int:
        return self.limits.max_batch


class Aimd(Fifo):
    """Clipper's batch size (D. Crankshaw et al., NSDI 2017, 4.3): one more row after each full batch that held the
    objective, a tenth less after one that did not."""

    _size = 1.0

    @property
    def most_rows(self) -> int:
        return max(1, min(int(self._size), self.limits.max_batch))

    def finish(self, batch: Batch, now: float) -> int:
        first = batch.requests[0]
        if now - batch.started > first.deadline - first.arrived:
            self._size = max(1.0, 0.9 * self._size)
        elif batch.num_rows >= self.most_rows:
            self._size = min(self._size + 1.0, float(self.limits.max_batch))
        return super().finish(batch, now)
