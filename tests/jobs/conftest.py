"""Small datasets in the store's own format, made without preprocessing so that training is tested alone."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.config import Experiment
from cluster.store import Store
from tasks.task import Encoding, load_task

Splits = dict[str, tuple[np.ndarray, np.ndarray]]


def publish_dataset(store: Store, key: str, experiment: Experiment, labels: tuple[str, ...], splits: Splits) -> str:
    """Publish x uint8 [n, h, w, c] and y [n] per split, in two shards each."""
    task, x = load_task(experiment), splits["train"][0]
    statistics = task.statistics([task.partial_statistics(x)])
    encoding = Encoding(labels, x.shape[1:], "uint8", statistics)
    with store.stage("datasets", key) as staging:
        shards = {
            name: [
                {**staging.write(f"{name}-{i}.parquet", _parquet(*part)), "rows": len(part[1])}
                for i, part in enumerate(zip(np.array_split(xs, 2), np.array_split(ys, 2), strict=True))
                if len(part[1])
            ]
            for name, (xs, ys) in splits.items()
        }
        rejected = {"total": 0, "reasons": {}, "file": None}
        rows_in = sum(len(ys) for _, ys in splits.values())
        manifest = {"encoding": encoding.to_json(), "splits": shards, "rejected": rejected, "rows_in": rows_in}
        staging.publish(manifest)
    return key


def _parquet(x: np.ndarray, y: np.ndarray) -> bytes:
    keys = pa.array([f"{i:08x}" for i in range(len(y))])
    columns = [pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(x)), pa.array(y, pa.int32()), keys]
    out = io.BytesIO()
    pq.write_table(pa.table(dict(zip(("x", "y", "key"), columns, strict=True))), out, compression="zstd")
    return out.getvalue()


@pytest.fixture(scope="session")
def digits_splits() -> Splits:
    """scikit-learn's digits as uint8 [n, 8, 8, 1]: 1,397 to train on, 200 to validate, 200 to test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x = (bunch.images[order] * (255 / 16)).astype(np.uint8)[..., None]
    y = bunch.target[order]
    return {"train": (x[400:], y[400:]), "validation": (x[:200], y[:200]), "test": (x[200:400], y[200:400])}


@pytest.fixture(scope="session")
def publish_digits(digits_splits: Splits) -> Callable[..., str]:
    """Publishes the digits into a store under a key for an experiment; keywords replace splits."""
    labels = tuple(map(str, range(10)))

    def publish(store: Store, experiment: Experiment, key: str = "digits", **splits: object) -> str:
        return publish_dataset(store, key, experiment, labels, {**digits_splits, **splits})

    return publish
