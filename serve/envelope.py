"""What a replica may choose from just now: what the adaptation actor, or a person, sets on top of the serve section.

It goes to all replicas at once as a dictionary. Nothing is set by default: then the experiment's word holds. Pure;
knows neither who sends it nor how it is obeyed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from cluster.config import MAX_CONCURRENCY, MAX_THREADS, Section
from cluster.errors import ConfigError


class Candidate(Section):
    """Another version, held beside the stable one in every replica."""

    bundle: str
    version: Annotated[int, Field(ge=1)]


class LiveEnvelope(Section):
    epoch: Annotated[int, Field(ge=0)] = 0
    """Grows with every change; a replica ignores one that is not newer than its own."""
    max_batch: Annotated[int, Field(ge=1, le=4096)] | None = None
    max_wait_s: Annotated[float, Field(ge=0.0, le=3600.0)] | None = None
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    variants: list[str] | None = None
    """Allowed rungs, of those that the serve section allows."""
    least_accuracy: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Rungs below are not chosen; never lowers the objective's own floor."""
    caution: Annotated[float, Field(ge=0.0, le=100.0)] = 2.0
    """Spreads of the latency model that a prediction adds."""
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] | None = None
    """Of one forward pass."""
    concurrency: Annotated[int, Field(ge=1, le=MAX_CONCURRENCY)] | None = None
    """Forward passes at once."""
    admit: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Share of the arrivals that is let in, drawn for each request."""
    candidate: Candidate | None = None
    shadow: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Share of the requests that the candidate answers too, unseen."""
    canary: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Share of the request ids that the candidate answers."""


def read(tree: Mapping[str, Any]) -> LiveEnvelope:
    """Raises ConfigError: an unknown field, or a value that it cannot have."""
    try:
        return LiveEnvelope.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, ("envelope", *first["loc"])))
        mend = f"known are {', '.join(LiveEnvelope.model_fields)}" if first["type"] == "extra_forbidden" else "mend it"
        raise ConfigError(field, first["input"], first["msg"].lower(), mend) from None
