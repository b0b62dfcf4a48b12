"""What a rule wants changed, what it expects of it, and what became of it: the words that policy, guard, actuator,
journal and people share. Pure values with their JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from serve.adapt.plain import Plain
from serve.adapt.signals import Snapshot

REPLICAS = "replicas"  # the one field that is not the envelope's
FIELDS = (
    "max_batch",
    "max_wait_s",
    "max_queue",
    "variants",
    "least_accuracy",
    "caution",
    "threads",
    "concurrency",
    "admit",
    REPLICAS,
)
ROLLOUT_VERBS = ("canary", "promote", "rollback")
Metric = Literal["running", "epoch", "utilisation", "late"]


@dataclass(frozen=True, slots=True)
class Expectation:
    """`metric` is to be at least (most) `value` within `horizon_s` seconds; void above so many arriving rows a second.

    Void because what comes in cannot be blamed on the change. `running` is how many replicas answer, `epoch` the least
    that one holds, `late` the share of the requests let in that were not answered in time.
    """

    metric: Metric
    relation: Literal[">=", "<="]
    value: float
    horizon_s: float
    void_above_per_s: float | None = None

    def measure(self, snapshot: Snapshot) -> tuple[float, float]:
        """The metric in one snapshot, and how much that says: its weight in a mean over several."""
        if self.metric == "running":
            return float(snapshot.running), 1.0
        if self.metric == "epoch":
            return float(snapshot.epochs[0]), 1.0
        if self.metric == "utilisation":
            return snapshot.utilisation, snapshot.interval_s
        let_in = snapshot.in_time + snapshot.late
        return (snapshot.late / let_in if let_in else 0.0), float(let_in)

    def holds(self, measured: float) -> bool:
        return measured >= self.value if self.relation == ">=" else measured <= self.value

    def __str__(self) -> str:
        return f"{self.metric} {self.relation} {self.value:.4g} within {self.horizon_s:.3g} s"


@dataclass(frozen=True, slots=True)
class Proposal(Plain):
    """`changes` and `undo` are fields of the envelope, or the number of replicas: what they are to be, and were."""

    rule: str
    kind: Literal["envelope", "replicas"]
    changes: dict[str, Any]
    cause: str  # words with figures
    expected: Expectation
    undo: dict[str, Any]
    protective: bool = False  # it guards the objective; else it loosens or tunes, and has time

    def __str__(self) -> str:
        return f"{self.rule}: " + ", ".join(f"{name} {worded(value)}" for name, value in self.changes.items())


def worded(value: Any) -> str:
    """A field of the envelope for a person."""
    return "default" if value is None else ",".join(value) if isinstance(value, list) else f"{value}"


@dataclass(frozen=True, slots=True)
class Verdict(Plain):
    """`number` counts accepted actions from 1, and is 0 for a refused one; `reason` says why it was refused."""

    SHORT: ClassVar[bool] = True

    proposal: Proposal
    accepted: bool
    reason: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Outcome(Plain):
    """What came of action `number`: `met` is None where it cannot be told (no traffic, or much more than then)."""

    number: int
    rule: str
    expected: str
    measured: float | None
    met: bool | None


@dataclass(frozen=True, slots=True)
class Command(Plain):
    """A person's word. `pin` and `set` have `changes`, `unpin` has `fields` (all when empty), `canary` and `promote`
    say in `changes` which bundle and version, and of which order (promote may leave it to the one that is on its way);
    the others have neither."""

    verb: Literal["pause", "resume", "pin", "unpin", "set", "canary", "promote", "rollback"]
    who: str
    changes: dict[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
