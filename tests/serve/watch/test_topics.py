"""Which topic a text has, by rules whose cost is bounded and by the likeness of descriptions."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from cluster.config import Alerts
from cluster.errors import ConfigError
from cluster.experiment import parse
from serve.watch.events import Event
from serve.watch.topics import Topics


def experiment(**topics: object) -> Alerts:
    tree = {"name": "news", "data": {"source": {"kind": "digits"}}, "alerts": {"topics": topics}}
    return parse(tree).alerts


def of(topics: Topics, *texts: str, topic: str | None = None) -> list[str]:
    return topics.of([Event(0.0, text, topic, None, text) for text in texts])


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        pytest.param("Nokia cuts jobs", "telecoms", id="word"),
        pytest.param("NOKIA CUTS", "telecoms", id="any case"),
        pytest.param("Nokian tyres", "other", id="part of a word"),
        pytest.param("the mobile network grew", "telecoms", id="phrase"),
        pytest.param("EPS of EUR 0.3", "earnings", id="pattern"),
        pytest.param("Nokia EPS", "telecoms", id="the first rule"),
        pytest.param("C++ (new)", "code", id="signs"),
        pytest.param("Größe", "umlaut", id="other letters"),
        pytest.param("Größen", "other", id="part of a word with other letters"),
        pytest.param("🚀", "moon", id="emoji"),
        pytest.param("", "other", id="nothing"),
        pytest.param("nokia\0", "telecoms", id="NUL"),
    ],
)
def test_a_text_has_the_first_topic_whose_rule_takes_it(text: str, topic: str) -> None:
    topics = Topics(
        experiment(
            telecoms={"words": ["nokia", "mobile network"]},
            earnings={"pattern": r"\bEPS\b"},
            code={"words": ["c++"]},
            umlaut={"words": ["größe"]},
            moon={"words": ["🚀"]},
        )
    )

    assert of(topics, text) == [topic]


def test_an_event_that_names_its_topic_has_that_one() -> None:
    assert of(Topics(experiment(a={"words": ["x"]})), "x", topic="own") == ["own"]


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(x+x+)+y", "((a{0,30}){0,10}){0,3}c"])
def test_a_pattern_that_explodes_elsewhere_does_not_here(pattern: str) -> None:
    topics, text = Topics(experiment(slow={"pattern": pattern})), "a" * 1_000_000 + "!"

    started = time.process_time()
    of(topics, text)

    assert time.process_time() - started < 10.0  # it would be longer than the universe is old


@pytest.mark.parametrize(
    ("topic", "problem"),
    [
        pytest.param({"pattern": "(?=a)"}, "is no RE2 pattern", id="look-ahead"),
        pytest.param({"pattern": r"(a)\1"}, "is no RE2 pattern", id="back-reference"),
        pytest.param({"pattern": "a)("}, "is no RE2 pattern", id="brackets"),
        pytest.param({"pattern": "((a{100}){100}){100}"}, "is no RE2 pattern", id="too large"),
        pytest.param({}, "nothing belongs to this topic", id="empty"),
        pytest.param({"words": [""]}, "at least 1 character", id="empty word"),
        pytest.param({"word": ["x"]}, "did you mean `words`", id="unknown key"),
    ],
)
def test_a_rule_that_is_none_is_refused_in_one_sentence(topic: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=r"alerts\.topics") as error:
        experiment(a=topic)

    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", "", "x" * 1_000_000], ids=["long", "lines", "empty", "1 MB"])
def test_a_topics_name_is_short_and_one_line(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        experiment(**{name: {"words": ["x"]}})

    assert len(str(error.value)) < 1000


def test_what_no_rule_takes_has_the_likest_description_or_none() -> None:
    vectors = {"cats": (1.0, 0.0), "dogs": (0.0, 1.0), "a tabby": (0.9, 0.1), "a fish": (0.1, 0.1), "x": (0.0, 1.0)}

    def embed(texts: Any) -> np.ndarray:
        return np.array([vectors[text] for text in texts], np.float32)

    rules = experiment(cats={"about": "cats"}, dogs={"about": "dogs"}, rule={"words": ["x"]})

    assert of(Topics(rules, embed), "a tabby", "x", "a fish") == ["cats", "rule", "other"]
