"""A retraining of the digits without a cluster: what it learns, what it refuses, what a death at any step leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import history, orders
from cluster.config import Experiment
from cluster.errors import NotFoundError, TrimtabError
from cluster.orders import Cause, Order
from cluster.progress import Progress
from jobs import checkpoint, retrain
from jobs.command import main
from jobs.retrain import Retraining
from ladder.bundle import read_bundle
from tasks.dataset import read_dataset
from trimtab import catalogue

ROOT = Path(__file__).resolve().parents[2]
Endpoint = Any  # of conftest.py


def order(endpoint: Endpoint, identifier: str = "by-hand-1", cause: Cause = "person") -> Order:
    placed = Order(identifier, "digits", cause, "because", 100.0, endpoint.experiment.model_dump_json())
    orders.place(endpoint.store, placed)
    return placed


def retrained(endpoint: Endpoint, ordered: Order) -> dict[str, Any]:
    return retrain.run(endpoint.experiment, endpoint.store, endpoint.registry, ordered, Progress("retrain"))


def upside_down(endpoint: Endpoint, num: int) -> tuple[np.ndarray, list[str]]:
    """Training rows as nobody has seen them, and what they are."""
    (key,) = endpoint.store.keys("datasets")
    x, y = read_dataset(endpoint.store, key).load("train")
    return np.ascontiguousarray(x[:num, ::-1, ::-1]), [str(label) for label in y[:num]]


def life(endpoint: Endpoint) -> list[tuple[str, int]]:
    rows = history.ledger(endpoint.store, "digits").read().to_pylist()
    return [(row["event"], row["version"]) for row in rows]


def test_a_retraining_learns_what_people_said_and_is_done_once(endpoint: Endpoint) -> None:
    rows, labels = upside_down(endpoint, 400)
    endpoint.hear(rows, labels)
    ordered = order(endpoint)

    figures = retrained(endpoint, ordered)
    again = retrained(endpoint, ordered)

    result = orders.result_of(endpoint.store, ordered)
    assert result is not None
    assert (result.fate, result.version) == ("passed", 2), result.words
    assert figures == again == {"order": "by-hand-1", "fate": "passed", "version": 2, "bundle": result.bundle}
    checks = {check["name"]: check for check in result.figures}
    assert checks["recent"]["value"] < -0.2  # far more often right on rows that nothing was learnt from
    assert life(endpoint) == [("started", 0), ("registered", 2), ("gate passed", 2)]
    registered = history.ledger(endpoint.store, "digits").read().to_pylist()[1]
    assert json.loads(registered["figures"])["learnt"] + json.loads(registered["figures"])["held_out"] == 400
    assert [(one.version, one.refused) for one in endpoint.registry.versions("digits")] == [(2, ""), (1, "")]
    bundle = read_bundle(endpoint.store, result.bundle)
    assert "labelled by feedback" in bundle.read("card").decode()
    assert bundle.encoding == read_bundle(endpoint.store, "good").encoding


def test_inputs_of_the_test_split_are_not_learnt(endpoint: Endpoint) -> None:
    """Also where a row's key is not of its input alone, as in this dataset."""
    (key,) = endpoint.store.keys("datasets")
    rows, _ = read_dataset(endpoint.store, key).load("test")
    endpoint.hear(rows[:40], ["3"] * 40)
    work = Retraining(endpoint.experiment, endpoint.store, endpoint.registry, order(endpoint), Progress("retrain"))

    lineage = work.dataset().lineage

    assert lineage["learnt"] == 0
    assert lineage["left_out"] == {"of inputs that the test split has": 40 - lineage["held_out"]}


class Death(BaseException):
    """Nothing is cleaned up after it."""


STEPS = [(Retraining, "dataset"), (Retraining, "train"), (Retraining, "evaluate"), (Retraining, "judge"),
         (orders, "finish"), (Retraining, "announce")]  # fmt: skip


