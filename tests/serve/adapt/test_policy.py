from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serve.adapt.bounds import Bounds
from serve.adapt.forecast import Forecast
from serve.adapt.policy import RULES, decide
from serve.adapt.proposals import Proposal
from serve.adapt.signals import RungSeen, Snapshot
from serve.adapt.state import NUM_PEAKS, State, followed

NOW = 1_000_000.0
RUNGS = (
    RungSeen("large-fp32", 0.88, 0.001, 0.020, 0.05, 1.0, 40.0),
    RungSeen("large-int8", 0.85, 0.00035, 0.007, 0.05),
    RungSeen("small-fp32", 0.79, 0.00011, 0.0022, 0.05),
    RungSeen("small-int8", 0.70, 0.000035, 0.0007, 0.05),
)
BOUNDS = Bounds(objective_s=0.1, min_replicas=1, max_replicas=8)
TIME_S = 10_000.0  # of the state: long after its beginning
LONG = dict.fromkeys(("short", "drowning", "late", "inside", "over", "clear", "busy", "idle"), 0.0)


def seen(**changes: Any) -> Snapshot:
    """Two replicas under 40 rows a second, all answered in time by the best rung: nothing is to be done."""
    usual: dict[str, Any] = {
        "interval_s": 0.2,
        "arrivals_per_s": 40.0,
        "answered_per_s": 40.0,
        "ended": 8,
        "in_time": 8,
        "utilisation": 0.4,
        "accuracy": 0.88,
        "rungs": RUNGS,
        "running": 2,
        "target": 2,
        "version": 1,
    }
    return Snapshot(NOW, **{**usual, **changes})


def remembered(rate: float = 40.0, bounds: Bounds = BOUNDS, **changes: Any) -> State:
    """As after a long time at this rate, every condition that holds now having held for long."""
    usual: dict[str, Any] = {
        "last": NOW - bounds.tick_s,
        "time_s": TIME_S,
        "forecast": Forecast(rate, rate, rate, 0.1 * rate, 3600.0),
        "ended": 10 * rate,
        "in_time": 10 * rate,
        "utilisation": 0.4,
        "peaks": (rate,) * (NUM_PEAKS + 1),
        "part_s": TIME_S,
        "since": LONG,
    }
    return State(bounds, **{**usual, **changes})


def proposed(snapshot: Snapshot, state: State, rule: str) -> Proposal | None:
    return next((p for p in decide(snapshot, state, NOW)[0] if p.rule == rule), None)


ROOM = {"variants": ["large-fp32", "large-int8", "small-fp32"], "epoch": 3}


