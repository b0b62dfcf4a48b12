"""The requests that wait in one replica, in the order of their deadlines, and what a refused one hears.

An urgent request among patient ones would otherwise make all before it be computed on the fastest rung. Knows
neither how a batch is computed nor how it is chosen.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.errors import RequestError
from serve.ladder import Ladder

RATE_S = 0.5  # over which the rate of arrivals is averaged


@dataclass(frozen=True)
class Batched:
    """One request's part of a batch: `outputs` has one row per row submitted."""

    outputs: np.ndarray
    variant: str  # the rung that computed it
    queue_s: float  # from submission until the forward pass began
    compute_s: float  # of the whole batch


class Waiting(asyncio.Future[Batched]):
    """A request, and the answer its caller awaits: who cancels it takes it out of the queue."""

    def __init__(self, ladder: Ladder, rows: np.ndarray, arrived: float, deadline: float) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.ladder, self.rows, self.num_rows = ladder, rows, len(rows)
        self.arrived, self.deadline = arrived, deadline  # time.monotonic()
        self.leave: Callable[[Waiting], None] | None = None  # set while it is in the queue

    def cancel(self, msg: object = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self.leave is not None:
            self.leave(self)
        return cancelled


class Queues:
    """One queue for each ladder that somebody waits for: two while versions change, else one."""

    def __init__(self) -> None:
        self._by_ladder: dict[Ladder, deque[Waiting]] = {}  # none is empty
        self.num_waiting = self.num_rows = 0

    def __bool__(self) -> bool:
        return bool(self._by_ladder)

    def __iter__(self) -> Iterator[Waiting]:
        return (waiting for queue in self._by_ladder.values() for waiting in queue)

    def of(self, ladder: Ladder) -> Sequence[Waiting]:
        return self._by_ladder.get(ladder, ())

    @property
    def most_urgent(self) -> Sequence[Waiting]:
        """The queue with the earliest deadline at its front. Raises ValueError when nobody waits."""
        return min(self._by_ladder.values(), key=lambda queue: queue[0].deadline)

    def enter(self, new: Waiting) -> None:
        queue = self._by_ladder.setdefault(new.ladder, deque())
        position = len(queue)
        while position and queue[position - 1].deadline > new.deadline:  # hardly ever: most have the same time
            position -= 1
        queue.insert(position, new)
        new.leave = self._remove
        self.num_waiting += 1
        self.num_rows += new.num_rows

    def take(self, ladder: Ladder, num_requests: int, refused: Sequence[int]) -> tuple[list[Waiting], list[Waiting]]:
        """The first `num_requests` that are not at one of the ascending positions in `refused`, and those that are.

        Neither are in the queue any more; what lies between them stays.
        """
        queue, places = self._by_ladder[ladder], set(refused)
        last = refused[-1] if refused else -1
        taken: list[Waiting] = []
        gone: list[Waiting] = []
        passed: list[Waiting] = []
        position = 0
        while len(taken) < num_requests or position <= last:
            waiting = queue.popleft()
            if position in places:
                gone.append(waiting)
            else:
                (taken if len(taken) < num_requests else passed).append(waiting)
            position += 1
        queue.extendleft(reversed(passed))
        for waiting in (*taken, *gone):
            self._left(waiting)
        self._tidy(ladder)
        return taken, gone

    def _remove(self, waiting: Waiting) -> None:
        self._by_ladder[waiting.ladder].remove(waiting)
        self._left(waiting)
        self._tidy(waiting.ladder)

    def _left(self, waiting: Waiting) -> None:
        waiting.leave = None
        self.num_waiting -= 1
        self.num_rows -= waiting.num_rows

    def _tidy(self, ladder: Ladder) -> None:
        if not self._by_ladder[ladder]:
            del self._by_ladder[ladder]


class Arrivals:
    """Rows that arrive per second, as an exponential average."""

    def __init__(self) -> None:
        self._rate, self._at = 0.0, 0.0

    def count(self, num_rows: int, now: float) -> None:
        self._rate, self._at = self.rows_per_s(now) + num_rows / RATE_S, now

    def rows_per_s(self, now: float) -> float:
        return self._rate * math.exp((self._at - now) / RATE_S)


def late(after_s: float) -> RequestError:
    """What a request hears whose deadline has passed, or will have before any rung could answer."""
    return _late(f"({after_s:.3g} s passed)")


def hopeless(least_s: float, left_s: float) -> RequestError:
    """What a request hears that no rung could answer in time even at once."""
    return _late(f"(it takes {least_s * 1000:.3g} ms, {left_s * 1000:.3g} ms are left)")


def _late(why: str) -> RequestError:
    mend = "try again, raise x-request-timeout-seconds or serve.request_timeout, or add replicas"
    return RequestError(504, f"no answer within the request's deadline {why}; {mend}")


def full(num_waiting: int) -> RequestError:
    message = f"{num_waiting} requests are waiting, as many as serve.max_queue allows; try again in 1 s"
    return RequestError(429, message, {"retry-after": "1"})


def overloaded(wait_s: float, left_s: float) -> RequestError:
    """What a request hears that would be too late behind those which wait already."""
    again_s = max(1, math.ceil(wait_s))
    work = f"with the work that is waiting it takes {wait_s * 1000:.3g} ms"
    message = f"{work}, and the request's deadline is in {left_s * 1000:.3g} ms; try again in {again_s} s"
    return RequestError(429, message, {"retry-after": str(again_s)})
