"""Silence of one topic: no event for longer than its own gaps make likely. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from serve.watch import odds

LEAST_GAPS = 20  # before a topic's silence means anything
REMEMBERED = 2000  # gaps; at that many their weight is halved, so that a topic may change its pace
TIMES_LONGEST = 2.0  # nights and weekends are gaps too: what has been before is no news


@dataclass
class Gaps:
    """Of the times between a topic's events, in seconds: number, sum, and the longest of late and of long ago."""

    last: float | None = None
    num: float = 0.0
    total_s: float = 0.0
    longest_s: float = 0.0
    longest_before_s: float = 0.0
    alert: str | None = None  # id of the silence that has not ended

    def add(self, time: float) -> None:
        """An event; one that is older than the last leaves no gap."""
        if self.last is not None and time > self.last:
            gap = time - self.last
            self.num, self.total_s = self.num + 1, self.total_s + gap
            self.longest_s = max(self.longest_s, gap)
            if self.num >= REMEMBERED:
                self.num, self.total_s = self.num / 2, self.total_s / 2
                self.longest_before_s, self.longest_s = self.longest_s, 0.0
        self.last = time if self.last is None else max(self.last, time)

    def allowed_s(self, least_s: float, window_s: float, false_alarms: float) -> float | None:
        """How long a silence is no news, wrong in `false_alarms` of the windows; None while too little is known."""
        if self.num < LEAST_GAPS or self.total_s <= 0:
            return None
        gaps_in_window = max(1.0, window_s * self.num / self.total_s)
        rare = odds.longest_gap(int(self.num), self.total_s, false_alarms / gaps_in_window)
        longest = max(self.longest_s, self.longest_before_s)
        return max(least_s, rare, TIMES_LONGEST * longest)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
