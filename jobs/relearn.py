"""The dataset of a retraining: that of the experiment, and beside its rows those that feedback has labelled.

Its test split is the experiment's own, so versions can be compared; what was held out of the feedback lies in a file
beside the shards. Knows files of datasets, not where labels come from.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.store import Staging, Store
from jobs import labelled
from jobs.labelled import Labelled, Part
from jobs.shards import MAX_SHARD_BYTES
from tasks.dataset import SPLITS, Dataset, SplitName

SHARE, MOST_REPEATS = 0.2, 20  # of the rows of an epoch, what was learnt from feedback shall be; each so often at most
FEEDBACK = "feedback.parquet"


def publish(store: Store, key: str, base: Dataset, found: Labelled, lineage: dict[str, Any]) -> Dataset:
    """Publish `datasets/<key>`: copies of the base's files, and shards with the labelled rows.

    Few labelled rows would be lost among many others, so each is there several times, in training and validation alike.
    `lineage` is kept in the manifest, with what is added here.
    """
    from tasks.dataset import read_dataset

    parts: dict[SplitName, pa.Table] = {name: found.of(name) for name in ("train", "validation")}
    repeats = _repeats(base.num_rows("train"), parts["train"].num_rows)
    origin = store.manifest("datasets", base.key)
    with store.stage("datasets", key) as staging:
        splits = {name: [_copied(staging, base, entry) for entry in base.shards[name]] for name in SPLITS}
        for name, table in parts.items():
            splits[name] += _shards(staging, base, name, table, repeats)
        files = {name: _copied(staging, base, entry) for name, entry in base.files.items()}
        rejected = origin["rejected"]
        if rejected["file"] is not None:
            rejected = {**rejected, "file": _copied(staging, base, rejected["file"])}
        more = {"base": base.key, "repeats": repeats, **found.counts(), "left_out": found.left_out}
        kept = {**staging.write(FEEDBACK, _parquet(found.table)), "rows": found.table.num_rows}
        changed = {"splits": splits, "files": files, "rejected": rejected}
        staging.publish({**origin, **changed, "lineage": {**lineage, **more, "feedback": kept}})
    return read_dataset(store, key)


def contents(dataset: Dataset, split: SplitName) -> set[str]:
    """`labelled.key_of` each row: a row's own key knows its target too where equal inputs may have different ones.

    Raises NotFoundError, DamagedError.
    """
    found: set[str] = set()
    for table in dataset.tables(split):  # one shard at a time
        for chunk in table["x"].chunks:
            rows = chunk.storage.flatten().to_numpy().reshape(len(chunk), -1)
            found.update(labelled.key_of(row.tobytes()) for row in rows)
    return found


def feedback_of(dataset: Dataset) -> pa.Table | None:
    """The labelled rows that a retraining's dataset was made with, in all parts; None of another dataset.

    Raises NotFoundError, DamagedError.
    """
    entry = dataset.lineage.get("feedback")
    return None if entry is None else pq.read_table(pa.BufferReader(dataset.store.read("datasets", dataset.key, entry)))


def held_out(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """What no training has learnt from: encoded rows [n, *shape] and their targets [n]. Raises as `feedback_of`."""
    table = feedback_of(dataset)
    rows = labelled.SCHEMA.empty_table() if table is None else Labelled(table).of("held_out")
    return labelled.arrays(rows, dataset.encoding)


def _repeats(num_base: int, num_learnt: int) -> int:
    if num_learnt == 0:
        return 0
    return min(MOST_REPEATS, max(1, math.ceil(SHARE / (1.0 - SHARE) * num_base / num_learnt)))


def _copied(staging: Staging, base: Dataset, entry: dict[str, Any]) -> dict[str, Any]:
    """One file at a time: a dataset may be larger than the memory."""
    return {**entry, **staging.write(entry["file"], base.store.read("datasets", base.key, entry))}


def _shards(staging: Staging, base: Dataset, name: Part | SplitName, table: pa.Table, num: int) -> list[dict[str, Any]]:
    if table.num_rows == 0:
        return []
    most_rows = max(1, MAX_SHARD_BYTES // len(table["input"][0].as_py()))
    pieces = [table.slice(start, most_rows) for start in range(0, table.num_rows, most_rows)]
    total, entries = len(pieces) * num, list[dict[str, Any]]()
    for piece in pieces:
        x, y = labelled.arrays(piece, base.encoding)
        columns = {
            "x": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(x)),
            "y": pa.array(y.astype(np.int32 if base.encoding.labels else np.float32)),
            "key": piece["key"],
        }
        data = _parquet(pa.table(columns))
        for _ in range(num):
            file = f"{name}-feedback-{len(entries):05}-of-{total:05}.parquet"
            entries.append({**staging.write(file, data), "rows": piece.num_rows})
    return entries


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
