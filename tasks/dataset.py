"""A dataset as the steps see it: its manifest, and its shards as arrays.

Shards are Parquet with three columns: `x` (an Arrow fixed-shape tensor in the encoding's dtype), `y` (int32 index
into the labels, or a float32 value) and `key` (hex of the row's hash). Knows no Ray and nothing of how rows were made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import NotFoundError
from cluster.store import DamagedError, Store
from tasks.task import Encoding

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    store: Store
    key: str
    encoding: Encoding
    shards: dict[str, list[dict[str, Any]]]  # split -> entries {file, bytes, sha256, rows}
    rejected: dict[str, Any]  # {"total": n, "reasons": {reason: n}, "file": entry or None}
    rows_in: int
    files: dict[str, dict[str, Any]]  # what else the task keeps with the rows, by name
    lineage: dict[str, Any]  # what one that was made for a retraining was made of; empty for others

    def num_rows(self, split: SplitName) -> int:
        return sum(entry["rows"] for entry in self.shards[split])

    @property
    def target_dtype(self) -> type[np.generic]:
        return np.int64 if self.encoding.labels else np.float32

    def file(self, name: str) -> bytes:
        """What the task's `gather` kept under `name`, checked. Raises NotFoundError, DamagedError."""
        if name not in self.files:
            raise NotFoundError(f"dataset {self.key} has no file {name!r} (it has: {', '.join(self.files) or 'none'})")
        return self.store.read("datasets", self.key, self.files[name])

    def learning_from_validation(self) -> Dataset:
        """The same dataset with its validation rows among the training rows as well."""
        both = [*self.shards["train"], *self.shards["validation"]]
        return replace(self, shards={**self.shards, "train": both})

    def tables(self, split: SplitName) -> Iterator[pa.Table]:
        """Each shard in turn, checked. Raises NotFoundError, DamagedError."""
        for entry in self.shards[split]:
            data = self.store.read("datasets", self.key, entry)
            try:
                yield pq.read_table(pa.BufferReader(data), columns=["x", "y"])
            except pa.ArrowInvalid as error:
                raise DamagedError(f"shard {entry['file']} of dataset {self.key} is not Parquet ({error})") from error

    def load(self, split: SplitName) -> tuple[np.ndarray, np.ndarray]:
        """All rows of a split: x [n, *shape] in the encoding's dtype, y int64 [n], or float32 [n] for values."""
        shape = self.encoding.shape
        x = np.empty((self.num_rows(split), *shape), dtype=self.encoding.dtype)
        y = np.empty(len(x), dtype=self.target_dtype)
        start = 0
        for table in self.tables(split):
            stop = start + table.num_rows
            y[start:stop] = table["y"].to_numpy()
            x[start:stop] = np.concatenate(
                [c.storage.flatten().to_numpy().reshape(-1, *shape) for c in table["x"].chunks]
            )
            start = stop
        return x, y


def read_dataset(store: Store, key: str) -> Dataset:
    """Raises NotFoundError when none was published under `key`."""
    manifest = store.manifest("datasets", key)
    return Dataset(
        store=store,
        key=key,
        encoding=Encoding.from_json(manifest["encoding"]),
        shards=manifest["splits"],
        rejected=manifest["rejected"],
        rows_in=manifest["rows_in"],
        files=manifest.get("files", {}),
        lineage=manifest.get("lineage", {}),
    )
