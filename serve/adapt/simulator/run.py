"""A whole endpoint in virtual time: arrivals, replicas, and whoever decides. Hours pass in seconds, seeded.

    outcome = predict(trace, ladder, Settings(bounds))    # `trace.arrivals(seed)`, or ascending seconds

Exact at the level of batches: events are arrivals, ends of batches, ticks, starts and deaths. What a batch takes is the
ladder's own model, with noise, times the machine's present slowness; replicas begin with the same model and learn.
Not simulated: the network, the event loop's own work (`Settings.overhead_s` stands for both), and cores shared by
replicas. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, Protocol

import numpy as np

from ladder.choose import Rung
from serve.adapt.simulator.bound import fluid_bound
from serve.adapt.simulator.control import Adaptive, Controller, Seen
from serve.adapt.simulator.fleet import Fleet
from serve.adapt.simulator.outcome import Outcome, Tally, made
from serve.adapt.simulator.replica import Batch, Replica, Request
from serve.adapt.simulator.settings import Death, Settings

_FINISH, _WAKE, _TICK, _READY, _DEATH, _NOTICED, _SECOND = range(7)
_DRAIN_S = 60.0  # after the last arrival, at most


class Arriving(Protocol):
    def arrivals(self, seed: int) -> np.ndarray:
        """Ascending seconds from 0, float64 [num_requests]."""


def predict(
    trace: Arriving | np.ndarray,
    ladder: Sequence[Rung],
    settings: Settings,
    controller: Controller | None = None,
    seed: int = 0,
) -> Outcome:
    """What becomes of a trace's requests; by default under the adaptation with `settings.bounds`.

    The ladder, most accurate first, is the truth about the machine; its models are not changed.
    """
    arrivals = trace if isinstance(trace, np.ndarray) else trace.arrivals(seed)
    chosen = controller if controller is not None else Adaptive(settings.bounds)
    return Simulation(arrivals, ladder, settings, chosen, seed).run()


class Simulation:
    def __init__(
        self, arrivals: np.ndarray, ladder: Sequence[Rung], settings: Settings, controller: Controller, seed: int
    ) -> None:
        self._arrivals, self._ladder, self._settings, self.controller = arrivals, ladder, settings, controller
        bounds = settings.bounds
        self._rng = Random(seed)  # noqa: S311 (nothing secret)
        self.fleet = Fleet(settings.kind, ladder, settings.envelope, settings.max_queue, bounds, Random(seed + 1))  # noqa: S311
        self._truth = [(rung.latency.fixed_s, rung.latency.per_row_s) for rung in ladder]
        self._accuracy = [rung.accuracy for rung in ladder]
        self._events: list[tuple[float, int, int, Any]] = []
        self._order = count()
        self._end = float(arrivals[-1]) if len(arrivals) else 0.0
        self.tally = Tally(int(self._end) + 1)
        self.target = bounds.min_replicas if settings.replicas is None else settings.replicas
        self._num_ticks = 0
        self._left_s = settings.left_s
        self._deadline_s = settings.client_deadline_s - self._left_s

    def run(self) -> Outcome:
        self._begin()
        events, arrive, handle = self._events, self._arrive, self._handle
        for number, at in enumerate(self._arrivals.tolist()):
            while events and events[0][0] <= at:
                handle(*heappop(events))
            arrive(number, at)
        until = self._end + _DRAIN_S
        while events and events[0][0] <= until:
            handle(*heappop(events))
        return self._outcome()

    def _begin(self) -> None:
        for _ in range(self.target):
            self.fleet.ready(self.fleet.start(0.0))
        if self.controller.tick_s:
            self._at(self.controller.tick_s, _TICK, None)
        self._at(0.0, _SECOND, None)
        for death in self._settings.deaths:
            self._at(death.at_s, _DEATH, death)

    def _at(self, when: float, kind: int, what: Any) -> None:
        heappush(self._events, (when, next(self._order), kind, what))

    def _handle(self, now: float, _order: int, kind: int, what: Any) -> None:
        if kind == _FINISH:
            replica, batch = what
            self._finish(replica, batch, now)
        elif kind == _WAKE:
            self._next(what, now)
        elif kind == _READY:
            self.fleet.ready(what)
        elif kind == _DEATH:
            self._die(what, now)
        elif kind == _NOTICED:
            self.fleet.bury(now)
            self._match(now)
        elif now <= self._end:
            if kind == _TICK:
                self._tick(now)
            else:
                self.tally.replicas[int(now)] = len(self.fleet.running)
                self._at(now + 1.0, _SECOND, None)

    # Requests

    def _arrive(self, number: int, at: float) -> None:
        settings, tally, second = self._settings, self.tally, int(at)
        tally.arrived[second] += 1
        tally.rows[second] += settings.rows
        replica = self.fleet.route()
        if replica is None:
            tally.ends["lost"] += 1
            return
        request = Request(number, at, at + self._deadline_s, settings.rows)
        if replica.admit < 1.0 and self._rng.random() >= replica.admit:
            replica.turn_away(request, at)
            tally.ends["admission"] += 1
            return
        refusal = replica.submit(request, at)
        if refusal is not None:
            tally.ends[refusal] += 1
        elif len(replica.running) < replica.limits.workers:
            self._next(replica, at)

    def _next(self, replica: Replica, now: float) -> None:
        """Begin batches, or come again when the first request has waited long enough."""
        while replica.queue and len(replica.running) < replica.limits.workers:
            wait_s = replica.may_wait_s(now)
            if wait_s > 1e-9:
                self._at(now + wait_s, _WAKE, replica)
                break
            batch = replica.next(now)
            if batch is not None:
                self._at(now + self._seconds(replica, batch, now), _FINISH, (replica, batch))
        if replica.refused:
            for _, kind in replica.refused:
                self.tally.ends[kind] += 1
            replica.refused.clear()

    def _seconds(self, replica: Replica, batch: Batch, now: float) -> float:
        settings = self._settings
        fixed_s, row_s = self._truth[batch.place]
        passes = -(-batch.num_rows // replica.limits.max_batch)
        seconds = passes * fixed_s + batch.num_rows * row_s
        if settings.noise:
            seconds *= math.exp(self._rng.gauss(0.0, settings.noise))
        for slowdown in settings.slowdowns:
            if slowdown.at_s <= now < slowdown.at_s + slowdown.seconds:
                seconds *= slowdown.factor
        if replica.threads != settings.bounds.threads:
            seconds *= (settings.bounds.threads / replica.threads) ** settings.thread_gain
        return seconds

    def _finish(self, replica: Replica, batch: Batch, now: float) -> None:
        if batch not in replica.running:
            return  # it died meanwhile
        replica.finish(batch, now)
        tally, accuracy = self.tally, self._accuracy[batch.place]
        ended = now + self._settings.overhead_s - self._left_s  # on the replica's own deadlines
        in_time = 0
        for request in batch.requests:
            if ended <= request.deadline:
                in_time += 1
                second = int(request.arrived)
                tally.in_time[second] += 1
                tally.right[second] += accuracy
        tally.ends["in time"] += in_time
        tally.ends["late"] += len(batch.requests) - in_time
        tally.rows_by_variant[self._ladder[batch.place].variant] += batch.num_rows
        tally.num_batches += 1
        self._next(replica, now)
        self.fleet.drained(replica, now)

    # Control

    def _tick(self, now: float) -> None:
        fleet = self.fleet
        seen = Seen(
            now,
            [replica.stats(now) for replica in fleet.running],
            tuple(replica.name for replica in fleet.dead),
            sum(replica.ongoing for replica in fleet.running),
            fleet.envelope,
            self.target,
        )
        envelope, self.target = self.controller.tick(seen)
        self._num_ticks += 1
        if envelope != fleet.envelope:
            fleet.tell(envelope)
            for replica in fleet.running:
                self._next(replica, now)  # the wait may have become shorter, or the workers more
        self._match(now)
        self._at(now + self.controller.tick_s, _TICK, None)

    def _match(self, now: float) -> None:
        """As many replicas as there are to be."""
        fleet = self.fleet
        while fleet.num < self.target:
            self._at(now + self._settings.start_s, _READY, fleet.start(now))
        while fleet.num > self.target and (fleet.starting or fleet.running):
            fleet.stop_one(now)

    def _die(self, death: Death, now: float) -> None:
        if self.fleet.running:
            lost = self.fleet.kill(self._rng.randrange(len(self.fleet.running)))
            self.tally.ends["lost"] += len(lost)
            self._at(now + death.noticed_s, _NOTICED, None)

    def _outcome(self) -> Outcome:
        tally, bounds = self.tally, self._settings.bounds
        busy_s = tally.replicas * bounds.concurrency
        allowed = [rung for rung in self._ladder if self._settings.envelope.allows(rung)]
        actions = getattr(self.controller, "actions", [])
        refused: Counter[str] = getattr(self.controller, "refused", None) or Counter()
        best = fluid_bound(tally.rows, busy_s, allowed)
        replica_s = self.fleet.replica_s(self._end)
        return made(tally, best, replica_s, self._num_ticks, actions, refused, max(self._end, 1e-9))
