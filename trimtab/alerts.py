"""`trimtab alerts`: what monitors have found, and what of it did not reach its webhook. Reads files alone."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from cluster.config import DURATION_UNITS, Experiment
from cluster.errors import NotFoundError, UserError
from serve.watch import ledger
from serve.watch.outbox import Outbox
from trimtab.workspace import Workspace


def found(
    experiment: Experiment, workspace: Workspace, since: str | None, topic: str | None, undelivered: bool
) -> list[dict[str, Any]]:
    """Alerts and their ends, oldest first. Raises NotFoundError where nothing has been watched, UserError."""
    folder = ledger.place(workspace.store, experiment.name)
    if not folder.is_dir():
        raise NotFoundError(f"no stream was watched for {experiment.name} with this store: trimtab monitor")
    entries = Outbox(folder / "outbox").undelivered() if undelivered else ledger.entries(folder)
    earliest = moment(since, time.time()) if since is not None else 0.0
    return [
        {name: value for name, value in entry.items() if name != "kind"}
        for entry in entries
        if entry.get("at", earliest) >= earliest and (topic is None or entry.get("topic") == topic)
    ]


def moment(text: str, now: float) -> float:
    """`2h` ago, or ISO 8601, which is UTC where it names no zone. Raises UserError."""
    for unit, seconds in sorted(DURATION_UNITS.items(), key=lambda one: -len(one[0])):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdecimal():
            return now - float(number) * seconds
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise UserError("--since", text, "is neither a duration nor a time", "write 2h, or 2026-01-31T08:00") from None
