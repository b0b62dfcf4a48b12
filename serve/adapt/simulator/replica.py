"""One replica in virtual time: its queue, its admission, its choice of a rung, and the statistics it would send.

What it decides with is what real replicas decide with: `ladder.choose` on models that `ladder.latency` corrects from
every batch. How long a batch truly takes comes from outside. Cancelling clients, versions and threads that fail are
not simulated; the event loop has no lag.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ladder.choose import Envelope, Outlook, Rung
from ladder.latency import Latency, learn
from serve.adapt.signals import REFUSALS
from serve.queues import Arrivals
from serve.sketch import Sketch

EPOCH_S = 1_700_000_000.0  # unix time at which every simulation begins


class Request:
    """Times are virtual seconds; `number` is the place among all arrivals."""

    __slots__ = ("arrived", "deadline", "num_rows", "number")

    def __init__(self, number: int, arrived: float, deadline: float, num_rows: int) -> None:
        self.number, self.arrived, self.deadline, self.num_rows = number, arrived, deadline, num_rows


class Batch:
    """`place` is the rung's in the ladder; `until` is the end that the replica predicts."""

    __slots__ = ("num_rows", "place", "requests", "started", "until")

    def __init__(self, requests: list[Request], place: int, num_rows: int, started: float, until: float) -> None:
        self.requests, self.place, self.num_rows, self.started, self.until = requests, place, num_rows, started, until


