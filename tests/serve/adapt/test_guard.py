from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from serve.adapt.bounds import Bounds
from serve.adapt.guard import Guard, enacted, failed, judge, obey, settle
from serve.adapt.proposals import REPLICAS, Command, Expectation, Proposal
from serve.adapt.signals import RungSeen, Snapshot

NOW = 1_000_000.0
BOUNDS = Bounds(objective_s=0.1, min_replicas=1, max_replicas=4, floor=0.75, cores=2)
LADDER = {"large": 0.9, "middle": 0.8, "small": 0.7}
KNOWING = Guard(ladder=LADDER)
RUNGS = tuple(RungSeen(name, accuracy, 0.001, 0.001, 0.1) for name, accuracy in LADDER.items())


def propose(rule: str = "rule", *, protective: bool = False, **changes: Any) -> Proposal:
    kind: Any = "replicas" if REPLICAS in changes else "envelope"
    undo = dict.fromkeys(changes, 1.0)
    return Proposal(rule, kind, changes, "because of 7", Expectation("late", "<=", 0.01, 10.0, 100.0), undo, protective)


def judged(guard: Guard, *proposals: Proposal, at: float = 0.0) -> tuple[list[str], Guard]:
    """Reasons in the order of judgement, empty for what is accepted."""
    verdicts, guard = judge(proposals, guard, BOUNDS, NOW + at)
    return [verdict.reason for verdict in verdicts], guard


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"replicas": 5}, "replicas 5 is outside of 1 to 4, which serve.replicas allows", id="replicas"),
        pytest.param({"replicas": 0}, "replicas 0 is outside of 1 to 4", id="none"),
        pytest.param({"replicas": 2.5}, "no whole number", id="a part of a replica"),
        pytest.param({"max_batch": 64}, "max_batch 64 is outside of 1 to 32", id="batch"),
        pytest.param({"admit": 0.0}, "admit 0.0 is outside of 0.05 to 1", id="nobody admitted"),
        pytest.param({"caution": 50}, "caution 50 is outside", id="caution"),
        pytest.param({"caution": True}, "caution True is no number", id="truth"),
        pytest.param({"variants": []}, "no list of rungs", id="no rung"),
        pytest.param({"variants": ["huge"]}, "huge is no rung", id="unknown rung"),
        pytest.param({"variants": ["large", "small"]}, "small has accuracy 0.7000, below the floor 0.7500", id="floor"),
        pytest.param({"least_accuracy": 0.5}, "least_accuracy 0.5 is outside of 0.75 to 0.9", id="lower floor"),
        pytest.param({"least_accuracy": 0.95}, "least_accuracy 0.95 is outside", id="floor above the best rung"),
        pytest.param({"threads": 2, "concurrency": 2}, "need more than the replica's 2 cores", id="cores"),
        pytest.param({"colour": "red"}, "colour is no field that can be changed", id="unknown field"),
    ],
)
def test_no_bound_is_broken_by_a_rule_or_a_person(changes: dict[str, Any], reason: str) -> None:
    (by_rule,), _ = judged(KNOWING, propose(**changes))
    verdicts, _ = obey(Command("set", "ada", changes), KNOWING, BOUNDS, {}, 2, NOW)

    assert reason in by_rule
    assert not verdicts[0].accepted
    assert reason in verdicts[0].reason


def test_what_stands_against_nothing_is_accepted_and_numbered() -> None:
    verdicts, guard = judge([propose(caution=2.5), propose(admit=0.5, protective=True)], KNOWING, BOUNDS, NOW)

    assert [(v.proposal.changes, v.number) for v in verdicts if v.accepted] == [({"admit": 0.5}, 1)]
    assert "protected 0.0 s ago" in verdicts[1].reason
    assert [pending.number for pending in guard.pending] == [1]


def test_a_field_is_changed_once_a_tick_and_not_again_within_its_cooldown() -> None:
    both, guard = judged(
        KNOWING, propose("a", caution=3.0, protective=True), propose("b", caution=2.0, protective=True)
    )
    soon, _ = judged(guard, propose(caution=3.5, protective=True), at=0.4)
    after, _ = judged(guard, propose(caution=3.5, protective=True), at=1.1)

    assert both == ["", "a changes caution at this tick"]
    assert soon == ["caution was changed 0.4 s ago; cooldown 1 s"]
    assert after == [""]


