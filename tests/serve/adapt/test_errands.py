"""An order as a job of a real cluster: begun, died, tried once more, stopped, and handed on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import orders, submit
from cluster.experiment import parse
from cluster.orders import Order
from cluster.session import Session
from cluster.store import Store
from serve.adapt.errands import RayErrands
from serve.adapt.keeper import Keeper, Seen
from serve.adapt.mailbox import Mailbox

JOB = """
import json, os, pathlib, signal, sys, time
import ray
from cluster import experiment, orders
from cluster.store import Store
name, tried = sys.argv[1], pathlib.Path(sys.argv[2])
store, made = Store.open(os.environ["TRIMTAB_STORE"]), experiment.load("-")
if name == "person-slow":
    time.sleep(600)
if not tried.exists():
    tried.touch()
    print("the first try ends here", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
order = orders.order_of(store, made.name, name)
ray.init(logging_level="ERROR")
worker = ray.get(ray.remote(num_cpus=0)(lambda: os.sched_getscheduler(0)).remote())
words = f"{os.environ['TRIMTAB_CODE']}, workers in class {worker}"
orders.finish(store, order, orders.Result("passed", time.time(), words, "c" * 16, 2))
"""


def _until(what: Callable[[], Any], keeper: Keeper, seen: Seen, timeout_s: float = 180.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        keeper.step(seen, time.time())
        time.sleep(0.2)
    return found


def test_an_order_becomes_a_job_that_is_tried_once_more_and_one_that_takes_too_long_is_stopped(
    cluster: Session, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "job.py").write_text(JOB)
    entrypoint = f"{sys.executable} {tmp_path / 'job.py'} {{order}} {tmp_path / 'tried'}"
    errands, words = RayErrands(cluster, store, entrypoint), list[str]()
    keeper = Keeper(store, "errands", errands, Mailbox(tmp_path / "adapt"), words.append)
    experiment = parse({"name": "errands", "data": {"source": {"kind": "digits"}}, "retrain": {"most": "600s"}})
    text, environment = experiment.model_dump_json(), {"TRIMTAB_CODE": "of one's own"}
    first = Order("person-1", "errands", "person", "by ada", time.time(), text, environment)
    slow = Order("person-slow", "errands", "person", "by bob", time.time(), text)
    for order in (first, slow):
        orders.place(store, order)
    seen = Seen("b" * 16, 1, experiment)

    result = _until(lambda: orders.result_of(store, first), keeper, seen)
    running = _until(lambda: [j for j in errands.tries(slow) if j.status == "RUNNING"], keeper, seen)
    impatient = parse({**experiment.model_dump(mode="json"), "retrain": {"most": "1s"}})
    stopped = _until(lambda: orders.result_of(store, slow), keeper, Seen("b" * 16, 1, impatient))

    assert (result.fate, result.words) == ("passed", f"of one's own, workers in class {os.SCHED_IDLE}")
    assert [job.submission_id for job in errands.tries(first)] == [first.job_id, f"{first.job_id}-2"]
    assert any(text.startswith("the retraining person-1 died and is tried once more: ") for text in words)
    assert "the first try ends here" in submit.logs(cluster, first.job_id)
    assert (stopped.fate, stopped.words) == ("stopped", "it ran longer than 1 s (retrain.most)")
    _until(lambda: errands.tries(slow)[0].status == "STOPPED", keeper, seen)
    assert len(running) == 1
    assert len(list((tmp_path / "adapt" / "commands").glob("*-person-1.json"))) == 1
