"""Plain words from the journal: why this rung, why so many replicas, why was this refused, why not at target.

Pure; says what was recorded and nothing that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from serve.adapt.bounds import Bounds
from serve.adapt.candidacy import told
from serve.adapt.capacity import allowed, rows_per_s
from serve.adapt.journal import STATE, Entry
from serve.adapt.policy import CAUTION, GROW_ABOVE, field
from serve.adapt.proposals import REPLICAS, Outcome, Verdict, worded
from serve.adapt.replay import COMMAND, NOTE, TICK, Mind, recover
from serve.adapt.signals import RungSeen, Snapshot

REFUSED_BECAUSE = {
    "full": "the replica's queue was full (serve.max_queue)",
    "overloaded": "the work that waited already would have made them late",
    "hopeless": "no rung is fast enough for their deadline even alone",
    "late": "their deadline passed while they waited",
    "admission": "the envelope lets only a share of the arrivals in",
}


@dataclass(frozen=True)
class Explanation:
    """One sentence or two for each question."""

    target: str
    rung: str
    replicas: str
    refused: str
    rollout: str  # empty where no version was ever on its way
    decisions: tuple[str, ...]  # and what else is worth saying, newest first

    def lines(self) -> list[str]:
        last = [f"  {line}" for line in self.decisions] or ["  none yet"]
        rollout = [f"Rollout: {self.rollout}"] if self.rollout else []
        return [self.target, self.rung, self.replicas, self.refused, *rollout, "last decisions:", *last]


def explain(entries: Sequence[Entry], *, mind: Mind | None = None, num_decisions: int = 10) -> Explanation:
    """From a journal's entries, oldest first: at least the last `state` and what followed it.

    `mind` is what they come to, where the caller has recovered it already.

    Raises:
        ValueError: there is no snapshot in them, or no state.
    """
    ticks = [entry for entry in entries if entry["kind"] == TICK]
    states = [i for i, entry in enumerate(entries) if entry["kind"] == STATE]
    if mind is None and states:
        mind = recover(entries[states[-1] :])
    if not ticks or mind is None:
        raise ValueError("nothing has been recorded yet: the journal holds no tick after a state")
    snapshot = next(
        (s for e in reversed(ticks) if (s := Snapshot.from_json(e["snapshot"])).running),
        Snapshot.from_json(ticks[-1]["snapshot"]),
    )
    verdicts = _verdicts(entries)
    lines = [(at, _decision(at, verdict, entries)) for at, verdict in verdicts[:num_decisions]]
    lines += [(entry["at"], f"{_clock(entry['at'])} {entry['words']}") for entry in entries if entry["kind"] == NOTE]
    lines.sort(key=lambda line: -line[0])
    return Explanation(
        _target(snapshot, mind),
        _rung(snapshot, mind),
        _replicas(snapshot, mind, verdicts),
        _refused(ticks),
        told(mind.rollout, mind.state.bounds.rollout),
        tuple(words for _, words in lines[:num_decisions]),
    )


def _target(snapshot: Snapshot, mind: Mind) -> str:
    """Why we are, or are not, where the objective wants us."""
    state, bounds = mind.state, mind.state.bounds
    objective = f"{100 * bounds.share_in_time:g} % of the requests within {1000 * bounds.objective_s:g} ms"
    share = state.in_time / state.ended if state.ended >= 1 else 1.0
    where = (
        f"in the last seconds {100 * share:.4g} % were answered in time, {100 * bounds.share_in_time:g} % are promised"
    )
    if state.ended < 1:
        return f"The objective is {objective}; nothing was asked in the last seconds."
    if share >= bounds.share_in_time:
        return f"At target: {objective}; {where}."
    return f"Not at target: {objective}; {where}. {_why_not(snapshot, mind)}"


def _why_not(snapshot: Snapshot, mind: Mind) -> str:
    state, bounds = mind.state, mind.state.bounds
    rungs = allowed(snapshot.rungs, bounds)
    reasons = []
    if snapshot.missing:
        reasons.append(f"{len(snapshot.missing)} of {snapshot.running + len(snapshot.missing)} replicas do not answer")
    if snapshot.running < snapshot.target:
        reasons.append(f"{snapshot.target - snapshot.running} replicas are still to start")
    carried = max((_carries(rung, bounds, snapshot) for rung in rungs), default=0.0) * snapshot.running
    if state.forecast.fast > carried:
        reasons.append(f"{state.forecast.fast:.3g} rows/s arrive and the fastest allowed rung carries {carried:.3g}")
    if mind.guard.paused:
        reasons.append(f"adaptation is paused by {mind.guard.paused}")
    if mind.guard.pins:
        reasons.append("pinned: " + ", ".join(f"{name} by {who}" for name, who in mind.guard.pins.items()))
    if state.late_share > 1 - bounds.share_in_time:
        reasons.append(f"{100 * state.late_share:.2g} % of those let in took longer than predicted")
    if snapshot.loop_lag_p99_s > bounds.objective_s / 4:
        reasons.append(f"the replicas' event loops are {1000 * snapshot.loop_lag_p99_s:.3g} ms behind")
    return ("Because " + "; ".join(reasons) + ".") if reasons else "No cause stands out in what is measured."


def _rung(snapshot: Snapshot, mind: Mind) -> str:
    """Why these rungs answer."""
    if not snapshot.rungs:
        return "No replica has said which rungs it has."
    used = [rung for rung in snapshot.rungs if rung.share > 0]
    mix = ", ".join(f"{rung.variant} {100 * rung.share:.3g} %" for rung in used) or "none in the last moment"
    bounds, best = mind.state.bounds, snapshot.rungs[0]
    holds = (snapshot.envelope or {}).get("variants")
    within = f"the envelope allows {', '.join(holds)}" if holds else "all rungs of the experiment are allowed"
    floor = f", none below {bounds.floor:g}" if bounds.floor else ""
    carried = _carries(best, bounds, snapshot) * snapshot.running
    load = mind.state.forecast.fast
    reason = (
        f"{best.variant} alone carries {carried:.3g} rows/s in {snapshot.running} replicas and {load:.3g} arrive"
        if carried > 0
        else f"{best.variant} alone is too slow for {1000 * bounds.objective_s:g} ms"
    )
    return f"Rungs: {mix}; {within}{floor}. {reason[0].upper()}{reason[1:]}."


def _replicas(snapshot: Snapshot, mind: Mind, verdicts: Sequence[tuple[float, Verdict]]) -> str:
    bounds = mind.state.bounds
    last = next((v for _, v in verdicts if v.accepted and REPLICAS in v.proposal.changes), None)
    numbers = (
        f"{snapshot.running} run, {mind.replicas} are wanted, {bounds.min_replicas} to {bounds.max_replicas} allowed"
    )
    if who := mind.guard.pins.get(REPLICAS):
        return f"Replicas: {numbers}; pinned by {who}."
    if bounds.min_replicas == bounds.max_replicas:
        return f"Replicas: {numbers}; serve.replicas leaves no choice."
    if last is not None:
        return f"Replicas: {numbers}; {last.proposal.cause}."
    best = next(iter(allowed(snapshot.rungs, bounds)), None)
    if best is None:
        return f"Replicas: {numbers}."
    one = _carries(best, bounds, snapshot) * GROW_ABOVE
    coming = mind.state.forecast.medium
    return f"Replicas: {numbers}; one is to carry {one:.3g} rows/s on {best.variant}, {coming:.3g} come."


def _refused(ticks: Sequence[Entry]) -> str:
    """Of the requests in the entries given."""
    counts: dict[str, int] = {}
    for entry in ticks:
        for kind, count in (entry["snapshot"].get("refused") or {}).items():
            counts[kind] = counts.get(kind, 0) + count
    if not counts:
        return "No request was refused lately."
    words = [f"{count} because {REFUSED_BECAUSE.get(kind, kind)}" for kind, count in counts.items()]
    return f"Requests refused lately: {'; '.join(words)}."


def _verdicts(entries: Sequence[Entry]) -> list[tuple[float, Verdict]]:
    """Accepted ones, and of refused ones each reason once, newest first."""
    found: list[tuple[float, Verdict]] = []
    seen: set[tuple[str, str]] = set()
    for entry in reversed(entries):
        if entry["kind"] not in (TICK, COMMAND):
            continue
        for data in entry.get("verdicts", []):
            verdict = Verdict.from_json(data)
            key = (verdict.proposal.rule, str(verdict.proposal.changes))
            if verdict.accepted or key not in seen:
                found.append((entry["at"], verdict))
            seen.add(key)
    return found


def _decision(at: float, verdict: Verdict, entries: Sequence[Entry]) -> str:
    proposal = verdict.proposal
    changes = ", ".join(
        f"{name} {worded(proposal.undo.get(name))} -> {worded(value)}" for name, value in proposal.changes.items()
    )
    line = f"{_clock(at)} {proposal.rule}: {changes}, because {proposal.cause}"
    if not verdict.accepted:
        return f"{line}. Not done: {verdict.reason}"
    outcome = next((o for o in _outcomes(entries) if o.number == verdict.number), None)
    if outcome is None or outcome.met is None:
        return line
    measured = "" if outcome.measured is None else f" ({outcome.measured:.4g})"
    return f"{line}. Expected {outcome.expected}: {'it came' if outcome.met else 'it did not come'}{measured}"


def _outcomes(entries: Sequence[Entry]) -> list[Outcome]:
    return [Outcome.from_json(data) for entry in entries for data in entry.get("outcomes", [])]


def _carries(rung: RungSeen, bounds: Bounds, snapshot: Snapshot) -> float:
    holds = snapshot.envelope or {}
    max_batch, caution = int(field(holds, "max_batch", bounds.max_batch)), field(holds, "caution", CAUTION)
    return rows_per_s(rung, bounds, max_batch, caution, int(field(holds, "concurrency", bounds.concurrency)))


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")
