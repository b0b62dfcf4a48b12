"""What a client saw around changes: answers in the order of their end, each with the number of the settings it had.

Pure. All times are of one monotonic clock, in seconds.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Timeline:
    """`ended_s` and `latencies_s` float64 [n], `marked` int64 [n]: the number of the settings, -1 for none."""

    ended_s: np.ndarray
    latencies_s: np.ndarray
    marked: np.ndarray

    @staticmethod
    def read(said: Mapping[str, Any]) -> Timeline:
        """From what `benchmarks.client` says."""
        kinds = {"ended_s": np.float64, "latencies_s": np.float64, "marked": np.int64}
        made = Timeline(*(np.frombuffer(base64.b64decode(said[name]), kind) for name, kind in kinds.items()))
        assert (made.marked >= 0).any(), "no answer says which settings it had: the mark is not what servers write"
        return made

    def last_before(self, number: int, ordered_s: float, until_s: float) -> float:
        """Seconds from an order to the last answer with settings older than `number`; at least 0.

        Looks at answers up to `until_s`, when the next order was given.
        """
        older = (self.marked >= 0) & (self.marked < number) & (self.ended_s > ordered_s) & (self.ended_s < until_s)
        return float(self.ended_s[older].max() - ordered_s) if older.any() else 0.0

    def split(self, windows: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
        """Latencies of requests that were under way in one of the windows, and of all others."""
        within = np.zeros(len(self.ended_s), bool)
        for start, end in windows:
            within |= (self.ended_s > start) & (self.ended_s - self.latencies_s < end)
        return self.latencies_s[within], self.latencies_s[~within]


def p99_ms(latencies_s: np.ndarray) -> float:
    """nan of none."""
    return float(np.quantile(latencies_s, 0.99)) * 1000 if len(latencies_s) else float("nan")
