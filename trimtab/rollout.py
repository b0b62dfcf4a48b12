"""A person and the rollout of a version: begin one, promote it, take it back. What goes on by itself is the actor's."""

from __future__ import annotations

from typing import Any

from cluster.config import Experiment
from cluster.errors import GateError, NotFoundError, UserError
from cluster.registry import ModelVersion
from jobs import gate
from ladder.bundle import read_bundle
from serve.adapt import replay
from serve.adapt.candidacy import State
from trimtab import adaptation
from trimtab.workspace import Workspace


def canary(experiment: Experiment, version: ModelVersion, workspace: Workspace) -> dict[str, Any]:
    """Have the endpoint try a version beside the stable one.

    Raises:
        NotFoundError, DamagedError: a file of the version is gone or was altered; or nothing is adapted there.
        GateError: no replica could open it.
        UserError: the actor refuses, with its reason.
        DeadlineError: no actor answers; the word waits for one.
    """
    return _said("canary", experiment, workspace, _whole(version, workspace))


def promote(experiment: Experiment, version: ModelVersion | None, workspace: Workspace) -> dict[str, Any]:
    """Have a version answer all requests, by default the one that is being tried. Raises as `canary`."""
    return _said("promote", experiment, workspace, {} if version is None else _whole(version, workspace))


def taken_back(experiment: Experiment, workspace: Workspace, *, dry_run: bool = False) -> dict[str, Any] | None:
    """Take back the version that is being tried; None where none is. Raises as `canary`."""
    running = _running(experiment, workspace)
    if running is None:
        return None
    if dry_run:
        return {"would take back": experiment.name, "version": running.version, "phase": running.phase}
    return _said("rollback", experiment, workspace, {})


def _running(experiment: Experiment, workspace: Workspace) -> State | None:
    try:
        mind = replay.recover(adaptation.recent(experiment, workspace))
    except NotFoundError:
        return None
    return mind.rollout if mind is not None and mind.rollout.is_running else None


def _whole(version: ModelVersion, workspace: Workspace) -> dict[str, Any]:
    """Opened here first, in a process of its own: what ends a process would end replica after replica."""
    bundle = read_bundle(workspace.store, version.bundle)
    bundle.check()
    if reason := gate.refusal(bundle):
        raise GateError(f"version {version.version} is not tried: {reason}")
    return {"bundle": version.bundle, "version": version.version}


def _said(verb: str, experiment: Experiment, workspace: Workspace, changes: dict[str, Any]) -> dict[str, Any]:
    said = adaptation.send(verb, experiment, workspace, changes)
    if said["refused"]:
        raise UserError(verb, str(changes.get("version", "")), said["refused"][0], "see trimtab explain")
    return {"endpoint": experiment.name, "rollout": said["rollout"]}
