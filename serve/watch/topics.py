"""The topic of an event: its own, that of the first rule that takes its text, or that of the likest description.

Patterns are RE2's, whose time grows with the text alone, so no pattern and no text can make it explode. Pure, but for
the encoder, which is loaded when a topic has a description.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cluster.config import Alerts, Topic
from serve.watch.events import Event

OTHER = "other"
MOST_SEARCHED = 20_000  # characters of a text

Embed = Callable[[Sequence[str]], np.ndarray]  # texts -> float32 [n, width], rows of length 1


class Topics:
    def __init__(self, rules: Alerts, embed: Embed | None = None) -> None:
        """`embed` is needed where a topic has `about`."""
        self._patterns = {
            name: _compiled(topic) for name, topic in rules.topics.items() if topic.words or topic.pattern
        }
        self._similarity = rules.similarity
        described = {name: topic.about for name, topic in rules.topics.items() if topic.about is not None}
        self._described, self._embed = list(described), embed
        self._vectors: np.ndarray | None = None
        if described:
            assert embed is not None
            self._vectors = embed(list(described.values()))

    def of(self, events: Sequence[Event]) -> list[str]:
        found = [event.topic or self._by_rule(event.text) for event in events]
        open_ones = [i for i, name in enumerate(found) if name is None]
        if self._vectors is not None and open_ones:
            assert self._embed is not None
            cosines = self._embed([events[i].text[:MOST_SEARCHED] for i in open_ones]) @ self._vectors.T
            for i, row in zip(open_ones, cosines, strict=True):
                best = int(row.argmax())
                found[i] = self._described[best] if row[best] >= self._similarity else None
        return [name or OTHER for name in found]

    def _by_rule(self, text: str) -> str | None:
        searched = text[:MOST_SEARCHED]
        return next((name for name, pattern in self._patterns.items() if pattern.search(searched)), None)


def _compiled(topic: Topic) -> Any:
    import re2

    options = re2.Options()
    options.log_errors, options.case_sensitive = False, False
    words = "|".join(re2.escape(word) for word in topic.words)
    # No \b: RE2's knows ASCII letters alone, and a word may begin or end with a sign.
    edge = r"[^\p{L}\p{N}_]"
    parts = [f"(?:^|{edge})(?:{words})(?:{edge}|$)"] if words else []
    return re2.compile("|".join([*parts, *([f"(?:{topic.pattern})"] if topic.pattern else [])]), options)
