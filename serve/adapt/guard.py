"""The one enactor's judgement: of what the rules propose, what may be done now, and why the rest may not.

In this order a proposal is refused: a person has paused or pinned; it breaks a bound; another of this tick, or of a
moment ago, stands against it; its field was changed too short a time ago (cooldown); what was tightened is to stay so
for a while (dwell); the budget of actions is spent. What a person orders is refused only for a bound.

A field that is loosened and soon has to be tightened again is left tight twice as long each time, so that no cycle
goes on. What does not bring what was expected of it is undone, and not tried again for as long.

Pure and frozen: every function returns the guard as it is afterwards. Time is its own, which goes on with `now` but
neither back nor in leaps, so that a clock that is set changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from serve.adapt.bounds import Bounds
from serve.adapt.plain import Plain
from serve.adapt.proposals import FIELDS, REPLICAS, Command, Expectation, Outcome, Proposal, Verdict
from serve.adapt.signals import Snapshot

LEAST_CAUTION, MOST_CAUTION = 0.5, 8.0
LEAST_ADMIT = 0.05
MOST_BACKOFF = 10  # doublings of a dwell
MOST_STEP_S = 10.0  # by which the guard's time goes on in one tick
_MINUTE_S = 60.0
PERSON, UNDO, FLOOR, ROLLOUT = "person", "undo", "floor", "rollout"  # rules of which the guard knows


@dataclass(frozen=True, slots=True)
class Dial:
    """What is remembered of one field; times are the guard's."""

    changed_s: float
    protective: bool  # the last change
    loosened_s: float | None = None  # the last change that was not protective
    backoff: int = 0  # doublings of the dwell
    barred_s: float = 0.0  # until then not even a protective change


@dataclass(frozen=True, slots=True)
class Pending:
    """An accepted action whose effect is being looked for."""

    number: int
    proposal: Proposal
    since_s: float
    total: float = 0.0
    weight: float = 0.0
    is_void: bool = False


@dataclass(frozen=True, slots=True)
class Guard(Plain):
    last: float = 0.0  # `now` of the last call
    time_s: float = 0.0
    number: int = 0  # actions accepted so far
    dials: dict[str, Dial] = field(default_factory=dict)
    actions: tuple[tuple[float, bool], ...] = ()  # of the last minute: when, and whether protective
    pending: tuple[Pending, ...] = ()
    paused: str | None = None  # by whom
    pins: dict[str, str] = field(default_factory=dict)  # field to who pinned it
    ladder: dict[str, float] = field(default_factory=dict)  # variant to accuracy, as last seen


def judge(proposals: Sequence[Proposal], guard: Guard, bounds: Bounds, now: float) -> tuple[list[Verdict], Guard]:
    """A verdict for each proposal, in their order of importance: persons, then undoings, then what protects."""
    guard = _advanced(guard, now)
    verdicts: list[Verdict] = []
    taken: dict[str, str] = {}
    for proposal in sorted(proposals, key=_importance):
        reason = _refusal(proposal, guard, bounds, taken)
        if reason:
            verdicts.append(Verdict(proposal, False, reason))
            continue
        guard = _accepted(guard, proposal, bounds)
        verdicts.append(Verdict(proposal, True, "", guard.number))
        taken.update(dict.fromkeys(proposal.changes, proposal.rule))
    return verdicts, guard


def settle(guard: Guard, snapshot: Snapshot, now: float) -> tuple[list[Outcome], list[Proposal], Guard]:
    """What came of earlier actions whose time is up, and the undoing of those that did not bring what was expected."""
    guard = _advanced(guard, now)
    if snapshot.rungs:
        guard = replace(guard, ladder={rung.variant: rung.accuracy for rung in snapshot.rungs})
    outcomes: list[Outcome] = []
    undos: list[Proposal] = []
    waiting: list[Pending] = []
    for pending in (_looked_at(p, snapshot, guard.time_s) for p in guard.pending):
        expected = pending.proposal.expected
        is_early = expected.metric in ("running", "epoch") and _met(pending)
        if guard.time_s < pending.since_s + expected.horizon_s and not is_early:
            waiting.append(pending)
            continue
        outcome = _outcome(pending)
        outcomes.append(outcome)
        if outcome.met is False and pending.proposal.rule not in (PERSON, UNDO, ROLLOUT):
            undos.append(_undoing(pending.proposal, outcome))
    return outcomes, undos, replace(guard, pending=tuple(waiting))


