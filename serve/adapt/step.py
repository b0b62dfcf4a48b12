"""One tick, all of it that is pure: what came of earlier actions, what the rules want, what may be done.

The actor, the simulator and `trimtab replay` call this same function, so that what one of them did the others do too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve.adapt import candidacy, rollout
from serve.adapt.guard import ROLLOUT, Guard, judge, settle
from serve.adapt.policy import decide
from serve.adapt.proposals import Expectation, Outcome, Proposal, Verdict
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
    rollout: candidacy.State = field(default_factory=candidacy.State)

    @property
    def accepted(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.accepted]


def step(snapshot: Snapshot, state: State, guard: Guard, now: float, course: candidacy.State | None = None) -> Step:
    """`now` in unix seconds; the bounds are the state's. `course` is how far a candidate has come."""
    proposals, state = decide(snapshot, state, now)
    outcomes, undoings, guard = settle(guard, snapshot, now)
    course = rollout.step(
        course or candidacy.State(),
        state.bounds.rollout,
        now,
        serving=snapshot.version if snapshot.running else None,
        seen=snapshot.rivals,
        heard=snapshot.heard,
        paused=guard.paused,
    )
    proposals = [*undoings, *proposals, *turned(course, state.bounds.rollout, snapshot.envelope or {})]
    verdicts, guard = judge(proposals, guard, state.bounds, now)
    return Step(proposals, verdicts, outcomes, state, guard, course)


def turned(course: candidacy.State, rules: candidacy.Rules, envelope: Mapping[str, Any]) -> list[Proposal]:
    """What of the envelope must change so that the replicas do as a rollout is; nothing where they do."""
    wanted, held = candidacy.wanted(course, rules), candidacy.held(envelope)
    if wanted == held:
        return []
    words = f": {course.events[-1].words}" if course.events else ""
    cause = f"version {course.version} is {course.phase}{words}" if course.version else "no version is on its way"
    expected = Expectation("epoch", ">=", float(envelope.get("epoch", 0) + 1), 60.0)
    return [Proposal(ROLLOUT, "envelope", wanted, cause, expected, held)]
