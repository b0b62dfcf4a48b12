"""A dataset's files, each written by a Ray task that gathers its rows from the blocks in the object store.

Blocks stay where they are: a task maps them one after the other and copies out its own rows. Knows which rows
it is given and how they are stored; not why those. Ray is imported in the functions, here as in
`jobs.preprocess`: it reads its environment when it is imported, and connecting is what sets that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.config import Experiment
from cluster.store import Staging
from jobs.source_rows import tensor
from tasks.task import load_task

if TYPE_CHECKING:
    import ray

MAX_RAW_TOTAL_BYTES = 64 * 1024**2  # of all rejected rows; later ones are listed without
MAX_SHARD_BYTES = 256 * 1024**2  # of encoded rows: a shard is written and read as a whole
CANCEL_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Gather:
    """Rows of some blocks, to be put in order: for each block, its rows and their places in the result."""

    blocks: tuple[ray.ObjectRef, ...]
    rows: tuple[np.ndarray, ...]  # int64
    places: tuple[np.ndarray, ...]  # int64

    def pieces(self) -> Iterator[tuple[pa.Table, np.ndarray, np.ndarray]]:
        """Each block as a table, which is shared memory: not to be kept."""
        import ray

        for ref, rows, places in zip(self.blocks, self.rows, self.places, strict=True):
            yield ray.get(ref), rows, places


def gather(refs: Sequence[Any], block: np.ndarray, row: np.ndarray) -> Gather:
    """The rows `row` [n] of the blocks `block` [n], in this order."""
    order = np.argsort(block, kind="stable")
    numbers, starts = np.unique(block[order], return_index=True)
    places = np.split(order, starts[1:]) if len(order) else []
    return Gather(tuple(refs[i] for i in numbers), tuple(row[p] for p in places), tuple(places))


@dataclass(frozen=True)
class Shard:
    """One file of a split; `y` int32 [n] or float32 [n], `content` uint64 [n, 2]."""

    name: str
    gather: Gather
    y: np.ndarray
    content: np.ndarray
    with_statistics: bool


def write_shard(staging: Staging, shard: Shard, experiment: Experiment) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The file's manifest entry, and the task's partial statistics when the shard asks for them."""
    x: np.ndarray | None = None
    for table, rows, places in shard.gather.pieces():
        column = tensor(table["x"].combine_chunks())
        if x is None:
            x = np.empty((len(shard.y), *column.shape[1:]), column.dtype)
        x[places] = column[rows]
    assert x is not None, "a shard has at least one row"
    table = pa.table(
        {
            "x": pa.FixedShapeTensorArray.from_numpy_ndarray(x),
            "y": pa.array(shard.y),
            "key": pa.array(_hex(shard.content), pa.string()),
        }
    )
    entry = {**staging.write(shard.name, _parquet(table)), "rows": len(x)}
    return entry, load_task(experiment).partial_statistics(x) if shard.with_statistics else None


@dataclass(frozen=True)
class Rejects:
    """Rejected rows in source order; `same_as` names for each the row that `twins` has at its place, or -1."""

    gather: Gather
    reason: np.ndarray
    twins: Gather
    same_as: np.ndarray


def write_rejected(staging: Staging, rejects: Rejects) -> dict[str, Any]:
    """The manifest entry of `rejected.parquet`: origin, reason, detail, label and the raw bytes of each row."""
    num = len(rejects.reason)
    columns: dict[str, list[Any]] = {name: [None] * num for name in ("origin", "detail", "label", "raw")}
    for table, rows, places in rejects.gather.pieces():
        for name, values in columns.items():
            for place, value in zip(places, table[name].take(pa.array(rows)).to_pylist(), strict=True):
                values[place] = value
    twins = np.empty(len(rejects.same_as), object)
    for table, rows, places in rejects.twins.pieces():
        twins[places] = table["origin"].take(pa.array(rows)).to_pylist()
    for place, twin in enumerate(rejects.same_as.tolist()):
        if twin >= 0:
            columns["detail"][place] = f"same content as {twins[twin]}"
    kept_bytes = 0
    for i, raw in enumerate(columns["raw"]):
        kept_bytes += len(raw or b"")
        if kept_bytes > MAX_RAW_TOTAL_BYTES:
            columns["raw"][i] = None
    kinds = {"origin": pa.string(), "reason": pa.string(), "detail": pa.string(), "label": pa.string()}
    table = pa.table({**columns, "reason": rejects.reason.tolist()}, schema=pa.schema({**kinds, "raw": pa.binary()}))
    return {**staging.write("rejected.parquet", _parquet(table)), "rows": num}


def finish(tasks: Sequence[Any]) -> list[Any]:
    """The tasks' results once all have ended: one that failed must not leave others writing behind its back."""
    import ray

    try:
        ray.wait(list(tasks), num_returns=len(tasks))
        return list(ray.get(list(tasks)))
    except BaseException:
        for task in tasks:
            ray.cancel(task)
        ray.wait(list(tasks), num_returns=len(tasks), timeout=CANCEL_TIMEOUT_S)
        raise


def _parquet(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    return sink.getvalue()


def _hex(content: np.ndarray) -> list[str]:
    text = content.astype(">u8").tobytes().hex()
    return [text[i : i + 32] for i in range(0, len(text), 32)]
