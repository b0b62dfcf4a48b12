"""What the journal's lines mean, and the same decisions made from them once more.

    state    the state, the guard, the envelope and the number of replicas from which the next lines go on
    tick     a snapshot, the verdicts on what was proposed, and what came of earlier actions
    command  a person's word and the verdicts on it
    failed   an accepted action that could not be applied
    applied  accepted actions that were; only for people
    note     anything else worth saying; only for people

From the same settings every verdict comes out as it was. Other settings are told what was really seen: what would
have been seen had they held, a journal cannot know (the simulator can). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from serve.adapt import candidacy, rollout
from serve.adapt.bounds import Bounds
from serve.adapt.guard import ROLLOUT, Guard, enacted, failed, judge, obey
from serve.adapt.journal import LOST, STATE, Entry
from serve.adapt.proposals import ROLLOUT_VERBS, Command, Expectation, Proposal, Verdict
from serve.adapt.signals import Snapshot
from serve.adapt.state import State
from serve.adapt.step import Step, step, turned

TICK, COMMAND, FAILED, APPLIED, NOTE = "tick", "command", "failed", "applied", "note"


@dataclass(frozen=True)
class Mind:
    """All that an actor has to know to go on: also what a restarted one takes up."""

    state: State
    guard: Guard
    envelope: dict[str, Any] = field(default_factory=dict)
    replicas: int = 1
    rollout: candidacy.State = field(default_factory=candidacy.State)

    @classmethod
    def fresh(cls, bounds: Bounds) -> Mind:
        return cls(State(bounds), Guard(), {}, bounds.min_replicas)

    def within(self, bounds: Bounds) -> Mind:
        """The same with other bounds: the experiment may have changed since the journal was written."""
        return replace(self, state=replace(self.state, bounds=bounds))


@dataclass(frozen=True)
class Difference:
    """What was decided at `at` (unix) and what is decided now, as sentences; an empty one is nothing."""

    at: float
    recorded: str
    replayed: str


@dataclass
class Replay:
    ticks: int = 0
    commands: int = 0
    actions: int = 0  # accepted, as recorded
    replayed_actions: int = 0
    gaps: int = 0  # where entries were lost, and it went on from the next state
    differences: list[Difference] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # entries that mean nothing


# Lines


def state_entry(mind: Mind, at: float, why: str) -> Entry:
    return {
        "kind": STATE,
        "at": at,
        "why": why,
        "state": mind.state.to_json(),
        "guard": mind.guard.to_json(),
        "envelope": mind.envelope,
        "replicas": mind.replicas,
        "rollout": mind.rollout.to_json(),
    }


def tick_entry(snapshot: Snapshot, done: Step, at: float) -> Entry:
    entry: Entry = {"kind": TICK, "at": at, "snapshot": snapshot.to_json()}
    if done.verdicts:
        entry["verdicts"] = [verdict.to_json() for verdict in done.verdicts]
    if done.outcomes:
        entry["outcomes"] = [outcome.to_json() for outcome in done.outcomes]
    return entry


def command_entry(command: Command, verdicts: Iterable[Verdict], mind: Mind, at: float) -> Entry:
    """`mind` as it was before the command."""
    return {
        "kind": COMMAND,
        "at": at,
        "command": command.to_json(),
        "verdicts": [verdict.to_json() for verdict in verdicts],
        "envelope": mind.envelope,
        "replicas": mind.replicas,
    }


def failed_entry(number: int, why: str, at: float) -> Entry:
    return {"kind": FAILED, "at": at, "number": number, "why": why}


def applied_entry(numbers: Iterable[int], epoch: int, replicas: int, at: float) -> Entry:
    return {"kind": APPLIED, "at": at, "numbers": list(numbers), "epoch": epoch, "replicas": replicas}


def note_entry(words: str, at: float) -> Entry:
    return {"kind": NOTE, "at": at, "words": words}


# One step of a mind, live or replayed


def ticked(mind: Mind, snapshot: Snapshot, now: float) -> tuple[Step, Mind]:
    """A tick, and the mind after it with what was accepted taken as applied."""
    done = step(snapshot, mind.state, mind.guard, now, mind.rollout)
    envelope, num_replicas = enacted(done.verdicts, mind.envelope, mind.replicas)
    return done, Mind(done.state, done.guard, envelope, num_replicas, done.rollout)


def obeyed(mind: Mind, command: Command, now: float) -> tuple[list[Verdict], Mind]:
    """A person's word, and the mind after it."""
    if command.verb in ROLLOUT_VERBS:
        return _rolled(mind, command, now)
    verdicts, guard = obey(command, mind.guard, mind.state.bounds, mind.envelope, mind.replicas, now)
    envelope, num_replicas = enacted(verdicts, mind.envelope, mind.replicas)
    return verdicts, Mind(mind.state, guard, envelope, num_replicas, mind.rollout)


def _rolled(mind: Mind, command: Command, now: float) -> tuple[list[Verdict], Mind]:
    bounds = mind.state.bounds
    course, refusal = rollout.obeyed(mind.rollout, command, bounds.rollout, now)
    if refusal:
        asked = candidacy.held(mind.envelope)
        cause, expected = f"{command.who} said {command.verb}", Expectation("epoch", ">=", 0.0, 0.0)
        return [Verdict(Proposal(ROLLOUT, "envelope", asked, cause, expected, asked), False, refusal)], mind
    verdicts, guard = judge(turned(course, bounds.rollout, mind.envelope), mind.guard, bounds, now)
    envelope, num_replicas = enacted(verdicts, mind.envelope, mind.replicas)
    return verdicts, Mind(mind.state, guard, envelope, num_replicas, course)


