"""An alert: what was found, of which topic, with the evidence a person needs to judge it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from serve.watch.events import identity

Rule = Literal["surge", "drift", "silence"]
State = Literal["raised", "ended"]


@dataclass(frozen=True)
class Alert:
    """`id` is the same whenever the same is found: who gets it twice can tell. `at` is the stream's time.

    `evidence` has the window, its counts and those before it, and the most telling texts.
    """

    id: str
    rule: Rule
    state: State
    topic: str
    at: float
    words: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Of this message: an alert's end has its id, and is another message."""
        return f"{self.id}-{self.state}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"evidence": dict(self.evidence)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Alert:
        """Raises KeyError, TypeError."""
        return cls(**{name: tree[name] for name in cls.__dataclass_fields__})


def raised(rule: Rule, topic: str, start: float, at: float, words: str, evidence: Mapping[str, Any]) -> Alert:
    """`start` is of the window in which it was found."""
    return Alert(identity(rule, topic, f"{start:.3f}"), rule, "raised", topic, at, words, evidence)


def ended(before: str, rule: Rule, topic: str, at: float, words: str, evidence: Mapping[str, Any]) -> Alert:
    """The end of the alert with the id `before`."""
    return Alert(before, rule, "ended", topic, at, words, evidence)


def clock(at: float) -> str:
    """For a sentence, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def span(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
