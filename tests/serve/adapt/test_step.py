"""The whole loop over a fleet of arithmetic: what must hold whatever arrives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from serve.adapt.bounds import Bounds
from serve.adapt.guard import PERSON, UNDO
from serve.adapt.policy import START_S
from serve.adapt.proposals import REPLICAS
from serve.adapt.replay import recover, replay

Play = Callable[..., Any]
BOUNDS = Bounds(
    objective_s=0.1,
    floor=0.75,
    min_replicas=1,
    max_replicas=6,
    replica_cooldown_s=5.0,
    patience_s=20.0,
    max_wait_s=0.05,
)
COMMANDS: list[tuple[str, dict[str, Any]]] = [
    ("pause", {}),
    ("resume", {}),
    ("unpin", {}),
    ("pin", {"replicas": 2}),
    ("pin", {"variants": ["large-int8"]}),
    ("pin", {"variants": ["small-int8"]}),  # below the floor
    ("set", {"replicas": 99}),
    ("set", {"caution": 3.0, "replicas": 4}),
    ("set", {"admit": 0.5}),
]


class Loop(RuleBasedStateMachine):
    """Loads, surprises, crowded clusters, persons and dying actors in any order."""

    play: Play

    def __init__(self) -> None:
        super().__init__()
        self.played = self.play(BOUNDS, [])

    @rule(
        rate=st.sampled_from([0.0, 5.0, 40.0, 150.0, 600.0, 5000.0]),
        seconds=st.integers(1, 40),
        seed=st.one_of(st.none(), st.integers(0, 9)),
    )
    def load(self, rate: float, seconds: int, seed: int | None) -> None:
        self.played.go_on([rate] * seconds, seed)

    @rule(surprise=st.sampled_from([0.0, 0.03, 0.5]))
    def answers_take_longer_than_predicted(self, surprise: float) -> None:
        self.played.plant.surprise = surprise

    @rule(room=st.sampled_from([1, 3, 1000]))
    def the_cluster_has_room_for(self, room: int) -> None:
        self.played.plant.room = room

    @rule(word=st.sampled_from(COMMANDS))
    def a_person_says(self, word: tuple[str, dict[str, Any]]) -> None:
        self.played.obey(*word)

    @rule()
    def the_actor_dies_and_takes_up_its_state_from_the_journal(self) -> None:
        recovered = recover(self.played.entries)
        assert recovered == self.played.mind
        self.played.mind = recovered

    @rule()
    def a_checkpoint_is_written(self) -> None:
        self.played.checkpoint()

    @invariant()
    def no_bound_is_exceeded(self) -> None:
        mind = self.played.mind
        assert BOUNDS.min_replicas <= mind.replicas <= BOUNDS.max_replicas
        assert 1 <= mind.envelope.get("max_batch", 1) <= BOUNDS.max_batch
        assert 0.0 <= mind.envelope.get("max_wait_s", 0.0) <= BOUNDS.objective_s
        assert 0.0 < mind.envelope.get("admit", 1.0) <= 1.0

    @invariant()
    def no_rung_below_the_floor_answers(self) -> None:
        envelope = self.played.mind.envelope
        assert "small-int8" not in (envelope.get("variants") or [])
        if self.played.snapshots and not any(v.proposal.rule == PERSON for _, v in self.played.verdicts):
            assert envelope["least_accuracy"] == BOUNDS.floor

    @invariant()
    def every_decision_has_its_reason(self) -> None:
        for _, verdict in self.played.verdicts:
            assert verdict.proposal.cause
            assert verdict.proposal.undo
            assert verdict.accepted or verdict.reason

    @invariant()
    def nothing_is_switched_inside_its_dwell(self) -> None:
        last: dict[str, float] = {}
        for at, verdict in self.played.accepted:
            proposal = verdict.proposal
            for name in proposal.changes:
                is_replicas = name == REPLICAS
                least_s = BOUNDS.replica_cooldown_s if is_replicas else BOUNDS.cooldown_s
                if not proposal.protective and proposal.rule != UNDO:
                    least_s = BOUNDS.patience_s if is_replicas else BOUNDS.dwell_s
                assert proposal.rule == PERSON or at - last.get(name, -1e9) >= least_s - 1e-6
                last[name] = at

    def teardown(self) -> None:
        again = replay(self.played.entries)
        assert (again.differences, again.problems) == ([], [])
        assert again.actions == again.replayed_actions == len(self.played.accepted)


def test_what_holds_whatever_comes(play: Play) -> None:
    kind = type("Loop", (Loop,), {"play": staticmethod(play)})

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        kind,
        settings=settings(
            max_examples=10, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize(
    ("rate", "plant"),
    [
        pytest.param(20.0, {}, id="one replica is enough"),
        pytest.param(73.0, {}, id="at the border of two replicas and three"),
        pytest.param(110.0, {"surprise": 0.02}, id="answers are late until predictions are careful"),
        pytest.param(5000.0, {}, id="more than everything carries"),
        pytest.param(200.0, {"room": 2}, id="no room for the replicas that are wanted"),
    ],
)
def test_under_a_constant_load_the_actions_come_to_an_end(rate: float, plant: dict[str, Any], play: Play) -> None:
    played = play(BOUNDS, [rate] * 500, seed=1, **plant)

    late = [verdict.proposal.rule for at, verdict in played.accepted if at > 200]

    assert len(late) <= 5, late


def test_a_burst_brings_replicas_and_its_end_takes_them_away_again(play: Play) -> None:
    bounds = Bounds(objective_s=0.1, max_replicas=6)

    played = play(bounds, [30.0] * 120 + [150.0] * 120 + [30.0] * 240, seed=1)

    numbers = [(at, v.proposal.changes[REPLICAS]) for at, v in played.accepted if REPLICAS in v.proposal.changes]
    assert 120.0 + START_S <= numbers[0][0] < 125.0 + START_S  # till then cheaper rungs carry it
    assert max(number for _, number in numbers) >= 4
    assert numbers[-1][1] <= 2
    assert len(numbers) <= 6