def obey(
    command: Command, guard: Guard, bounds: Bounds, envelope: Mapping[str, Any], replicas: int, now: float
) -> tuple[list[Verdict], Guard]:
    """A person's word, at once. Verdicts tell what is to be applied, or why it is not: only a bound stands above it.

    `envelope` and `replicas` are those that hold, for the way back.
    """
    guard = _advanced(guard, now)
    if command.verb == "pause":
        return [], replace(guard, paused=command.who)
    if command.verb == "resume":
        return [], replace(guard, paused=None)
    if command.verb == "unpin":
        gone = set(command.fields or guard.pins)
        return [], replace(guard, pins={name: who for name, who in guard.pins.items() if name not in gone})
    verdicts, guard = judge(_ordered(command, envelope, replicas), guard, bounds, now)
    if command.verb == "pin":
        pinned = {name: command.who for v in verdicts if v.accepted for name in v.proposal.changes}
        guard = replace(guard, pins={**guard.pins, **pinned})
    return verdicts, guard


def failed(guard: Guard, number: int, bounds: Bounds, now: float) -> Guard:
    """Action `number` could not be applied: nothing is expected of it, and its fields wait before the next try."""
    guard = _advanced(guard, now)
    gone = [pending for pending in guard.pending if pending.number == number]
    for pending in gone:
        for name in pending.proposal.changes:
            dial = guard.dials[name]
            backoff = min(dial.backoff + 1, MOST_BACKOFF)
            barred_s = guard.time_s + _cooldown_s(name, bounds) * 2**backoff
            guard = replace(guard, dials={**guard.dials, name: replace(dial, backoff=backoff, barred_s=barred_s)})
    return replace(guard, pending=tuple(p for p in guard.pending if p.number != number))


def enacted(verdicts: Iterable[Verdict], envelope: Mapping[str, Any], replicas: int) -> tuple[dict[str, Any], int]:
    """The envelope and the number of replicas after the accepted ones; `epoch` has grown if the envelope changed."""
    changed = dict(envelope)
    for verdict in verdicts:
        if verdict.accepted and verdict.proposal.kind == "envelope":
            changed.update(verdict.proposal.changes)
        elif verdict.accepted:
            replicas = int(verdict.proposal.changes[REPLICAS])
    if changed != dict(envelope):
        changed["epoch"] = int(envelope.get("epoch", 0)) + 1
    return changed, replicas


# Why not


def _refusal(proposal: Proposal, guard: Guard, bounds: Bounds, taken: Mapping[str, str]) -> str:
    """The first reason that stands against it, or nothing. A rollout has its own judge and no field of a rule's."""
    if proposal.rule == ROLLOUT:
        return ""
    if proposal.rule not in (PERSON, FLOOR):  # the floor is a bound, and no bound rests
        if guard.paused is not None:
            return f"paused by {guard.paused}"
        if pinned := [name for name in proposal.changes if name in guard.pins]:
            return f"{pinned[0]} is pinned by {guard.pins[pinned[0]]}"
    if reason := _out_of_bounds(proposal, guard, bounds):
        return reason
    if conflicting := [name for name in proposal.changes if name in taken]:
        return f"{taken[conflicting[0]]} changes {conflicting[0]} at this tick"
    if proposal.rule == PERSON:
        return ""
    reasons = (_too_soon(name, proposal, guard, bounds) for name in proposal.changes)
    return next(filter(None, reasons), "") or _in_the_way(proposal, guard, bounds) or _spent(proposal, guard, bounds)


def _out_of_bounds(proposal: Proposal, guard: Guard, bounds: Bounds) -> str:
    changes = proposal.changes
    if unknown := [name for name in changes if name not in FIELDS]:
        return f"{unknown[0]} is no field that can be changed; known are {', '.join(FIELDS)}"
    for name, value in changes.items():
        if (value is not None or name == REPLICAS) and (reason := _bad(name, value, guard, bounds)):
            return reason
    threads, concurrency = changes.get("threads"), changes.get("concurrency")
    if threads and concurrency and threads * concurrency > bounds.cores:
        return f"{threads} threads in {concurrency} passes at once need more than the replica's {bounds.cores} cores"
    return ""


