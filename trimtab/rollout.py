"""A person and the rollout of a version: begin one, promote it, take it back. What goes on by itself is the actor's."""

from __future__ import annotations

from typing import Any

from cluster.config import Experiment
from cluster.errors import GateError, NotFoundError, UserError
from cluster.registry import STABLE, ModelVersion
from jobs import gate, relearn
from ladder.bundle import read_bundle
from ladder.gate import reasons
from serve.adapt import replay
from serve.adapt.candidacy import State
from tasks.dataset import read_dataset
from trimtab import adaptation
from trimtab.workspace import Workspace


def canary(
    experiment: Experiment, version: ModelVersion, workspace: Workspace, *, force: bool = False
) -> dict[str, Any]:
    """Have the endpoint try a version beside the stable one; by `force` also one that the gate would refuse.

    Raises:
        NotFoundError, DamagedError: a file of the version is gone or was altered; or nothing is adapted there.
        GateError: no replica could open it, or the gate refuses it.
        UserError: the actor refuses, with its reason.
        DeadlineError: no actor answers; the word waits for one.
    """
    return _said("canary", experiment, workspace, _judged(version, workspace, force))


def promote(
    experiment: Experiment, version: ModelVersion | None, workspace: Workspace, *, force: bool = False
) -> dict[str, Any]:
    """Have a version answer all requests, by default the one that is being tried. Raises as `canary`."""
    changes = {} if version is None else _judged(version, workspace, force)
    return _said("promote", experiment, workspace, changes)


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


def _judged(version: ModelVersion, workspace: Workspace, force: bool) -> dict[str, Any]:
    """Opened here first, in a process of its own: what ends a process would end replica after replica."""
    store, bundle = workspace.store, read_bundle(workspace.store, version.bundle)
    bundle.check()
    if force:
        reason = gate.refusal(bundle)
    else:
        stable = read_bundle(store, workspace.registry.version(version.name, STABLE).bundle)
        dataset = read_dataset(store, stable.dataset)
        reason = reasons(gate.measure(stable, bundle, dataset, relearn.held_out(dataset)))
    if reason:
        mend = "" if force else "; with --force it is tried all the same"
        raise GateError(f"version {version.version} is not tried: {reason}{mend}")
    return {"bundle": version.bundle, "version": version.version}


def _said(verb: str, experiment: Experiment, workspace: Workspace, changes: dict[str, Any]) -> dict[str, Any]:
    said = adaptation.send(verb, experiment, workspace, changes)
    if said["refused"]:
        raise UserError(verb, str(changes.get("version", "")), said["refused"][0], "see trimtab explain")
    return {"endpoint": experiment.name, "rollout": said["rollout"]}