@pytest.mark.parametrize(
    ("snapshot", "state", "changes"),
    [
        pytest.param(
            seen(), remembered(bounds=replace(BOUNDS, floor=0.8)), {"least_accuracy": 0.8}, id="floor: is set"
        ),
        pytest.param(
            seen(envelope=ROOM),
            remembered(forecast=Forecast(90.0, 60.0, 30.0, 3.0, 3600.0, calm_s=0.0)),
            {"variants": None},
            id="rungs: a burst begins",
        ),
        pytest.param(seen(envelope=ROOM), remembered(400.0), {"variants": None}, id="rungs: not enough for a burst"),
        pytest.param(seen(envelope=ROOM), remembered(in_time=380.0, late=20.0), {"variants": None}, id="rungs: late"),
        pytest.param(
            seen(envelope={"variants": ["other", "large-fp32"]}),
            remembered(),
            {"variants": None},
            id="rungs: of another version, 1 of 4",
        ),
        pytest.param(seen(), remembered(in_time=380.0, late=20.0), {"caution": 2.5}, id="caution: late"),
        pytest.param(
            seen(envelope={"caution": 3.0}),
            remembered(best_share=0.5),
            {"caution": 2.75},
            id="caution: accuracy is lost for nothing",
        ),
        pytest.param(
            seen(), remembered(bounds=replace(BOUNDS, objective_s=0.020)), {"max_batch": 8}, id="batch: what is in time"
        ),
        pytest.param(seen(envelope={"max_batch": 4}), remembered(), {"max_batch": 32}, id="batch: back to what may be"),
        pytest.param(
            seen(),
            remembered(bounds=replace(BOUNDS, max_wait_s=0.09)),
            {"max_wait_s": 0.0253},
            id="wait: what the objective leaves",
        ),
        pytest.param(
            seen(running=8, target=8, utilisation=1.0, refused={"overloaded": 5}, loop_lag_p99_s=0.05),
            remembered(20_000.0, overloaded=100.0),
            {"admit": 0.6},
            id="admission: more than the cheapest rung carries everywhere",
        ),
        pytest.param(
            seen(running=8, target=8, envelope={"admit": 0.3}), remembered(40.0), {"admit": 0.4}, id="admission: back"
        ),
        pytest.param(
            seen(),
            remembered(bounds=replace(BOUNDS, cores=4), utilisation=0.9),
            {"threads": 1, "concurrency": 4},
            id="workers: busy",
        ),
        pytest.param(
            seen(),
            remembered(bounds=replace(BOUNDS, cores=4, objective_s=0.04), utilisation=0.1),
            {"threads": 4, "concurrency": 1},
            id="workers: the best rung is too slow on one core",
        ),
        pytest.param(seen(), remembered(140.0), {"replicas": 4}, id="replicas: more is coming than the best carries"),
        pytest.param(
            seen(),
            remembered(5000.0, since={"drowning": TIME_S - 3.0}),
            {"replicas": 8},
            id="replicas: at once where no rung carries it, not above the bound",
        ),
        pytest.param(seen(target=8, running=8), remembered(140.0), {"replicas": 5}, id="replicas: fewer are enough"),
        pytest.param(seen(target=8, running=8), remembered(10.0), {"replicas": 4}, id="replicas: half at most at once"),
        pytest.param(seen(target=0), remembered(10.0), {"replicas": 1}, id="replicas: fewer than the least"),
        pytest.param(seen(target=9, running=9), remembered(5000.0), {"replicas": 8}, id="replicas: more than the most"),
    ],
)
def test_a_situation_is_answered_with(
    snapshot: Snapshot, state: State, changes: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    rule = request.node.callspec.id.partition(":")[0]

    found = proposed(snapshot, state, rule)

    assert found is not None
    assert found.changes == changes
    assert found.undo.keys() == changes.keys()
    assert any(character.isdigit() for character in found.cause)
    assert found.expected.horizon_s > 0


@pytest.mark.parametrize(
    ("rule", "snapshot", "state"),
    [
        pytest.param("rungs", seen(), remembered(), id="rungs: all are allowed"),
        pytest.param("rungs", seen(envelope=ROOM), remembered(40.0), id="rungs: those that were set are enough"),
        pytest.param(
            "caution", seen(envelope={"caution": 4.0}), remembered(in_time=380.0, late=20.0), id="caution: most"
        ),
        pytest.param("caution", seen(), remembered(best_share=0.5), id="caution: never less than at first"),
        pytest.param("caution", seen(), remembered(in_time=396.0, late=2.0), id="caution: two late ones prove nothing"),
        pytest.param("batch", seen(), remembered(), id="batch: fits"),
        pytest.param("wait", seen(), remembered(), id="wait: none asked for"),
        pytest.param(
            "admission",
            seen(running=2, loop_lag_p99_s=0.05),
            remembered(20_000.0, overloaded=9.0),
            id="admission: replicas first",
        ),
        pytest.param(
            "admission",
            seen(running=8, target=8, utilisation=1.0, refused={"overloaded": 5}),
            remembered(20_000.0, overloaded=100.0),
            id="admission: each replica refuses by itself while its loop is idle enough",
        ),
        pytest.param(
            "caution",
            seen(rungs=(replace(RUNGS[0], per_row_s=0.03, spread=0.3),)),
            remembered(in_time=380.0, late=20.0),
            id="caution: more would refuse all",
        ),
        pytest.param(
            "batch",
            seen(envelope={"max_batch": 8}, rungs=(replace(RUNGS[0], per_row_s=0.0022),)),
            remembered(),
            id="batch: hardly room for a larger one",
        ),
        pytest.param(
            "wait",
            seen(envelope={"max_wait_s": 0.02}),
            remembered(bounds=replace(BOUNDS, max_wait_s=0.09)),
            id="wait: hardly time for more",
        ),
        pytest.param("workers", seen(), remembered(utilisation=0.9), id="workers: one core leaves no choice"),
        pytest.param("replicas", seen(), remembered(40.0), id="replicas: as many as are needed"),
        pytest.param(
            "caution",
            seen(envelope=dict.fromkeys(("max_batch", "caution", "admit", "least_accuracy", "threads"))),
            remembered(),
            id="caution: what is set to nothing is as the experiment has it",
        ),
        pytest.param("replicas", seen(), remembered(5000.0, since={}), id="replicas: not for a moment's load"),
        pytest.param(
            "replicas",
            seen(),
            remembered(140.0, since={"short": TIME_S - 8.0}),
            id="replicas: cheaper rungs carry a burst that is shorter than a start",
        ),
        pytest.param("replicas", seen(target=8), remembered(140.0, peaks=(140.0,)), id="replicas: patience"),
        pytest.param(
            "replicas", seen(target=8), remembered(40.0, peaks=(400.0,) * 13), id="replicas: there was a peak just now"
        ),
        pytest.param(
            "replicas", seen(target=3, running=3), remembered(105.0), id="replicas: between growing and shrinking"
        ),
    ],
)
def test_nothing_is_proposed_when(rule: str, snapshot: Snapshot, state: State) -> None:
    assert proposed(snapshot, state, rule) is None


def test_deciding_again_on_the_same_says_the_same() -> None:
    first, state = decide(seen(), remembered(140.0), NOW)
    second, _ = decide(seen(), remembered(140.0), NOW)
    later, _ = decide(seen(), state, NOW)

    assert first == second
    assert [p.rule for p in later] == [p.rule for p in first]


def test_nothing_is_decided_while_no_replica_answers() -> None:
    blind = Snapshot(NOW, 0.0, target=2, missing=("a", "b"))

    proposals, state = decide(blind, remembered(5000.0), NOW)

    assert proposals == []
    assert state.forecast == remembered(5000.0).forecast


def test_a_clock_that_is_set_makes_nothing_old() -> None:
    state = remembered()

    ahead, back = followed(state, seen(), NOW + 3600.0), followed(state, seen(), NOW - 3600.0)

    assert ahead.time_s <= state.time_s + 10.0
    assert back.time_s == state.time_s
    assert followed(back, seen(), NOW - 3599.8).time_s == pytest.approx(state.time_s + 0.2)


def test_every_rule_says_what_it_is_for() -> None:
    assert all(rule.__doc__ for rule in RULES)
