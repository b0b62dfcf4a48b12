from __future__ import annotations

import time

import numpy as np
import pytest

from cluster import experiment as experiments
from cluster import feedback, served
from cluster.errors import NotFoundError
from cluster.store import Store
from ladder import reference
from ladder.bundle import write_bundle
from tasks.task import Encoding
from trimtab import drift
from trimtab.screen import Screen
from trimtab.workspace import Workspace

EXPERIMENT = experiments.parse({"name": "digits", "data": {"source": {"kind": "digits"}}})


def answers(generator: np.random.Generator, n: int, surety: float) -> np.ndarray:
    logits = generator.normal(0.0, 1.0, (n, 3))
    logits[np.arange(n), generator.integers(0, 3, n)] += surety
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def test_windows_of_the_stable_version_are_compared_with_its_reference(store: Store) -> None:
    generator, workspace = np.random.default_rng(0), Workspace(Screen(as_json=True), store_uri=store.uri)
    known = reference.pack({"onnx-fp32": answers(generator, 2000, 4.0)})
    encoding = Encoding(("a", "b", "c"), (4, 4, 1), "uint8", {"mean": [1.0], "std": [1.0]})
    write_bundle(store, "b" * 16, experiment=EXPERIMENT, encoding=encoding, dataset="d", run="r",
                 metrics={"accuracy": 0.9}, variants=("onnx-fp32",),
                 files={"onnx-fp32": ("m.onnx", b"m"), "reference": ("reference.npz", known)})  # fmt: skip
    workspace.registry.register("digits", "b" * 16, None, {})
    workspace.registry.set_stable("digits", 1)
    with pytest.raises(NotFoundError, match="0 answers of version 1 are in the sample, 100 needed"):
        drift.look(EXPERIMENT, workspace, 100)

    now, outputs = time.time_ns(), np.concatenate([answers(generator, 300, 4.0), answers(generator, 200, 1.0)])
    served.ledger(store, "digits").append(
        [{"id": str(i), "request_id": str(i), "row": 0, "at_ns": now + i, "version": 1, "variant": "onnx-fp32",
          "input": None, "outputs": row} for i, row in enumerate(outputs)]
    )  # fmt: skip
    before = drift.look(EXPERIMENT, workspace, 100)
    said = [(i, "abc"[int(np.argmax(row))], client) for i, row in enumerate(outputs) for client in ("x", "y")]
    feedback.ledger(store, "digits").append(
        [feedback.word(str(i), 0, "label", "a" if i >= 400 else label, client, now + i) for i, label, client in said]
    )
    found = drift.look(EXPERIMENT, workspace, 100)

    assert (found["version"], found["windows"], found["windows with drift"]) == (1, 5, 1)
    assert "outputs, Kolmogorov-Smirnov" in found["drift now"]
    assert found["severity"] > 0
    assert (before["wrong by labels"], before["changes of that share"]) == ("no believed label yet", [])
    assert found["wrong by labels"].endswith(" of 500 labelled answers")
    (change,) = found["changes of that share"]
    assert change.startswith("0 % of 40")
