"""Trimtab's own side of a serving benchmark: `trimtab up` and `trimtab run` as a user types them, with a private home.

The home lies in the scratch folder and is kept, so that a second run finds its model and only deploys it. Knows no
peers and measures nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.servers import Server
from cluster import session
from cluster.config import Experiment
from cluster.experiment import parse
from cluster.session import Session
from cluster.store import Store
from ladder.bundle import Bundle, read_bundle
from serve import deploy
from serve.adapt.bounds import TODAY

CLUSTER = "benchmark"
ROOT = Path(__file__).resolve().parent.parent


def mnist(data: Path, **sections: Any) -> dict[str, Any]:
    """An experiment on MNIST that trains in a minute, with what is given on top."""
    source = {"kind": "idx", "path": str(data.absolute())}
    recipe = {"workers": 1, "epochs": 4, "batch_size": 256, "augment": "shift", "early_stopping": None}
    return {"name": "mnist", "data": {"source": source}, "train": recipe, **sections}


@dataclass(frozen=True)
class Endpoint:
    """A deployed model, and the file of its rung `onnx-fp32`, which the peers serve."""

    cluster: Session
    bundle: Bundle
    version: int
    model: Path

    @property
    def server(self) -> Server:
        port, grpc_port = self.cluster.http_port, self.cluster.grpc_port
        return Server("trimtab", "127.0.0.1", port, self.cluster.pid or 0, grpc_port)

    @property
    def path(self) -> str:
        """Of the model, without the verb."""
        return f"/v2/models/{self.bundle.name}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.cluster.api_token}"}

    def redeploy(self, **serve: Any) -> None:
        """The same version with another serve section, into the running endpoint."""
        tree = self.bundle.experiment.model_dump(mode="json") | {"serve": serve}
        made = Experiment.model_validate_json(json.dumps(tree))
        deploy.deploy(self.cluster, dataclasses.replace(self.bundle, experiment=made), self.version)


@contextlib.contextmanager
def served(scratch: Path, experiment: dict[str, Any]) -> Iterator[Endpoint]:
    """The experiment trained and deployed on a cluster of its own, until the block ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of every `finally`: no server is left behind
    made = parse(experiment)
    home = scratch / "home"
    home.mkdir(parents=True, exist_ok=True)
    path = scratch / f"{made.name}.json"
    path.write_text(json.dumps(experiment))
    os.environ.update({"TRIMTAB_HOME": str(home), "TRIMTAB_CLUSTER": CLUSTER, "TRIMTAB_STORE": str(home / "store")})
    try:
        trimtab("up")
        trimtab("run", str(path))
        cluster = session.require(CLUSTER)
        said = _metadata(deploy.url(cluster, made), cluster.api_token)
        bundle = read_bundle(Store.open(str(home / "store")), said["parameters"]["bundle"])
        asked = bundle.experiment.model_copy(update={name: getattr(made, name) for name in TODAY})
        bundle = dataclasses.replace(bundle, experiment=asked)  # a bundle remembers the limits of the day it was made
        model = scratch / f"{made.name}.onnx"
        model.write_bytes(bundle.read("onnx-fp32"))
        endpoint = Endpoint(cluster, bundle, int(said["versions"][0]), model)
        try:
            yield endpoint
        finally:
            endpoint.server.thaw()  # what is stopped cannot end
    finally:
        session.down(CLUSTER)


def trimtab(*words: str) -> None:
    """A command in a process of its own, its words on our stderr. Raises CalledProcessError."""
    command = [sys.executable, "-m", "trimtab", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def _metadata(url: str, token: str) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        said: dict[str, Any] = json.load(response)
    return said