def _bad(name: str, value: Any, guard: Guard, bounds: Bounds) -> str:
    """Why this field cannot have this value."""
    if name == "variants":
        return _bad_variants(value, guard, bounds)
    ranges: dict[str, tuple[float, float, str]] = {
        REPLICAS: (bounds.min_replicas, bounds.max_replicas, "serve.replicas"),
        "max_batch": (1, bounds.max_batch, "serve.max_batch"),
        "max_wait_s": (0.0, max(bounds.objective_s, bounds.max_wait_s), "the objective"),
        "max_queue": (1, 1_000_000, "the envelope"),
        "least_accuracy": (bounds.floor, max(guard.ladder.values(), default=1.0), "floor and best rung"),
        "caution": (LEAST_CAUTION, MOST_CAUTION, "the envelope"),
        "threads": (1, bounds.cores, "serve.cpus_per_replica"),
        "concurrency": (1, bounds.cores, "serve.cpus_per_replica"),
        "admit": (LEAST_ADMIT, 1.0, "the envelope"),
    }
    least, most, whose = ranges[name]
    is_whole = name in (REPLICAS, "max_batch", "max_queue", "threads", "concurrency")
    if isinstance(value, bool) or not isinstance(value, int if is_whole else (int, float)):
        return f"{name} {value!r} is no {'whole ' if is_whole else ''}number"
    if not least <= value <= most:
        return f"{name} {value} is outside of {least:g} to {most:g}, which {whose} allows"
    return ""


def _bad_variants(value: Any, guard: Guard, bounds: Bounds) -> str:
    if not isinstance(value, list) or not value or not all(isinstance(variant, str) for variant in value):
        return f"variants {value!r} is no list of rungs"
    if not guard.ladder:
        return "no replica has said yet which rungs it has"
    allowed = set(guard.ladder) if bounds.rungs is None else set(guard.ladder) & set(bounds.rungs)
    if unknown := [variant for variant in value if variant not in allowed]:
        return f"{unknown[0]} is no rung that serve.rungs allows of {', '.join(guard.ladder)}"
    if below := [variant for variant in value if guard.ladder[variant] < bounds.floor]:
        return f"{below[0]} has accuracy {guard.ladder[below[0]]:.4f}, below the floor {bounds.floor:.4f}"
    return ""


def _too_soon(name: str, proposal: Proposal, guard: Guard, bounds: Bounds) -> str:
    dial = guard.dials.get(name)
    if dial is None:
        return ""
    since_s = guard.time_s - dial.changed_s
    if proposal.rule != UNDO and guard.time_s < dial.barred_s:
        return f"the last change of {name} did not help; not again for {dial.barred_s - guard.time_s:.1f} s"
    cooldown_s, dwell_s = _cooldown_s(name, bounds), _dwell_s(name, dial, bounds)
    if since_s < cooldown_s:
        return f"{name} was changed {since_s:.1f} s ago; cooldown {cooldown_s:g} s"
    if not proposal.protective and proposal.rule != UNDO and since_s < dwell_s:
        return f"{name} was changed {since_s:.1f} s ago; it stays for {dwell_s:g} s (dwell)"
    return ""


def _in_the_way(proposal: Proposal, guard: Guard, bounds: Bounds) -> str:
    """One loosening at a time, and none while the endpoint is being protected: else nobody knows what came of what."""
    if proposal.protective or proposal.rule == UNDO:
        return ""
    for when_s, protective in guard.actions:
        if protective and guard.time_s - when_s < bounds.dwell_s:
            return f"the endpoint was protected {guard.time_s - when_s:.1f} s ago; nothing is loosened for now"
        if not protective and guard.time_s - when_s < bounds.cooldown_s:
            return "one loosening at a time"
    return ""


def _spent(proposal: Proposal, guard: Guard, bounds: Bounds) -> str:
    is_half = not proposal.protective and proposal.rule != UNDO
    budget = bounds.actions_per_minute // (2 if is_half else 1)
    num = len(guard.actions)
    return f"{num} actions in the last minute, of {budget} at most" if num >= budget else ""


# Keeping books


def _advanced(guard: Guard, now: float) -> Guard:
    step_s = min(max(now - guard.last, 0.0), MOST_STEP_S) if guard.last else 0.0
    time_s = guard.time_s + step_s
    kept = tuple(action for action in guard.actions if time_s - action[0] < _MINUTE_S)
    return replace(guard, last=now, time_s=time_s, actions=kept)


def _accepted(guard: Guard, proposal: Proposal, bounds: Bounds) -> Guard:
    time_s, number = guard.time_s, guard.number + 1
    dials = dict(guard.dials)
    for name in proposal.changes:
        dials[name] = _turned(dials.get(name), name, proposal, time_s, bounds)
    is_free = proposal.rule in (PERSON, ROLLOUT)
    replaced = set(proposal.changes)
    pending = tuple(p for p in guard.pending if not replaced & set(p.proposal.changes))
    return replace(
        guard,
        number=number,
        dials=dials,
        actions=guard.actions if is_free else (*guard.actions, (time_s, proposal.protective)),
        pending=(*pending, Pending(number, proposal, time_s)),
    )


