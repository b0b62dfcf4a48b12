"""How a new version comes to answer all requests, or none: shadow, a canary that grows by steps, promotion.

Whether the candidate is worse is for the tests in `serve.adapt.sequential`; they share the chance of error that the
rules allow. A pause and too little evidence hold a rollout where it is, and never keep a bad version from being taken
back. Pure.
"""

from __future__ import annotations

import math
from dataclasses import replace

from serve.adapt.candidacy import Rules, State, advanced, begun, fresh, grown, noted, promoting, taken_back
from serve.adapt.proposals import Command
from serve.adapt.rivals import Heard, Rivals
from serve.adapt.sequential import Duel, Tally, faced, paced

MOST_AT_ONCE = 8.0  # requests of one look that count, as failures come together
SLOW_TIMES, SLOW_S = 4.0, 0.001  # a look seems slow whose passes took both so many times and so much longer
SUSPECTED = math.log(10.0)  # evidence above which a canary does not grow
LEAST_AGREEMENT, LEAST_ROWS, LEAST_LABELS = 0.5, 50, 20
MOST_ATTEMPTS = 3  # to promote


# What persons and the keeper of orders say


def obeyed(state: State, command: Command, rules: Rules, now: float) -> tuple[State, str]:
    """The state after it, and why it is refused, or nothing."""
    state = advanced(state, now)
    if command.verb == "canary":
        return _canary(state, command, rules)
    if command.verb == "promote":
        return _promote(state, command)
    if not state.is_running:
        return state, "no version is being rolled out"
    if state.phase == "promoting":
        return state, f"version {state.version} is being promoted just now; say it again when that is done"
    return taken_back(replace(state, waiting=None), f"{command.who} said rollback"), ""


def _canary(state: State, command: Command, rules: Rules) -> tuple[State, str]:
    bundle, version = command.changes.get("bundle"), command.changes.get("version")
    if not isinstance(bundle, str) or not isinstance(version, int):
        return state, "a canary needs the bundle and the number of a version"
    if version == state.serving:
        return state, f"version {version} answers all requests already"
    if not state.is_running:
        return begun(state, command, rules), ""
    if version == state.version:
        return state, f"version {version} is being rolled out already"
    if state.waiting is not None and state.waiting.changes["version"] != version:
        other = int(state.waiting.changes["version"])
        words = f"version {version} waits in its place for version {state.version}"
        state = noted(state, "taken back", words, of=other, order=str(state.waiting.changes.get("order", "")))
    return replace(state, waiting=command), ""


def _promote(state: State, command: Command) -> tuple[State, str]:
    bundle, version = command.changes.get("bundle"), command.changes.get("version")
    if state.is_running:
        if version not in (None, state.version):
            return state, f"version {state.version} is being rolled out; roll it back first, or wait"
        if state.phase == "promoting":
            return state, f"version {state.version} is being promoted already"
        return promoting(state, f"{command.who} said promote"), ""
    if not isinstance(bundle, str) or not isinstance(version, int):
        return state, "no version is being rolled out; name the one to promote"
    if version == state.serving:
        return state, f"version {version} answers all requests already"
    return promoting(fresh(state, command), f"{command.who} said promote"), ""


# One tick


def step(
    state: State,
    rules: Rules,
    now: float,
    *,
    serving: int | None = None,
    seen: Rivals | None = None,
    heard: Heard | None = None,
    paused: str | None = None,
) -> State:
    """`serving` is the version that answers, None where no replica said so."""
    state = advanced(state, now)
    state = state if serving is None else replace(state, serving=serving)
    if not state.is_running:
        if state.waiting is None:
            return state
        command, state = state.waiting, replace(state, waiting=None)
        return state if command.changes["version"] == serving else begun(state, command, rules)
    if state.stable is None and serving != state.version:
        state = replace(state, stable=serving)
    heard = heard if heard is not None and heard.version == state.version else None
    if state.phase == "promoting":
        return _promotion(state, serving, heard)
    if serving == state.version:
        return _promoted(state, "a person deployed it")
    state = _learnt(state, rules, seen, heard)
    if reason := _fault(state, rules, serving, seen):
        return taken_back(state, reason)
    return _further(state, rules, paused)


