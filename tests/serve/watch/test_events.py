"""Lines of a stream: what is an event, and what is refused with which reason."""

from __future__ import annotations

import json

import pytest

from serve.watch.events import BadLine, Seen, parse, seen, shown

NOW = 1.8e9


def test_a_line_is_an_event_with_its_time_in_seconds() -> None:
    line = {"text": "Profit fell", "time": "2026-01-31T08:00:00+01:00", "topic": "banks", "source": "wire"}

    event = parse(json.dumps(line).encode(), NOW)

    assert (event.time, event.text, event.topic, event.source) == (1769842800.0, "Profit fell", "banks", "wire")
    assert event.asks == "Profit fell"


@pytest.mark.parametrize(
    ("time", "found"),
    [
        pytest.param(None, NOW, id="none: when it came"),
        pytest.param(1.7e9, 1.7e9, id="seconds"),
        pytest.param("2026-01-31T08:00", 1769846400.0, id="no zone: UTC"),
        pytest.param("2026-01-31", 1769817600.0, id="a day"),
        pytest.param(NOW + 3599, NOW + 3599, id="a clock that is wrong by less than an hour"),
    ],
)
def test_times(time: object, found: float) -> None:
    assert parse(json.dumps({"text": "x", "time": time}).encode(), NOW).time == found


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(b"hello", "json", id="no JSON"),
        pytest.param(b'{"text": "x"', "json", id="half a line"),
        pytest.param(b'{"text": "x\0"}', "json", id="a bare NUL"),
        pytest.param(b'{"text": "x", "time": NaN}', "json", id="NaN"),
        pytest.param(b'{"text": "x", "time": ' + b"9" * 5000 + b"}", "json", id="a number of 5,000 digits"),
        pytest.param(b"[" * 100_000, "json", id="nested beyond measure"),
        pytest.param(b'["text"]', "json", id="a list"),
        pytest.param(b'{"text": "\xff"}', "encoding", id="not UTF-8"),
        pytest.param(b'{"text": "\\ud800"}', "encoding", id="half a character"),
        pytest.param(b'{"input": "\\ud800"}', "encoding", id="half a character in the input"),
        pytest.param(b'{"title": "x"}', "text", id="no text"),
        pytest.param(b'{"text": 7}', "text", id="a number as text"),
        pytest.param(b'{"text": "x", "topic": ["a"]}', "topic", id="a list as topic"),
        pytest.param(b'{"text": "x", "topic": "' + b"a" * 1_000_000 + b'"}', "topic", id="a topic of 1 MB"),
        pytest.param(b'{"text": "x", "source": {}}', "source", id="an object as source"),
        pytest.param(b'{"text": "x", "time": "yesterday"}', "time", id="no time"),
        pytest.param(b'{"text": "x", "time": true}', "time", id="true as time"),
        pytest.param(b'{"text": "x", "time": -1}', "time", id="before 1970"),
        pytest.param(b'{"text": "x", "time": 1e999}', "time", id="infinite"),
        pytest.param(b'{"text": "x", "time": ' + b"9" * 400 + b"}", "time", id="a number beyond all floats"),
        pytest.param(b'{"text": "x", "time": 1700000000000}', "future", id="milliseconds"),
        pytest.param(b'{"text": "x", "time": "9999-12-31T00:00"}', "future", id="the far future"),
    ],
)
def test_what_is_no_event_says_why(line: bytes, reason: str) -> None:
    with pytest.raises(BadLine) as error:
        parse(line, NOW)

    assert error.value.reason == reason
    assert len(str(error.value)) < 200


def test_names_lose_what_would_move_a_terminals_cursor_and_keep_emoji() -> None:
    event = parse(json.dumps({"text": "x", "topic": "\x1b[2Jbanks\u202e\0 🚀"}).encode(), NOW)

    assert event.topic == "[2Jbanks 🚀"


def test_another_input_is_what_the_endpoint_is_asked() -> None:
    assert parse(b'{"input": [[1], [2]]}', NOW).asks == [[1], [2]]


def test_a_shown_text_is_one_line_and_bounded() -> None:
    assert shown("a\nb\t c") == "a b c"
    assert len(shown("x" * 10_000)) == 280


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        pytest.param(
            {"label": "bad", "probabilities": {"bad": 0.6, "awful": 0.3, "good": 0.1}}, Seen("bad", True, 0.9), id="two"
        ),
        pytest.param({"label": "good", "probabilities": {"good": 1.0}}, Seen("good", False, 0.0), id="none of them"),
        pytest.param({"label": "awful"}, Seen("awful", True, 1.0), id="no probabilities"),
    ],
)
def test_the_score_is_the_probability_of_all_negative_labels(answer: dict[str, object], found: Seen) -> None:
    got = seen(answer, ["bad", "awful"])

    assert (got.label, got.is_negative, round(got.score, 9)) == (found.label, found.is_negative, found.score)


def test_an_answer_without_a_label_is_left_out() -> None:
    with pytest.raises(BadLine, match="no label"):
        seen({"value": 3.0}, ["negative"])
