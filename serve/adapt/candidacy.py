"""A version on its way to answer all requests: how far it has come, what it has shown, and what became of it.

What the replicas are to hold follows from the state alone, so whoever takes the state up goes on with it. When it
goes from one step to the next is decided in `serve.adapt.rollout`. Pure: time is the state's own, which goes on with
`now` but neither back nor in leaps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from serve.adapt.plain import Plain
from serve.adapt.proposals import Command
from serve.adapt.rivals import Shadow
from serve.adapt.sequential import NOTHING, Duel, Pace, Tally

MOST_STEP_S = 10.0  # by which time goes on in one tick
NUM_TESTS = 3  # requests, labels, time: among them the chance of error is shared
NUM_EVENTS = 24  # that are kept, those of earlier rollouts too
RUNNING = ("shadow", "canary", "promoting")


Phase = Literal["none", "shadow", "canary", "promoting", "promoted", "taken back"]


@dataclass(frozen=True, slots=True)
class Rules(Plain):
    """The experiment's `rollout` section; times in seconds."""

    automatic: bool = True
    shadow: int = 200
    shadow_share: float = 0.2
    steps: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5)
    least_requests: int = 100
    least_time: float = 5.0
    patience: float = 86400.0
    error: float = 0.01
    tolerance: float = 0.02

    @property
    def limit(self) -> float:
        """Of the evidence of each test."""
        return math.log(NUM_TESTS / self.error)


@dataclass(frozen=True, slots=True)
class Event(Plain):
    """A row of the endpoint's history; `at` in unix seconds."""

    kind: Literal["shadow", "canary", "promoting", "promoted", "taken back"]
    at: float
    version: int
    order: str
    words: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State(Plain):
    SHORT: ClassVar[bool] = True

    phase: Phase = "none"
    bundle: str = ""
    version: int = 0
    order: str = ""  # id of the order it came of; empty for a person's
    stable: int | None = None  # the version it is compared with
    begun: float = 0.0  # unix
    last: float = 0.0  # `now` of the last call
    time_s: float = 0.0
    begun_s: float = 0.0
    since_s: float = 0.0  # when the present step began
    step: int = 0
    here: Tally = NOTHING  # requests at the present step
    shadow: Shadow = field(default_factory=Shadow)
    requests: Duel = field(default_factory=Duel)
    labels: Duel = field(default_factory=Duel)
    pace: Pace = field(default_factory=Pace)
    attempt: int = 1  # to promote
    held: str = ""  # why it does not go on just now
    serving: int | None = None  # the version that answers, as last seen
    waiting: Command | None = None  # the canary that comes next
    events: tuple[Event, ...] = ()

    @property
    def is_running(self) -> bool:
        return self.phase in RUNNING


def wanted(state: State, rules: Rules) -> dict[str, Any]:
    """The fields of the envelope that are a rollout's."""
    if not state.is_running:
        return {"candidate": None, "shadow": 0.0, "canary": 0.0}
    share = {"shadow": 0.0, "promoting": 1.0}.get(state.phase, rules.steps[min(state.step, len(rules.steps) - 1)])
    shadow = rules.shadow_share if state.phase == "shadow" else 0.0
    return {"candidate": {"bundle": state.bundle, "version": state.version}, "shadow": shadow, "canary": share}


def held(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields of an envelope."""
    return {name: envelope.get(name) or default for name, default in wanted(State(), Rules()).items()}


# From one step to the next


def fresh(state: State, command: Command) -> State:
    return State(
        bundle=command.changes["bundle"],
        version=command.changes["version"],
        order=str(command.changes.get("order") or ""),
        begun=state.last,
        last=state.last,
        time_s=state.time_s,
        begun_s=state.time_s,
        since_s=state.time_s,
        serving=state.serving,
        waiting=state.waiting,
        events=state.events,
    )


def begun(state: State, command: Command, rules: Rules) -> State:
    state = fresh(state, command)
    if not rules.shadow:
        return grown(replace(state, phase="canary", step=-1), rules)
    words = f"{command.who} began it: {rules.shadow} rows are answered unseen first"
    return noted(replace(state, phase="shadow"), "shadow", words)


def grown(state: State, rules: Rules) -> State:
    number = state.step + 1 if state.phase == "canary" else 0
    words = f"it answers {100 * rules.steps[number]:g} % of the requests"
    state = noted(replace(state, phase="canary", step=number), "canary", words)
    return replace(state, since_s=state.time_s, here=NOTHING, held="")


def promoting(state: State, why: str) -> State:
    state = noted(replace(state, phase="promoting"), "promoting", why)
    return replace(state, since_s=state.time_s, here=NOTHING, held="")


def taken_back(state: State, why: str) -> State:
    return noted(replace(state, phase="taken back", held=why), "taken back", why)


def noted(state: State, kind: Any, words: str, *, of: int | None = None, order: str | None = None) -> State:
    version, order = (state.version, state.order) if of is None else (of, order or "")
    event = Event(kind, state.last, version, order, words, figures(state) if of is None else {})
    return replace(state, events=(*state.events, event)[-NUM_EVENTS:])


def figures(state: State) -> dict[str, Any]:
    """What has been seen since the rollout began, of both versions."""
    requests, labels, shadow = state.requests.total, state.labels.total, state.shadow
    found: dict[str, Any] = {"compared with": state.stable}
    found |= {"requests": requests.candidate, "bad": requests.candidate_bad}
    found |= {"stable requests": requests.stable, "stable bad": requests.stable_bad}
    found |= {"labelled": labels.candidate, "wrong": labels.candidate_bad}
    found |= {"stable labelled": labels.stable, "stable wrong": labels.stable_bad}
    found |= {"shadow rows": shadow.rows, "agreed": shadow.agreed}
    return found


def told(state: State, rules: Rules) -> str:
    """In a sentence or two how far it has come; empty where there never was one."""
    if state.phase == "none":
        return ""
    if not state.is_running:
        return f"Version {state.version} was {state.phase}: {state.events[-1].words}."
    return f"Version {state.version} {_doing(state, rules)}; {_shown(state)}. {_next(state)}".strip()


def _doing(state: State, rules: Rules) -> str:
    if state.phase == "shadow":
        return f"answers {100 * rules.shadow_share:g} % of the requests unseen"
    if state.phase == "promoting":
        return "answers all requests and is being promoted"
    share = wanted(state, rules)["canary"]
    return f"answers {100 * share:g} % of the requests (step {state.step + 1} of {len(rules.steps)})"


def _shown(state: State) -> str:
    requests, labels, shadow = state.requests.total, state.labels.total, state.shadow
    words = [
        f"{requests.candidate_bad} of {requests.candidate} failed or were late, {_percent(requests)} of the others"
    ]
    if labels.candidate:
        words.append(
            f"{labels.candidate_bad} of {labels.candidate} were wrong by labels, {_percent(labels)} of the others"
        )
    if shadow.rows:
        words.append(f"it agreed in {shadow.agreed:.4g} of {shadow.rows} rows")
    return "; ".join(words)


def _percent(tally: Tally) -> str:
    return f"{100 * tally.stable_bad / tally.stable:.3g} %" if tally.stable else "none"


def _next(state: State) -> str:
    held = f"Not further yet: {state.held}." if state.held else ""
    then = f" Version {state.waiting.changes['version']} waits." if state.waiting is not None else ""
    return held + then


def advanced(state: State, now: float) -> State:
    step_s = min(max(now - state.last, 0.0), MOST_STEP_S) if state.last else 0.0
    return replace(state, last=now, time_s=state.time_s + step_s)