def _turned(dial: Dial | None, name: str, proposal: Proposal, time_s: float, bounds: Bounds) -> Dial:
    protective = proposal.protective
    if dial is None:
        return Dial(time_s, protective, None if protective else time_s)
    backoff, barred_s, dwell_s = dial.backoff, dial.barred_s, _dwell_s(name, dial, bounds)
    if proposal.rule == PERSON:
        backoff, barred_s = 0, 0.0
    elif proposal.rule == UNDO:
        backoff = min(backoff + 1, MOST_BACKOFF)
        barred_s = time_s + max(bounds.dwell_s, _cooldown_s(name, bounds)) * 2**backoff
    elif protective and dial.loosened_s is not None and time_s - dial.loosened_s < 4 * dwell_s:
        if not dial.protective:  # a reversal, too soon
            backoff = min(backoff + 1, MOST_BACKOFF)
    elif not protective and time_s - dial.changed_s > 8 * dwell_s:
        backoff = max(backoff - 1, 0)
    return Dial(time_s, protective, dial.loosened_s if protective else time_s, backoff, barred_s)


def _cooldown_s(name: str, bounds: Bounds) -> float:
    return bounds.replica_cooldown_s if name == REPLICAS else bounds.cooldown_s


def _dwell_s(name: str, dial: Dial, bounds: Bounds) -> float:
    return (bounds.patience_s if name == REPLICAS else bounds.dwell_s) * float(2**dial.backoff)


def _importance(proposal: Proposal) -> int:
    return 0 if proposal.rule in (PERSON, ROLLOUT) else 1 if proposal.rule == UNDO else 2 if proposal.protective else 3


def _ordered(command: Command, envelope: Mapping[str, Any], replicas: int) -> list[Proposal]:
    cause = f"{command.who} said {command.verb}"
    made = []
    for kind, names in (
        ("replicas", [name for name in command.changes if name == REPLICAS]),
        ("envelope", [name for name in command.changes if name != REPLICAS]),
    ):
        if not names:
            continue
        changes = {name: command.changes[name] for name in names}
        undo = {name: replicas if name == REPLICAS else envelope.get(name) for name in names}
        is_replicas = kind == "replicas"
        wanted = changes[REPLICAS] if is_replicas else int(envelope.get("epoch", 0)) + 1
        value = float(wanted) if isinstance(wanted, int | float) else 0.0  # what is no number is refused
        expected = Expectation("running" if is_replicas else "epoch", ">=", value, 60.0 if is_replicas else 5.0)
        made.append(Proposal(PERSON, "replicas" if is_replicas else "envelope", changes, cause, expected, undo))
    return made


# What came of it


def _looked_at(pending: Pending, snapshot: Snapshot, time_s: float) -> Pending:
    """The mean over the second half of the horizon; of a count the last one."""
    expected = pending.proposal.expected
    value, weight = expected.measure(snapshot)
    above = expected.void_above_per_s
    is_void = pending.is_void or (above is not None and snapshot.arrivals_per_s > above)
    if expected.metric in ("running", "epoch"):
        return replace(pending, total=value, weight=1.0, is_void=is_void)
    if time_s - pending.since_s < expected.horizon_s / 2:
        return replace(pending, is_void=is_void)
    return replace(pending, total=pending.total + value * weight, weight=pending.weight + weight, is_void=is_void)


def _met(pending: Pending) -> bool:
    return pending.weight > 0 and pending.proposal.expected.holds(pending.total / pending.weight)


def _outcome(pending: Pending) -> Outcome:
    proposal = pending.proposal
    measured = pending.total / pending.weight if pending.weight else None
    met = None if measured is None or pending.is_void else proposal.expected.holds(measured)
    return Outcome(pending.number, proposal.rule, str(proposal.expected), measured, met)


def _undoing(proposal: Proposal, outcome: Outcome) -> Proposal:
    cause = (
        f"action {outcome.number} ({proposal.rule}) was to bring {outcome.expected}; measured {outcome.measured:.4g}"
    )
    horizon_s = proposal.expected.horizon_s
    expected = Expectation("epoch" if proposal.kind == "envelope" else "running", ">=", 0.0, horizon_s)
    undo = dict(proposal.changes)
    return Proposal(UNDO, proposal.kind, dict(proposal.undo), cause, expected, undo, not proposal.protective)