def test_what_was_tightened_stays_so_for_the_dwell_and_twice_as_long_each_time_that_was_too_short() -> None:
    guard, at, dwells = KNOWING, 0.0, []
    for _ in range(4):
        _, guard = judged(guard, propose(caution=3.0, protective=True), at=at)
        tightened = at
        while True:
            at = round(at + 0.5, 3)
            (reason,), guard = judged(guard, propose(caution=2.5), at=at)
            if not reason:
                break
        dwells.append(at - tightened)
        at += 1.0  # and soon it has to be tightened again

    assert dwells == [5.0, 10.0, 20.0, 40.0]


def test_nothing_is_loosened_while_the_endpoint_is_being_protected() -> None:
    _, guard = judged(KNOWING, propose("caution", caution=3.0, protective=True))

    soon, guard = judged(guard, propose("replicas", replicas=1), at=2.0)
    later, _ = judged(guard, propose("replicas", replicas=1), at=6.0)

    assert "nothing is loosened for now" in soon[0]
    assert later == [""]


def test_the_budget_of_actions_bounds_them_and_loosening_has_half_of_it() -> None:
    bounds = replace(BOUNDS, actions_per_minute=4, cooldown_s=0.1, dwell_s=0.1)
    guard, reasons = KNOWING, []
    for i in range(4):
        verdicts, guard = judge([propose(caution=2.0 + i / 10)], guard, bounds, NOW + i)
        reasons.append(verdicts[0].reason)
    verdicts, guard = judge([propose(admit=0.5, protective=True)], guard, bounds, NOW + 5)
    for second in range(5, 70):
        _, guard = judge([], guard, bounds, NOW + second)
    later, _ = judge([propose(caution=2.5)], guard, bounds, NOW + 70)

    assert reasons[:2] == ["", ""]
    assert reasons[2] == "2 actions in the last minute, of 2 at most"
    assert verdicts[0].accepted
    assert later[0].accepted


def test_a_person_pauses_and_resumes() -> None:
    _, paused = obey(Command("pause", "ada"), KNOWING, BOUNDS, {}, 2, NOW)
    during, paused = judged(paused, propose(admit=0.5, protective=True), at=1)
    set_by_person, _ = obey(Command("set", "ada", {"caution": 3.0}), paused, BOUNDS, {}, 2, NOW + 1)
    _, resumed = obey(Command("resume", "ada"), paused, BOUNDS, {}, 2, NOW + 2)
    after, _ = judged(resumed, propose(admit=0.5, protective=True), at=3)

    assert during == ["paused by ada"]
    assert set_by_person[0].accepted
    assert after == [""]


def test_a_floor_holds_also_while_adaptation_is_paused() -> None:
    _, paused = obey(Command("pause", "ada"), KNOWING, BOUNDS, {}, 2, NOW)

    reasons, _ = judged(paused, propose("floor", least_accuracy=0.75, protective=True))

    assert reasons == [""]


def test_rungs_cannot_be_named_before_it_is_known_which_there_are() -> None:
    verdicts, _ = obey(Command("pin", "ada", {"variants": ["large"]}), Guard(), BOUNDS, {}, 2, NOW)

    assert verdicts[0].reason == "no replica has said yet which rungs it has"


def test_what_a_person_pins_no_rule_changes_until_it_is_unpinned() -> None:
    verdicts, guard = obey(
        Command("pin", "ada", {"replicas": 3, "caution": 3.0}), KNOWING, BOUNDS, {"epoch": 4}, 2, NOW
    )
    envelope, num_replicas = enacted(verdicts, {"epoch": 4}, 2)
    refused, guard = judged(guard, propose(replicas=1), propose(caution=2.5), at=500)
    _, guard = obey(Command("unpin", "ada", fields=("replicas",)), guard, BOUNDS, envelope, num_replicas, NOW + 501)
    for second in range(502, 600):
        _, guard = judged(guard, at=second)
    after, _ = judged(guard, propose(replicas=1), propose(caution=2.5), at=600)

    assert (envelope, num_replicas) == ({"epoch": 5, "caution": 3.0}, 3)
    assert refused == ["replicas is pinned by ada", "caution is pinned by ada"]
    assert after == ["", "caution is pinned by ada"]


def test_a_persons_word_needs_no_cooldown_and_costs_no_budget() -> None:
    guard = KNOWING
    for i in range(50):
        verdicts, guard = obey(Command("set", "ada", {"caution": 2.0 + (i % 2)}), guard, BOUNDS, {}, 2, NOW + i / 100)
        assert verdicts[0].accepted

    assert guard.actions == ()


