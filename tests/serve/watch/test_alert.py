"""What an alert is called and how it is written down."""

from __future__ import annotations

import json

import pytest

from serve.watch.alert import Alert, clock, ended, raised, span


def test_the_same_finding_has_the_same_id_and_another_one_another() -> None:
    one = raised("surge", "banks", 600.0, 1200.0, "words", {})

    assert raised("surge", "banks", 600.0, 1300.0, "other words", {"p": 0.1}).id == one.id
    others = [("drift", "banks", 600.0), ("surge", "bank", 600.0), ("surge", "banks", 601.0)]
    assert one.id not in {raised(rule, topic, start, 1200.0, "", {}).id for rule, topic, start in others}  # type: ignore[arg-type]


def test_the_end_of_an_alert_is_another_message_of_the_same_alert() -> None:
    one = raised("silence", "banks 🚀", 600.0, 1200.0, "words", {})

    last = ended(one.id, "silence", "banks 🚀", 1800.0, "again", {})

    assert (last.id, last.key) == (one.id, f"{one.id}-ended")
    assert last.key != one.key


def test_it_survives_being_written_down() -> None:
    one = raised("surge", "banks", 600.0, 1200.0, "words", {"counts": {"events": 3}})

    assert Alert.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.5, "0.5 s"), (90.0, "1.5 min"), (7200.0, "2 h"), (1_000_000.0, "11.6 d")]
)
def test_times_for_a_sentence(seconds: float, words: str) -> None:
    assert span(seconds) == words
    assert clock(1.7e9) == "2023-11-14 22:13:20Z"
