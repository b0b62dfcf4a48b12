from __future__ import annotations

from typing import Any

import pytest

from cluster.config import Experiment
from cluster.store import DamagedError, Store
from ladder.bundle import Bundle, read_bundle, write_bundle
from tasks.task import Encoding

EXPERIMENT = Experiment.model_validate({"name": "digits", "data": {"source": {"kind": "digits"}}})
ENCODING = Encoding(("a", "b"), (8, 8, 1), "uint8", {"mean": [1.0], "std": [2.0]})
LADDER = {"reference": "onnx-fp32", "rows": 10, "rungs": [{"variant": "onnx-fp32", "accuracy": 0.9}], "left_out": []}


def publish(store: Store, **more: Any) -> Bundle:
    files = {"onnx-fp32": ("onnx-fp32.onnx", b"a graph"), "card": ("card.md", b"# digits")}
    return write_bundle(
        store, "key", experiment=EXPERIMENT, encoding=ENCODING, dataset="data", run="run", metrics={"accuracy": 0.9},
        files=files, variants=("onnx-fp32",), **more,
    )  # fmt: skip


def test_a_bundle_is_read_as_it_was_written(store: Store):
    written = publish(store, ladder=LADDER)

    bundle = read_bundle(store, "key")

    assert bundle == written
    assert (bundle.ladder, bundle.variants, bundle.encoding) == (LADDER, ("onnx-fp32",), ENCODING)
    assert bundle.read("onnx-fp32") == b"a graph"


def test_a_bundle_without_a_measured_ladder_has_none(store: Store):
    assert publish(store).ladder is None


def test_a_file_that_is_not_what_the_manifest_says_is_refused(store: Store):
    bundle = publish(store)
    assert store.local is not None
    (found,) = store.local.rglob("onnx-fp32.onnx")
    found.write_bytes(b"another")

    with pytest.raises(DamagedError):
        bundle.read("onnx-fp32")