def looked(
    guard: Guard, late: int, seconds: float, start: float, rate: float = 50.0
) -> tuple[list[Any], list[Any], Guard]:
    outcomes, undos = [], []
    for i in range(int(seconds / 0.2)):
        seen = Snapshot(
            NOW, 0.2, arrivals_per_s=rate, ended=100, in_time=100 - late, late=late, rungs=RUNGS, running=2, target=2
        )
        done, back, guard = settle(guard, seen, NOW + start + 0.2 * (i + 1))
        outcomes += done
        undos += back
    return outcomes, undos, guard


def test_what_brings_what_was_expected_stays() -> None:
    _, guard = judged(KNOWING, propose(caution=2.5))

    outcomes, undos, guard = looked(guard, 0, 11.0, 0.0)

    assert [outcome.met for outcome in outcomes] == [True]
    assert (undos, guard.pending) == ([], ())


def test_what_does_not_is_undone_and_not_tried_again_for_longer_each_time() -> None:
    guard, at, waits = KNOWING, 0.0, []
    for _ in range(3):
        _, guard = judged(guard, propose(caution=2.5, protective=True), at=at)
        outcomes, undos, guard = looked(guard, 5, 10.2, at)
        at += 10.4
        assert [(outcome.met, undo.changes) for outcome, undo in zip(outcomes, undos, strict=True)] == [
            (False, {"caution": 1.0})
        ]
        reasons, guard = judged(guard, *undos, at=at)
        assert reasons == [""]
        undone = at
        reasons = ["not yet"]
        while reasons != [""]:
            at += 1.0
            before = guard
            reasons, guard = judged(guard, propose(caution=2.5, protective=True), at=at)
        waits.append(at - undone)
        guard = replace(before, last=guard.last, time_s=guard.time_s)

    assert waits[0] == pytest.approx(10.0, abs=1.1)
    assert waits[1] >= 1.8 * waits[0]
    assert waits[2] >= 1.8 * waits[1]


@pytest.mark.parametrize(
    ("late", "rate"),
    [pytest.param(5, 150.0, id="much more came than then")],
)
def test_what_cannot_be_judged_is_not_undone(late: int, rate: float) -> None:
    _, guard = judged(KNOWING, propose(caution=2.5))

    outcomes, undos, _ = looked(guard, late, 11.0, 0.0, rate)

    assert [outcome.met for outcome in outcomes] == [None]
    assert undos == []


def test_an_action_that_could_not_be_applied_is_not_hammered() -> None:
    _, guard = judged(KNOWING, propose(replicas=3, protective=True))
    guard = failed(guard, 1, BOUNDS, NOW + 0.1)

    soon, guard = judged(guard, propose(replicas=3, protective=True), at=15.0)
    later, _ = judged(guard, propose(replicas=3, protective=True), at=25.0)

    assert guard.pending == ()
    assert "did not help" in soon[0]
    assert later == [""]


def test_a_clock_that_is_set_neither_ends_a_dwell_nor_makes_it_endless() -> None:
    _, guard = judged(KNOWING, propose(replicas=3, protective=True))

    ahead, _ = judged(guard, propose(replicas=2), at=36_000.0)
    _, back = judged(guard, at=-36_000.0)
    for i in range(400):
        reasons, back = judged(back, propose(replicas=2), at=-36_000.0 + 0.2 * (i + 1))
        if reasons == [""]:
            break

    assert "dwell" in ahead[0]
    assert reasons == [""]


def test_the_guard_reads_back_as_it_was() -> None:
    _, guard = judged(KNOWING, propose(caution=2.5), propose(replicas=3, protective=True))
    _, guard = obey(Command("pin", "ada", {"caution": 3.0}), guard, BOUNDS, {}, 2, NOW + 1)

    assert Guard.from_json(json.loads(json.dumps(guard.to_json()))) == guard


@pytest.mark.parametrize(
    ("expectation", "measured"),
    [
        pytest.param(Expectation("running", ">=", 2.0, 1.0), (2.0, 1.0), id="replicas that answer"),
        pytest.param(Expectation("epoch", ">=", 2.0, 1.0), (4.0, 1.0), id="the oldest envelope that is held"),
        pytest.param(Expectation("utilisation", "<=", 0.5, 1.0), (0.4, 0.2), id="by how long it was seen"),
        pytest.param(Expectation("late", "<=", 0.5, 1.0), (0.1, 10.0), id="of those let in"),
    ],
)
def test_what_is_expected_is_measured(expectation: Expectation, measured: tuple[float, float]) -> None:
    seen = Snapshot(
        NOW, 0.2, ended=50, in_time=9, late=1, refused={"admission": 40}, utilisation=0.4, running=2, epochs=(4, 5)
    )

    assert expectation.measure(seen) == measured
    assert expectation.holds(measured[0])
