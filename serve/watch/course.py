"""The course of one topic: its windows one after another, judged by its own past, and the alerts that come of it.

A window that surprises is kept out of the past until the next one has spoken; while a surge goes on, the past stays as
it was, or the surge would become its own excuse. Pure: knows no other topics and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cluster.config import Alerts
from serve.watch import odds
from serve.watch.alert import Alert, Rule, ended, raised, span
from serve.watch.change import Change
from serve.watch.events import Event, Seen
from serve.watch.evidence import evidence, labels, usual
from serve.watch.gaps import Gaps
from serve.watch.windows import Window

CALM = 0.05  # a window above this is not surprising at all
CALM_WINDOWS = 2  # in a row end a surge
MOST_JOINED = 6  # windows too small to be judged, put together


@dataclass
class Surge:
    """One that goes on: `held` are its windows, which are not the topic's past."""

    id: str
    started: float
    held: list[Window]
    calm: list[Window] = field(default_factory=list)


class Course:
    """`rules` are the section `alerts`; windows come in order of their time, events as they come."""

    def __init__(self, topic: str, rules: Alerts) -> None:
        self.topic, self._rules = topic, rules
        self.open: dict[int, Window] = {}  # by number since 1970; more than one while late events may come
        self.gaps, self.change = Gaps(), Change()
        self.past: list[Window] = []
        self._small: Window | None = None
        self._doubted: Window | None = None  # the window before, where it surprised
        self._before: dict[str, float] = {}  # p of each test of the window before
        self._change: tuple[float, float, int] | None = None  # found by ADWIN, and not yet spoken of
        self._surge: Surge | None = None
        self._quiet_until: dict[str, float] = {}  # by rule: no alert before

    @property
    def is_alarmed(self) -> bool:
        return self._surge is not None or self.gaps.alert is not None

    # Events

    def add(self, event: Event, seen: Seen, number: int) -> list[Alert]:
        """Count an event in the window `number`, which is not closed yet."""
        alerts = self._not_silent(event.time)
        self.gaps.add(event.time)
        length = self._rules.window
        window = self.open.setdefault(number, Window(number * length, (number + 1) * length))
        window.add(event, seen)
        self._change = self.change.add(seen.score) or self._change
        return alerts

    def silence(self, now: float) -> list[Alert]:
        """Whether the topic has been silent for too long at the stream's time `now`."""
        rules, gaps = self._rules, self.gaps
        allowed = gaps.allowed_s(rules.silence, rules.window, rules.false_alarms)
        if allowed is None or gaps.last is None or gaps.alert or now - gaps.last <= allowed:
            return []
        if not self._is_due("silence", now):
            return []  # it is said later, if it lasts
        usual = gaps.total_s / gaps.num
        words = f"no event for {span(now - gaps.last)}; one came every {span(usual)}, the longest gap expected is "
        evidence = {"last_event": gaps.last, "mean_gap_s": usual, "allowed_s": allowed, "gaps": int(gaps.num)}
        found = raised("silence", self.topic, gaps.last, now, words + span(allowed), evidence)
        gaps.alert = found.id
        return [found]

    def _not_silent(self, time: float) -> list[Alert]:
        last = self.gaps.last
        if self.gaps.alert is None or (last is not None and time <= last):
            return []
        words = "events again" if last is None else f"events again after {span(time - last)}"
        found = ended(self.gaps.alert, "silence", self.topic, time, words, {"last_event": last})
        self.gaps.alert = None
        self._quiet_until["silence"] = time + self._rules.cooldown
        return [found]

    # Windows

    def close(self, number: int) -> list[Alert]:
        """All windows before `number`, in order."""
        alerts: list[Alert] = []
        for one in sorted(n for n in self.open if n < number):
            alerts += self._closed(self.open.pop(one))
        return alerts

    def _closed(self, window: Window) -> list[Alert]:
        if self._small is not None:
            first = self._small
            if window.end - first.start <= MOST_JOINED * self._rules.window:
                first.join(window)
                window = first
            else:
                self._remember([first])  # too few to be judged, not too few to be counted
            self._small = None
        if window.events < self._rules.least:
            self._small = window
            return []
        return self._judge(window)

    def _judge(self, window: Window) -> list[Alert]:
        if len(self.past) < self._rules.learn:
            self._change = None
            self._remember([window])
            return []
        p = odds.surge(*window.counts, [one.counts for one in self.past])
        if self._surge is not None:
            return self._goes_on(self._surge, window, p)
        p_labels = odds.labels(window.labels, [one.labels for one in self.past])
        before, self._before = self._before, {"surge": p, "drift": p_labels}
        if self._alarms("surge", p, before) and window.share >= usual(self.past) + self._rules.least_rise:
            # While its rule is quiet it is no alert, and no part of the past either.
            return [self._begin_surge(window, p)] if self._is_due("surge", window.start) else []
        rare = odds.pair_level(self._rules.false_alarms)
        alerts = [] if p < rare else self._drift(window, p_labels, before)  # what may be a surge is no drift yet
        if not alerts:
            self._doubt(window, min(p, p_labels) < rare)
        return alerts

    def _alarms(self, rule: Rule, p: float, before: dict[str, float]) -> bool:
        return odds.surprising(p, before.get(rule), self._rules.false_alarms)

    def _is_due(self, rule: Rule, at: float) -> bool:
        return at >= self._quiet_until.get(rule, at)

    def _doubt(self, window: Window, is_surprising: bool) -> None:
        """Keep a surprising window out of the past until the next one has been judged."""
        doubted, self._doubted = self._doubted, window if is_surprising else None
        self._remember([one for one in (doubted, None if is_surprising else window) if one])

    def _remember(self, windows: list[Window]) -> None:
        self.past = [*self.past, *(window.bare() for window in windows)][-self._rules.baseline :]

    # A surge

    def _begin_surge(self, window: Window, p: float) -> Alert:
        before = f"usual are {usual(self.past):.0%}"
        words = f"{window.negatives} of {window.events} negative ({window.share:.0%}), {before}"
        found = self._raised("surge", window, f"{words}; by chance {p:.1g}", p, test="beta-binomial")
        self._surge = Surge(found.id, window.start, [window.bare()])
        self._doubted = self._change = None  # the window before was the surge's first, and is no part of the past
        return found

    def _goes_on(self, surge: Surge, window: Window, p: float) -> list[Alert]:
        if p > CALM:
            surge.calm.append(window.bare())
        else:
            surge.held += [*surge.calm, window.bare()]
            surge.calm = []
        if len(surge.calm) >= CALM_WINDOWS:
            found = self._end_surge(surge, window, p, f"back to {window.share:.0%} negative")
            self._remember(surge.calm)
            return [found]
        if len(surge.held) >= self._rules.baseline:
            found = self._end_surge(surge, window, p, f"{window.share:.0%} negative is what is usual now")
            self.past = surge.held[-self._rules.baseline :]
            return [found]
        return []

    def _end_surge(self, surge: Surge, window: Window, p: float, words: str) -> Alert:
        self._surge, self._before, self._change = None, {}, None
        self._quiet_until["surge"] = self._quiet_until["drift"] = window.end + self._rules.cooldown
        words = f"{words}, after {span(window.end - surge.started)}"
        return ended(surge.id, "surge", self.topic, window.end, words, evidence(window, self.past, p))

    # Drift

    def _drift(self, window: Window, p: float, before: dict[str, float]) -> list[Alert]:
        change, self._change = self._change, None
        if not self._is_due("drift", window.start):
            return []
        if self._alarms("drift", p, before):
            found = self._labels_drifted(window, p)
        elif change is not None:
            found = self._scores_drifted(window, *change)
        else:
            return []
        self._quiet_until["drift"] = window.end + self._rules.cooldown
        self._start_anew([*([self._doubted] if self._doubted else []), window])
        return [found]

    def _labels_drifted(self, window: Window, p: float) -> Alert:
        shares = ", ".join(f"{count / window.events:.0%} {label}" for label, count in sorted(window.labels.items()))
        words = f"other labels than before: {shares}; by chance {p:.1g}"
        return self._raised("drift", window, words, p, test="chi-square of labels", labels_before=labels(self.past))

    def _scores_drifted(self, window: Window, before: float, after: float, num: int) -> Alert:
        words = f"mean score {before:.3f} before, {after:.3f} over the last {num} events"
        return self._raised("drift", window, words, None, test="ADWIN", mean_before=before, mean=after, events=num)

    def _raised(self, rule: Rule, window: Window, words: str, p: float | None, **more: Any) -> Alert:
        found = evidence(window, self.past, p) | more
        return raised(rule, self.topic, window.start, window.end, words, found)

    def _start_anew(self, windows: list[Window]) -> None:
        """What comes after a drift is judged by what came with it."""
        self.past = [window.bare() for window in windows]
        self._doubted, self._before = None, {}

    # To go on later

    def to_json(self) -> dict[str, Any]:
        surge = self._surge
        return {
            "open": {str(number): window.to_json() for number, window in self.open.items()},
            "gaps": self.gaps.to_json(),
            "change": self.change.to_json(),
            "past": [window.to_json() for window in self.past],
            "small": self._small.to_json() if self._small else None,
            "doubted": self._doubted.to_json() if self._doubted else None,
            "before": self._before,
            "changed": list(self._change) if self._change else None,
            "surge": [surge.id, surge.started, *([w.to_json() for w in part] for part in (surge.held, surge.calm))]
            if surge
            else None,
            "quiet_until": self._quiet_until,
        }

    @classmethod
    def from_json(cls, topic: str, rules: Alerts, tree: dict[str, Any]) -> Course:
        made = cls(topic, rules)
        made.open = {int(number): Window.from_json(window) for number, window in tree["open"].items()}
        made.gaps, made.change = Gaps(**tree["gaps"]), Change.from_json(tree["change"])
        made.past = [Window.from_json(window) for window in tree["past"]]
        made._small = Window.from_json(tree["small"]) if tree["small"] else None
        made._doubted = Window.from_json(tree["doubted"]) if tree["doubted"] else None
        made._before, made._quiet_until = dict(tree["before"]), dict(tree["quiet_until"])
        made._change = tuple(tree["changed"]) if tree["changed"] else None
        if tree["surge"]:
            name, started, held, calm = tree["surge"]
            made._surge = Surge(name, started, *([Window.from_json(w) for w in part] for part in (held, calm)))
        return made
