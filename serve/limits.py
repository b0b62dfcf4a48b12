"""What bounds a replica's batches and its queue: the serve section, and on top of it the envelope. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.config import Serve
from ladder.choose import Envelope
from serve.envelope import LiveEnvelope


@dataclass(frozen=True, slots=True)
class Limits(Envelope):
    """The envelope, and what else bounds the queue. `workers` is how many forward passes run at once."""

    max_wait_s: float = 0.0  # how long a row waits for company
    max_queue: int = 512  # requests waiting


def limits_of(serve: Serve, envelope: LiveEnvelope | None = None) -> Limits:
    """The envelope's word where it has one; it neither allows a rung that `serve` does not, nor lowers its floor."""
    over = envelope or LiveEnvelope()
    allowed = [set(names) for names in (serve.rungs, over.variants) if names is not None]
    return Limits(
        over.max_batch or serve.max_batch,
        frozenset(set.intersection(*allowed)) if allowed else None,
        max(over.least_accuracy, serve.objective.accuracy_at_least or 0.0),
        over.caution,
        over.concurrency or serve.concurrency,
        max_wait_s=serve.max_wait if over.max_wait_s is None else over.max_wait_s,
        max_queue=over.max_queue or serve.max_queue,
    )