def not_applied(mind: Mind, number: int, now: float, why: str = "") -> Mind:
    """Action `number` could not be applied; the caller knows what holds instead."""
    is_rollout = any(p.number == number and p.proposal.rule == ROLLOUT for p in mind.guard.pending)
    course = rollout.failed(mind.rollout, why, now) if is_rollout else mind.rollout
    return replace(mind, guard=failed(mind.guard, number, mind.state.bounds, now), rollout=course)


# A whole journal


def recover(entries: Iterable[Entry]) -> Mind | None:
    """The mind at the end of a journal, from its last `state` on; None where none can be read."""
    mind: Mind | None = None
    for entry in entries:
        try:
            mind = _followed(mind, entry)
        except (KeyError, TypeError, ValueError):
            continue  # one line less: levels, not events, decide
    return mind


def replay(entries: Iterable[Entry], bounds: Bounds | None = None) -> Replay:
    """Decide everything once more, with the recorded bounds or others, and say what differs."""
    found, mind, is_whole = Replay(), None, True
    for entry in entries:
        try:
            if entry["kind"] == LOST:
                is_whole, found.gaps = False, found.gaps + 1
            elif entry["kind"] == STATE:
                recorded = _mind(entry)
                if bounds is None:
                    _compare_minds(found, entry, recorded, mind if is_whole else None)
                if bounds is None or mind is None:
                    mind = recorded if bounds is None else recorded.within(bounds)
                is_whole = True
            elif mind is not None:
                mind = _again(found, mind, entry, is_other=bounds is not None)
        except (KeyError, TypeError, ValueError) as error:
            found.problems.append(f"{entry.get('kind')} at {entry.get('at')}: {error!r:.200}")
            is_whole = False
    return found


def _followed(mind: Mind | None, entry: Entry) -> Mind | None:
    if entry["kind"] == STATE:
        return _mind(entry)
    if mind is None:
        return None
    if entry["kind"] == TICK:
        return ticked(_told(mind, entry), Snapshot.from_json(entry["snapshot"]), entry["at"])[1]
    if entry["kind"] == COMMAND:
        return obeyed(_told(mind, entry), Command.from_json(entry["command"]), entry["at"])[1]
    if entry["kind"] == FAILED:
        return not_applied(mind, entry["number"], entry["at"], entry["why"])
    return mind


def _again(found: Replay, mind: Mind, entry: Entry, *, is_other: bool) -> Mind:
    kind, at = entry["kind"], float(entry.get("at", 0.0))
    recorded = [Verdict.from_json(verdict) for verdict in entry.get("verdicts", [])]
    if kind == TICK:
        snapshot = Snapshot.from_json(entry["snapshot"])
        if is_other:  # told what they would have decided themselves, else they would decide it again and again
            snapshot = replace(snapshot, envelope=mind.envelope or None, target=mind.replicas)
        else:
            mind = _told(mind, entry)
        done, mind = ticked(mind, snapshot, at)
        verdicts, found.ticks = done.verdicts, found.ticks + 1
    elif kind == COMMAND:
        verdicts, mind = obeyed(mind if is_other else _told(mind, entry), Command.from_json(entry["command"]), at)
        found.commands += 1
    elif kind == FAILED:
        return mind if is_other else not_applied(mind, entry["number"], at, entry["why"])
    else:
        return mind
    found.actions += sum(verdict.accepted for verdict in recorded)
    found.replayed_actions += sum(verdict.accepted for verdict in verdicts)
    if is_other:
        before, after = _words(recorded, only_accepted=True), _words(verdicts, only_accepted=True)
    else:
        before, after = _words(recorded), _words(verdicts)
    if before != after or (not is_other and recorded != verdicts):
        found.differences.append(Difference(at, before, after))
    return mind


def _compare_minds(found: Replay, entry: Entry, recorded: Mind, replayed: Mind | None) -> None:
    """A checkpoint must be what the lines before it come to; a start may be anything."""
    if replayed is None or entry.get("why") != "checkpoint":
        return
    parts = ("state", "guard", "rollout")
    if differing := [name for name in parts if getattr(recorded, name) != getattr(replayed, name)]:
        found.differences.append(Difference(float(entry["at"]), f"the recorded {' and '.join(differing)}", "another"))


def _mind(entry: Entry) -> Mind:
    state, guard = State.from_json(entry["state"]), Guard.from_json(entry["guard"])
    course = candidacy.State.from_json(entry.get("rollout") or {})
    return Mind(state, guard, dict(entry["envelope"] or {}), int(entry["replicas"]), course)


def _told(mind: Mind, entry: Mapping[str, Any]) -> Mind:
    """What really held at that line, whatever was thought to."""
    held = entry.get("snapshot", entry)
    return replace(
        mind, envelope=dict(held.get("envelope") or {}), replicas=int(held.get("target", held.get("replicas", 0)))
    )


def _words(verdicts: Iterable[Verdict], *, only_accepted: bool = False) -> str:
    return "; ".join(
        str(v.proposal) + ("" if v.accepted else f" refused ({v.reason})")
        for v in verdicts
        if v.accepted or not only_accepted
    )