def test_a_flood_of_wrong_labels_makes_no_version_that_answers_anybody_though_its_job_dies_after_each_step(
    endpoint: Endpoint,
) -> None:
    rows, labels = upside_down(endpoint, 400)
    upright = np.ascontiguousarray(rows[:, ::-1, ::-1])
    wrong = [str((int(label) + 1) % 10) for label in labels]
    endpoint.hear(upright, wrong, clients=("mallory", "her friend"))
    ordered = order(endpoint)

    for place, step in STEPS:
        with pytest.MonkeyPatch.context() as patch:
            done = getattr(place, step)

            def dies(*given: Any, _done: Any = done, **more: Any) -> None:
                _done(*given, **more)
                raise Death

            patch.setattr(place, step, dies)
            with pytest.raises(Death):
                retrained(endpoint, ordered)
            endpoint.hear(rows[:1], ["3"], name=f"later-{step}")  # more is said meanwhile
    figures = retrained(endpoint, ordered)

    assert (figures["fate"], figures["version"]) == ("refused", 2)
    kinds = ("datasets", "runs", "bundles")
    assert [len(endpoint.store.keys(kind)) for kind in kinds] == [2, 2, 2]
    assert life(endpoint) == [("started", 0), ("registered", 2), ("gate refused", 2)]
    result = orders.result_of(endpoint.store, ordered)
    assert result is not None
    assert not next(check for check in result.figures if check["name"] == "accuracy")["passed"]
    assert [one.version for one in endpoint.registry.versions("digits")] == [2, 1]
    assert endpoint.registry.version("digits").version == 1
    assert ["right of the test split" in row.get("refused", "") for row in catalogue.versions("digits", endpoint)] == [
        True, False,
    ]  # fmt: skip
    assert "## Refused" in catalogue.card("digits", "2", endpoint)
    assert "## Refused" not in catalogue.card("digits", "1", endpoint)


CHILD = """
import sys
from cluster import orders
from cluster.config import Experiment
from cluster.progress import Progress
from cluster.registry import Registry
from cluster.store import Store
from jobs import retrain

store = Store.open(sys.argv[1])
order = retrain.find(store, "digits", sys.argv[2])
retrain.run(Experiment.model_validate_json(order.experiment), store, Registry.open(store), order, Progress("retrain"))
"""


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_that_ends_in_the_middle_of_its_training_goes_on_there(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, by: signal.Signals
) -> None:
    longer = {"retrain": {**endpoint.experiment.retrain.model_dump(mode="json"), "epochs": 20}}
    tree = endpoint.experiment.model_dump(mode="json")
    tree["train"]["early_stopping"] = None
    endpoint = dataclasses.replace(endpoint, experiment=Experiment.model_validate({**tree, **longer}))
    ordered, store = order(endpoint), endpoint.store
    assert store.local is not None
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, store.uri, ordered.id], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        while child.poll() is None and not list(store.local.glob(f"checkpoints/*/{checkpoint.INLINE}")):
            time.sleep(0.02)
    finally:
        child.send_signal(by)
        child.wait()
    assert orders.result_of(store, ordered) is None

    monkeypatch.setattr(Retraining, "evaluate", dies_at_once)
    with pytest.raises(Death):
        retrained(endpoint, ordered)

    (key,) = set(store.keys("runs")) - {"run"}
    epochs = json.loads(store.read("runs", key, store.manifest("runs", key)["files"]["history"]))
    assert [entry["epoch"] for entry in epochs] == list(range(20))
    assert {entry["attempt"] for entry in epochs} == {1, 2}
    assert checkpoint.names(store) == []


def dies_at_once(*_: Any) -> None:
    raise Death


def test_what_cannot_be_done_is_the_orders_result(endpoint: Endpoint) -> None:
    gone = endpoint.experiment.model_dump(mode="json")
    gone["data"]["source"] = {"kind": "image_folder", "path": "/nowhere"}
    endpoint = dataclasses.replace(endpoint, experiment=Experiment.model_validate(gone))
    for_data, by_clock = order(endpoint, "data-1", "data"), order(endpoint, "schedule-1", "schedule")

    with pytest.raises(TrimtabError, match="/nowhere"):
        retrained(endpoint, for_data)

    result = orders.result_of(endpoint.store, for_data)
    assert result is not None
    assert (result.fate, result.version) == ("failed", 0)
    assert "/nowhere" in result.words
    assert life(endpoint) == [("started", 0), ("failed", 0)]
    # Who did not ask for new data is served with those that there are.
    work = Retraining(endpoint.experiment, endpoint.store, endpoint.registry, by_clock, Progress("retrain"))
    assert work.dataset().lineage["base"] == read_bundle(endpoint.store, "good").dataset


def test_an_order_that_nobody_gave_is_not_found(endpoint: Endpoint) -> None:
    with pytest.raises(NotFoundError, match="no order 'none'"):
        retrain.find(endpoint.store, "digits", "none")


def test_a_jobs_command_line_takes_an_order(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster import experiment as experiments
    from cluster import session

    seen = []
    monkeypatch.setattr(session, "connect", lambda: None)
    monkeypatch.setenv(experiments.ENVIRONMENT, endpoint.experiment.model_dump_json())

    def body(context: Any) -> dict[str, Any]:
        seen.append((context.order, context.keys.words()))
        return {}

    assert main("retrain", body, ["-", "--order", "by-hand-1", "--store", endpoint.store.uri]) == 0
    assert seen == [("by-hand-1", [])]
