"""The requests that wait in one replica, in the order of their deadlines, and what a refused one hears.

An urgent request among patient ones would otherwise make all before it be computed on the fastest rung. Knows
neither how a batch is computed nor how it is chosen.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from cluster.errors import RequestError, TrimtabError
from serve.ladder import Ladder

_BOUNDS = "x-request-timeout-seconds, serve.objective.latency_ms or serve.request_timeout"
RATE_S = 0.5  # over which the rate of arrivals is averaged


class NotFiniteError(TrimtabError):
    """A version's outputs are NaN or infinity: JSON has no word for them, and no client a use."""


class Batched(NamedTuple):
    """One request's part of a batch: `outputs` has one row per row submitted."""

    outputs: np.ndarray
    variant: str  # the rung that computed it
    queue_s: float  # from submission until the forward pass began
    compute_s: float  # of the whole batch


class Waiting:
    """A request, and the future of its answer: who cancels that is out of the queue."""

    __slots__ = ("arrived", "deadline", "future", "is_counted", "ladder", "num_rows", "received", "rows")

    def __init__(
        self,
        ladder: Ladder,
        rows: np.ndarray,
        arrived: float,
        deadline: float,
        received: float,
        future: asyncio.Future[Batched],
        is_counted: bool = True,
    ) -> None:
        self.ladder, self.rows, self.num_rows, self.future = ladder, rows, len(rows), future
        self.arrived, self.deadline = arrived, deadline  # time.monotonic()
        self.received = received  # its first byte, at the endpoint
        self.is_counted = is_counted


class Batch:
    """What a thread is given, and what it brings back."""

    __slots__ = (
        "ended", "error", "ladder", "max_batch", "outputs", "passes", "requests", "started", "started_pass", "until",
        "variant",
    )  # fmt: skip

    def __init__(self, requests: list[Waiting], ladder: Ladder, variant: str, max_batch: int, until: float) -> None:
        self.requests, self.ladder, self.variant, self.max_batch = requests, ladder, variant, max_batch
        self.until = until  # when it ends, as predicted
        self.started = self.started_pass = self.ended = 0.0
        self.passes: list[tuple[int, float]] = []  # (rows, seconds) of those that went well
        self.outputs: np.ndarray | None = None
        self.error: Exception | None = None


class Queues:
    """One queue for each ladder that somebody waits for: two while versions change, else one.

    Who cancels stays in it until `forget_cancelled`: a callback for each request to say so at once would cost all of
    them more than looking does.
    """

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
        queues = self._by_ladder.values()
        if len(queues) == 1:
            return next(iter(queues))
        return min(queues, key=lambda queue: queue[0].deadline)

    def enter(self, new: Waiting) -> None:
        queue = self._by_ladder.get(new.ladder)
        if queue is None:
            self._by_ladder[new.ladder] = deque((new,))
        elif queue[-1].deadline <= new.deadline:  # hardly ever not: most have the same time
            queue.append(new)
        else:
            position = len(queue)
            while position and queue[position - 1].deadline > new.deadline:
                position -= 1
            queue.insert(position, new)
        self.num_waiting += 1
        self.num_rows += new.num_rows

    def take(self, ladder: Ladder, num_requests: int, refused: Sequence[int]) -> tuple[list[Waiting], list[Waiting]]:
        """The first `num_requests` that are not at one of the ascending positions in `refused`, and those that are.

        Neither are in the queue any more; what lies between them stays.
        """
        queue = self._by_ladder[ladder]
        gone: list[Waiting] = []
        if refused:
            taken, gone = _parted(queue, num_requests, refused)
        elif num_requests == len(queue):
            taken = list(queue)
            queue.clear()
        else:
            taken = [queue.popleft() for _ in range(num_requests)]
        if not queue:
            del self._by_ladder[ladder]
        self._left(taken)
        self._left(gone)
        return taken, gone

    def forget_cancelled(self, num_first: int | None = None) -> None:
        """Let those go whose caller has; with `num_first` only where one is among so many at a queue's front."""
        for ladder, queue in tuple(self._by_ladder.items()):
            for waiting in islice(queue, num_first):
                if waiting.future.done():
                    self._forget_cancelled(ladder, queue)
                    break

    def _forget_cancelled(self, ladder: Ladder, queue: deque[Waiting]) -> None:
        self._left([waiting for waiting in queue if waiting.future.done()])
        stay = deque(waiting for waiting in queue if not waiting.future.done())
        if stay:
            self._by_ladder[ladder] = stay
        else:
            del self._by_ladder[ladder]

    def _left(self, those: Sequence[Waiting]) -> None:
        self.num_waiting -= len(those)
        for waiting in those:
            self.num_rows -= waiting.num_rows


def _parted(queue: deque[Waiting], num_requests: int, refused: Sequence[int]) -> tuple[list[Waiting], list[Waiting]]:
    places, last = set(refused), refused[-1]
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
    return taken, gone


class Arrivals:
    """Rows that arrive per second, as an exponential average."""

    def __init__(self) -> None:
        self._rate, self._at = 0.0, 0.0

    def count(self, num_rows: int, now: float) -> None:
        self._rate, self._at = self.rows_per_s(now) + num_rows / RATE_S, now

    def rows_per_s(self, now: float) -> float:
        return self._rate * math.exp((self._at - now) / RATE_S)


class TooLate(RequestError):
    """504: there is no time for an answer, or there was none. `header` is the client's own word on it, if any."""

    def __init__(self, why: str, header: str | None = None) -> None:
        self.why = why
        bounds = f"{header}, {_BOUNDS}" if header else _BOUNDS
        mend = f"try again, raise {bounds}, or add replicas"
        super().__init__(504, f"no answer within the request's deadline {why}; {mend}")


def late(after_s: float) -> TooLate:
    """What a request hears whose deadline has passed, or will have before any rung could answer."""
    return TooLate(f"({after_s:.3g} s passed)")


def hopeless(least_s: float, left_s: float) -> TooLate:
    """What a request hears that no rung could answer in time even at once."""
    return TooLate(f"(it takes {least_s * 1000:.3g} ms, {left_s * 1000:.3g} ms are left)")


def full(num_waiting: int) -> RequestError:
    message = f"{num_waiting} requests are waiting, as many as serve.max_queue allows; try again in 1 s"
    return RequestError(429, message, {"retry-after": "1"})


def overloaded(wait_s: float, left_s: float) -> RequestError:
    """What a request hears that would be too late behind those which wait already."""
    again_s = max(1, math.ceil(wait_s))
    work = f"with the work that is waiting it takes {wait_s * 1000:.3g} ms"
    message = f"{work}, and the request's deadline is in {left_s * 1000:.3g} ms; try again in {again_s} s"
    return RequestError(429, message, {"retry-after": str(again_s)})


def unadmitted(share: float) -> RequestError:
    """What a request hears that is not among those let in just now."""
    message = f"only {share:.0%} of the requests are let in just now, and this is not one of them; try again in 1 s"
    return RequestError(429, message, {"retry-after": "1"})
