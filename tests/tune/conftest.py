"""The digits as a published dataset, as the tests of training have them."""

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


@pytest.fixture(scope="session")
def publish_digits() -> Callable[[Store, Experiment], str]:
    """Publishes scikit-learn's digits, uint8 [n, 8, 8, 1], as the dataset `digits`."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x, y = (bunch.images[order] * (255 / 16)).astype(np.uint8)[..., None], bunch.target[order]
    parts = {"train": slice(400, None), "validation": slice(0, 200), "test": slice(200, 400)}

    def publish(store: Store, experiment: Experiment) -> str:
        task = load_task(experiment)
        statistics = task.statistics([task.partial_statistics(x[parts["train"]])])
        encoding = Encoding(tuple(map(str, range(10))), x.shape[1:], "uint8", statistics)
        with store.stage("datasets", "digits") as staging:
            splits = {
                name: [{**staging.write(f"{name}-0.parquet", _parquet(x[part], y[part])), "rows": len(y[part])}]
                for name, part in parts.items()
            }
            rejected = {"total": 0, "reasons": {}, "file": None}
            more = {"splits": splits, "rejected": rejected, "rows_in": len(y)}
            staging.publish({"encoding": encoding.to_json(), **more})
        return "digits"

    return publish


def _parquet(x: np.ndarray, y: np.ndarray) -> bytes:
    columns = {
        "x": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(x)),
        "y": pa.array(y, pa.int32()),
        "key": pa.array([f"{i:08x}" for i in range(len(y))]),
    }
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="zstd")
    return out.getvalue()
