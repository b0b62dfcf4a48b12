"""The way of a candidate with traffic whose truth is known, in virtual time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serve.adapt import rollout
from serve.adapt.candidacy import Rules, State, held, wanted
from serve.adapt.proposals import Command
from serve.adapt.rivals import Heard, Rivals, Shadow
from serve.adapt.sequential import Tally

TICK_S, START = 0.2, 1_000_000.0
RULES = Rules()
CANARY = Command("canary", "ada", {"bundle": "b2", "version": 2})


class Traffic:
    """Requests that fail with each version's rate, shared out as the state wants it; labels for a part of them."""

    def __init__(self, seed: int = 0, *, rules: Rules = RULES, rate: float = 100.0, agree: float = 0.95, **bad: float):
        self.chance, self.rules, self.rate, self.agree = np.random.default_rng(seed), rules, rate, agree
        self.stable, self.candidate = bad.get("stable", 0.001), bad.get("candidate", 0.001)
        self.labelled, self.wrong = bad.get("labelled", 0.0), (bad.get("wrong", 0.05), bad.get("wrong2", 0.05))
        self.pace = bad.get("pace", 1.0)
        self.labels = Tally()
        self.ticks, self.touched = 0, 0
        self.state, _ = rollout.obeyed(State(serving=1), CANARY, rules, START)

    def tick(self, **more: Any) -> State:
        self.ticks += 1
        share = wanted(self.state, self.rules)
        num = int(self.chance.poisson(self.rate * TICK_S))
        theirs = int(self.chance.binomial(num, share["canary"]))
        seen = Tally(num - theirs, self._bad(num - theirs, self.stable), theirs, self._bad(theirs, self.candidate))
        rows = int(self.chance.binomial(num, share["shadow"]))
        failed = self._bad(rows, self.candidate)
        shadow = Shadow(rows, self._bad(rows - failed, self.agree), failed)
        pace = self.pace if rows or theirs else 0.0
        labels = [self._bad(count, self.labelled) for count in (num - theirs, theirs)]
        wrong = [self._bad(count, rate) for count, rate in zip(labels, self.wrong, strict=True)]
        self.labels = self.labels.plus(Tally(labels[0], wrong[0], labels[1], wrong[1]))
        self.touched += theirs
        found: dict[str, Any] = {
            "serving": 1,
            "seen": Rivals(2, 1, requests=seen, shadow=shadow, pace=pace, excess_s=0.01),
            "heard": Heard(2, self.labels),
        }
        self.state = rollout.step(self.state, self.rules, START + TICK_S * self.ticks, **(found | more))
        return self.state

    def until(self, *phases: str, most_s: float = 600.0, **more: Any) -> State:
        while self.state.phase not in phases and self.ticks * TICK_S < most_s:
            self.tick(**more)
        return self.state

    def _bad(self, num: int, rate: float) -> int:
        return int(self.chance.binomial(num, rate))


def kinds(state: State) -> list[str]:
    return [event.kind for event in state.events]


def test_a_good_version_goes_through_shadow_and_all_steps_and_is_promoted() -> None:
    traffic = Traffic()
    shares = []
    while traffic.until("promoting").phase != "promoting":
        pass
    for state in (traffic.state, traffic.tick(), traffic.tick(heard=Heard(2, attempt=1))):
        shares.append(wanted(state, RULES))

    assert kinds(traffic.state) == ["shadow", *["canary"] * 4, "promoting", "promoted"]
    assert [event.words.split()[2] for event in traffic.state.events[1:5]] == ["1", "5", "25", "50"]
    assert shares[0] == {"candidate": {"bundle": "b2", "version": 2}, "shadow": 0.0, "canary": 1.0}
    assert shares[0] == shares[1]
    assert shares[2] == held({})
    figures = traffic.state.events[-2].figures
    assert figures["requests"] >= 400
    assert figures["shadow rows"] >= 200


@pytest.mark.parametrize(
    ("truth", "words", "most"),
    [
        pytest.param({"candidate": 1.0}, "failed, was late or had to be rescued", 0, id="every pass fails"),
        pytest.param({"pace": 10.0}, "times as long", 0, id="ten times slower"),
    ],
)
def test_what_shadow_shows_already_never_answers_anybody(truth: dict[str, float], words: str, most: int) -> None:
    traffic = Traffic(**truth)  # type: ignore[arg-type]

    state = traffic.until("promoting", "taken back")

    assert (state.phase, words in state.events[-1].words) == ("taken back", True)
    assert traffic.touched <= most
    assert traffic.ticks < 50
    assert wanted(state, RULES) == held({})


