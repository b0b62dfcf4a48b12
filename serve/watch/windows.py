"""What is counted of a topic in a span of the stream's time, and its most telling texts. Pure; judges nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from serve.watch.events import OTHER_LABELS, Event, Seen, shown

MOST_LABELS, MOST_TEXTS = 16, 3


@dataclass
class Window:
    """From `start` to `end`, seconds since 1970. `texts` are those with the highest scores, highest first."""

    start: float
    end: float
    events: int = 0
    negatives: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    texts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.negatives / self.events if self.events else 0.0

    @property
    def counts(self) -> tuple[int, int]:
        return self.negatives, self.events

    def add(self, event: Event, seen: Seen) -> None:
        self.events += 1
        self.negatives += seen.is_negative
        self._count(seen.label, 1)
        if len(self.texts) < MOST_TEXTS or seen.score > self.texts[-1]["score"]:
            text = {"text": shown(event.text), "score": round(seen.score, 4), "time": event.time}
            self._keep([text | ({"source": event.source} if event.source else {})])

    def join(self, later: Window) -> None:
        self.end = max(self.end, later.end)
        self.events += later.events
        self.negatives += later.negatives
        for label, count in later.labels.items():
            self._count(label, count)
        self._keep(later.texts)

    def bare(self) -> Window:
        """Without its texts: what of a window is kept as the past."""
        return Window(self.start, self.end, self.events, self.negatives, dict(self.labels))

    def _count(self, label: str, count: int) -> None:
        name = label if label in self.labels or len(self.labels) < MOST_LABELS else OTHER_LABELS
        self.labels[name] = self.labels.get(name, 0) + count

    def _keep(self, texts: Iterable[dict[str, Any]]) -> None:
        """The same text only once, as it was surest."""
        best: dict[str, dict[str, Any]] = {}
        for one in sorted([*self.texts, *texts], key=lambda one: -one["score"]):
            best.setdefault(one["text"], one)
        self.texts = list(best.values())[:MOST_TEXTS]

    def to_json(self) -> list[Any]:
        return [self.start, self.end, self.events, self.negatives, self.labels, self.texts]

    @classmethod
    def from_json(cls, tree: list[Any]) -> Window:
        return cls(*tree)
