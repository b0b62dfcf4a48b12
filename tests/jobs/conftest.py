"""Small datasets in the store's own format, made without preprocessing so that training is tested alone."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import feedback, served
from cluster.config import Experiment
from cluster.progress import Progress
from cluster.registry import Registry
from cluster.store import Store
from jobs import evaluate, keys, train
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


SERVED = Experiment.model_validate(
    {
        "name": "digits",
        "data": {"source": {"kind": "digits"}},
        "train": {"epochs": 8, "batch_size": 64},
        "ladder": {"student": False, "int8": False},
        "retrain": {"epochs": 4},
    }
)


@dataclass(frozen=True)
class Endpoint:
    """A store as an endpoint leaves it: version 1 of the digits is stable, and people say what they think of it."""

    store: Store
    experiment: Experiment = SERVED

    @property
    def registry(self) -> Registry:
        return Registry.open(self.store)

    def hear(
        self, rows: np.ndarray, labels: list[str], clients: tuple[str, ...] = ("ann", "bob"), **said: object
    ) -> None:
        """Rows were asked for and answered, and each client said what was right; `said` replaces columns."""
        outputs = np.eye(10, dtype=np.float32)[0]
        name = str(said.pop("name", "request"))
        columns = {"at_ns": 1, "version": 1, "variant": "onnx-fp32", "outputs": outputs, "row": 0, **said}
        served.ledger(self.store, "digits").append(
            [
                {"id": f"{name}-{i}#0", "request_id": f"{name}-{i}", "input": row.tobytes(), **columns}
                for i, row in enumerate(rows)
            ]
        )
        feedback.ledger(self.store, "digits").append(
            [
                feedback.word(f"{name}-{i}", 0, "label", label, client, 1, "feedback")
                for i, label in enumerate(labels)
                for client in clients
            ]
        )


@pytest.fixture(scope="session")
def trained_digits(
    tmp_path_factory: pytest.TempPathFactory, publish_digits: Callable[..., str], digits_splits: Splits
) -> Path:
    """The folder of a store with a trained version, bundle `good`; many rows are for testing."""
    folder = tmp_path_factory.mktemp("trained")
    store = Store.open(str(folder))
    (x, y), key = digits_splits["train"], keys.of(SERVED).dataset
    publish_digits(store, SERVED, key, train=(x[:900], y[:900]), test=(x[900:], y[900:]))
    train.run(SERVED, store, key, "run", Progress("train"), inline=True)
    registry = Registry.open(store)
    evaluate.run(SERVED, store, key, "run", "good", registry)
    registry.set_stable("digits", 1)
    return folder


@pytest.fixture
def endpoint(trained_digits: Path, tmp_path: Path) -> Endpoint:
    return Endpoint(Store.open(str(shutil.copytree(trained_digits, tmp_path / "store"))))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for a few checkpoints of the digits."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture(scope="session")
def fill() -> Callable[[Path], None]:
    """Fills a file system to its last page, with the file `filler`."""

    def write(place: Path) -> None:
        with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    return write