def _learnt(state: State, rules: Rules, seen: Rivals | None, heard: Heard | None) -> State:
    if seen is not None and seen.version == state.version:
        requests = seen.requests
        if state.phase == "shadow":
            requests = requests._replace(candidate=seen.shadow.rows, candidate_bad=seen.shadow.failed)
        state = replace(
            state,
            shadow=state.shadow.plus(seen.shadow),
            here=state.here.plus(requests),
            requests=faced(state.requests, requests, rules.tolerance, MOST_AT_ONCE),
        )
        if seen.pace:
            is_slow = seen.pace > SLOW_TIMES and seen.excess_s > SLOW_S
            state = replace(state, pace=paced(state.pace, is_slow=is_slow))
    if heard is None:
        return state
    more = Tally(*(max(now - before, 0) for now, before in zip(heard.labels, state.labels.total, strict=True)))
    return replace(state, labels=faced(state.labels, more, rules.tolerance)) if any(more) else state


def _fault(state: State, rules: Rules, serving: int | None, seen: Rivals | None) -> str:
    """Why it must be taken back, or nothing."""
    if seen is not None and seen.version == state.version and seen.refused:
        return f"a replica cannot hold it: {seen.refused}"
    if serving not in (None, state.stable):
        return f"version {serving} was deployed meanwhile"
    if state.requests.evidence > rules.limit:
        return f"it failed, was late or had to be rescued in {_of(state.requests)}"
    if state.labels.evidence > rules.limit:
        return f"by labels it was wrong in {_of(state.labels, 'answers')}"
    if state.pace.evidence > rules.limit:
        return (
            f"its passes took more than {SLOW_TIMES:g} times as long in {state.pace.slow} of {state.pace.looks} looks"
        )
    if state.time_s - state.begun_s > rules.patience and (rules.automatic or not _is_at_last(state, rules)):
        return f"it came no further in {rules.patience:g} s ({state.held})"
    return ""


def _further(state: State, rules: Rules, paused: str | None) -> State:
    is_last = _is_at_last(state, rules)
    reason = _holds(state, rules, is_last=is_last, paused=paused)
    if reason:
        return replace(state, held=reason)
    return promoting(state, "the last step is passed") if is_last else grown(state, rules)


def _holds(state: State, rules: Rules, *, is_last: bool, paused: str | None) -> str:
    if paused is not None:
        return f"paused by {paused}"
    here, shadow = state.here.candidate, state.shadow
    if state.phase == "shadow" and shadow.rows < rules.shadow:
        return f"{shadow.rows} of {rules.shadow} rows are answered unseen so far"
    if state.phase == "canary" and here < rules.least_requests:
        return f"{here} of {rules.least_requests} requests are answered at this step so far"
    if (for_s := state.time_s - state.since_s) < rules.least_time:
        return f"{for_s:.1f} of {rules.least_time:g} s have passed at this step"
    if max(state.requests.evidence, state.labels.evidence, state.pace.evidence) > SUSPECTED:
        return "there is some evidence against it, which more requests must clear"
    if state.phase == "canary" and _is_strange(state) and state.labels.total.candidate < LEAST_LABELS:
        return (
            f"it agrees with the stable version in {shadow.agreed:.4g} of {shadow.rows} rows only and no gate has "
            f"judged it: {LEAST_LABELS} of its answers must have a label, {state.labels.total.candidate} have"
        )
    return "it waits for trimtab promote" if is_last and not rules.automatic else ""


def _is_strange(state: State) -> bool:
    shadow = state.shadow
    return not state.order and shadow.rows >= LEAST_ROWS and shadow.agreed < LEAST_AGREEMENT * shadow.rows


def _is_at_last(state: State, rules: Rules) -> bool:
    return state.phase == "canary" and state.step >= len(rules.steps) - 1


def _promotion(state: State, serving: int | None, heard: Heard | None) -> State:
    if serving not in (None, state.stable, state.version):
        return taken_back(state, f"version {serving} was deployed meanwhile")
    if heard is None or heard.attempt != state.attempt:
        return state
    if not heard.trouble:
        return _promoted(state, "it answers all requests")
    if serving == state.version:
        return _promoted(state, f"it answers all requests, though not all is done: {heard.trouble}")
    if state.attempt >= MOST_ATTEMPTS:
        return taken_back(state, f"it could not be promoted: {heard.trouble}")
    return replace(state, attempt=state.attempt + 1, held=heard.trouble)


def _promoted(state: State, words: str) -> State:
    return noted(replace(state, phase="promoted", held=""), "promoted", words)


def failed(state: State, why: str, now: float) -> State:
    """The envelope could not be applied."""
    return taken_back(advanced(state, now), why) if state.is_running else state


def _of(duel: Duel, what: str = "requests") -> str:
    total = duel.total
    return (
        f"{total.candidate_bad} of {total.candidate} {what}, the stable version in {total.stable_bad} of {total.stable}"
    )