class Replica:
    """Has `submit`, `next` and `finish` called in the order of time."""

    def __init__(self, number: int, started: float, ladder: Sequence[Rung], defaults: Envelope, max_queue: int) -> None:
        """Begins with the ladder's latency models as its profile; `defaults` holds where an envelope says nothing."""
        self.name, self.pid, self.started = f"replica-{number}", number, started
        self.rungs = [Rung(r.variant, r.accuracy, _copied(r.latency)) for r in ladder]
        self.queue: deque[Request] = deque()
        self.num_rows = 0  # waiting
        self.ongoing = 0  # requests that wait or are computed: what a router sees
        self.running: list[Batch] = []
        self.refused: list[tuple[Request, str]] = []  # since the caller last took them
        self.max_wait_s, self.admit, self.threads, self.epoch = 0.0, 1.0, 1, 0
        self._defaults, self._max_queue_at_first, self.max_queue = defaults, max_queue, max_queue
        self._latencies = [rung.latency for rung in self.rungs]
        self._places = {rung.variant: place for place, rung in enumerate(self.rungs)}
        self._arrivals = Arrivals()
        self._polled, self._begun = started, started
        self._arrived = [0, 0]  # requests, rows; so are the next two
        self._answered, self._in_time = [0, 0], [0, 0]
        self._refused, self._refused_rows, self._busy_s = dict.fromkeys(REFUSALS, 0), 0, 0.0
        self._per_rung = [[0, 0, 0, 0.0] for _ in self.rungs]
        self._delay, self._latency = Sketch(), Sketch()
        self.limits, self.outlook = defaults, Outlook(self.rungs, defaults)

    def apply(self, envelope: Mapping[str, Any] | None, default_wait_s: float = 0.0, default_threads: int = 1) -> None:
        """As a real replica does: None, or a missing field, is what the experiment says; the floor only rises."""
        told, base = envelope or {}, self._defaults
        self.epoch = int(told.get("epoch", 0))
        variants = told.get("variants")
        self.limits = Envelope(
            max_batch=told.get("max_batch") or base.max_batch,
            variants=base.variants if variants is None else frozenset(variants),
            least_accuracy=max(base.least_accuracy, told.get("least_accuracy", 0.0)),
            spreads=told.get("caution", base.spreads),
            workers=told.get("concurrency") or base.workers,
        )
        wait_s = told.get("max_wait_s")
        self.max_wait_s = default_wait_s if wait_s is None else wait_s
        self.threads = told.get("threads") or default_threads
        self.max_queue = told.get("max_queue") or self._max_queue_at_first
        self.admit = told.get("admit", 1.0)
        self.outlook = Outlook(self.rungs, self.limits)

    def submit(self, request: Request, now: float) -> str | None:
        """None, or the kind of refusal."""
        self._arrived[0] += 1
        self._arrived[1] += request.num_rows
        self._arrivals.count(request.num_rows, now)
        refusal = self.refusal(request, now)
        if refusal is not None:
            self.count_refusal(request, refusal)
            return refusal
        queue = self.queue
        if not queue or queue[-1].deadline <= request.deadline:
            queue.append(request)
        else:
            position = next(i for i, waiting in enumerate(queue) if waiting.deadline > request.deadline)
            queue.insert(position, request)
        self.num_rows += request.num_rows
        self.ongoing += 1
        return None

    def turn_away(self, request: Request, now: float) -> None:
        """Not among those let in; it counts as an arrival all the same."""
        self._arrived[0] += 1
        self._arrived[1] += request.num_rows
        self._arrivals.count(request.num_rows, now)
        self.count_refusal(request, "admission")

    def refusal(self, new: Request, now: float) -> str | None:
        """The batcher's rule of admission."""
        if len(self.queue) >= self.max_queue:
            return "full"
        if self.outlook.admits(new, self.queue, self.num_rows, self._free_at(now)):
            return None
        return "hopeless" if self.outlook.wait_s(new.num_rows, new.num_rows) > new.deadline - now else "overloaded"

    def count_refusal(self, request: Request, kind: str) -> None:
        self._refused[kind] += 1
        self._refused_rows += request.num_rows

    def may_wait_s(self, now: float) -> float:
        """How long the first in the queue may yet wait for company; 0 or less when a batch is to begin."""
        first = self.queue[0]
        if self.max_wait_s <= 0 or self.num_rows >= self.limits.max_batch:
            return 0.0
        latest = first.deadline - self.outlook.rungs[0].latency.upper(self.limits.max_batch, self.limits.spreads)
        return min(first.arrived + self.max_wait_s, latest) - now

    def next(self, now: float) -> Batch | None:
        """The next batch, which is then running; those that are too late for any rung are in `refused` afterwards."""
        while self.queue:
            choice = self.outlook.choose(self.queue, now, self._arrivals.rows_per_s(now))
            requests = self._taken(choice.num_requests, choice.refused)
            if choice.variant is not None:
                return self.begin(requests, self._places[choice.variant], now, now + choice.seconds)
        return None

    def begin(self, requests: list[Request], place: int, now: float, until: float) -> Batch:
        batch = Batch(requests, place, sum(request.num_rows for request in requests), now, until)
        self.running.append(batch)
        return batch

    def finish(self, batch: Batch, now: float) -> int:
        """Learn from it and answer; how many of its requests were in time."""
        seconds, num_rows = now - batch.started, batch.num_rows
        learn(self._latencies, self._latencies[batch.place], num_rows, seconds)
        self.outlook.renew()
        self.running.remove(batch)
        delay, latency, started = self._delay.add, self._latency.add, batch.started
        in_time = in_time_rows = 0
        for request in batch.requests:
            delay(started - request.arrived)
            latency(now - request.arrived)
            if now <= request.deadline:
                in_time += 1
                in_time_rows += request.num_rows
        self.ongoing -= len(batch.requests)
        self._answered[0] += len(batch.requests)
        self._answered[1] += num_rows
        self._in_time[0] += in_time
        self._in_time[1] += in_time_rows
        self._busy_s += seconds
        counts = self._per_rung[batch.place]
        counts[0] += 1
        counts[1] += num_rows
        counts[2] += in_time_rows
        counts[3] += seconds
        return in_time

    def stats(self, now: float) -> dict[str, Any]:
        """What a real replica answers to `stats`."""
        age_s, self._polled = now - self._polled, now
        return {
            "replica": self.name,
            "pid": self.pid,
            "started": EPOCH_S + self.started,
            "at": now,
            "epoch": self.epoch,
            "version": 1,
            "loading": False,
            "arrived": _pair(self._arrived),
            "answered": _pair(self._answered),
            "in_time": _pair(self._in_time),
            "refused": dict(self._refused),
            "refused_rows": self._refused_rows,
            "cancelled": 0,
            "failed": 0,
            "rungs": {rung.variant: self._rung(place, rung) for place, rung in enumerate(self.rungs)},
            "queue_delay": self._delay.to_json(),
            "latency": self._latency.to_json(),
            "loop_lag": {"b": {}},
            "busy_s": self._busy_s,
            "cpu_s": self._busy_s,
            "waiting": {"requests": len(self.queue), "rows": self.num_rows, "oldest_s": self._oldest_s(now)},
            "actor_age_s": age_s,
            "forward_s": max((now - batch.started for batch in self.running), default=0.0),
        }

    def _rung(self, place: int, rung: Rung) -> dict[str, Any]:
        batches, rows, in_time_rows, seconds = self._per_rung[place]
        counts = {"batches": batches, "rows": rows, "in_time_rows": in_time_rows, "seconds": seconds}
        return {**counts, "accuracy": rung.accuracy, **rung.latency.to_json()}

    def _oldest_s(self, now: float) -> float:
        return now - min((request.arrived for request in self.queue), default=now)

    def _free_at(self, now: float) -> float:
        if len(self.running) < self.limits.workers:
            return now
        return max(now, min(batch.until for batch in self.running))

    def _taken(self, num_requests: int, refused: Sequence[int]) -> list[Request]:
        """The batch's; who is refused goes to `refused`, the others stay in the queue."""
        queue = self.queue
        if not refused:
            taken = [queue.popleft() for _ in range(num_requests)]
        else:
            places, everyone = set(refused), list(queue)
            gone = [everyone[place] for place in refused]
            stay = [request for place, request in enumerate(everyone) if place not in places]
            taken, self.queue = stay[:num_requests], deque(stay[num_requests:])
            self.ongoing -= len(gone)
            for request in gone:
                self.num_rows -= request.num_rows
                self.count_refusal(request, "late")
                self.refused.append((request, "late"))
        self.num_rows -= sum(request.num_rows for request in taken)
        return taken


def _copied(latency: Latency) -> Latency:
    return Latency.from_json(latency.to_json())


def _pair(counts: Sequence[int]) -> dict[str, int]:
    return {"requests": counts[0], "rows": counts[1]}
