"""What a run would come to, before anything is done: its steps, and whether the cluster has a place for them.

Hours of training are not to end with a sentence that could have been said at once. Starts no cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cluster import session
from cluster.config import Experiment
from cluster.errors import TrimtabError
from cluster.session import Session
from jobs import room
from serve import deploy as deployment
from trimtab import pipeline
from trimtab.pipeline import Planned
from trimtab.workspace import Workspace


def check(experiment: Experiment, steps: Sequence[Planned], cluster: Session, *, deploys: bool) -> None:
    """Raises ConfigError for what the cluster would refuse: the route, the replicas, or the training's workers."""
    if deploys:
        deployment.check_place(cluster, experiment)
    if any(step.step == "train" and not step.skip for step in steps):
        _check_training(experiment, cluster)


def rows(experiment: Experiment, workspace: Workspace, *, deploys: bool) -> list[dict[str, Any]]:
    """A row for each step: what it would do (run, skip or fail), and why. Raises DataError as `pipeline.plan`."""
    steps = pipeline.plan(experiment, workspace.store)
    made = [
        {"step": step.step, "would": "skip" if step.skip else "run", "why": step.why, "key": step.key} for step in steps
    ]
    for row in made:
        if (row["step"], row["would"]) == ("train", "run"):
            row |= _refused(workspace, lambda cluster: _check_training(experiment, cluster))
    if deploys:
        why = f"at {experiment.serve.route}, where there is a place for it"
        row = {"step": "deploy", "would": "run", "why": why, "key": ""}
        made.append(row | _refused(workspace, lambda cluster: deployment.check_place(cluster, experiment)))
    return made


def _refused(workspace: Workspace, asked: Callable[[Session], None]) -> dict[str, Any]:
    """What of a row is otherwise where the cluster that runs refuses something, or cannot be asked."""
    try:
        if (cluster := workspace.running_cluster()) is not None:
            asked(cluster)
    except TrimtabError as error:
        return {"would": "fail", "why": str(error)}
    return {}


def _check_training(experiment: Experiment, cluster: Session) -> None:
    # A cluster elsewhere may get more nodes when it is asked for them, and one that is waited for too.
    if cluster.pid and experiment.train.wait == 0:
        room.resources(experiment, session.resources(cluster))
