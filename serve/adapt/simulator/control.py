"""Who decides on envelope and replica count in a simulation: the adaptation itself, or one of its rivals.

The adaptation is the very code that the actor runs: `observe`, `step`, `enacted`. Rivals are named for what they do as
a published or built-in method does it. Pure.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from serve.adapt.bounds import Bounds
from serve.adapt.guard import Guard, enacted
from serve.adapt.proposals import REPLICAS
from serve.adapt.signals import Sample, carried, observe
from serve.adapt.simulator.outcome import Action
from serve.adapt.simulator.replica import EPOCH_S
from serve.adapt.state import State
from serve.adapt.step import step


@dataclass(frozen=True, slots=True)
class Seen:
    """What a controller is shown at a tick; `now` in virtual seconds."""

    now: float
    stats: list[dict[str, Any]]  # of the replicas that answer
    missing: tuple[str, ...]  # names of those that do not
    ongoing: int  # requests in all replicas
    envelope: dict[str, Any]
    target: int


class Controller(Protocol):
    tick_s: float  # 0: never asked

    def tick(self, seen: Seen) -> tuple[dict[str, Any], int]:
        """Envelope and number of replicas that are to hold from now on."""


class Fixed:
    """Nothing is changed."""

    tick_s = 0.0

    def tick(self, seen: Seen) -> tuple[dict[str, Any], int]:
        return seen.envelope, seen.target


class Adaptive:
    """The adaptation. Keeps what the actor keeps, and a list of what was done."""

    def __init__(self, bounds: Bounds) -> None:
        self.tick_s, self.bounds = bounds.tick_s, bounds
        self.state, self.guard = State(bounds), Guard()
        self.actions: list[Action] = []
        self.refused: Counter[str] = Counter()
        self._previous: dict[str, Sample] = {}

    def tick(self, seen: Seen) -> tuple[dict[str, Any], int]:
        samples = {sample.replica: sample for sample in map(Sample.parse, seen.stats)}
        now = EPOCH_S + seen.now
        snapshot = observe(
            self._previous,
            samples,
            now=now,
            target=seen.target,
            envelope=seen.envelope,
            missing=seen.missing,
            concurrency=self.bounds.concurrency,
        )
        self._previous = carried(self._previous, samples, seen.missing)
        made = step(snapshot, self.state, self.guard, now)
        self.state, self.guard = made.state, made.guard
        for verdict in made.verdicts:
            if not verdict.accepted:
                self.refused[verdict.proposal.rule] += 1
        holds = {**seen.envelope, REPLICAS: seen.target}
        for proposal in (verdict.proposal for verdict in made.accepted):
            for name, value in proposal.changes.items():
                before = holds.get(name)
                turn = _direction(name, before, value, self.bounds)
                action = Action(seen.now, proposal.rule, name, before, value, turn, proposal.protective, proposal.cause)
                self.actions.append(action)
        return enacted(made.verdicts, seen.envelope, seen.target)


class Autoscaler:
    """Ray Serve's default autoscaling: requests in flight over a target, averaged, after a delay each way."""

    def __init__(
        self, bounds: Bounds, target_ongoing: float = 2.0, look_back_s: float = 30.0, up_s: float = 30.0,
        down_s: float = 600.0,
    ) -> None:  # fmt: skip
        """The defaults are Ray Serve 2.60's."""
        self.tick_s, self._bounds, self._target_ongoing = 1.0, bounds, target_ongoing
        self._seen: deque[tuple[float, int]] = deque()
        self._look_back_s, self._delays_s = look_back_s, {1: up_s, -1: down_s}
        self._side, self._since = 0, 0.0
        self.actions: list[Action] = []

    def tick(self, seen: Seen) -> tuple[dict[str, Any], int]:
        self._seen.append((seen.now, seen.ongoing))
        while self._seen[0][0] < seen.now - self._look_back_s:
            self._seen.popleft()
        ongoing = sum(count for _, count in self._seen) / len(self._seen)
        wanted = math.ceil(ongoing / self._target_ongoing)
        wanted = min(max(wanted, self._bounds.min_replicas), self._bounds.max_replicas)
        side = (wanted > seen.target) - (wanted < seen.target)
        if side != self._side:
            self._side, self._since = side, seen.now
        if not side or seen.now - self._since < self._delays_s[side]:
            return seen.envelope, seen.target
        self.actions.append(Action(seen.now, "autoscaling", REPLICAS, seen.target, wanted, side))
        self._side = 0
        return seen.envelope, wanted


def _direction(name: str, before: Any, after: Any, bounds: Bounds) -> int:
    """Of a change: +1 to more; a field that was not set has the experiment's value."""
    defaults: Mapping[str, Any] = {
        "max_batch": bounds.max_batch,
        "max_wait_s": bounds.max_wait_s,
        "threads": bounds.threads,
        "concurrency": bounds.concurrency,
        "caution": 2.0,
        "admit": 1.0,
    }

    def size(value: Any) -> float:
        if name == "variants":
            return math.inf if value is None else float(len(value))
        return float(defaults.get(name, 0.0) if value is None else value)

    return (size(after) > size(before)) - (size(after) < size(before))
