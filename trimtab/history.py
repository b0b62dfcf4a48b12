"""The life of an endpoint's versions in one table, and the loop as it goes on, line by line.

All of it is read from the store; neither Ray nor the cluster is asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster import history
from cluster.config import Experiment
from cluster.errors import NotFoundError
from cluster.ledger import Ledger
from serve.adapt import record
from serve.adapt.proposals import Proposal
from serve.adapt.replay import NOTE
from trimtab.workspace import Workspace

ROLLOUT = ("shadow", "canary", "promoting")
FATES = ("gate refused", "failed", "promoted", "taken back", "deployed", "rolled back")
REASONED = ("gate refused", "failed", "taken back")  # whose words say why
SAID = ("ordered", "failed")  # events that are sentences of the record too
LOOK_EVERY_S, STORE_LOOK_EVERY_S = 1.0, 5.0  # an object store's looks are paid for


def lives(name: str, workspace: Workspace) -> list[dict[str, Any]]:
    """One for each version and each order without one, the oldest first, with its events.

    Raises NotFoundError where nothing is known of the name.
    """
    rows = sorted(history.ledger(workspace.store, name).read().to_pylist(), key=lambda row: int(row["at_ns"]))
    versions = {one.version: one for one in workspace.registry.versions(name)}
    if not rows and not versions:
        workspace.registry.version(name)  # says which models there are
        raise NotFoundError(f"nothing is known of {name}")
    made_by = {row["order"]: row["version"] for row in rows if row["order"] and row["version"]}
    grouped: dict[Any, list[dict[str, Any]]] = {number: [] for number in sorted(versions)}
    for row in rows:
        key = row["version"] or made_by.get(row["order"]) or row["order"]
        grouped.setdefault(key, []).append(row)
    found = [_life(key, events, versions.get(key)) for key, events in grouped.items()]
    return sorted(found, key=lambda life: life["since"])


def _life(key: Any, rows: Sequence[Mapping[str, Any]], version: Any) -> dict[str, Any]:
    last = {row["event"]: row for row in rows}
    began = rows[0]["at_ns"] / 1e9 if rows else 0.0
    return {
        "version": key if isinstance(key, int) else None,
        "since": min(version.created_at, began) if version and began else version.created_at if version else began,
        "ordered by": _words(last, "ordered") or ("trimtab run" if version else ""),
        "order": next((row["order"] for row in rows if row["order"]), ""),
        "trained on": _words(last, "registered"),
        "test accuracy": version.metrics.get("accuracy") if version else None,
        "gate": _words(last, "gate passed", "gate refused"),
        "rollout": _words(last, *ROLLOUT),
        "fate": _fate(rows, version),
        "events": [_event(row) for row in rows],
    }


def _words(last: Mapping[str, Mapping[str, Any]], *events: str) -> str:
    """Of the last of these events."""
    found = [last[event] for event in events if event in last]
    return str(max(found, key=lambda row: row["at_ns"])["words"]) if found else ""


def _fate(rows: Sequence[Mapping[str, Any]], version: Any) -> str:
    decisive = [row for row in rows if row["event"] in FATES]
    row = decisive[-1] if decisive else rows[-1] if rows else None
    said = "" if row is None else f"{row['event']}: {row['words']}" if row["event"] in REASONED else row["event"]
    alias = ", ".join(version.aliases) if version else ""
    return f"{said} ({alias})" if said and alias else said or alias or "registered"


def _event(row: Mapping[str, Any]) -> dict[str, Any]:
    figures = json.loads(row["figures"] or "{}")
    return {"at": row["at_ns"] / 1e9, "event": row["event"], "words": row["words"], "figures": figures}


def table(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For a person: a row each."""
    shown = ("ordered by", "trained on", "test accuracy", "gate", "rollout", "fate")
    return [
        {"version": life["version"], "since": _day(life["since"])} | {name: life[name] for name in shown}
        for life in found
    ]


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


# The loop as it goes on


def follow(experiment: Experiment, workspace: Workspace) -> None:
    """Say on the screen what the loop does, until it is interrupted; it goes on without anybody who looks."""
    screen = workspace.screen
    screen.word("watch", "what the endpoint does by itself from now on; Ctrl-C ends the watching alone")
    if not experiment.adapt.enabled:
        screen.word("watch", "adapt.enabled is off: it does nothing by itself")
    events = Tail(experiment.name, workspace, time.time())
    try:
        while True:
            for event in events.fresh():
                if screen.as_json:
                    screen.line(event)
                else:
                    screen.text(f"{time.strftime('%H:%M:%S', time.localtime(event['at']))}  {event['words']}")
            time.sleep(LOOK_EVERY_S if workspace.store.local is not None else STORE_LOOK_EVERY_S)
    except KeyboardInterrupt:
        screen.word("detached", "the endpoint, its adaptation and a retraining go on")
        raise


class Tail:
    """New rows of the history, new sentences and actions of the record, in the order of their times."""

    def __init__(self, name: str, workspace: Workspace, since: float) -> None:
        self._history: Ledger = history.ledger(workspace.store, name)
        self._store, self._name = workspace.store, name
        self._since, self._seen = since, set[tuple[float, str]]()

    def fresh(self) -> list[dict[str, Any]]:
        found = [event for event in (*self._rows(), *self._entries()) if event["at"] >= self._since]
        found = [event for event in found if (event["at"], event["words"]) not in self._seen]
        self._seen.update((event["at"], event["words"]) for event in found)
        return sorted(found, key=lambda event: float(event["at"]))

    def _rows(self) -> Iterator[dict[str, Any]]:
        for row in self._history.read(int(self._since * 1e9)).to_pylist():
            if row["event"] not in SAID:
                of = f"version {row['version']}" if row["version"] else row["order"]
                yield {
                    "at": row["at_ns"] / 1e9,
                    "event": row["event"],
                    "words": f"{of}: {row['event']}: {row['words']}",
                }

    def _entries(self) -> Iterator[dict[str, Any]]:
        for entry in record.last(self._store, self._name).entries:
            if entry["kind"] == NOTE:
                yield {"at": entry["at"], "event": "note", "words": entry["words"]}
            for verdict in entry.get("verdicts", ()):
                if verdict["accepted"]:
                    proposal = Proposal.from_json(verdict["proposal"])
                    yield {"at": entry["at"], "event": "action", "words": f"{proposal} ({proposal.cause})"}
