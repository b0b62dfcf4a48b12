from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from serve.adapt.bounds import Bounds
from serve.adapt.replay import Mind, failed_entry, not_applied, note_entry, recover, replay, state_entry

Play = Callable[..., Any]
BOUNDS = Bounds(objective_s=0.1, max_replicas=6, patience_s=20.0)


@pytest.fixture(scope="module")
def played(play: Play) -> Any:
    """A burst, its end, and a person in between; what the journal has of it, as it is read back from a file."""
    made = play(BOUNDS, [30.0] * 30 + [100.0] * 15 + [200.0] * 15, seed=2)
    made.obey("pin", {"caution": 3.0})
    made.checkpoint()
    made.go_on([30.0] * 60, seed=3)
    made.obey("unpin", {})
    made.go_on([30.0] * 10, seed=4)
    made.entries = json.loads(json.dumps(made.entries))
    return made


def test_with_the_same_settings_every_decision_comes_out_as_it_was(played: Any) -> None:
    again = replay(played.entries)

    assert again.differences == []
    assert again.problems == []
    assert (again.ticks, again.commands) == (650, 2)
    assert again.actions == again.replayed_actions > 5


def test_a_decision_that_was_tampered_with_is_found(played: Any) -> None:
    changed = copy.deepcopy(played.entries)
    entry = next(e for e in changed if any(v.get("accepted") for v in e.get("verdicts", [])))
    entry["verdicts"][0]["proposal"]["changes"] = {"replicas": 5}

    again = replay(changed)

    assert [difference.at for difference in again.differences] == [entry["at"]]
    assert "replicas 5" in again.differences[0].recorded


def test_a_checkpoint_that_does_not_follow_from_the_lines_before_it_is_found(played: Any) -> None:
    changed = copy.deepcopy(played.entries)
    checkpoint = next(e for e in changed if e.get("why") == "checkpoint")
    checkpoint["state"]["time_s"] += 1.0

    assert any("state" in difference.recorded for difference in replay(changed).differences)


def test_other_settings_are_said_to_decide_otherwise(played: Any) -> None:
    fewer = replay(played.entries, replace(BOUNDS, max_replicas=2))
    slower = replay(played.entries, replace(BOUNDS, patience_s=600.0))

    assert fewer.differences
    assert all("replicas 3" not in difference.replayed for difference in fewer.differences)
    assert any(d.recorded.startswith("replicas") and not d.replayed for d in slower.differences)


def test_the_same_settings_given_as_others_differ_in_nothing(played: Any) -> None:
    again = replay(played.entries, BOUNDS)

    assert again.differences == []
    assert again.replayed_actions == again.actions


def test_a_gap_is_counted_and_it_goes_on_from_the_next_state(played: Any) -> None:
    at = next(i for i, e in enumerate(played.entries) if e.get("why") == "checkpoint")
    gapped = [*played.entries[: at - 50], {"kind": "lost", "entries": 49}, *played.entries[at:]]

    again = replay(gapped)

    assert (again.gaps, again.differences) == (1, [])


def test_an_entry_that_means_nothing_is_a_problem_and_not_the_end(played: Any) -> None:
    changed = copy.deepcopy(played.entries)
    changed[10]["snapshot"] = {"now": "yesterday"}

    again = replay(changed)

    assert len(again.problems) == 1
    assert again.ticks == 649


def test_a_mind_is_recovered_as_it_was_also_with_a_line_missing(played: Any) -> None:
    whole = recover(played.entries)
    without = recover([*played.entries[:-20], *played.entries[-19:]])

    assert whole == played.mind
    assert without is not None
    assert (without.envelope, without.replicas) == (played.mind.envelope, played.mind.replicas)


def test_nothing_is_recovered_from_what_has_no_state(played: Any) -> None:
    corrupted = [{**entry, "state": {"bounds": 7}} for entry in played.entries if entry["kind"] == "state"]

    assert recover([]) is None
    assert recover(corrupted) is None


def test_a_failed_action_is_replayed_too(play: Play) -> None:
    made = play(BOUNDS, [30.0] * 5 + [200.0] * 12)
    number = next(verdict.number for _, verdict in made.accepted if "replicas" in verdict.proposal.changes)
    made.entries += [note_entry("the cluster has no room", made.now), failed_entry(number, "no room", made.now)]
    made.mind = not_applied(replace(made.mind, replicas=1), number, made.now)
    made.go_on([200.0] * 30)

    assert replay(made.entries).differences == []


def test_other_bounds_are_taken_up_with_what_was_known(play: Play) -> None:
    mind = play(BOUNDS, [30.0] * 5).mind

    taken = mind.within(replace(BOUNDS, max_replicas=2))

    assert taken.state.bounds.max_replicas == 2
    assert taken.state.forecast == mind.state.forecast
    assert Mind.fresh(BOUNDS).replicas == 1
    assert state_entry(taken, 1.0, "start")["state"]["bounds"]["max_replicas"] == 2
