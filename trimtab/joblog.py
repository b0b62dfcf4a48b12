"""`trimtab logs`: a cluster's jobs and what they said, with progress markers turned back into words."""

from __future__ import annotations

import time
from typing import Any

from cluster import progress, submit
from cluster.errors import TrimtabError
from cluster.progress import Event
from cluster.session import Session
from trimtab.screen import Screen

SAID = {"progress": ("step", "done", "total", "figures"), "result": ("figures",), "error": ("text", "exit_code")}


def rows(cluster: Session) -> list[dict[str, Any]]:
    """One row per job, newest first."""
    found = sorted(submit.jobs(cluster), key=lambda job: -(job.started_at or 0.0))
    return [
        {
            "job": job.submission_id,
            "state": job.status.lower(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started_at)) if job.started_at else "-",
        }
        for job in found
    ]


def show(cluster: Session, job: str, follow: bool, screen: Screen) -> None:
    """Print a job's log, with --json an object a line; with `follow`, until it ends.

    Raises NotFoundError, and TrimtabError when it failed.
    """

    def line(text: str) -> None:
        event = progress.parse(text)
        if screen.as_json:
            screen.line({"kind": "text", "text": text} if event is None else _tree(event))
        elif event is None:
            screen.text(text)
        elif event.kind == "progress":
            screen.progress(event.step, event.done, event.total, event.figures)
        elif event.kind == "error":
            screen.word("error", event.text)

    if not follow:
        for text in submit.logs(cluster, job).splitlines():
            line(text)
        return
    outcome = submit.follow(cluster, job, line)
    if outcome.status != "SUCCEEDED":
        raise TrimtabError(f"job {job} ended as {outcome.status.lower()}")


def _tree(event: Event) -> dict[str, Any]:
    return {"kind": event.kind} | {name: getattr(event, name) for name in SAID[event.kind]}
