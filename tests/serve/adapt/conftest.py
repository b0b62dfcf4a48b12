"""A fleet of replicas as arithmetic: enough of one to see what decisions do to it, in virtual time.

Arrivals, capacity and lateness follow from rates; nothing is queued request by request (the simulator does that).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from serve.adapt.bounds import Bounds
from serve.adapt.capacity import rows_per_s
from serve.adapt.journal import Entry
from serve.adapt.proposals import Command, Verdict
from serve.adapt.replay import Mind, command_entry, obeyed, state_entry, tick_entry, ticked
from serve.adapt.signals import RungSeen, Snapshot

TICK_S, START = 0.2, 1_000_000.0
RUNGS = (
    RungSeen("large-fp32", 0.88, 0.001, 0.020, 0.05),
    RungSeen("large-int8", 0.85, 0.00035, 0.007, 0.05),
    RungSeen("small-fp32", 0.79, 0.00011, 0.0022, 0.05),
    RungSeen("small-int8", 0.70, 0.000035, 0.0007, 0.05),
)


@dataclass
class Plant:
    """Replicas answer as `choose` would have them: the best mix of rungs that carries the load. They start late."""

    bounds: Bounds
    running: int
    rungs: Sequence[RungSeen] = RUNGS
    start_s: float = 6.0
    surprise: float = 0.0  # share of answers that are late although they fit, less with more caution
    room: int = 1000  # replicas that the cluster has room for
    starting: list[float] = field(default_factory=list)  # when each comes up
    arriving: float = 0.0  # requests not yet whole

    def tick(self, mind: Mind, rate: float, now: float) -> Snapshot:
        self._follow(min(mind.replicas, self.room), now)
        envelope = mind.envelope
        named, floor = envelope.get("variants"), envelope.get("least_accuracy", 0.0)
        allowed = [r for r in self.rungs if (named is None or r.variant in named) and r.accuracy >= floor]
        carried = [self._carries(rung, envelope) * self.running for rung in allowed]
        arrived, admit = self._whole(rate * TICK_S), envelope.get("admit", 1.0)
        let_in = round(arrived * admit)
        answered = min(let_in, round(max(carried) * TICK_S + 0.5))
        shares = _mix(rate * admit, carried)
        late = round(answered * self.surprise * max(0.0, 1.0 - (envelope.get("caution", 2.0) - 2.0) / 2))
        refused = {"admission": arrived - let_in, "overloaded": let_in - answered}
        by_variant = dict(zip((rung.variant for rung in allowed), shares, strict=True))
        used = sum(share * answered / TICK_S / c for share, c in zip(shares, carried, strict=True) if c)
        return Snapshot(
            now,
            TICK_S,
            requests_per_s=arrived / TICK_S,
            arrivals_per_s=arrived / TICK_S,
            answered_per_s=answered / TICK_S,
            ended=arrived,
            in_time=answered - late,
            late=late,
            refused={kind: count for kind, count in refused.items() if count} or None,
            accuracy=sum(share * rung.accuracy for share, rung in zip(shares, allowed, strict=True)),
            utilisation=min(used, 1.0),
            rungs=tuple(
                RungSeen(r.variant, r.accuracy, r.fixed_s, r.per_row_s, r.spread, by_variant.get(r.variant, 0.0))
                for r in self.rungs
            ),
            running=self.running,
            target=mind.replicas,
            version=1,
            epochs=(envelope.get("epoch", 0),) * 2,
            envelope=dict(envelope) or None,
        )

    def _carries(self, rung: RungSeen, envelope: Mapping[str, Any]) -> float:
        max_batch, caution = envelope.get("max_batch") or self.bounds.max_batch, envelope.get("caution", 2.0)
        return rows_per_s(rung, self.bounds, max_batch, caution, 1)

    def _follow(self, target: int, now: float) -> None:
        self.running += sum(at <= now for at in self.starting)
        self.starting = [at for at in self.starting if at > now]
        missing = target - self.running - len(self.starting)
        self.starting += [now + self.start_s] * missing
        for _ in range(-missing):
            if self.starting:
                self.starting.pop()
            else:
                self.running -= 1

    def _whole(self, count: float) -> int:
        self.arriving += count
        whole = int(self.arriving)
        self.arriving -= whole
        return whole


def _mix(load: float, carried: Sequence[float]) -> list[float]:
    """Shares of two neighbouring rungs that together just carry the load, most accurate first."""
    shares = [0.0] * len(carried)
    fits = next((i for i, c in enumerate(carried) if load <= c), None)
    if fits is None:
        shares[carried.index(max(carried))] = 1.0
    elif fits == 0 or not carried[fits - 1]:
        shares[fits] = 1.0
    else:
        better, cheaper = 1 / carried[fits - 1], 1 / carried[fits]
        shares[fits - 1] = max((1 / load - cheaper) / (better - cheaper), 0.0)
        shares[fits] = 1 - shares[fits - 1]
    return shares


@dataclass
class Played:
    """What happened: every tick's snapshot, mind before and verdicts, and the journal's entries."""

    plant: Plant
    mind: Mind
    entries: list[Entry] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    verdicts: list[tuple[float, Verdict]] = field(default_factory=list)  # seconds since the start

    @property
    def accepted(self) -> list[tuple[float, Verdict]]:
        return [(at, verdict) for at, verdict in self.verdicts if verdict.accepted]

    @property
    def now(self) -> float:
        return START + TICK_S * len(self.snapshots)

    def obey(self, verb: Any, changes: dict[str, Any]) -> None:
        """A person's word between two ticks."""
        command = Command(verb, "ada", changes)
        verdicts, mind = obeyed(self.mind, command, self.now)
        self.entries.append(command_entry(command, verdicts, self.mind, self.now))
        self.verdicts += [(self.now - START, verdict) for verdict in verdicts]
        self.mind = mind

    def checkpoint(self) -> None:
        self.entries.append(state_entry(self.mind, self.now, "checkpoint"))

    def go_on(self, rates: Iterable[float], seed: int | None = None) -> Played:
        """One rate for each second; with a seed arrivals are as irregular as in a Poisson process."""
        chance = random.Random(seed)
        for rate in rates:
            for _ in range(round(1 / TICK_S)):
                now = START + TICK_S * (len(self.snapshots) + 1)
                per_tick = rate * TICK_S
                noise = 0.0 if seed is None else chance.gauss(0.0, math.sqrt(per_tick))
                seen = self.plant.tick(self.mind, max(per_tick + noise, 0.0) / TICK_S, now)
                done, self.mind = ticked(self.mind, seen, now)
                self.snapshots.append(seen)
                self.entries.append(tick_entry(seen, done, now))
                self.verdicts += [(now - START, verdict) for verdict in done.verdicts]
        return self


@pytest.fixture(scope="session")
def play() -> Callable[..., Played]:
    """`play(bounds, rates, seed=None, **plant)`: a fleet under so many rows a second, from the fewest replicas."""

    def played(bounds: Bounds, rates: Iterable[float], seed: int | None = None, **plant: Any) -> Played:
        mind = Mind.fresh(bounds)
        made = Played(Plant(bounds, bounds.min_replicas, **plant), mind, [state_entry(mind, START, "start")])
        return made.go_on(rates, seed)

    return played
