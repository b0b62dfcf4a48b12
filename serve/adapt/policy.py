"""What is to be changed: each rule compares what is with what should be, and proposes the difference.

`decide` is called at every tick with what was just seen, and may be called again with the same: it looks at levels,
not at events, and what was not done is proposed anew. It knows neither whether a proposal is carried out (the guard
judges) nor how. Which rung computes a batch is not decided here but in each replica, in microseconds (`ladder.choose`);
the rules set what it may choose from, and, rungs first and replicas after, how many replicas there are.

Pure: all it knows is in its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serve.adapt.bounds import Bounds
from serve.adapt.capacity import allowed, power_below, replicas_for, rows_per_s, usable_rows
from serve.adapt.forecast import predict
from serve.adapt.guard import FLOOR, LEAST_ADMIT
from serve.adapt.proposals import REPLICAS, Expectation, Proposal
from serve.adapt.signals import RungSeen, Snapshot
from serve.adapt.state import NUM_PEAKS, State, followed, noted

GROW_ABOVE, SHRINK_BELOW = 0.75, 0.6  # of the replicas' time on the most accurate rung
START_S = 10.0  # until a new replica answers: how far the forecast for growing looks
FULL = 0.95  # of the cheapest rung's capacity: so much is let in when not all can be
LAG_SHARE = 0.2  # of the objective: an event loop later than that has too much to do even with refusing
CAUTION, MOST_CAUTION = 2.0, 4.0  # spreads; with fewer than at first both time and accuracy are lost, see the simulator
RESERVE = 1.5  # times the rows of a larger batch must fit before it is allowed: what is learned of times varies
LEAST_BURST = 3.0  # times the recent peak that the allowed rungs must carry at least
LEAST_EVIDENCE = 3.0  # late requests


@dataclass(frozen=True, slots=True)
class View:
    """A snapshot with what is remembered and what holds now."""

    snapshot: Snapshot
    state: State
    bounds: Bounds
    rungs: tuple[RungSeen, ...]  # those the experiment allows; not empty
    max_batch: int
    caution: float
    threads: int
    concurrency: int
    admit: float
    max_wait_s: float
    least_accuracy: float
    variants: tuple[str, ...] | None

    @property
    def load(self) -> float:
        """Rows a second that arrive now."""
        return self.state.forecast.fast

    @property
    def coming(self) -> float:
        """Rows a second when a replica asked for now would answer."""
        return max(predict(self.state.forecast, START_S), 0.0)

    def carries(self, rung: RungSeen) -> float:
        """Rows a second, of one replica."""
        return rows_per_s(rung, self.bounds, self.max_batch, self.caution, self.concurrency)

    @property
    def best(self) -> RungSeen:
        """The most accurate rung that can hold the objective; the fastest where none can."""
        return next((rung for rung in self.rungs if self.carries(rung) > 0), self.fastest)

    @property
    def fastest(self) -> RungSeen:
        return max(self.rungs, key=self.carries)

    @property
    def most_late(self) -> float:
        """The share that may be late."""
        return 1.0 - self.bounds.share_in_time

    @property
    def in_use(self) -> tuple[RungSeen, ...]:
        if self.variants is None:
            return self.rungs
        return tuple(rung for rung in self.rungs if rung.variant in self.variants) or self.rungs


Rule = Callable[[View], Proposal | None]


def decide(snapshot: Snapshot, state: State, now: float) -> tuple[list[Proposal], State]:
    """What each rule wants changed, and the state for the next tick. Nothing is proposed while no replica answers."""
    state = followed(state, snapshot, now)
    rungs = allowed(snapshot.rungs, state.bounds)
    if not snapshot.running or not rungs:
        return [], state
    state = noted(state, _conditions(_view(snapshot, state, rungs)))
    view = _view(snapshot, state, rungs)
    return [proposal for rule in RULES if (proposal := rule(view)) is not None], state


def _view(snapshot: Snapshot, state: State, rungs: tuple[RungSeen, ...]) -> View:
    holds, bounds = snapshot.envelope or {}, state.bounds
    variants = holds.get("variants")
    return View(
        snapshot,
        state,
        bounds,
        rungs,
        max_batch=int(field(holds, "max_batch", bounds.max_batch)),
        caution=float(field(holds, "caution", CAUTION)),
        threads=int(field(holds, "threads", bounds.threads)),
        concurrency=int(field(holds, "concurrency", bounds.concurrency)),
        admit=float(field(holds, "admit", 1.0)),
        max_wait_s=float(field(holds, "max_wait_s", bounds.max_wait_s)),
        least_accuracy=float(field(holds, "least_accuracy", 0.0)),
        variants=None if variants is None else tuple(variants),
    )


def field(envelope: Mapping[str, Any], name: str, default: float) -> float:
    """What an envelope says; one that is missing or None is as the experiment has it."""
    value: float | None = envelope.get(name)
    return default if value is None else value


def _conditions(view: View) -> dict[str, bool]:
    """What some rule acts on only when it has held for a while."""
    state, bounds = view.state, view.bounds
    is_late = state.late >= LEAST_EVIDENCE and state.late_share > view.most_late
    cheapest = view.carries(view.fastest) * max(view.snapshot.running, 1)
    is_swamped = view.snapshot.loop_lag_p99_s > LAG_SHARE * bounds.objective_s
    is_full = state.overloaded > 0 or state.utilisation > 0.9 or view.admit < 1.0
    return {
        "short": replicas_for(view.coming, view.carries(view.best), GROW_ABOVE, bounds) > view.snapshot.target,
        "drowning": replicas_for(view.coming, view.carries(view.fastest), FULL, bounds) > view.snapshot.target,
        "late": is_late,
        "inside": state.late_share <= view.most_late / 4 and state.utilisation < 0.9 and not state.forecast.is_burst,
        "over": is_swamped and is_full and view.load > FULL * cheapest,
        "clear": not is_swamped and state.late_share <= view.most_late,
        "busy": state.utilisation > 0.7,
        "idle": state.utilisation < 0.5,
    }


# The rules


def floor(view: View) -> Proposal | None:
    """No rung below the experiment's accuracy answers."""
    if view.least_accuracy >= view.bounds.floor:
        return None
    cause = (
        f"the experiment promises accuracy {view.bounds.floor:.4g}; rungs down to {view.least_accuracy:.4g} may answer"
    )
    return _envelope(view, FLOOR, {"least_accuracy": view.bounds.floor}, cause, _holds(view), protective=True)


