"""The verbs of `trimtab kubernetes`: which objects an experiment comes to, written out or checked.

Knows where a model version and Ray's version are looked up; not how an object looks or what is wrong with one.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from typing import TYPE_CHECKING

from cluster.config import Experiment
from cluster.errors import ConfigError, NotFoundError, UserError
from tasks import own
from trimtab.kubernetes import overlay as overlays
from trimtab.kubernetes.pods import Manifest
from trimtab.kubernetes.render import Version, render

if TYPE_CHECKING:
    from trimtab.workspace import Workspace

NEWEST = ("stable", "latest")  # versions that there need not be
COMPONENT = "app.kubernetes.io/component"


def ray_version() -> str:
    """Of this installation, which is the image's too: `constraints.txt` fixes both."""
    return importlib.metadata.version("ray")


def files(experiment: Experiment, version: Version | None, overlay: str | None) -> dict[str, list[Manifest]]:
    """File name -> objects, one file for each part.

    Raises:
        UserError: the overlay is none, or the task's code lies in a folder of this machine.
    """
    if own.find(experiment) is not None:
        problem = "lies beside the experiment file, from where it does not travel to Kubernetes"
        raise ConfigError("task", experiment.task, problem, "install it as a package in the image")
    made = render(experiment, version, ray_version())
    if overlay is None:
        return made
    base = [one for objects in made.values() for one in objects]
    names = overlays.Names(experiment.name, experiment.kubernetes.image, experiment.kubernetes.namespace)
    parts: dict[str, list[Manifest]] = {}
    for one in overlays.build(overlays.find(overlay), names, base):
        parts.setdefault(f"{part(one)}.yaml", []).append(one)
    return parts


def part(one: Manifest) -> str:
    """Which part of an experiment an object is: shared, cluster, training, serving or schedule."""
    return str(one["metadata"].get("labels", {}).get(COMPONENT, "shared"))


def version_of(experiment: Experiment, asked: str, workspace: Workspace) -> Version | None:
    """`asked` is a number, an alias or `latest` of the registry, or `KEY:NUMBER` of a bundle that is known by itself.

    `stable` is the newest where none is called so yet. None, with a word, where there is no version at all yet and
    `stable` or `latest` was asked.

    Raises:
        NotFoundError: no such version.
    """
    key, _, number = asked.partition(":")
    if number:
        if not number.isdecimal():
            raise UserError("--version", asked, "has no number after the bundle's key", "write KEY:NUMBER")
        return Version(key, int(number))
    local = workspace.store.local
    if "MLFLOW_TRACKING_URI" in os.environ or (local is not None and (local / "mlflow.db").exists()):
        for reference in (asked, "latest") if asked == "stable" else (asked,):
            with contextlib.suppress(*((NotFoundError,) if asked in NEWEST else ())):
                found = workspace.registry.version(experiment.name, reference)
                return Version(found.bundle, found.version)
    elif asked not in NEWEST:
        raise NotFoundError(f"no version {asked} of {experiment.name}: the store {workspace.store.uri} has no registry")
    workspace.screen.word("kubernetes", f"{experiment.name} has no version yet: without one there is no RayService")
    return None
