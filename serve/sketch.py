"""How long things took, as counts in 200 buckets of equal ratio: small, mergeable, and right to within 5 %.

Counts only grow, so what happened between two readings is their difference, and of several replicas it is their sum.
Pure; knows seconds, not what they are of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

NUM_BUCKETS = 200
LEAST_S = 1e-5  # all that is shorter is in bucket 0; the last one begins at half an hour
RATIO = 1.1
_PER_E = 1.0 / math.log(RATIO)
_OFFSET = -math.log(LEAST_S) * _PER_E


class Sketch:
    """Bucket i counts what took from 1e-5 * 1.1^i to 1e-5 * 1.1^(i + 1) seconds. One writer."""

    __slots__ = ("counts",)

    def __init__(self, counts: Iterable[int] = ()) -> None:
        """Raises ValueError unless there are no counts or one for each bucket."""
        self.counts = list(counts) or [0] * NUM_BUCKETS
        if len(self.counts) != NUM_BUCKETS:
            raise ValueError(f"a sketch has {NUM_BUCKETS} counts, not {len(self.counts)}")

    def add(self, seconds: float, count: int = 1) -> None:
        """Not a number counts as nothing."""
        if seconds > LEAST_S:
            index = int(math.log(seconds) * _PER_E + _OFFSET) if seconds < math.inf else NUM_BUCKETS
            self.counts[index if index < NUM_BUCKETS else NUM_BUCKETS - 1] += count
        elif seconds <= LEAST_S:
            self.counts[0] += count

    def merge(self, other: Sketch) -> Sketch:
        """Both together, as a new one."""
        return Sketch(map(int.__add__, self.counts, other.counts))

    def minus(self, before: Sketch) -> Sketch:
        """What was added since `before`, as a new one; no count falls below 0."""
        return Sketch(max(now - then, 0) for now, then in zip(self.counts, before.counts, strict=True))

    @property
    def total(self) -> int:
        return sum(self.counts)

    def quantile(self, q: float) -> float:
        """Seconds that a share `q` (0 to 1) stays under, at the middle of its bucket; 0 when nothing was counted."""
        total, seen = self.total, 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= q * total:
                return float(LEAST_S * RATIO ** (index + 0.5))
        return 0.0

    def to_json(self) -> dict[str, Any]:
        """Only the buckets that count something, by number."""
        return {"b": {str(index): count for index, count in enumerate(self.counts) if count}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sketch:
        """Numbers of buckets may be texts or whole numbers. Raises ValueError (KeyError) for anything else."""
        made = cls()
        for index, count in data["b"].items():
            if not 0 <= int(index) < NUM_BUCKETS:
                raise ValueError(f"a sketch has no bucket {index}")
            made.counts[int(index)] = int(count)
        return made
