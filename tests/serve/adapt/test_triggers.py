"""When a retraining is due, in made time: each trigger, what it waits for, and how sure labels must be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from cluster.config import Retrain
from cluster.orders import Ask
from serve.adapt import triggers
from serve.adapt.triggers import Drift, Due, Facts, Files, Judged, Labels, Memory

HOUR, DAY = 3600.0, 86400.0
START = 1_750_000_000.0
NONE = Facts(version=1, accuracy=0.95)


def settings(**changes: Any) -> Retrain:
    return Retrain.model_validate({"cooldown": "0s", **changes})


def berlin(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin"), fold=fold).timestamp()


@dataclass
class Course:
    """A life in made time; an order that is given runs until it is ended here."""

    settings: Retrain
    facts: Facts = NONE
    memory: Memory = field(default_factory=Memory)
    orders: list[Due] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    takes_s: float = 0.0  # of a retraining; 0 ends it at once

    def at(self, now: float, **facts: Any) -> Due | None:
        running = self.facts.running
        if running and now >= (self.facts.ended_at or 0.0):
            self.facts = replace(self.facts, running="")
        seen = replace(self.facts, **facts)
        if seen.ended_at is not None and seen.ended_at > now:
            seen = replace(seen, ended_at=None)
        found = triggers.due(self.settings, self.memory, seen, now)
        self.memory = Memory.from_json(found.memory.to_json())  # as it is kept
        self.words += found.words
        if found.due:
            self.orders.append(found.due)
            self.facts = replace(self.facts, ended_at=now + self.takes_s, ordered=(*self.facts.ordered, now))
            self.facts = replace(self.facts, running=found.due.id if self.takes_s else "")
        return found.due

    def through(self, times: Iterable[float], **facts: Any) -> list[Due]:
        return [due for now in times if (due := self.at(now, **facts)) is not None]


def nightly(zone: str = "Europe/Berlin", **schedule: Any) -> Retrain:
    return settings(triggers={"schedule": {"cron": "30 2 * * *", "timezone": zone, **schedule}}, per_day=100)


def ticks(since: float, until: float, every_s: float = 600.0) -> np.ndarray:
    return np.arange(since, until, every_s)


# The schedule


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        pytest.param(
            "2026-03-28T00:00", "2026-03-30T12:00",
            ["2026-03-28 02:30 CET", "2026-03-29 03:00 CEST", "2026-03-30 02:30 CEST"], id="clocks go forward",
        ),
        pytest.param(
            "2026-10-24T00:00", "2026-10-26T12:00",
            ["2026-10-24 02:30 CEST", "2026-10-25 02:30 CEST", "2026-10-26 02:30 CET"], id="clocks go back",
        ),
    ],
)  # fmt: skip
def test_a_schedule_keeps_to_its_clock(since: str, until: str, expected: list[str]) -> None:
    course = Course(nightly())

    orders = course.through(ticks(berlin(since), berlin(until)))

    assert [due.words for due in orders] == [f"the schedule's time {clock}" for clock in expected]
    assert len({due.id for due in orders}) == 3


def test_a_schedule_begins_when_it_is_first_seen_and_anew_when_it_is_changed() -> None:
    course = Course(nightly())
    assert course.at(berlin("2026-05-01T02:31")) is None

    course.settings = nightly(cron="0 12 * * *")
    assert course.at(berlin("2026-05-01T13:00")) is None
    assert course.at(berlin("2026-05-02T12:00")) is not None


def test_missed_times_are_caught_up_once() -> None:
    course = Course(nightly())
    course.at(berlin("2026-05-01T12:00"))

    orders = course.through(ticks(berlin("2026-05-05T09:00"), berlin("2026-05-05T12:00")))

    assert [due.words for due in orders] == [
        "the schedule's time 2026-05-05 02:30 CEST, which catches up 3 earlier",
    ]


def test_years_of_missed_minutes_are_one_order() -> None:
    course = Course(settings(triggers={"schedule": {"cron": "* * * * *"}}, per_day=100))
    course.at(START)

    assert course.at(START + 2 * 365 * DAY) is not None
    assert course.at(START + 2 * 365 * DAY + 1) is None


@pytest.mark.parametrize(
    ("overlap", "expected"), [pytest.param("skip", 2, id="left out"), pytest.param("queue", 3, id="done after it")]
)
def test_a_time_that_comes_while_a_retraining_runs(overlap: str, expected: int) -> None:
    hourly = settings(triggers={"schedule": {"cron": "0 * * * *", "overlap": overlap}}, per_day=100)
    course = Course(hourly, takes_s=1.5 * HOUR)  # longer than from one time to the next

    course.through(ticks(START, START + 4 * HOUR, 60.0))

    assert len(course.orders) == expected
    assert any("is left out" in text for text in course.words) == (overlap == "skip")


# What all of them wait for


def test_triggers_wait_for_the_cooldown_and_the_order_is_not_lost() -> None:
    course = Course(settings(triggers={"schedule": {"cron": "0 * * * *"}}, cooldown="90m", per_day=100))

    orders = course.through(ticks(START, START + 6 * HOUR, 60.0))

    gaps = np.diff(course.facts.ordered)
    assert len(orders) == 4
    assert (gaps >= 1.5 * HOUR).all()
    assert course.words.count(
        "a retraining for schedule waits until 5400 s after the last retraining (retrain.cooldown)"
    )


def test_no_more_than_so_many_are_ordered_in_any_24_hours() -> None:
    course = Course(settings(triggers={"schedule": {"cron": "0 * * * *"}}, per_day=3))

    course.through(ticks(START, START + 3 * DAY, 300.0))

    times = np.array(course.facts.ordered)
    assert all(((times > at - DAY) & (times <= at)).sum() <= 3 for at in times)
    assert len(times) == 9
    assert "a retraining for schedule waits: 3 were ordered within 24 hours (retrain.per_day)" in course.words


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        pytest.param({"running": "person-7"}, "waits for the retraining person-7", id="another runs"),
        pytest.param({"rolling": 4}, "waits until version 4 is promoted or taken back", id="a version is rolled out"),
    ],
)
def test_one_at_a_time(facts: dict[str, Any], why: str) -> None:
    course = Course(settings(triggers={"webhook": True}), replace(NONE, asks=(Ask("a", START, "by client 1"),)))

    assert course.at(START, **facts) is None
    assert course.at(START + 1, **facts) is None
    assert course.words == [f"a retraining for webhook {why}"]  # once
    assert course.at(START + 2) == Due("webhook", "webhook-a", "asked for by client 1")


def test_what_several_want_at_once_is_one_retraining() -> None:
    both = settings(triggers={"schedule": {"cron": "0 * * * *"}, "webhook": True, "data": {"path": "/d"}})
    course = Course(both)
    course.at(START, files=Files("old"))
    course.at(START + 1, files=Files("new"))
    asks = (Ask("a", START, "by client 1"), Ask("b", START, "by client 2"))

    due = course.at(START + HOUR, files=Files("new"), asks=asks)

    assert due is not None
    assert (due.cause, due.id) == ("webhook", "webhook-a")
    assert "asked for by client 1 and 1 more; the schedule's time" in due.words
    assert "other files at /d" in due.words
    assert course.at(START + HOUR + 60, files=Files("new"), asks=asks) is None  # their files are still to be removed
    assert course.memory.taken == ("a", "b")
    assert course.at(START + HOUR + 120, files=Files("new")) is None
    assert course.memory.taken == ()


def test_a_wish_is_left_out_aloud_where_the_webhook_is_off() -> None:
    course = Course(settings(), replace(NONE, asks=(Ask("a", START, "by client 1"),)))

    assert course.at(START) is None
    assert course.words == ["what was asked for is left out: retrain.triggers.webhook is off"]
    assert course.memory.taken == ("a",)


# New files


@pytest.fixture
def data() -> Course:
    course = Course(settings(triggers={"data": {"path": "/d", "settle": "30s"}}, per_day=100))
    course.at(START, files=Files("one"))
    return course


def test_files_count_once_they_have_settled(data: Course) -> None:
    assert data.at(START + 10, files=Files("two")) is None
    assert data.at(START + 30, files=Files("three")) is None  # still being written
    assert data.at(START + 59) is None  # not looked at
    due = data.at(START + 60, files=Files("three"))

    assert due == Due("data", f"data-{int(START) + 30}-three", "other files at /d")
    assert data.through(ticks(START + 61, START + HOUR), files=Files("three")) == []


def test_files_as_they_were_are_no_reason(data: Course) -> None:
    assert data.at(START + 10, files=Files("two")) is None

    assert data.through(ticks(START + 20, START + HOUR), files=Files("one")) == []


def test_the_same_files_for_the_second_time_are_another_order(data: Course) -> None:
    for step, fingerprint in enumerate(("two", "one", "two")):
        data.through((START + HOUR * (1 + step), START + HOUR * (1 + step) + 40), files=Files(fingerprint))

    assert len({due.id for due in data.orders}) == 3


def test_a_path_that_vanishes_is_said_once_and_orders_nothing(data: Course) -> None:
    data.at(START + 10, files=Files("two"))
    gone = Files("", "is not there")

    assert data.through(ticks(START + 40, START + HOUR, 60.0), files=gone) == []
    assert data.through(ticks(START + HOUR, START + 2 * HOUR, 60.0)) == []  # not looked at: nothing is known
    assert data.words == ["retrain.triggers.data.path = '/d': is not there; no retraining until it is mended"]
    assert data.at(START + 3 * HOUR, files=Files("two")) is not None  # it is back, with what had come before


def test_a_path_where_there_is_nothing_yet_is_waited_for() -> None:
    course = Course(settings(triggers={"data": {"path": "/d"}}))
    course.at(START, files=Files("", "is not there"))

    assert course.at(START + 60, files=Files("one")) is None
    assert course.at(START + 100, files=Files("one")) is not None


# Labels


def labels(num: int, right: float, judged: int) -> Labels:
    return Labels(num, Judged(right, judged))


@pytest.mark.parametrize(
    ("feedback", "seen", "expected"),
    [
        pytest.param({"labels": 100}, labels(99, 90, 99), None, id="too few"),
        pytest.param({"labels": 100}, labels(100, 90, 90), "100 believed labels that no training", id="enough"),
        pytest.param({"accuracy_below": 0.9}, labels(50, 42, 50), None, id="84 of 100 is chance with 50"),
        pytest.param(
            {"accuracy_below": 0.9}, labels(900, 420, 500),
            "420 of 500 labelled answers are right of version 1, below 0.9",
            id="84 of 100 is none with 500",
        ),
        pytest.param({"accuracy_below": 0.9}, labels(500, 460, 500), None, id="above"),
        pytest.param({"accuracy_below": 1.0}, labels(3, 2, 3), None, id="one wrong of three"),
    ],
)  # fmt: skip
def test_what_labels_order(feedback: dict[str, Any], seen: Labels, expected: str | None) -> None:
    due = Course(settings(triggers={"feedback": feedback})).at(START, labels=seen)

    assert (due is None) == (expected is None)
    assert due is None or due.words.startswith(str(expected))


def test_drift_orders_a_retraining_only_when_labels_show_that_it_costs_accuracy() -> None:
    course = Course(settings(triggers={"drift": True}))
    seen: Sequence[tuple[float, int]] = [(0, 0), (5, 5), (19, 20), (38, 40), (60, 70), (60, 90)]

    orders = [course.at(START + i, drift=Drift(START, Judged(*counts))) for i, counts in enumerate(seen)]

    assert orders[:5] == [None] * 5
    assert orders[5] is not None
    assert orders[5].words.startswith("drift costs version 1 accuracy: 60 of 90 labelled answers are right")
    begun = "drift of version 1's answers orders no retraining yet"
    assert course.words == [
        f"{begun}: no label of what drifted has come",
        f"{begun}: 20 labels and more do not show that it costs accuracy",
        f"{begun}: 40 labels and more do not show that it costs accuracy",
    ]


def test_drift_orders_nothing_where_it_is_not_asked_for() -> None:
    assert Course(settings()).at(START, drift=Drift(START, Judged(0, 500))) is None


@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.99])
def test_labels_of_a_version_as_right_as_it_should_be_hardly_ever_order_one_however_often_one_looks(
    accuracy: float,
) -> None:
    generator = np.random.default_rng(7)
    alarms = 0
    for _ in range(300):
        right = np.cumsum(generator.random(1000) < accuracy)
        looks = range(4, 1000, 5)
        alarms += any(triggers.chance(Judged(float(right[n]), n + 1), accuracy) <= triggers.ALPHA for n in looks)

    assert alarms <= 9  # 3 are expected at most; more than 9 come once in a thousand times


@pytest.mark.parametrize(
    ("now", "was", "most"),
    [pytest.param(0.5, 0.97, 15, id="by half"), pytest.param(0.92, 0.97, 600, id="by five points")],
)
def test_a_fall_is_seen_within(now: float, was: float, most: int) -> None:
    generator = np.random.default_rng(3)
    seen = []
    for _ in range(50):
        right = np.cumsum(generator.random(3000) < now)
        found = (n for n in range(3000) if triggers.chance(Judged(float(right[n]), n + 1), was) <= triggers.ALPHA)
        seen.append(next(found, 3000))

    assert np.median(seen) <= most


def test_few_test_rows_promise_less() -> None:
    assert triggers.floor(0.98, 100) < triggers.floor(0.98, 10_000) < 0.98
    assert triggers.floor(1.0, 50) < 1.0
