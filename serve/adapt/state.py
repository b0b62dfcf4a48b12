"""What the rules remember between two ticks: averages over a few seconds, since when something holds, recent peaks.

Pure and frozen. Time is the state's own: it goes on with `now`, but neither back nor in leaps, so a clock that is set,
or a pause of the actor, is no reason to change anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from serve.adapt.bounds import Bounds
from serve.adapt.forecast import Forecast, update
from serve.adapt.plain import Plain
from serve.adapt.signals import Snapshot

MOST_STEP_S = 10.0  # by which the state's time goes on in one tick
WINDOW_S = 10.0  # over which requests are counted, the older ones less
SMOOTH_S = 3.0  # over which utilisation and rung mix are averaged
NUM_PEAKS = 12  # parts of the patience of which the highest load is kept


@dataclass(frozen=True, slots=True)
class State(Plain):
    bounds: Bounds
    last: float = 0.0  # `now` of the last tick
    time_s: float = 0.0
    forecast: Forecast = field(default_factory=Forecast)
    ended: float = 0.0  # requests of the last WINDOW_S, the older the less: so are the next three
    in_time: float = 0.0
    late: float = 0.0
    overloaded: float = 0.0  # refused for want of capacity
    utilisation: float = 0.0
    best_share: float = 1.0  # of the rows computed, by the most accurate rung
    since: dict[str, float] = field(default_factory=dict)  # condition to the time from which it has held
    peaks: tuple[float, ...] = ()  # highest level of each part, the present one last
    part_s: float = 0.0  # when the present part began

    @property
    def late_share(self) -> float:
        """Of the requests that were let in, how many were not answered in time."""
        let_in = self.in_time + self.late
        return self.late / let_in if let_in > 0 else 0.0

    @property
    def peak(self) -> float:
        return max(self.peaks, default=0.0)

    def held_s(self, condition: str) -> float:
        """For how long; 0 when it does not hold."""
        begun = self.since.get(condition)
        return 0.0 if begun is None else self.time_s - begun


def followed(state: State, snapshot: Snapshot, now: float) -> State:
    """The state after one more look at the replicas; where none answered only time goes on."""
    step_s = min(max(now - state.last, 0.0), MOST_STEP_S) if state.last else 0.0
    state = replace(state, last=now, time_s=state.time_s + step_s)
    if not snapshot.running:
        return state
    kept, smooth = math.exp(-step_s / WINDOW_S), 1.0 - math.exp(-step_s / SMOOTH_S)
    refused = snapshot.refused or {}
    forecast = update(state.forecast, snapshot.arrivals_per_s, snapshot.interval_s)
    has_rows = snapshot.answered_per_s > 0 and bool(snapshot.rungs)
    best_share = snapshot.rungs[0].share if has_rows else state.best_share
    return replace(
        state,
        forecast=forecast,
        ended=state.ended * kept + snapshot.ended,
        in_time=state.in_time * kept + snapshot.in_time,
        late=state.late * kept + snapshot.late,
        overloaded=state.overloaded * kept + refused.get("overloaded", 0) + refused.get("full", 0),
        utilisation=state.utilisation + smooth * (snapshot.utilisation - state.utilisation),
        best_share=state.best_share + smooth * (best_share - state.best_share),
        **_peaks(state, forecast.medium),
    )


def noted(state: State, conditions: Mapping[str, bool]) -> State:
    """Remember since when each condition holds, and forget those that do not."""
    since = {name: state.since.get(name, state.time_s) for name, holds in conditions.items() if holds}
    return replace(state, since=since)


def _peaks(state: State, level: float) -> dict[str, Any]:
    if not state.peaks:
        return {"peaks": (level,), "part_s": state.time_s}
    if state.time_s - state.part_s < state.bounds.patience_s / NUM_PEAKS:
        return {"peaks": (*state.peaks[:-1], max(state.peaks[-1], level))}
    return {"peaks": (*state.peaks[-NUM_PEAKS:], level), "part_s": state.time_s}
