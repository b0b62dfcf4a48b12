"""Every metric's name, unit and labels, exported through Ray to Prometheus as `ray_trimtab_...`.

Set from what the adaptation actor sees of all replicas, a few times a second; nothing is counted per request here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    name: str
    kind: Literal["gauge", "counter"]
    help: str  # with the unit
    labels: tuple[str, ...] = ()  # besides `endpoint`, which all have


METRICS = (
    Metric("trimtab_arrivals_rows_per_second", "gauge", "Rows that arrive, refused ones included."),
    Metric("trimtab_requests_per_second", "gauge", "Requests that arrive, refused ones included."),
    Metric("trimtab_queue_delay_seconds", "gauge", "Time from arrival to the forward pass.", ("quantile",)),
    Metric("trimtab_latency_seconds", "gauge", "Time from arrival to answer, in the replica.", ("quantile",)),
    Metric("trimtab_requests_total", "counter", "Requests that ended, by how.", ("outcome",)),
    Metric("trimtab_in_time_ratio", "gauge", "Share of the requests that ended in time, 0 to 1, at the last look."),
    Metric("trimtab_rung_rows_ratio", "gauge", "Share of the rows computed by a rung, 0 to 1.", ("variant",)),
    Metric("trimtab_effective_accuracy_ratio", "gauge", "Accuracy, late and refused rows counted as wrong, 0 to 1."),
    Metric("trimtab_utilisation_ratio", "gauge", "Share of the time that replicas spend in forward passes, 0 to 1."),
    Metric("trimtab_loop_lag_seconds", "gauge", "99th percentile of the replicas' event loop lag."),
    Metric("trimtab_replicas", "gauge", "Replicas: running, wanted, or missing (asked and silent).", ("state",)),
    Metric("trimtab_waiting_rows", "gauge", "Rows that wait in queues."),
    Metric("trimtab_envelope_epoch", "gauge", "Number of the envelope that replicas are to hold."),
    Metric("trimtab_paused", "gauge", "1 while a person has paused the adaptation."),
    Metric("trimtab_decisions_total", "counter", "Proposals judged.", ("rule", "verdict")),
    Metric("trimtab_tick_seconds", "gauge", "Time of the actor's last tick, waiting for replicas included."),
)


class Meter:
    """Sets the metrics of one endpoint; `saw` takes a snapshot, a mind and verdicts of `serve.adapt`."""

    def __init__(self, endpoint: str) -> None:
        from ray.util import metrics

        kinds: dict[str, Any] = {"gauge": metrics.Gauge, "counter": metrics.Counter}
        self._endpoint = endpoint
        self._made = {m.name: kinds[m.kind](m.name, m.help, ("endpoint", *m.labels)) for m in METRICS}

    def ticked(self, seconds: float) -> None:
        self._set("trimtab_tick_seconds", seconds)

    def saw(self, snapshot: Any, mind: Any, verdicts: Iterable[Any]) -> None:
        if snapshot.running:
            self._seen(snapshot)
        for state, number in (
            ("running", snapshot.running),
            ("wanted", snapshot.target),
            ("missing", len(snapshot.missing)),
        ):
            self._set("trimtab_replicas", number, state=state)
        self._set("trimtab_envelope_epoch", mind.envelope.get("epoch", 0))
        self._set("trimtab_paused", float(mind.guard.paused is not None))
        for verdict in verdicts:
            said = "accepted" if verdict.accepted else "refused"
            self._add("trimtab_decisions_total", 1, rule=verdict.proposal.rule, verdict=said)

    def _seen(self, snapshot: Any) -> None:
        self._set("trimtab_arrivals_rows_per_second", snapshot.arrivals_per_s)
        self._set("trimtab_requests_per_second", snapshot.requests_per_s)
        for quantile in ("p50", "p99"):
            self._set("trimtab_queue_delay_seconds", getattr(snapshot, f"queue_delay_{quantile}_s"), quantile=quantile)
            self._set("trimtab_latency_seconds", getattr(snapshot, f"latency_{quantile}_s"), quantile=quantile)
        refused = snapshot.refused or {}
        outcomes = {"in_time": snapshot.in_time, "failed": snapshot.failed, "cancelled": snapshot.cancelled}
        outcomes["late"] = snapshot.late - refused.get("late", 0)  # answered, but not in time
        outcomes |= {f"refused_{kind}": count for kind, count in refused.items()}
        for outcome, count in outcomes.items():
            if count > 0:
                self._add("trimtab_requests_total", count, outcome=outcome)
        self._set("trimtab_in_time_ratio", snapshot.share_in_time)
        for rung in snapshot.rungs:
            self._set("trimtab_rung_rows_ratio", rung.share, variant=rung.variant)
        self._set("trimtab_effective_accuracy_ratio", snapshot.effective_accuracy)
        self._set("trimtab_utilisation_ratio", snapshot.utilisation)
        self._set("trimtab_loop_lag_seconds", snapshot.loop_lag_p99_s)
        self._set("trimtab_waiting_rows", snapshot.waiting_rows)

    def _set(self, name: str, value: float, **labels: str) -> None:
        self._made[name].set(value, {"endpoint": self._endpoint, **labels})

    def _add(self, name: str, value: float, **labels: str) -> None:
        self._made[name].inc(value, {"endpoint": self._endpoint, **labels})
