"""A retraining ordered by hand: what is checked before, what lies in the store after."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import experiment as experiments
from cluster import orders
from cluster.errors import DataError, GateError, NotFoundError, TrimtabError, UserError
from cluster.orders import Result
from cluster.store import Store
from ladder.bundle import write_bundle
from tasks.task import Encoding
from trimtab import retrain
from trimtab.cli import app
from trimtab.screen import Screen
from trimtab.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Its stable version is the first of `digits`."""
    made = Workspace(Screen(), store_uri=str(tmp_path_factory.mktemp("retrain") / "store"))
    experiment = experiments.parse({"name": "digits", "data": {"source": {"kind": "digits"}}})
    encoding = Encoding(("a", "b"), (4, 4, 1), "uint8", {"mean": [1.0], "std": [1.0]})
    write_bundle(made.store, "b" * 16, experiment=experiment, encoding=encoding, dataset="d", run="r",
                 metrics={"accuracy": 0.9}, files={"onnx-fp32": ("m.onnx", b"m")}, variants=("onnx-fp32",))  # fmt: skip
    made.registry.register("digits", "b" * 16, None, {})
    made.registry.set_stable("digits", 1)
    return made


@pytest.fixture(autouse=True)
def _nothing_waits(workspace: Workspace) -> None:
    for one in orders.orders(workspace.store, "digits"):
        orders.finish(workspace.store, one, Result("stopped", time.time(), "by the test"))


def waiting(store: Store) -> list[orders.Order]:
    return [one for one in orders.orders(store, "digits") if orders.result_of(store, one) is None]


def test_an_order_carries_the_experiment_and_there_is_one_at_a_time(
    workspace: Workspace, experiment_file: Callable[..., Path]
) -> None:
    file, store = str(experiment_file(train={"epochs": 3})), ["--store", str(workspace.store_uri)]

    planned = CliRunner().invoke(app, ["retrain", file, "--dry-run", "--json", *store])
    made = CliRunner().invoke(app, ["retrain", file, "--json", *store])
    again = CliRunner().invoke(app, ["retrain", file, *store])

    assert json.loads(planned.stdout)["beginning with"] == "version 1"
    (order,) = waiting(workspace.store)
    assert json.loads(made.stdout)["job"] == order.job_id
    assert "no adaptation actor of digits runs: the order waits for one" in made.stderr
    assert experiments.parse(json.loads(order.experiment)).train.epochs == 3
    assert isinstance(again.exception, UserError)
    assert f"has not ended, and there is one at a time; wait for it, or stop it: trimtab stop {order.job_id}" in str(
        again.exception
    )


@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        pytest.param(Result("passed", 1.0, "all checks", "c" * 16, 2), None, "", id="passed"),
        pytest.param(
            Result("refused", 1.0, "it is worse", "c" * 16, 2), GateError, "refused by the gate", id="refused"
        ),
        pytest.param(
            Result("failed", 1.0, "the disk is full"), TrimtabError, "has failed: the disk is full", id="failed"
        ),
    ],
)
def test_who_waits_hears_what_became_of_it(
    workspace: Workspace, result: Result, error: type[TrimtabError] | None, words: str
) -> None:
    experiment = experiments.parse({"name": "digits", "data": {"source": {"kind": "digits"}}})
    made = retrain.order(experiment, workspace)
    threading.Timer(0.3, orders.finish, (workspace.store, made, result)).start()

    if error is None:
        assert retrain.wait(made, experiment, workspace).version == 2
        return
    with pytest.raises(error, match=words):
        retrain.wait(made, experiment, workspace)


def test_who_waits_for_an_actor_that_there_is_none_of_hears_so(
    workspace: Workspace, experiment_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain, "PATIENCE_S", 0.1)

    done = CliRunner().invoke(app, ["retrain", str(experiment_file()), "--wait", "--store", str(workspace.store_uri)])

    assert type(done.exception) is TrimtabError  # exit code 1
    (order,) = waiting(workspace.store)
    assert f"no adaptation actor of digits runs, so the order {order.id} waits" in str(done.exception)


def test_a_mistake_is_said_before_anything_is_ordered(workspace: Workspace, tmp_path: Path) -> None:
    source = {"kind": "image_folder", "path": str(tmp_path / "gone")}
    for tree, error in (
        ({"name": "letters", "data": {"source": {"kind": "digits"}}}, NotFoundError),
        ({"name": "digits", "data": {"source": source}}, DataError),
    ):
        with pytest.raises(error):
            retrain.order(experiments.parse(tree), workspace)

    assert waiting(workspace.store) == []
