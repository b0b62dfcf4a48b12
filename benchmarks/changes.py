"""Changes to a running endpoint under load: the client beside them, the calls to Serve's REST interface, the record.

Knows how a change is made and when it was said to hold; not which changes are compared.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import endpoint
from benchmarks.endpoint import Endpoint
from benchmarks.servers import Server
from benchmarks.timeline import Timeline, p99_ms
from cluster import session
from cluster.config import Experiment
from cluster.session import APPLICATIONS
from serve import deploy

CONNECTIONS = 16
BEFORE_S, AFTER_S = 1.0, 0.5
TIMEOUT_S = 60.0

Rest = Callable[[str, Any], Any]  # method, body


@dataclass(frozen=True)
class Change:
    """One change: when it was ordered, when whoever ordered it was told that it holds, and its number, if any."""

    kind: str
    ordered_s: float
    told_s: float
    number: int | None = None


@dataclass
class Round:
    """What one side did to one number of replicas under load."""

    changes: list[Change]
    answers: Timeline
    lost: dict[str, int]

    def seconds(self, kind: str) -> list[float]:
        return [change.told_s - change.ordered_s for change in self.changes if change.kind == kind]

    def until_last_old(self, kind: str) -> list[float]:
        """Seconds from each order to the last answer under older settings, as the client saw it."""
        ends = [change.ordered_s for change in self.changes[1:]] + [float("inf")]
        return [
            self.answers.last_before(change.number, change.ordered_s, end)
            for change, end in zip(self.changes, ends, strict=True)
            if change.kind == kind and change.number is not None
        ]

    def p99s_ms(self, kind: str) -> tuple[float, float]:
        """During changes of this kind, and while nothing changed."""
        during, _ = self.answers.split([(c.ordered_s, c.told_s + 0.1) for c in self.changes if c.kind == kind])
        _, calm = self.answers.split([(c.ordered_s, c.told_s + 0.2) for c in self.changes])
        return p99_ms(during), p99_ms(calm)


class Load:
    """The client as a process of its own, from the start of a block to its end; then what it saw."""

    def __init__(self, running: Server, request: bytes, mark: str) -> None:
        job = {"kind": "http", "host": running.host, "port": running.port, "connections": CONNECTIONS}
        self._job = job | {"request": base64.b64encode(request).decode(), "mark": mark, "seconds": 600.0}

    def __enter__(self) -> Load:
        command = [sys.executable, "-m", "benchmarks.client"]
        self._client = subprocess.Popen(
            command, cwd=endpoint.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._say(json.dumps(self._job))
        assert self._client.stdout is not None
        self._client.stdout.readline()
        self._say("go")
        time.sleep(BEFORE_S)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._client.kill()
            self._client.wait()
            return
        time.sleep(AFTER_S)
        said = json.loads(self._client.communicate("stop\n", timeout=TIMEOUT_S)[0])
        self.answers, self.lost = Timeline.read(said), said["failed"]

    def _say(self, line: str) -> None:
        assert self._client.stdin is not None
        self._client.stdin.write(line + "\n")
        self._client.stdin.flush()


# Through Serve's REST interface


def put_ours(ours: Endpoint, num_replicas: int, max_batch: int) -> None:
    replicas = {"min": num_replicas, "max": num_replicas}
    section = {"rungs": ["onnx-fp32"], "replicas": replicas, "max_batch": max_batch}
    tree = ours.bundle.experiment.model_dump(mode="json") | {"serve": section}
    made = dataclasses.replace(ours.bundle, experiment=Experiment.model_validate_json(json.dumps(tree)))
    config = deploy.application(made, ours.version)
    before = session.rest(ours.cluster, "GET", APPLICATIONS)["applications"][ours.bundle.name]["deployed_app_config"]
    # All else as it is: another value would change more than is measured.
    config["deployments"][0]["max_ongoing_requests"] = before["deployments"][0]["max_ongoing_requests"]

    def rest(method: str, body: Any) -> Any:
        return session.rest(ours.cluster, method, APPLICATIONS, body)

    _put(rest, config | {key: before[key] for key in ("args", "import_path", "route_prefix")})


def put_peer(theirs: Server, model: Path, num_replicas: int, number: int, *, restart: bool = False) -> None:
    def rest(method: str, body: Any) -> Any:
        address = f"http://{theirs.host}:{theirs.dashboard_port}{APPLICATIONS}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            text = response.read()
        return json.loads(text) if text else None

    details = rest("GET", None)["applications"]["default"]["deployed_app_config"]
    args = details["args"] | ({"restart": number} if restart else {})
    user_config = {"max_batch": 16 + number % 2, "wait_s": 0.0, "epoch": number}
    deployment = {"name": "Batched", "num_replicas": num_replicas, "user_config": user_config}
    _put(rest, {key: details[key] for key in ("name", "route_prefix", "import_path")} | {
        "args": args | {"model": str(model.absolute())}, "deployments": [deployment]})  # fmt: skip


def _put(rest: Rest, config: dict[str, Any]) -> None:
    """State one application and wait until Serve says that every replica of it has that."""
    rest("PUT", {"applications": [config]})
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        details = rest("GET", None)["applications"][config["name"]]
        if details["status"] == "RUNNING":
            return
        time.sleep(0.01)
    raise TimeoutError(f"{config['name']} is still {details['status']}")