def rungs(view: View) -> Proposal | None:
    """All allowed rungs again where fewer were set, and a burst needs them or the version has others.

    Never fewer: what a rung left out gains, `choose` gains without it (docs/decisions/2026-11-25-all-rungs.md).
    """
    state, in_use = view.state, view.in_use
    if gone := set(view.variants or ()) - {rung.variant for rung in view.rungs}:
        cause = f"version {view.snapshot.version} has no {', '.join(sorted(gone))}, or it may not answer"
        return _envelope(view, "rungs", {"variants": None}, cause, _holds(view), protective=True)
    enough = _enough(view)
    if len(in_use) < len(view.rungs) and (state.forecast.is_burst or state.held_s("late") or len(enough) > len(in_use)):
        last = view.rungs[-1].variant
        cause = f"{_rate(state.peak)} and bursts of {_burst(view):.1f} times that need rungs down to {last}"
        if state.held_s("late"):
            cause = f"{_share(state.late_share)} of the requests are late; {_share(view.most_late)} may be"
        return _envelope(view, "rungs", {"variants": None}, cause, _not_later(view), protective=True)
    return None


def caution(view: View) -> Proposal | None:
    """More spreads in every prediction when answers come late, fewer when accuracy is lost for nothing."""
    state, wanted = view.state, min(view.caution + 0.5, MOST_CAUTION)
    leaves_room = usable_rows(view.fastest, view.bounds.objective_s, view.max_batch, wanted) > 0  # else all is refused
    if state.held_s("late") >= view.bounds.cooldown_s and view.caution < wanted and leaves_room:
        cause = (
            f"{_share(state.late_share)} of the requests let in are late, {_share(view.most_late)} may be: "
            f"predictions were too low with {view.caution:g} spreads"
        )
        return _envelope(view, "caution", {"caution": wanted}, cause, _not_later(view), protective=True)
    enough_seen = state.in_time * view.most_late >= LEAST_EVIDENCE
    if (
        state.held_s("inside") >= 4 * view.bounds.dwell_s
        and enough_seen
        and state.best_share < 0.98
        and view.caution > CAUTION
    ):
        wanted = max(view.caution - 0.25, CAUTION)
        cause = (
            f"only {_share(state.late_share)} of the requests are late, {_share(view.most_late)} may be, and "
            f"{_share(1 - state.best_share)} of the rows do not get {view.rungs[0].variant}"
        )
        return _envelope(view, "caution", {"caution": wanted}, cause, _in_time(view))
    return None


