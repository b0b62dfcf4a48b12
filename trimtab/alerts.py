"""`trimtab alerts`: what monitors have found, and what of it did not reach its webhook, and to send that again."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from cluster.config import DURATION_UNITS, Experiment
from cluster.errors import ConfigError, NotFoundError, UserError
from serve.watch import ledger
from serve.watch.address import VARIABLE
from serve.watch.outbox import Outbox
from trimtab.watching import webhook_of
from trimtab.workspace import Workspace

_NOTHING = "no stream was watched for {} with this store: trimtab monitor"


def found(
    experiment: Experiment, workspace: Workspace, since: str | None, topic: str | None, undelivered: bool
) -> list[dict[str, Any]]:
    """Alerts and their ends, oldest first. Raises NotFoundError where nothing has been watched, UserError."""
    folder = ledger.place(workspace.store, experiment.name)
    if not folder.is_dir():
        raise NotFoundError(_NOTHING.format(experiment.name))
    entries = Outbox(folder / "outbox").undelivered() if undelivered else ledger.entries(folder)
    earliest = moment(since, time.time()) if since is not None else 0.0
    return [
        {name: value for name, value in entry.items() if name != "kind"}
        for entry in entries
        if entry.get("at", earliest) >= earliest and (topic is None or entry.get("topic") == topic)
    ]


def resend(experiment: Experiment, workspace: Workspace, drain_s: float) -> dict[str, Any]:
    """Try once more to deliver what no webhook has got. Raises ConfigError without a webhook, NotFoundError."""
    folder, webhook = ledger.place(workspace.store, experiment.name), webhook_of(experiment)
    if webhook is None:
        mend = "export its address, as docs/monitoring.md says"
        raise ConfigError(VARIABLE, None, "is not set, so there is nowhere to send to", mend)
    if not folder.is_dir():
        raise NotFoundError(_NOTHING.format(experiment.name))
    outbox = Outbox(folder / "outbox")
    revived = outbox.revive()
    outbox.start(webhook, lambda text: workspace.screen.word("alerts", text))
    return {"tried again": revived, "still waiting": outbox.stop(drain_s), "undelivered": len(outbox.undelivered())}


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
