"""Who is put under the same open-loop load: Trimtab with its settings, and Ray Serve as its peers.

Each is started, told what it may do, and asked for its place as a `Target`. All that run are bound to the same two
processors, as is the client. Knows servers and settings, not loads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from benchmarks import openloop, servers
from benchmarks.endpoint import Endpoint, mnist
from benchmarks.openloop import Plan, Records, Target
from benchmarks.tally import Cost
from cluster.config import Experiment
from serve import deploy
from tasks.dataset import read_dataset

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
CORES = 2
SETTLE_S = 1.5  # until a changed setting has reached the replicas
MOST_ROWS = 32
POLL_S = 1.0

_RAW = {"json": "/json", "raw": "/raw"}
_AT_ONCE = servers.FAST_SERVE | {
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",  # of 10 s
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
}
DEFAULT, BATCH = servers.PEERS["serve-default"], servers.PEERS["serve-batch"]
AUTO = servers.Peer("serve-auto", "Ray Serve, default autoscaling", "ray_serve_auto", _RAW)
AUTO_BATCH = servers.Peer(
    "serve-auto-batch", "Ray Serve, best autoscaling settings found", "ray_serve_auto_batch", _RAW, (), _AT_ONCE
)
AIMD = servers.Peer(
    "serve-aimd", "Clipper's AIMD batching on Ray Serve", "ray_serve_aimd", _RAW, (), servers.FAST_SERVE
)


def bind() -> None:
    """This process, and all that it starts, to the same processors."""
    allowed = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, allowed)


def experiment(case: str, data: Path, *, quick: bool) -> dict[str, Any]:
    """The experiment whose ladder is served. A quick one is trained for a minute, and its ladder is a sketch."""
    if case == "mnist":
        made = mnist(data / "mnist", model={"network": "large"}, ladder={"max_accuracy_loss": 0.05})
        made["train"] |= {"epochs": 1 if quick else 2}
        return made
    made = yaml.safe_load((EXPERIMENTS / "cifar.yaml").read_text())
    for setting, name in (("path", "train"), ("test_path", "test")):
        made["data"]["source"][setting] = str((data / "cifar10_subset" / f"{name}.parquet").absolute())
    made["serve"] = {}
    if quick:
        made["train"]["epochs"] = 1
        made["ladder"]["student_steps"] = 300
    return made


@dataclass
class Trimtab:
    """A deployed ladder; `images` [n, *shape] and `labels` are the test split."""

    endpoint: Endpoint
    images: np.ndarray
    labels: np.ndarray
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, endpoint: Endpoint) -> Trimtab:
        bundle = endpoint.bundle
        return cls(endpoint, *read_dataset(bundle.store, bundle.dataset).load("test"))

    @property
    def target(self) -> Target:
        path = f"{self.endpoint.path}/infer"
        return Target(self.endpoint.cluster.http_port, path, "oip", self.endpoint.headers)

    @property
    def rungs(self) -> list[dict[str, Any]]:
        """The ladder's table, most accurate first."""
        found: list[dict[str, Any]] = (self.endpoint.bundle.ladder or {})["rungs"]
        return found

    def set(self, objective_ms: float | None, *, adapt: bool = False, **settings: Any) -> None:
        """Another serve section, with or without the adaptation actor, into the running endpoint."""
        serve = {"objective": {"latency_ms": objective_ms}, "max_queue": 4096, **settings}
        wanted = {"serve": serve, "adapt": {"enabled": adapt}}
        if wanted == self.settings:
            return
        bundle = self.endpoint.bundle
        made = Experiment.model_validate_json(json.dumps(bundle.experiment.model_dump(mode="json") | wanted))
        deploy.deploy(self.endpoint.cluster, dataclasses.replace(bundle, experiment=made), self.endpoint.version)
        self.settings = wanted
        time.sleep(SETTLE_S)

    def load(self, arrivals: np.ndarray, rows: int, seed: int) -> Records:
        return openloop.replay(Plan(self.target, rows, seed), arrivals, self.images, self.labels)

    def closed(self, rows: int, clients: int, seconds: float) -> Records:
        plan = Plan(self.target, rows, give_up_s=30.0, clients=clients, seconds=seconds)
        return openloop.replay(plan, np.empty(0), self.images, self.labels)

    def capacity(self, rung: str, rows: int, seconds: float) -> float:
        """Requests a second that this rung alone answers without a bound on their time.

        Raises RuntimeError when it answers nothing.
        """
        self.set(None, rungs=[rung])
        records = self.closed(rows, 16 if rows == 1 else 3, seconds)
        answered = np.sort(records.done[records.status == 200])
        if not len(answered):
            raise RuntimeError(f"{rung} answered no request of {rows} rows")
        warm = answered[answered > seconds / 4]
        if len(warm) < 2:  # a machine that is far too busy
            return float(len(answered) / answered[-1])
        return float((len(warm) - 1) / (warm[-1] - warm[0]))

    def costs(self, seconds: float) -> list[Cost]:
        """Of every rung, from full batches of requests with many rows."""
        made = []
        for rung in self.rungs:
            per_s = self.capacity(rung["variant"], MOST_ROWS, seconds)
            made.append(Cost(rung["variant"], accuracy(self, rung["variant"]), 1 / (per_s * MOST_ROWS)))
            say(f"{rung['variant']}: accuracy {made[-1].accuracy:.4f}, {per_s * MOST_ROWS:,.0f} rows/s")
        return made


def accuracy(trimtab: Trimtab, variant: str) -> float:
    """On the test split, whose images are sent."""
    from ladder.profile import batched
    from ladder.variants import OnnxPredictor

    guesses = batched(OnnxPredictor(trimtab.endpoint.bundle.read(variant)), trimtab.images).argmax(axis=1)
    return float((guesses == trimtab.labels).mean())


@contextlib.contextmanager
def peer(
    made: servers.Peer, model: Path, scratch: Path, num_replicas: int = 1
) -> Iterator[tuple[Target, servers.Server]]:
    """A peer with one ONNX file and at most so many replicas. Raises PeerError."""
    with servers.started(made, model, scratch, options=("--workers", str(num_replicas))) as server:
        yield Target(server.port, made.paths["raw"], "raw"), server


class Replicas:
    """Counts the replicas below a process while something else goes on: (time.monotonic(), count) at each change."""

    def __init__(self, pid: int) -> None:
        self.counts: list[tuple[float, int]] = []
        self._root, self._ended = psutil.Process(pid), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Replicas:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(POLL_S):
            self._look()

    def _look(self) -> None:
        count = 0
        for process in self._root.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                count += "".join(process.cmdline()[:1]).startswith("ray::ServeReplica")
        if not self.counts or self.counts[-1][1] != count:
            self.counts.append((time.monotonic(), count))


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