def batch(view: View) -> Proposal | None:
    """No batch so large that a request which just missed it is late, on the rung that is for the worst moments."""
    usable = usable_rows(view.fastest, view.bounds.objective_s, 2 * view.bounds.max_batch, view.caution)
    sure = usable if usable < view.max_batch else max(int(usable / RESERVE), view.max_batch)
    wanted = view.bounds.max_batch if sure >= view.bounds.max_batch else power_below(sure)
    if 0.5 < wanted / view.max_batch < 2.0 and not (wanted == view.bounds.max_batch > view.max_batch):
        return None
    rung = view.fastest
    cause = (
        f"{rung.variant} takes {_ms(rung.seconds(view.max_batch))} for {view.max_batch} rows; waiting for one batch "
        f"and being in the next, {_ms(view.bounds.objective_s)} are kept up to {usable} rows"
    )
    expected = _not_later(view) if wanted < view.max_batch else _in_time(view)
    return _envelope(view, "batch", {"max_batch": wanted}, cause, expected, protective=wanted < view.max_batch)


def wait(view: View) -> Proposal | None:
    """Rows wait for company only as long as the objective has time for it."""
    rung, rows = view.fastest, view.max_batch
    spare_s = view.bounds.objective_s - 2 * rung.seconds(rows) * (1 + view.caution * rung.spread)
    wanted_s = 0.0 if view.state.held_s("late") else min(view.bounds.max_wait_s, max(spare_s, 0.0) / 2)
    if view.max_wait_s / 2 <= wanted_s <= max(2 * view.max_wait_s, view.bounds.max_wait_s / 16):
        return None
    cause = f"{_ms(max(spare_s, 0.0))} of {_ms(view.bounds.objective_s)} are left beside two batches of {rows} rows"
    if view.state.held_s("late"):
        cause = f"{_share(view.state.late_share)} of the requests are late; none waits for company"
    lower = wanted_s < view.max_wait_s
    expected = _not_later(view) if lower else _in_time(view)
    return _envelope(view, "wait", {"max_wait_s": round(wanted_s, 4)}, cause, expected, protective=lower)


def admission(view: View) -> Proposal | None:
    """Turn away a share of all only while even to refuse is too much work; let in again slowly.

    A replica refuses just those that it cannot answer in time. A share turned away blindly is always some that it
    could have answered: 4 to 18 in a hundred over simulated overloads.
    """
    state, running = view.state, view.snapshot.running
    if running < view.bounds.max_replicas and view.snapshot.target < view.bounds.max_replicas and view.admit >= 1.0:
        return None
    carried, lag_s = view.carries(view.fastest) * running, view.snapshot.loop_lag_p99_s
    cause = (
        f"{_rate(view.load)} arrive, {running} replicas carry {_rate(carried)} on {view.fastest.variant}, "
        f"event loops lag by {_ms(lag_s)}"
    )
    wanted = max(round(FULL * carried / view.load, 2), LEAST_ADMIT) if view.load > 0 else 1.0
    if state.held_s("over") >= view.bounds.cooldown_s and wanted < view.admit - 0.02:
        return _envelope(view, "admission", {"admit": wanted}, cause, _not_later(view), protective=True)
    if state.held_s("clear") >= view.bounds.dwell_s and view.admit < 1.0:
        more = min(round(view.admit + 0.1, 2), 1.0)
        return _envelope(view, "admission", {"admit": more}, cause, _in_time(view))
    return None


def workers(view: View) -> Proposal | None:
    """A replica's cores: several passes at once when it is busy, one when the best rung is too slow on one core."""
    cores, rung, state = view.bounds.cores, view.rungs[0], view.state
    if cores == 1:
        return None
    one_s = rung.seconds(1) * (1 + view.caution * rung.spread)
    now = f"{view.threads} threads, {view.concurrency} passes at once, {cores} cores, used {state.utilisation:.2f}"
    if state.held_s("busy") >= view.bounds.dwell_s and view.concurrency < cores:
        cause = f"busy: {now}"
        changes = {"threads": 1, "concurrency": cores}
        expected = Expectation("utilisation", "<=", state.utilisation, 30.0, _void_above(view))
        return _envelope(view, "workers", changes, cause, expected)
    is_slow = 2 * one_s > view.bounds.objective_s
    if state.held_s("idle") >= view.bounds.patience_s and is_slow and view.threads < cores:
        cause = f"{rung.variant} takes {_ms(one_s)} for one row, too long for {_ms(view.bounds.objective_s)}: {now}"
        changes = {"threads": cores, "concurrency": 1}
        return _envelope(view, "workers", changes, cause, _in_time(view))
    return None


