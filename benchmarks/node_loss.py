"""What one lost node costs: two Ray nodes here, replicas on both, one killed under load while a training runs.

`python -m benchmarks.node_loss [--quick] [--out FILE.json]`. The head has the address 127.0.0.2, the second node
127.0.0.3 and processes of its own, which are ended at once with SIGKILL: nothing says goodbye. Clients try again as the
documentation tells them to; HAProxy itself sends most requests that meet a dead replica to the other one. The
adaptation actor is on the node that is killed, and a person has pinned something: its successor on the other node must
know that, and each answer says which envelope it was given under. Ray notices a node that is gone by its missed health
checks, so full strength takes from ten seconds to most of a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks import arena, report
from benchmarks.lost_actor import Watched
from cluster import experiment as experiments
from cluster import session as sessions
from cluster import submit
from cluster.session import Session
from cluster.store import Store
from ladder.bundle import Bundle, write_bundle
from ladder.variants import export_onnx
from serve import deploy, presence
from tasks.images import Images
from tasks.task import Encoding

SECOND_IP = "127.0.0.3"
SHAPE = (8, 8, 1)
CLIENTS, TRIES, PAUSE_S = 4, 40, 0.25
TRAINING = {"workers": 1, "epochs": 150, "early_stopping": None, "max_failures": 3}


class Counts:
    """What the clients saw, over all of them; `epoch` is the least that an answer's envelope may have."""

    def __init__(self, epoch: int) -> None:
        self.requests, self.retries, self.lost, self.outside = 0, 0, 0, 0
        self.slowest_s = 0.0
        self._epoch, self._lock = epoch, threading.Lock()

    def add(self, retries: int, epoch: int | None, seconds: float) -> None:
        """`epoch` is None where there was no answer in all tries."""
        with self._lock:
            self.requests, self.retries, self.lost = (
                self.requests + 1,
                self.retries + retries,
                self.lost + (epoch is None),
            )
            self.outside += epoch is not None and epoch < self._epoch
            self.slowest_s = max(self.slowest_s, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a shorter load before and after")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with arena.private("node-loss") as (cluster, folder):
        found = measure(cluster, folder, calm_s=3.0 if options.quick else 20.0)
    figures = [
        report.figure("requests", [found["requests"]], "requests"),
        report.figure("lost with retries", [found["lost"]], "requests", goal=0, met=found["lost"] == 0),
        report.figure("retries", [found["retries"]], "requests"),
        report.figure("slowest request", [found["slowest_s"]], "s"),
        report.figure("to full strength", [found["full_strength_s"]], "s"),
        report.figure("training went on", [found["training"]], "jobs", goal=1, met=found["training"] == 1),
        report.figure("until the actor was back", [found["actor_s"]], "s"),
        report.figure("answers outside the envelope", [found["outside"]], "requests", goal=0, met=not found["outside"]),
        report.figure("the actor's record is whole", [found["record"]], "records", goal=1, met=found["record"] == 1),
    ]
    report.write(options.out, "node_loss", quick=options.quick, seed=0, figures=figures, notes=__doc__ or "")


def measure(cluster: Session, folder: Path, calm_s: float) -> dict[str, float]:
    """Kill a node that holds a replica, under load; returns the counts and seconds."""
    with second_node(cluster) as node:
        until(
            lambda: (
                node.poll() is not None
                or sum(one["state"] == "ALIVE" for one in sessions.status(cluster.name)["nodes"]) == 2
            )
        )
        if node.poll() is not None:
            raise RuntimeError("the second node did not start")
        bundle = _bundle(Store.open(str(folder)))
        made = deploy.deploy(cluster, bundle, 1)
        until(lambda: len(_places(cluster, bundle.name)) == 2)
        before = _places(cluster, bundle.name)
        actor = Watched(cluster, bundle, until)
        epoch = actor.bring_to(_second())
        job = _train(cluster)
        until(lambda: submit.job(cluster, job).status == "RUNNING")
        counts, stop = Counts(epoch), threading.Event()
        clients = [threading.Thread(target=_ask, args=(made.url, cluster, counts, stop)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(calm_s)
        lost_node = _kill(node, before)
        killed_at, killed = time.monotonic(), time.time()
        until(lambda: actor.back_at(killed))
        actor_s = (actor.back_at(killed) or killed) - killed
        until(lambda: lost_node not in _places(cluster, bundle.name).values() and _running(cluster, bundle.name) == 2)
        full_strength_s = time.monotonic() - killed_at
        time.sleep(calm_s)
        stop.set()
        for client in clients:
            client.join()
        outcome = submit.follow(cluster, job, lambda _: None)
        is_whole = actor.is_whole()
    return {
        "actor_s": round(actor_s, 1),
        "outside": counts.outside,
        "record": float(is_whole),
        "requests": counts.requests,
        "lost": counts.lost,
        "retries": counts.retries,
        "slowest_s": round(counts.slowest_s, 2),
        "full_strength_s": round(full_strength_s, 1),
        "training": float(outcome.status == "SUCCEEDED"),
    }


@contextlib.contextmanager
def second_node(cluster: Session) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | sessions.driver_env(cluster)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={cluster.address}", "--block"]
    flags = [f"--node-ip-address={SECOND_IP}", "--num-cpus=2", "--object-store-memory=104857600"]
    # The other ports are Ray's to choose; this one is fixed unless it is said.
    flags += [f"--dashboard-agent-listen-port={_free_port()}", "--min-worker-port=0", "--max-worker-port=0"]
    process = subprocess.Popen(
        [*command, *flags, "--disable-usage-stats"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        end(process)


def _second() -> str:
    """The id of the second node."""
    import ray

    (found,) = (one["NodeID"] for one in ray.nodes() if one["NodeManagerAddress"] == SECOND_IP)
    return str(found)


def _kill(node: subprocess.Popen[bytes], places: dict[str, str]) -> str:
    """End every process of the second node at once; returns its id."""
    lost = _second()
    if lost not in places.values():
        raise RuntimeError("the second node holds no replica")
    end(node)
    return lost


def end(node: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(node.pid)
        for process in [*family.children(recursive=True), family]:
            with contextlib.suppress(psutil.Error):
                process.kill()
    node.wait()


def _bundle(store: Store) -> Bundle:
    """A model that says whether an image is dark or light: what is measured is the way to it."""
    import torch

    class Shades(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            level = (rows.float().mean(dim=(1, 2, 3)) - 127.5) / 50
            return torch.stack([-level, level], dim=1)

    encoding = Encoding(("dark", "light"), SHAPE, "uint8", {"mean": [127.0], "std": [50.0]})
    serve = {"replicas": {"min": 2, "max": 2}, "cpus_per_replica": 1.0}
    whole = experiments.parse({"name": "shades", "data": {"source": {"kind": "digits"}}, "serve": serve})
    return write_bundle(
        store,
        "node-loss",
        experiment=whole,
        encoding=encoding,
        dataset="none",
        run="none",
        metrics={"accuracy": 1.0},
        files={"onnx-fp32": ("model.onnx", export_onnx(Shades(), encoding, Images(whole)))},
        variants=("onnx-fp32",),
    )


def _train(cluster: Session) -> str:
    whole = experiments.parse({"name": "digits", "data": {"source": {"kind": "digits"}}, "train": TRAINING})
    command = "python -m jobs.preprocess - && python -m jobs.train -"
    environment = {experiments.ENVIRONMENT: whole.model_dump_json()}
    return submit.submit(cluster, command, submission_id="node-loss-train", env=environment)


def _replicas(cluster: Session, name: str) -> list[dict[str, Any]]:
    found = sessions.rest(cluster, "GET", sessions.APPLICATIONS)["applications"][name]["deployments"][
        presence.DEPLOYMENT
    ]
    return [one for one in found["replicas"] if one["state"] == "RUNNING"]


def _running(cluster: Session, name: str) -> int:
    return len(_replicas(cluster, name))


def _places(cluster: Session, name: str) -> dict[str, str]:
    """Replica -> node, of those that run; two entries on one node count as one place."""
    by_node = {one["node_id"]: one["replica_id"] for one in _replicas(cluster, name)}
    return {replica: node for node, replica in by_node.items()}


def _ask(url: str, cluster: Session, counts: Counts, stop: threading.Event) -> None:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.zeros(SHAPE[:2], np.uint8)).save(file, "PNG")
    headers = {"authorization": f"Bearer {cluster.api_token}", "content-type": "image/png"}
    with httpx.Client(timeout=5.0, trust_env=False, headers=headers) as client:
        while not stop.is_set():
            started, tries, epoch = time.monotonic(), 0, None
            while epoch is None and tries < TRIES:
                with contextlib.suppress(httpx.HTTPError):
                    answer = client.post(f"{url}/predict", content=file.getvalue())
                    epoch = int(answer.json()["parameters"]["envelope_epoch"]) if answer.status_code == 200 else None
                tries += 1
                if epoch is None:
                    time.sleep(PAUSE_S)
            counts.add(tries - 1, epoch, time.monotonic() - started)
            time.sleep(0.02)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((SECOND_IP, 0))
        return int(probe.getsockname()[1])


def until(found: Any, timeout_s: float = 240.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not found():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
