"""Alerts from a stream of answered events: `Monitor.step(event, seen) -> alerts`, topic by topic.

Pure: time is the stream's own, which the newest events tell. They may come out of order by `alerts.lateness`; later
ones are counted and left out. Bounded: so many topics, of each so many windows. Knows no endpoint and no files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from cluster.config import Alerts
from serve.watch.alert import Alert
from serve.watch.course import Course
from serve.watch.events import Event, Seen, identity

MORE = "(more topics)"
JUMP_S = 86400.0  # ahead of the stream, or ten windows: believed when others say so too
JUMPED = 3  # events that agree
LOOKS = 4  # for silence, in the length of a window


class Monitor:
    """One stream. `counts` are events by what became of them: counted, late, jumped."""

    def __init__(self, rules: Alerts) -> None:
        self.rules = rules
        self.counts: Counter[str] = Counter()
        self.courses: dict[str, Course] = {}
        self._newest: float | None = None
        self._closed = 0  # windows with a lower number are
        self._looked = 0.0
        self._jumped: list[tuple[Event, Seen, str]] = []

    def step(self, event: Event, seen: Seen, topic: str) -> list[Alert]:
        """Count one event of `topic`; alerts that begin or end with it, in the order of their finding."""
        if self._newest is not None and event.time > self._newest + max(JUMP_S, 10 * self.rules.window):
            return self._ahead(event, seen, topic)
        self.counts["jumped"] += len(self._jumped)
        self._jumped.clear()
        return self._count(event, seen, topic)

    def tick(self, now: float) -> list[Alert]:
        """The stream's time goes on to `now`, with or without an event."""
        if self._newest is not None and now <= self._newest:
            return []
        self._newest = now
        return self._go_on()

    def was_away(self) -> None:
        """What came meanwhile was not seen: it was no silence, and no gap between events."""
        for course in self.courses.values():
            course.gaps.last = None

    @property
    def newest(self) -> float | None:
        """The stream's time."""
        return self._newest

    def _ahead(self, event: Event, seen: Seen, topic: str) -> list[Alert]:
        """One wrong time must not close every window and make all that follows late."""
        self._jumped.append((event, seen, topic))
        if len(self._jumped) < JUMPED:
            return []
        held, self._jumped = sorted(self._jumped, key=lambda one: one[0].time), []
        self._newest = held[0][0].time
        alerts = self._go_on()
        for one in held:
            alerts += self._count(*one)
        return alerts

    def _count(self, event: Event, seen: Seen, topic: str) -> list[Alert]:
        number = int(event.time // self.rules.window)
        if number < self._closed:
            self.counts["late"] += 1
            return []
        self.counts["counted"] += 1
        # Time first: an event that ends a silence must not hide that there was one.
        alerts = self.tick(event.time)
        return alerts + self._course(topic).add(event, seen, number)

    def _go_on(self) -> list[Alert]:
        """Close what no event can change any more, and look for silence."""
        assert self._newest is not None
        alerts: list[Alert] = []
        settled = self._newest - self.rules.lateness
        number = int(settled // self.rules.window)
        if number > self._closed:
            self._closed = number
            alerts += self._all(lambda course: course.close(number))
        if settled - self._looked >= self.rules.window / LOOKS:
            self._looked = settled
            alerts += self._all(lambda course: course.silence(settled))
        return alerts

    def _all(self, ask: Callable[[Course], list[Alert]]) -> list[Alert]:
        return [alert for course in self.courses.values() for alert in ask(course)]

    def _course(self, topic: str) -> Course:
        """The topic's course; where there are too many, one long silent gives way, or new ones share one."""
        if topic not in self.courses and len(self.courses) >= self.rules.max_topics:
            oldest = min(self.courses.values(), key=lambda course: course.gaps.last or 0.0)
            memory = self.rules.baseline * self.rules.window
            if not oldest.is_alarmed and (self._newest or 0.0) - (oldest.gaps.last or 0.0) > memory:
                del self.courses[oldest.topic]
                self.counts["topics forgotten"] += 1
            else:
                self.counts["of more topics"] += 1
                topic = MORE
        if topic not in self.courses:
            self.courses[topic] = Course(topic, self.rules)
        return self.courses[topic]

    # To go on later

    @property
    def settings(self) -> str:
        """Of what counts were made under: state of other settings is no state of this monitor."""
        rules = self.rules
        return identity(rules.window, rules.lateness, json.dumps(sorted(rules.negative)))

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "counts": dict(self.counts),
            "newest": self._newest,
            "closed": self._closed,
            "looked": self._looked,
            "jumped": [[vars(event), vars(seen), topic] for event, seen, topic in self._jumped],
            "topics": {name: course.to_json() for name, course in self.courses.items()},
        }

    @classmethod
    def from_json(cls, rules: Alerts, tree: dict[str, Any]) -> Monitor:
        """Raises KeyError, TypeError or ValueError for what is no state of these settings."""
        made = cls(rules)
        if tree["settings"] != made.settings:
            raise ValueError("made with another window, lateness or other negative labels")
        made.counts = Counter(tree["counts"])
        made._newest, made._closed, made._looked = tree["newest"], tree["closed"], tree["looked"]
        made._jumped = [(Event(**event), Seen(**seen), topic) for event, seen, topic in tree["jumped"]]
        made.courses = {name: Course.from_json(name, rules, one) for name, one in tree["topics"].items()}
        return made
