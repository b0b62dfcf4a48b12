"""What a replica counts: only ever upwards, from its start, so that a reading that gets lost loses nothing.

Attributes are plain numbers because they are counted for every request. Knows neither the batcher that counts nor
the actor that reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from ladder.choose import Rung
from serve.sketch import Sketch

TICK_S = 0.02
REFUSALS = ("full", "overloaded", "hopeless", "late", "admission")


class RungCount:
    __slots__ = ("batches", "in_time_rows", "rows", "seconds")

    def __init__(self) -> None:
        self.batches = self.rows = self.in_time_rows = 0
        self.seconds = 0.0


class Counters:
    """`refused` has one count of requests for each of `REFUSALS`. One writer: the event loop."""

    __slots__ = (
        "answered_requests",
        "answered_rows",
        "arrived_requests",
        "arrived_rows",
        "busy_s",
        "cancelled",
        "failed",
        "in_time_requests",
        "in_time_rows",
        "latency",
        "loop_lag",
        "queue_delay",
        "refused",
        "refused_rows",
        "rungs",
        "started",
    )

    def __init__(self) -> None:
        self.started = time.time()
        self.arrived_requests = self.arrived_rows = 0
        self.answered_requests = self.answered_rows = 0
        self.in_time_requests = self.in_time_rows = 0  # before the deadline
        self.refused = dict.fromkeys(REFUSALS, 0)
        self.refused_rows = self.cancelled = self.failed = 0
        self.busy_s = 0.0  # of forward passes
        self.queue_delay, self.latency, self.loop_lag = Sketch(), Sketch(), Sketch()
        self.rungs: dict[str, RungCount] = {}  # of every version there was

    def rung(self, variant: str) -> RungCount:
        found = self.rungs.get(variant)
        if found is None:
            found = self.rungs[variant] = RungCount()
        return found

    def refuse(self, kind: str, num_rows: int) -> None:
        self.refused[kind] += 1
        self.refused_rows += num_rows

    def answer(self, num_rows: int, is_in_time: bool, queue_s: float, latency_s: float) -> None:
        """One request, of which its batch was not counted."""
        self.answered_requests += 1
        self.answered_rows += num_rows
        if is_in_time:
            self.in_time_requests += 1
            self.in_time_rows += num_rows
        self.queue_delay.add(queue_s)
        self.latency.add(latency_s)

    def computed(self, variant: str, num_rows: int, num_in_time: int, seconds: float) -> None:
        """One batch."""
        count = self.rung(variant)
        count.batches += 1
        count.rows += num_rows
        count.in_time_rows += num_in_time
        count.seconds += seconds

    def to_json(self, rungs: Iterable[Rung]) -> dict[str, Any]:
        """All counts; of rungs those of the present version, with what is known of their time now."""
        return {
            "started": self.started,
            "arrived": {"requests": self.arrived_requests, "rows": self.arrived_rows},
            "answered": {"requests": self.answered_requests, "rows": self.answered_rows},
            "in_time": {"requests": self.in_time_requests, "rows": self.in_time_rows},
            "refused": dict(self.refused),
            "refused_rows": self.refused_rows,
            "cancelled": self.cancelled,
            "failed": self.failed,
            "rungs": {rung.variant: self._rung(rung) for rung in rungs},
            "queue_delay": self.queue_delay.to_json(),
            "latency": self.latency.to_json(),
            "loop_lag": self.loop_lag.to_json(),
            "busy_s": self.busy_s,
            "cpu_s": time.process_time(),
        }

    def _rung(self, rung: Rung) -> dict[str, Any]:
        count = self.rung(rung.variant)
        return {
            "batches": count.batches,
            "rows": count.rows,
            "in_time_rows": count.in_time_rows,
            "seconds": count.seconds,
            "accuracy": rung.accuracy,
            **rung.latency.to_json(),
        }


class LagMeter:
    """How much later than asked for the event loop calls back: what every request waits for, several times."""

    def __init__(self, lag: Sketch) -> None:
        self._lag = lag

    def start(self) -> None:
        """On the running loop, until that ends."""
        loop = asyncio.get_running_loop()
        loop.call_later(TICK_S, self._tick, loop, loop.time() + TICK_S)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self._lag.add(max(now - due, 0.0))
        loop.call_later(TICK_S, self._tick, loop, now + TICK_S)
