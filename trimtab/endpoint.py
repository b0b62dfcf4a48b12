"""From a model version to an endpoint and back: the deployment gate, deploying, asking, and a line to paste.

Knows what a person needs; the protocol and Serve's REST are in `serve.deploy`.
"""

from __future__ import annotations

import dataclasses
import getpass
import shlex
import time
from pathlib import Path
from typing import Any

from cluster import history
from cluster.config import Experiment
from cluster.errors import GateError, UserError
from cluster.registry import PREVIOUS, ModelVersion
from cluster.session import Session
from cluster.store import Store
from ladder.bundle import read_bundle
from serve import deploy as deployment
from serve.adapt.bounds import TODAY
from tasks import own
from tasks.task import MEDIA_TYPES
from trimtab.workspace import Workspace


def deploy(
    experiment: Experiment,
    version: ModelVersion,
    workspace: Workspace,
    cluster: Session,
    event: history.Event = "deployed",
) -> str:
    """Serve `version` with the experiment's serve and adapt sections; returns the endpoint's URL.

    Raises:
        GateError: its test accuracy is below the objective.
        ConfigError: the cluster has no place for it.
    """
    bundle = read_bundle(workspace.store, version.bundle)
    floor, accuracy = experiment.serve.objective.accuracy_at_least, bundle.metrics["accuracy"]
    if floor is not None and accuracy < floor:
        raise GateError(
            f"serve.objective.accuracy_at_least = {floor}: version {version.version} of {version.name} reaches "
            f"{accuracy:.4f} on the test split; train a better one or lower the objective"
        )
    # The bundle says how it was made; how it is served is what the file says today.
    today = {name: getattr(experiment, name) for name in TODAY}
    as_today = bundle.experiment.model_copy(update=today).lying_in(experiment.folder)
    code, kept = own.find(as_today), bundle.code()
    if code is not None and kept and code.digest != own.Code(kept).digest:
        workspace.screen.word("deploy", f"the task's code is not what version {version.version} was made with")
    served = dataclasses.replace(bundle, experiment=as_today)
    deployment.check_place(cluster, as_today)  # replicas without room would be waited for
    made = deployment.deploy(
        cluster, served, version.version, on_word=lambda text: workspace.screen.word("deploy", text)
    )
    if workspace.registry.set_stable(version.name, version.version):
        words = f"by {getpass.getuser()} at {time.strftime('%Y-%m-%d %H:%M:%S')}"
        row = history.row(event, time.time_ns(), version.version, words)
        history.ledger(workspace.store, version.name).append([row])
    return made.url


def rollback(experiment: Experiment, workspace: Workspace, cluster: Session) -> tuple[ModelVersion, str]:
    """Serve the version before the stable one again, which stays the way back; returns it and the endpoint's URL.

    Raises:
        NotFoundError: there was none before.
        GateError: as `deploy`.
    """
    version = workspace.registry.version(experiment.name, PREVIOUS)
    return version, deploy(experiment, version, workspace, cluster, "rolled back")


def predict(experiment: Experiment, body: Path, cluster: Session) -> dict[str, Any]:
    """Ask the endpoint for one answer. Raises UserError, NotFoundError, UnauthorisedError."""
    content_type = MEDIA_TYPES.get(body.suffix.lower())
    if content_type is None:
        known = ", ".join(MEDIA_TYPES)
        raise UserError("INPUT", str(body), f"has a suffix other than {known}", "name an image, a text or a JSON file")
    try:
        data = body.read_bytes()
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise UserError("INPUT", str(body), problem, "name a file that you can read") from error
    url = deployment.url(cluster, experiment)
    return deployment.predict(url, cluster.api_token, data, content_type)


def sample(store: Store, bundle: str) -> str | None:
    """Path of the bundle's sample image, where the store is a folder of this machine."""
    entry = read_bundle(store, bundle).files.get("sample")
    return str(store.local / "bundles" / bundle / entry["file"]) if store.local and entry else None


def curl(url: str, cluster: Session, sample_path: str | None) -> str:
    """A command that works when pasted; the token stays in its file and out of the history."""
    token = f'-H "Authorization: Bearer $(head -n1 {shlex.quote(cluster.api_token_path)})"'
    path = sample_path or "INPUT.json"
    body = f"-H 'Content-Type: {MEDIA_TYPES[Path(path).suffix]}' --data-binary @{shlex.quote(path)}"
    return f"curl -sw '\\n' {token} {body} {url}/predict"
