"""One tick, all of it that is pure: what came of earlier actions, what the rules want, what may be done.

The actor, the simulator and `trimtab replay` call this same function, so that what one of them did the others do too.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve.adapt.guard import Guard, judge, settle
from serve.adapt.policy import decide
from serve.adapt.proposals import Outcome, Proposal, Verdict
from serve.adapt.signals import Snapshot
from serve.adapt.state import State


@dataclass(frozen=True, slots=True)
class Step:
    """`verdicts` has one for each proposal; what is accepted is to be applied."""

    proposals: list[Proposal]
    verdicts: list[Verdict]
    outcomes: list[Outcome]
    state: State
    guard: Guard

    @property
    def accepted(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.accepted]


def step(snapshot: Snapshot, state: State, guard: Guard, now: float) -> Step:
    """`now` in unix seconds; the bounds are the state's."""
    proposals, state = decide(snapshot, state, now)
    outcomes, undoings, guard = settle(guard, snapshot, now)
    verdicts, guard = judge([*undoings, *proposals], guard, state.bounds, now)
    return Step([*undoings, *proposals], verdicts, outcomes, state, guard)
