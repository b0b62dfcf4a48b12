from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster import experiment as experiments
from cluster import served
from cluster.ledger import Ledger
from cluster.store import Store
from ladder import reference
from ladder.bundle import write_bundle
from serve.adapt.sentinel import Sentinel
from tasks.task import Encoding

Write = Callable[..., None]


def of_windows(words: list[str]) -> list[str]:
    return [said for said in words if "ADWIN" not in said]


def answers(generator: np.random.Generator, n: int, surety: float) -> np.ndarray:
    logits = generator.normal(0.0, 1.0, (n, 3))
    logits[np.arange(n), generator.integers(0, 3, n)] += surety
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


@pytest.fixture
def bundle(store: Store) -> str:
    experiment = experiments.parse({"name": "digits", "data": {"source": {"kind": "digits"}}})
    encoding = Encoding(("a", "b", "c"), (4, 4, 1), "uint8", {"mean": [1.0], "std": [1.0]})
    known = reference.pack({"onnx-fp32": answers(np.random.default_rng(0), 2000, 4.0)})
    files = {"onnx-fp32": ("onnx-fp32.onnx", b"model"), "reference": ("reference.npz", known)}
    for key, some in (("b" * 16, files), ("o" * 16, {"onnx-fp32": files["onnx-fp32"]})):
        write_bundle(store, key, experiment=experiment, encoding=encoding, dataset="d", run="r",
                     metrics={"accuracy": 0.9}, files=some, variants=("onnx-fp32",))  # fmt: skip
    return "b" * 16


@pytest.fixture
def write(store: Store) -> Write:
    ledger: Ledger = served.ledger(store, "digits")
    generator, clock = np.random.default_rng(1), itertools.count(10**18, 10**6)

    def written(n: int, surety: float, version: int = 1, late_by_ns: int = 0) -> None:
        rows: list[dict[str, Any]] = []
        for outputs in answers(generator, n, surety):
            at = next(clock)
            rows.append({"id": f"{at}#0", "request_id": str(at), "row": 0, "at_ns": at - late_by_ns,
                         "version": version, "variant": "onnx-fp32", "input": None, "outputs": outputs})  # fmt: skip
        ledger.append(rows)

    return written


def test_drift_is_said_once_when_it_begins_and_once_when_it_ends(store: Store, bundle: str, write: Write) -> None:
    sentinel = Sentinel(store, "digits")
    write(300, 4.0)

    quiet = of_windows(sentinel.look(bundle, 1))
    write(150, 1.0)
    first = of_windows(sentinel.look(bundle, 1))  # one window of it alone proves nothing
    write(350, 1.0)
    begun, since = of_windows(sentinel.look(bundle, 1)), sentinel.drift_since
    write(300, 4.0)
    ended = of_windows(sentinel.look(bundle, 1))

    assert quiet == first == []
    assert len(begun) == 1
    assert "the answers of version 1 drift, severity" in begun[0]
    assert "Kolmogorov-Smirnov" in begun[0]
    assert since == pytest.approx(1e9 + 300 * 1e-3, abs=1e-6)  # with the first window that alarmed
    assert ended == ["the answers of version 1 drift no more"]
    assert sentinel.drift_since is None
    assert sentinel.look(bundle, 1) == []


def test_rows_that_are_written_down_later_are_not_missed(store: Store, bundle: str, write: Write) -> None:
    sentinel = Sentinel(store, "digits")
    write(50, 4.0)
    sentinel.look(bundle, 1)

    write(250, 1.0, late_by_ns=4 * 10**9)

    assert len(sentinel.look(bundle, 1)) == 1


def test_a_new_version_begins_anew_and_only_its_own_answers_count(store: Store, bundle: str, write: Write) -> None:
    sentinel = Sentinel(store, "digits")
    write(300, 1.0, version=1)
    assert len(sentinel.look(bundle, 1)) == 1

    write(300, 1.0, version=1)
    write(300, 4.0, version=2)

    assert sentinel.look(bundle, 2) == []


def test_a_bundle_without_a_reference_is_not_judged(store: Store, bundle: str, write: Write) -> None:
    write(300, 1.0)

    assert Sentinel(store, "digits").look("o" * 16, 1) == []
    assert bundle


def test_a_creeping_change_is_said_that_no_window_shows(store: Store, bundle: str, write: Write) -> None:
    sentinel = Sentinel(store, "digits", window=100_000)
    write(1500, 4.0)

    quiet = sentinel.look(bundle, 1)
    for step in range(1, 16):
        write(200, 4.0 - 0.1 * step)
    crept = sentinel.look(bundle, 1)

    assert quiet == []
    assert len(crept) == 1
    assert "the mean confidence of version 1 with onnx-fp32 went from 0." in crept[0]
