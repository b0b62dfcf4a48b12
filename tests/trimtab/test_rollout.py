"""A person's verbs for a rollout, with a loop that obeys them; what replicas do is made up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from cluster.errors import UserError
from cluster.experiment import parse
from cluster.registry import Registry
from cluster.store import DamagedError, Store
from ladder.bundle import write_bundle
from serve.adapt import mailbox
from serve.adapt.actuator import Actual
from serve.adapt.loop import Loop
from tasks.task import Encoding
from trimtab.cli import app

EXPERIMENT = parse({"name": "digits", "data": {"source": {"kind": "digits"}}})
RUNG = {"batches": 0, "rows": 0, "in_time_rows": 0, "seconds": 0.0, "fixed_s": 0.001, "per_row_s": 0.001,
        "spread": 0.1, "accuracy": 0.9}  # fmt: skip


def constant() -> bytes:
    """A graph that answers [1, 0] to each row uint8 [8, 8, 1]."""
    rows = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 8, 8, 1])
    outputs = helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["n", 2])
    weights = numpy_helper.from_array(np.zeros((64, 2), np.float32), "weights")
    bias = numpy_helper.from_array(np.array([1.0, 0.0], np.float32), "bias")
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["outputs"]),
    ]
    graph = helper.make_graph(nodes, "constant", [rows], [outputs], [weights, bias])
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    return made


GRAPH = constant()


class Replica:
    actual = Actual(1, frozenset(["a"]), EXPERIMENT, "b1", 1)
    target, epoch = 1, 0

    def broadcast(self, method: str, *arguments: Any, timeout_s: float) -> list[dict[str, Any]]:
        if method == "apply":
            self.epoch = max(self.epoch, arguments[0]["epoch"])
            return [{"replica": "a", "epoch": self.epoch, "refused": None, "pending": False}]
        return [{"replica": "a", "pid": 1, "started": 1.0, "at": time.monotonic(), "epoch": self.epoch, "version": 1,
                 "rungs": {"onnx-fp32": RUNG}}]  # fmt: skip


@pytest.fixture
def obeying(store: Store) -> Iterator[None]:
    """An actor's loop, until the test ends."""
    place, ended = mailbox.place(store, "digits"), threading.Event()
    loop = Loop(place, Replica(), SimpleNamespace(saw=lambda *_: None, ticked=lambda _: None))  # type: ignore[arg-type]

    def run() -> None:
        while not ended.wait(0.02):
            loop.tick(time.time())

    thread = threading.Thread(target=run)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.fixture
def versions(store: Store) -> list[Path]:
    """Folders of the bundles of versions 1 to 3, which answer the same whatever they are asked."""
    registry = Registry.open(store)
    encoding = Encoding(("a", "b"), (8, 8, 1), "uint8", {"mean": [0.0], "std": [1.0]})
    for key in ("b1", "b2", "b3"):
        write_bundle(store, key, experiment=EXPERIMENT, encoding=encoding, dataset="d", run="r",
                     metrics={"accuracy": 0.9}, variants=("onnx-fp32",),
                     files={"onnx-fp32": ("model.onnx", GRAPH)})  # fmt: skip
        registry.register("digits", key, None, {})
    assert store.local is not None
    return [store.local / "bundles" / key for key in ("b1", "b2", "b3")]


def test_a_version_is_tried_promoted_and_taken_back_by_hand(
    store: Store, obeying: None, experiment_file: Callable[..., Path], versions: list[Path]
) -> None:
    file, where, run = str(experiment_file()), ["--store", store.uri, "--json"], CliRunner()

    def say(verb: str, *arguments: str) -> Any:
        found = run.invoke(app, [verb, file, *arguments, *where])
        return json.loads(found.stdout) if found.exception is None else found.exception

    def forced(verb: str, version: str) -> Any:
        return say(verb, version, "--force")

    nothing, tried, again, other = say("promote"), forced("canary", "2"), forced("canary", "2"), forced("canary", "v3")
    seen = run.invoke(app, ["explain", file, "--store", store.uri]).stdout
    outlook, back = say("rollback", "--dry-run"), say("rollback")
    promoted, late = forced("promote", "2"), say("rollback")
    (versions[2] / "model.onnx").write_bytes(GRAPH[:-1])
    altered = forced("canary", "3")

    refusals = {"name the one to promote": nothing, "is being rolled out already": again, "say it again": late}
    assert [(type(error), words in str(error)) for words, error in refusals.items()] == [(UserError, True)] * 3
    assert "Version 2 answers 20 % of the requests unseen" in tried["rollout"]
    assert "Version 3 waits" in other["rollout"]
    assert "Rollout: Version 2 answers 20 %" in seen
    assert outlook == {"would take back": "digits", "version": 2, "phase": "shadow"}
    assert "Version 2 was taken back: " in back["rollout"]
    assert "is being promoted" in promoted["rollout"]
    assert isinstance(altered, DamagedError)
