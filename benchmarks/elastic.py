"""An elastic training over two Ray nodes, one killed, come again and drained: 2 workers, then 1, then 2, then 1.

`python -m benchmarks.elastic [--quick] [--out FILE.json]`. Both nodes are on this machine; the head has one CPU, and
the training may have one or two workers of a CPU each. What counts is how many workers did which epochs, and that every
epoch was done once, over as many rows as the others. A node that is drained, as an autoscaler does before it takes a
machine away, costs no step: the workers keep a checkpoint and leave. No more than the one failure of the killed node is
allowed. The training is another process, which is ended in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import node_loss, report
from cluster import session
from cluster.config import Experiment
from cluster.experiment import ENVIRONMENT, parse
from cluster.session import Session
from cluster.store import Store
from jobs import checkpoint

RECIPE = {"workers": {"min": 1, "max": 2}, "epochs": 10_000, "batch_size": 8, "early_stopping": None, "max_failures": 1}
DRIVER = """
import sys
from cluster import experiment, session
from cluster.progress import Progress
from cluster.store import Store
from jobs import fit, preprocess, train
fit.RESIZE_EVERY_S = 3.0
session.connect()
made, store = experiment.load("-"), Store.open(sys.argv[1])
preprocess.run(made, store, "digits", lambda *_: None)
train.run(made, store, "digits", "elastic", Progress("train"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.elastic", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: there is no shorter form")
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRIMTAB_HOME"] = folder  # the user's own clusters are left alone
        made = session.up("elastic", num_cpus=1, store=folder)
        try:
            seconds, history, kept = measure(made, Store.open(folder))
        finally:
            session.down("elastic")
    counts = [entry["world_size"] for entry in history]
    worlds = [count for before, count in zip([0, *counts], counts, strict=False) if count != before]
    once = [entry["epoch"] for entry in history] == list(range(len(history)))
    num_sizes = len({entry["rows"] for entry in history})
    figures = [
        report.figure(
            "changes of the number of workers", [len(worlds) - 1], "changes", goal=3, met=worlds == [2, 1, 2, 1]
        ),
        report.figure("every epoch done once", [once], "trainings", goal=1, met=once),
        report.figure("different numbers of rows of an epoch", [num_sizes], "numbers", goal=1, met=num_sizes == 1),
        report.figure("checkpoints in the middle of an epoch", [kept], "checkpoints", goal=1, met=kept == 1),
        report.figure("from the node's death to an epoch of one worker", [seconds[1]], "s"),
        report.figure("from the node's return to an epoch of two workers", [seconds[2]], "s"),
        report.figure("from a node's drain to an epoch of one worker", [seconds[3]], "s"),
    ]
    notes = f"workers: {worlds}, epochs: {len(history)}, starts of the workers: {history[-1]['attempt']}"
    report.write(options.out, "elastic", quick=options.quick, seed=0, figures=figures, notes=notes)


def measure(cluster: Session, store: Store) -> tuple[list[float], list[dict[str, Any]], int]:
    """Seconds until the first epoch of 2, 1, 2 and 1 workers; the epochs of the last checkpoint; and how many of those
    that are there lie in the middle of an epoch, as only the one does that the drain caused.
    """
    made = parse({"name": "digits", "data": {"source": {"kind": "digits"}}, "train": RECIPE})
    seconds = []
    with node_loss.second_node(cluster) as node:
        node_loss.until(lambda: node.poll() is not None or len(_alive(cluster)) == 2)
        if node.poll() is not None:
            raise RuntimeError("the second node did not start")
        driver = _driver(cluster, made, store)
        try:
            seconds.append(_wait(driver, store, 2))
            node_loss.end(node)
            seconds.append(_wait(driver, store, 1))
            with node_loss.second_node(cluster):
                seconds.append(_wait(driver, store, 2))
                _drain(cluster)
                seconds.append(_wait(driver, store, 1))
                newest = _newest(store)
        finally:
            driver.kill()
            driver.wait()
    folder = Path(checkpoint.storage_path(store)) / "elastic"
    num_kept = len(list(folder.glob("epoch-*-step-*")))
    return seconds, checkpoint.load(folder / newest["checkpoint_dir_name"])[1].history, num_kept


def _alive(cluster: Session) -> list[dict[str, Any]]:
    return [node for node in session.nodes(cluster) if node["state"] == "ALIVE"]


def _drain(cluster: Session) -> None:
    """Tell Ray that the second node will be gone in ten minutes."""
    (node,) = (node["node_id"] for node in _alive(cluster) if node["node_ip"] == node_loss.SECOND_IP)
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--address={cluster.address}"]
    why = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=benchmark", "--deadline-remaining-seconds=600"]
    environment = os.environ | session.driver_env(cluster)
    subprocess.run([*command, f"--node-id={node}", *why], env=environment, stdout=subprocess.DEVNULL, check=True)


def _driver(cluster: Session, made: Experiment, store: Store) -> subprocess.Popen[bytes]:
    environment = os.environ | session.driver_env(cluster) | {ENVIRONMENT: made.model_dump_json()}
    return subprocess.Popen([sys.executable, "-c", DRIVER, store.uri], env=environment, stdout=subprocess.DEVNULL)


def _newest(store: Store) -> dict[str, Any]:
    """What Ray Train's snapshot says of the newest checkpoint; empty before there is one."""
    data = store.get(f"checkpoints/elastic/{checkpoint.SNAPSHOT}")
    try:
        found: dict[str, Any] = json.loads(data or b"{}").get("latest_checkpoint_result") or {}
    except ValueError:  # it is being written
        return {}
    return found


def _wait(driver: subprocess.Popen[bytes], store: Store, world: int) -> float:
    """Seconds until an epoch was done by so many workers."""
    started = time.monotonic()

    def there() -> bool:
        if driver.poll() is not None:
            raise RuntimeError("the training ended")
        return bool(_newest(store).get("metrics", {}).get("world_size") == world)

    node_loss.until(there)
    took = time.monotonic() - started
    print(f"{world} workers after {took:.0f} s", file=sys.stderr)
    return took


if __name__ == "__main__":
    main()
