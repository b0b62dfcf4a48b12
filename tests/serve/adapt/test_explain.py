from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from serve.adapt.bounds import Bounds
from serve.adapt.explain import explain

Play = Callable[..., Any]
BOUNDS = Bounds(objective_s=0.1, max_replicas=6)


def test_a_quiet_endpoint_is_at_target_and_says_why_its_best_rung_answers(play: Play) -> None:
    words = explain(play(BOUNDS, [20.0] * 20).entries)

    assert words.target.startswith("At target: 99 % of the requests within 100 ms")
    assert "large-fp32 100 %" in words.rung
    assert "alone carries" in words.rung
    assert "1 run, 1 are wanted, 1 to 6 allowed" in words.replicas
    assert words.refused == "No request was refused lately."


def test_an_overwhelmed_one_says_what_arrives_what_it_carries_and_why_it_refuses(play: Play) -> None:
    words = explain(play(Bounds(objective_s=0.1), [5000.0] * 20).entries)

    assert words.target.startswith("Not at target")
    assert "5e+03 rows/s arrive and the fastest allowed rung carries" in words.target
    assert "because the work that waited already would have made them late" in words.refused
    assert "serve.replicas leaves no choice" in words.replicas


def test_a_grown_one_says_what_it_grew_for_and_whether_that_helped(play: Play) -> None:
    words = explain(play(BOUNDS, [30.0] * 40 + [200.0] * 20).entries)

    assert "are coming" in words.replicas
    assert any("replicas 1 -> " in line and "because" in line for line in words.decisions)


def test_what_a_person_did_is_named(play: Play) -> None:
    played = play(BOUNDS, [30.0] * 10)
    played.obey("pin", {"replicas": 2})
    played.obey("set", {"replicas": 60})
    played.obey("pause", {})
    played.go_on([5000.0] * 20)

    words = explain(played.entries)

    assert "pinned by ada" in words.replicas
    assert "adaptation is paused by ada" in words.target
    assert any("Not done: replicas 60 is outside of 1 to 6" in line for line in words.decisions)
    assert any("Not done: paused by ada" in line for line in words.decisions)


@pytest.mark.parametrize("entries", [pytest.param([], id="nothing"), pytest.param([{"kind": "note"}], id="no tick")])
def test_where_nothing_is_recorded_that_is_said(entries: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="nothing has been recorded yet"):
        explain(entries)


def test_an_explanation_is_a_few_lines_of_words(play: Play) -> None:
    lines = explain(play(BOUNDS, [30.0] * 60 + [200.0] * 20, seed=1).entries).lines()

    assert 5 < len(lines) <= 15
    assert all("None" not in line and "nan" not in line for line in lines)


def test_a_rollout_is_said_with_its_figures_and_why_it_goes_no_further(play: Play) -> None:
    made = play(BOUNDS, [20.0] * 4)
    assert explain(made.entries).rollout == ""

    made.obey("canary", {"bundle": "b2", "version": 2})
    made.go_on([20.0])
    tried = explain(made.entries)
    made.obey("rollback", {})
    back = explain(made.entries)

    assert tried.rollout == (
        "Version 2 answers 20 % of the requests unseen; 0 of 0 failed or were late, none of the others. "
        "Not further yet: 0 of 200 rows are answered unseen so far."
    )
    assert back.rollout == "Version 2 was taken back: ada said rollback."
    assert any(line.startswith("Rollout: Version 2 was taken back") for line in back.lines())
