"""A whole stream of known truth: what is found, what is not, in what order, and after which deaths."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from cluster.config import Alerts
from serve.watch.alert import Alert
from serve.watch.events import Event, Seen
from serve.watch.monitor import MORE, Monitor

RULES = Alerts()
T0 = 1.7e9
Step = tuple[Event, Seen, str]


def one(time: float, is_negative: bool = False, topic: str = "banks", text: str = "text") -> Step:
    label = "negative" if is_negative else "neutral"
    return Event(time, text, topic, None, text), Seen(label, is_negative, 0.9 if is_negative else 0.1), topic


def stream(seed: int, num: int, share: float, start: float = T0, every_s: float = 10.0) -> Iterator[Step]:
    generator = random.Random(seed)
    for i in range(num):
        yield one(start + i * every_s, generator.random() < share, text=f"text {i}")


def alerts(monitor: Monitor, steps: Iterator[Step] | list[Step]) -> list[Alert]:
    return [alert for step in steps for alert in monitor.step(*step)]


def test_a_stream_that_stays_has_hardly_an_alarm() -> None:
    num_windows = 0
    found: list[Alert] = []
    for seed in range(5):
        found += alerts(Monitor(RULES), stream(seed, 12_000, 0.15))
        num_windows += 200

    assert num_windows >= 1000
    assert len(found) <= 2  # 0.2 are expected


@pytest.mark.parametrize(("share", "most"), [(0.4, 600), (0.6, 180), (0.9, 120)])
def test_a_surge_is_noticed_the_sooner_the_larger_it_is(share: float, most: int) -> None:
    """Events between the beginning of a surge, from 15 %, and its alert; a window has 60."""
    for seed in range(10):
        monitor = Monitor(RULES)
        before = alerts(monitor, stream(seed, 1800, 0.15))
        found = alerts(monitor, stream(100 + seed, 1000, share, T0 + 18_000.0))

        raised = [alert for alert in found if alert.rule == "surge" and alert.state == "raised"]
        assert not before
        assert raised
        assert (raised[0].at - T0 - 18_000.0) / 10.0 <= most


def test_killed_at_any_moment_it_goes_on_as_if_nothing_was() -> None:
    steps = [*stream(1, 1500, 0.15), *stream(2, 300, 0.7, T0 + 15_000.0), *stream(3, 900, 0.1, T0 + 18_000.0)]
    steps += [one(T0 + 40_000.0), one(T0 + 40_005.0, topic="insurers"), one(T0 + 39_990.0)]
    whole, broken = Monitor(RULES), Monitor(RULES)
    found: list[Alert] = []
    for i, step in enumerate(steps):
        if i % 97 == 0:
            broken = Monitor.from_json(RULES, json.loads(json.dumps(broken.to_json(), allow_nan=False)))
        found += broken.step(*step)

    assert found == alerts(whole, steps)
    assert {alert.rule for alert in found} >= {"surge", "silence"}
    assert broken.to_json() == whole.to_json()


def test_what_was_counted_under_other_settings_is_not_gone_on_with() -> None:
    state = Monitor(RULES).to_json()

    with pytest.raises(ValueError, match="another window"):
        Monitor.from_json(Alerts.model_validate({"window": "5m"}), state)


def test_events_out_of_order_count_and_late_ones_are_said() -> None:
    steps = list(stream(0, 2000, 0.2))
    shuffled = list(steps)
    generator = random.Random(0)
    for i in range(0, len(shuffled), 5):
        shuffled[i : i + 5] = generator.sample(shuffled[i : i + 5], len(shuffled[i : i + 5]))
    ordered, mixed = Monitor(RULES), Monitor(RULES)

    alerts(ordered, steps)
    alerts(mixed, shuffled)
    mixed.step(*one(T0))

    assert (mixed.counts["counted"], mixed.counts["late"]) == (2000, 1)
    pasts = [[window.counts for window in monitor.courses["banks"].past] for monitor in (ordered, mixed)]
    assert pasts[0] == pasts[1]


def test_one_time_far_ahead_is_not_believed_and_three_are() -> None:
    monitor = Monitor(RULES)
    alerts(monitor, stream(0, 100, 0.2))

    monitor.step(*one(T0 + 1e8))
    monitor.step(*one(T0 + 1000.0))
    assert (monitor.counts["jumped"], monitor.counts["late"], monitor.counts["counted"]) == (1, 0, 101)

    for i in range(3):
        monitor.step(*one(T0 + 1e8 + i))
    monitor.step(*one(T0 + 1010.0))
    assert (monitor.counts["counted"], monitor.counts["late"], monitor.newest) == (104, 1, T0 + 1e8 + 2)


def test_any_number_of_topics_takes_bounded_room() -> None:
    monitor = Monitor(Alerts(max_topics=10))

    for i in range(1000):
        monitor.step(*one(T0 + i, topic=f"topic {i}"))

    assert len(monitor.courses) == 11
    assert MORE in monitor.courses
    assert monitor.counts["of more topics"] == 990


def test_a_topic_long_silent_gives_way_to_a_new_one() -> None:
    monitor = Monitor(Alerts(max_topics=2))

    for i, topic in enumerate("abc"):
        monitor.step(*one(T0 + i * 80_000.0, topic=topic))

    assert list(monitor.courses) == ["b", "c"]


def test_topics_do_not_disturb_each_other() -> None:
    monitor = Monitor(RULES)
    steps = []
    for calm, loud in zip(stream(5, 2400, 0.15), stream(6, 2400, 0.15), strict=True):
        surges = loud[0].time >= T0 + 18_000.0
        steps += [calm, one(loud[0].time, surges or loud[1].is_negative, "insurers")]

    found = alerts(monitor, steps)

    assert {alert.topic for alert in found if alert.rule == "surge"} == {"insurers"}


def test_time_that_goes_on_without_events_finds_silence_and_closes_windows() -> None:
    monitor = Monitor(RULES)
    alerts(monitor, stream(7, 500, 0.2))

    found = [alert for minute in range(60) for alert in monitor.tick(T0 + 5000.0 + 60.0 * minute)]

    assert [(alert.rule, alert.state) for alert in found] == [("silence", "raised")]
    assert not monitor.courses["banks"].open
    assert monitor.tick(T0) == []


def test_what_came_while_nobody_watched_was_no_silence() -> None:
    monitor = Monitor(RULES)
    alerts(monitor, stream(8, 500, 0.2))

    monitor.was_away()

    assert alerts(monitor, stream(9, 500, 0.2, T0 + 50_000.0)) == []