@pytest.mark.parametrize(
    ("truth", "words", "most"),
    [
        pytest.param({"candidate": 1.0}, "failed, was late", 5, id="all bad"),
        pytest.param({"candidate": 0.4}, "failed, was late", 30, id="four of ten late"),
        pytest.param({"labelled": 1.0, "wrong2": 0.95}, "by labels it was wrong", 8, id="classes in another order"),
    ],
)
def test_a_bad_version_is_taken_back_within_tens_of_requests(truth: dict[str, float], words: str, most: int) -> None:
    rules = replace(RULES, shadow=0)
    for seed in range(5):
        traffic = Traffic(seed, rules=rules, **truth)  # type: ignore[arg-type]

        state = traffic.until("promoting", "taken back")

        assert (state.phase, words in state.events[-1].words) == ("taken back", True)
        assert traffic.touched <= most


def test_five_points_of_accuracy_are_found_with_labels() -> None:
    rules = replace(RULES, least_requests=2000, steps=(0.1, 0.5))
    found = [
        Traffic(seed, rules=rules, rate=400.0, labelled=0.5, wrong=0.03, wrong2=0.08).until("promoting", "taken back")
        for seed in range(3)
    ]

    assert [state.phase for state in found] == ["taken back"] * 3


def test_good_versions_are_all_promoted_under_load_that_makes_both_late() -> None:
    found = [
        Traffic(seed, stable=0.1, candidate=0.1, labelled=0.1).until("promoting", "taken back") for seed in range(5)
    ]

    assert [state.phase for state in found] == ["promoting"] * 5


def test_a_pause_holds_it_and_keeps_nothing_bad() -> None:
    traffic = Traffic()
    for _ in range(300):
        traffic.tick(paused="ada")
    assert (traffic.state.phase, traffic.state.held) == ("shadow", "paused by ada")

    traffic.candidate = 1.0
    for _ in range(50):
        traffic.tick(paused="ada")

    assert traffic.state.phase == "taken back"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        pytest.param({"serving": 3}, "version 3 was deployed meanwhile", id="another version is deployed"),
        pytest.param({"seen": Rivals(2, refused="the file is gone")}, "cannot hold it: the file is gone", id="no load"),
    ],
)
def test_what_ends_it_at_once(more: dict[str, Any], words: str) -> None:
    traffic = Traffic()
    traffic.tick()

    state = traffic.tick(**more)

    assert state.phase == "taken back"
    assert words in state.events[-1].words


def test_a_person_that_deploys_it_promotes_it() -> None:
    traffic = Traffic()
    traffic.tick()

    assert traffic.tick(serving=2).phase == "promoted"


def test_for_want_of_requests_it_is_taken_back() -> None:
    traffic = Traffic(rules=replace(RULES, patience=20.0), rate=0.0)

    state = traffic.until("taken back", most_s=60.0)

    assert "0 of 200 rows are answered unseen" in state.events[-1].words
    assert traffic.ticks == pytest.approx(20 / TICK_S, abs=2)


def test_one_step_that_is_not_automatic_waits_for_a_person_and_not_for_requests() -> None:
    traffic = Traffic(rules=replace(RULES, steps=(0.5,), automatic=False, patience=20.0), rate=0.0)

    assert traffic.until("taken back", most_s=60.0).phase == "taken back"


def test_where_it_is_not_automatic_the_last_step_waits_for_a_person_as_long_as_it_takes() -> None:
    traffic = Traffic(rules=replace(RULES, automatic=False, patience=200.0))
    traffic.until("promoting", "taken back", most_s=300.0)
    assert (traffic.state.phase, traffic.state.held) == ("canary", "it waits for trimtab promote")

    state, refusal = rollout.obeyed(traffic.state, Command("promote", "ada"), traffic.rules, START + 301)

    assert (state.phase, refusal) == ("promoting", "")


def test_a_stranger_that_no_gate_has_judged_needs_labels_before_it_grows() -> None:
    stranger = Traffic(agree=0.1)
    stranger.until("promoting", "taken back", most_s=120.0)
    judged = Traffic(agree=0.1)
    judged.state = replace(judged.state, order="o1")

    assert (stranger.state.phase, stranger.state.step) == ("canary", 0)
    assert "20 of its answers must have a label" in stranger.state.held
    assert judged.until("promoting", "taken back").phase == "promoting"


