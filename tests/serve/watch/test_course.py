"""One topic's windows, one after another: when a surge or a drift begins, what it does to the past, when it ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cluster.config import Alerts
from serve.watch.alert import Alert
from serve.watch.course import Course
from serve.watch.events import Event, Seen

RULES = Alerts.model_validate({"window": "10m", "least": 20, "learn": 8, "baseline": 16, "cooldown": "30m"})


@pytest.fixture
def course() -> Course:
    return Course("banks", RULES)


def window(course: Course, number: int, negatives: int, events: int = 60, rest: str = "neutral") -> list[Alert]:
    """A whole window and its end."""
    found: list[Alert] = []
    for i in range(events):
        time, bad = number * 600.0 + i * 600.0 / events, i < negatives
        event = Event(time, f"text {i}", None, None, None)
        found += course.add(event, Seen("negative" if bad else rest, bad, 0.9 if bad else 0.1), number)
    return found + course.close(number + 1)


def windows(course: Course, negatives: Sequence[int], first: int = 0) -> list[tuple[int, str, str]]:
    """Number of the window, rule and state of each alert."""
    return [
        (first + i, alert.rule, alert.state)
        for i, num in enumerate(negatives)
        for alert in window(course, first + i, num)
    ]


def test_a_surge_is_raised_once_with_its_evidence_and_ends_when_two_windows_are_calm(course: Course) -> None:
    windows(course, [8, 7, 9, 6, 8, 7, 8, 9, 8])

    (alert,) = window(course, 9, 40)
    later = windows(course, [40, 35, 30, 9, 8], first=10)

    assert (alert.rule, alert.state, alert.topic, alert.at) == ("surge", "raised", "banks", 6000.0)
    assert alert.evidence["counts"] == {"events": 60, "negatives": 40, "share": 0.6667}
    assert alert.evidence["before"] == {"windows": 9, "events": 540, "negatives": 70, "share": 0.1296}
    assert len(alert.evidence["texts"]) == 3
    assert alert.evidence["trend"]["share_per_hour"] > 0
    assert "40 of 60 negative (67%), usual are 13%" in alert.words
    assert later == [(14, "surge", "ended")]


def test_a_calm_window_in_between_ends_nothing(course: Course) -> None:
    windows(course, [8] * 9)

    assert windows(course, [40, 9, 40, 9, 40], first=9) == [(9, "surge", "raised")]


def test_two_windows_that_are_each_half_a_surprise_are_one(course: Course) -> None:
    windows(course, [8, 7, 9, 6, 8, 7, 8, 9, 8])

    assert windows(course, [17, 17], first=9) == [(10, "surge", "raised")]


def test_half_a_surprise_alone_is_none_and_is_part_of_the_past_afterwards(course: Course) -> None:
    windows(course, [8, 7, 9, 6, 8, 7, 8, 9, 8])

    assert windows(course, [17, 8, 8], first=9) == []
    assert [one.negatives for one in course.past][-3:] == [17, 8, 8]


def test_nothing_is_judged_before_there_is_a_past(course: Course) -> None:
    assert windows(course, [8, 50, 8, 60, 0, 8, 8, 40]) == []


def test_what_lasts_as_long_as_the_past_is_the_usual(course: Course) -> None:
    windows(course, [8] * 16)

    found = windows(course, [40] * 16 + [40] * 30, first=16)

    assert found == [(16, "surge", "raised"), (31, "surge", "ended")]
    assert [one.negatives for one in course.past] == [40] * 16


def test_after_a_surge_its_rule_is_quiet_for_a_while(course: Course) -> None:
    windows(course, [8] * 9)

    found = windows(course, [40, 8, 8, 40, 8, 8, 8, 8, 40], first=9)

    assert found == [(9, "surge", "raised"), (11, "surge", "ended"), (17, "surge", "raised")]


def test_many_events_make_a_small_rise_sure_but_no_surge() -> None:
    course = Course("banks", RULES)
    for number in range(9):
        window(course, number, 1000, 10_000)

    assert not [alert for alert in window(course, 9, 1300, 10_000) if alert.rule == "surge"]


def test_small_windows_are_put_together_and_those_of_a_quiet_topic_are_not_judged(course: Course) -> None:
    windows(course, [8] * 9)

    found = [one for number in range(9, 13) for one in window(course, number, 6, 6)]  # four of six events: 24

    assert [alert.rule for alert in found] == ["surge"]
    assert found[0].evidence["window"]["end"] - found[0].evidence["window"]["start"] == 4 * 600.0

    quiet = Course("quiet", RULES)
    assert not [one for number in range(0, 400, 10) for one in window(quiet, number, 3, 3)]


def test_other_labels_with_as_many_negatives_are_drift_and_then_the_usual(course: Course) -> None:
    for number in range(12):
        window(course, number, 8, rest="neutral")

    found = [one for number in range(12, 40) for one in window(course, number, 8, rest="positive")]

    assert [(alert.rule, alert.state) for alert in found] == [("drift", "raised")]
    assert found[0].evidence["test"] == "chi-square of labels"
    assert found[0].evidence["labels_before"]["neutral"] == 12 * 52
    assert "87% positive" in found[0].words


def test_a_fall_of_negatives_is_drift_and_no_surge(course: Course) -> None:
    windows(course, [30, 29, 31, 30, 28, 30, 32, 30, 30, 31])

    assert {rule for _, rule, _ in windows(course, [8] * 4, first=10)} == {"drift"}


def test_scores_that_change_under_the_same_labels_are_found_by_adwin() -> None:
    course, found = Course("banks", RULES), []
    for number in range(40):
        for i in range(60):
            score = 0.3 if number < 20 else 0.45  # never the likeliest label
            event = Event(number * 600.0 + 10 * i, "text", None, None, None)
            found += course.add(event, Seen("neutral", False, score), number)
        found += course.close(number + 1)

    assert [alert.rule for alert in found] == ["drift"]
    assert found[0].evidence["test"] == "ADWIN"
    assert found[0].evidence["mean"] > found[0].evidence["mean_before"]


def test_silence_is_raised_once_and_ends_with_the_next_event(course: Course) -> None:
    windows(course, [8] * 3)
    last = 3 * 600.0 - 10.0

    assert course.silence(last + 300.0) == []
    (raised,) = course.silence(last + 700.0)
    assert course.silence(last + 2000.0) == []
    ended = window(course, 8, 0, 1)

    assert (raised.rule, raised.state) == ("silence", "raised")
    assert raised.evidence["mean_gap_s"] == pytest.approx(10.0)
    assert [(alert.id, alert.rule, alert.state) for alert in ended] == [(raised.id, "silence", "ended")]


def test_after_a_silence_the_next_one_is_said_later_if_it_lasts(course: Course) -> None:
    windows(course, [8] * 3)
    last = 4 * 600.0
    course.silence(last - 1.0)
    ended = window(course, 4, 0, 1)

    assert [alert.state for alert in ended] == ["ended"]
    assert course.silence(last + RULES.cooldown - 1.0) == []
    assert [alert.rule for alert in course.silence(last + RULES.cooldown)] == ["silence"]
