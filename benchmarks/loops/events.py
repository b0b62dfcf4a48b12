"""What the endpoint's own history and record say has happened: the benchmark reads what a person would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from benchmarks.endpoint import Endpoint
from cluster import history
from serve.adapt import mailbox
from serve.adapt.journal import read
from serve.adapt.replay import NOTE


@dataclass(frozen=True)
class Event:
    at: float  # unix seconds
    version: int
    event: str
    order: str
    words: str
    figures: dict[str, Any]


def events(served: Endpoint, since: float = 0.0) -> list[Event]:
    """Oldest first."""
    rows = history.ledger(served.bundle.store, served.bundle.name).read().to_pylist()
    made = [
        Event(row["at_ns"] / 1e9, row["version"], row["event"], row["order"], row["words"], json.loads(row["figures"]))
        for row in rows
    ]
    return sorted((one for one in made if one.at >= since), key=lambda one: one.at)


def first(served: Endpoint, since: float, *kinds: str, version: int | None = None) -> Event | None:
    """The first event of one of these kinds, of one version or of any."""
    found = (one for one in events(served, since) if one.event in kinds)
    return next((one for one in found if version is None or one.version == version), None)


def notes(served: Endpoint, since: float, word: str) -> list[str]:
    """Sentences of the actor's record since then that have `word` in them."""
    folder = mailbox.journal(mailbox.place(served.bundle.store, served.bundle.name))
    said = (entry for entry in read(folder).entries if entry["kind"] == NOTE and entry["at"] >= since)
    return [str(entry["words"]) for entry in said if word in entry["words"]]