def test_a_promotion_that_fails_is_tried_again_and_then_taken_back() -> None:
    traffic = Traffic()
    traffic.until("promoting")

    for attempt in (1, 1, 2, 3):
        assert traffic.state.phase == "promoting"
        traffic.tick(heard=Heard(2, attempt=attempt, trouble="the dashboard is away"))

    assert traffic.state.phase == "taken back"
    assert "could not be promoted: the dashboard is away" in traffic.state.events[-1].words


def test_a_newer_one_waits_and_of_several_the_newest() -> None:
    traffic = Traffic()
    for version in (3, 4):
        command = Command("canary", "keeper", {"bundle": f"b{version}", "version": version, "order": f"o{version}"})
        traffic.state, refusal = rollout.obeyed(traffic.state, command, RULES, START)
        assert refusal == ""
    assert [(e.kind, e.version, e.order) for e in traffic.state.events] == [("shadow", 2, ""), ("taken back", 3, "o3")]

    for serving in (1, 3, 3):
        traffic.tick(serving=serving)

    assert (traffic.state.phase, traffic.state.version, traffic.state.order) == ("shadow", 4, "o4")


SAID = [
    pytest.param({}, CANARY, "is being rolled out already", id="the same canary"),
    pytest.param({}, Command("canary", "ada", {"bundle": "b1", "version": 1}), "answers all", id="the stable one"),
    pytest.param({}, Command("canary", "ada", {"version": 7}), "needs the bundle", id="no bundle"),
    pytest.param({}, Command("promote", "ada", {"bundle": "b3", "version": 3}), "roll it back first", id="another"),
    pytest.param({"phase": "promoting"}, Command("promote", "ada"), "being promoted already", id="twice"),
    pytest.param({"phase": "promoting"}, Command("rollback", "ada"), "say it again", id="back while it is promoted"),
    pytest.param({"phase": "promoted"}, Command("rollback", "ada"), "no version is being rolled out", id="nothing"),
    pytest.param({"phase": "none"}, Command("promote", "ada"), "name the one to promote", id="nothing to promote"),
]


@pytest.mark.parametrize(("as_if", "command", "words"), SAID)
def test_what_is_refused(as_if: dict[str, Any], command: Command, words: str) -> None:
    before = replace(Traffic().state, **as_if)

    state, refusal = rollout.obeyed(before, command, RULES, START)

    assert words in refusal
    assert state == before


def test_rollback_takes_it_back_at_once_and_the_one_that_waits_too() -> None:
    state, _ = rollout.obeyed(Traffic().state, Command("canary", "ada", {"bundle": "b3", "version": 3}), RULES, START)

    state, refusal = rollout.obeyed(state, Command("rollback", "ada"), RULES, START)

    assert (state.phase, state.waiting, refusal) == ("taken back", None, "")
    assert state.events[-1].words == "ada said rollback"


def test_a_person_may_promote_a_version_at_once() -> None:
    command = Command("promote", "ada", {"bundle": "b3", "version": 3})

    state, refusal = rollout.obeyed(State(serving=1), command, RULES, START)

    assert (state.phase, refusal) == ("promoting", "")
    assert wanted(state, RULES)["candidate"] == {"bundle": "b3", "version": 3}
    assert rollout.step(state, RULES, START + 1, serving=1, heard=Heard(3, attempt=1)).phase == "promoted"


def test_a_clock_that_is_set_moves_nothing() -> None:
    traffic = Traffic(rules=replace(RULES, patience=60.0), rate=0.0)
    traffic.tick()

    state = rollout.step(traffic.state, traffic.rules, START + 86400, serving=1)
    state = rollout.step(state, traffic.rules, START - 86400, serving=1)

    assert state.phase == "shadow"


def test_a_state_reads_back_as_exactly_the_same() -> None:
    traffic = Traffic(labelled=0.2)
    traffic.until("promoting", most_s=30.0)
    traffic.state, _ = rollout.obeyed(
        traffic.state, Command("canary", "ada", {"bundle": "b3", "version": 3}), RULES, START + 31
    )

    assert State.from_json(json.loads(json.dumps(traffic.state.to_json()))) == traffic.state