def replicas(view: View) -> Proposal | None:
    """As many as would carry what is coming on the most accurate rung; fewer only after patience.

    At once where not even the cheapest rung carries it. Else cheaper rungs hold the objective meanwhile, so growing
    waits for as long as a start takes: a burst shorter than that is over before a new replica helps, and its start
    takes processors from those that serve. To wait as long as what is bought costs is never worse than twice the best
    choice in hindsight (A. Karlin et al., Competitive Snoopy Caching, 1988).
    """
    state, bounds, target, one = view.state, view.bounds, view.snapshot.target, view.carries(view.best)
    carries = f"one replica carries {_rate(one)} on {view.best.variant}"
    grown = replicas_for(view.coming, one, GROW_ABOVE, bounds)
    is_due = state.held_s("short") >= START_S or state.held_s("drowning") >= 2 * bounds.cooldown_s
    if target < bounds.min_replicas or (grown > target and is_due):
        wanted = max(grown, bounds.min_replicas)
        cause = f"{_rate(view.coming)} are coming, {carries}: {wanted} replicas for a utilisation of {GROW_ABOVE}"
        expected = Expectation("running", ">=", float(wanted), 60.0)
        return Proposal("replicas", "replicas", {REPLICAS: wanted}, cause, expected, {REPLICAS: target}, True)
    load = max(state.peak, view.coming)
    shrunk = max(replicas_for(load, one, SHRINK_BELOW, bounds), (target + 1) // 2)
    is_seen = len(state.peaks) > NUM_PEAKS
    if target > bounds.max_replicas or (shrunk < target and is_seen and not state.held_s("late")):
        wanted = min(shrunk, bounds.max_replicas)
        cause = f"{_rate(load)} at most in the last {bounds.patience_s:g} s, {carries}: {wanted} replicas are enough"
        expected = Expectation("late", "<=", max(view.most_late, state.late_share), 30.0, 1.2 * load + 1.0)
        return Proposal("replicas", "replicas", {REPLICAS: wanted}, cause, expected, {REPLICAS: target}, False)
    return None


RULES: tuple[Rule, ...] = (floor, rungs, caution, batch, wait, admission, workers, replicas)


# What they share


def _enough(view: View) -> tuple[RungSeen, ...]:
    """The most accurate rungs that carry the recent peak with a burst on top."""
    load = max(view.state.peak, view.load) * _burst(view)
    for last, rung in enumerate(view.rungs, start=1):
        if view.carries(rung) * view.snapshot.running * FULL >= load:
            return view.rungs[:last]
    return view.rungs


def _burst(view: View) -> float:
    return max(view.state.forecast.peak_ratio, LEAST_BURST)


def _envelope(
    view: View, rule: str, changes: dict[str, Any], cause: str, expected: Expectation, *, protective: bool = False
) -> Proposal:
    holds = view.snapshot.envelope or {}
    defaults = {"least_accuracy": 0.0, "caution": CAUTION, "admit": 1.0}
    undo = {name: holds.get(name, defaults.get(name)) for name in changes}
    return Proposal(rule, "envelope", changes, cause, expected, undo, protective)


def _void_above(view: View) -> float:
    return 1.3 * max(view.load, view.coming) + 1.0


def _not_later(view: View) -> Expectation:
    most = max(view.state.late_share, view.most_late)
    return Expectation("late", "<=", most, 10.0, _void_above(view))


def _in_time(view: View) -> Expectation:
    return Expectation("late", "<=", view.most_late, 10.0, _void_above(view))


def _holds(view: View) -> Expectation:
    return Expectation("epoch", ">=", float((view.snapshot.envelope or {}).get("epoch", 0)) + 1.0, 5.0)


def _rate(rows: float) -> str:
    return f"{rows:.3g} rows/s"


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
