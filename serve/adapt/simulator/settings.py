"""What is simulated: bounds, replicas, the machine and its misfortunes. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field

from ladder.choose import Envelope
from serve.adapt.bounds import Bounds
from serve.adapt.simulator.replica import Replica

WAY_S, WAY_SHARE = 0.005, 0.1  # as in `serve.core`, which knows models, and so is not imported


@dataclass(frozen=True, slots=True)
class Slowdown:
    """From `at_s` on, for `seconds`, batches of all replicas take `factor` times as long."""

    at_s: float
    seconds: float
    factor: float


@dataclass(frozen=True, slots=True)
class Death:
    """At `at_s` one replica dies with what it has; the platform notices `noticed_s` later and starts another."""

    at_s: float
    noticed_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What is simulated. `replicas` is how many there are at first, `bounds.min_replicas` when None."""

    bounds: Bounds = field(default_factory=Bounds)
    replicas: int | None = None
    variants: tuple[str, ...] | None = None  # the rungs of the serve section; None for what the bounds allow
    kind: type[Replica] = Replica
    deadline_s: float | None = None  # of a request, as its client sees it; the objective when None
    margin_s: float | None = None  # what the replica leaves of it for the way; None for what `serve.core` leaves
    rows: int = 1  # of a request
    max_queue: int = 512
    start_s: float = 5.0  # from a replica's order until it answers
    noise: float = 0.05  # standard deviation of the logarithm of a batch's time
    overhead_s: float = 0.0  # of a request outside of queue and batch: on the way, and on the event loop
    thread_gain: float = 0.8  # a pass with t threads takes t ** -thread_gain of one with one thread
    slowdowns: tuple[Slowdown, ...] = ()
    deaths: tuple[Death, ...] = ()

    @property
    def envelope(self) -> Envelope:
        """What the experiment's serve section says, and what is not changed stays."""
        rungs = self.bounds.rungs if self.variants is None else self.variants
        allowed = None if rungs is None else frozenset(rungs)
        return Envelope(self.bounds.max_batch, allowed, self.bounds.floor, workers=self.bounds.concurrency)

    @property
    def client_deadline_s(self) -> float:
        return self.bounds.objective_s if self.deadline_s is None else self.deadline_s

    @property
    def left_s(self) -> float:
        """What the replica leaves of that for the way."""
        return min(WAY_S, WAY_SHARE * self.client_deadline_s) if self.margin_s is None else self.margin_s
