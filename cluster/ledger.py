"""Append-only tables in the store: rows come in small parts, each there whole or not at all, and are read together.

A part is a Parquet file whose name begins with the time it was written, so that a reader can begin at a time. Each
writer merges its own small parts as they grow in number; a merge that dies halfway leaves rows twice, which the
column `id` shows, so reading never counts one twice. A `Follower` sees the rows as they come. Knows nothing of what
rows mean.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from cluster.errors import StoreError
from cluster.store import FOREIGN, Store

MERGED_PARTS = 32  # small parts of one writer that become one
PART_BYTES = 4 * 1024**2  # a part of this size is not small any more
PIECE_ROWS = 1024
TRIES = 5  # of reading while writers merge
OVERLAP_NS = 60 * 10**9  # rows are written down some time after they came about, and writers' clocks differ


class Ledger:
    """Rows of one `schema`, which has a text column `id`, under `folder` of a store; for one writing thread."""

    def __init__(self, store: Store, folder: str, schema: pa.Schema) -> None:
        self._store, self._folder, self.schema = store, folder, schema
        self._writer, self._last_ns = uuid.uuid4().hex[:8], 0
        self._small: list[str] = []  # names of own parts

    def append(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Write one part, there for every reader and after any death from when this returns. Raises StoreError."""
        name = self._put(pa.Table.from_pylist([dict(row) for row in rows], schema=self.schema))
        self._small.append(name)
        if len(self._small) >= MERGED_PARTS:
            with contextlib.suppress(StoreError):  # the rows are kept; the next part tries again
                self._merge()
        return name

    def parts(self, since_ns: int = 0) -> list[str]:
        """Names of the parts written since then, oldest first."""
        return [name for name in self._store.names(self._folder) if name >= f"{since_ns:020d}"]

    def read(self, since_ns: int = 0, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of the parts written since then, each once, oldest first; parts that are damaged are left out.

        A part cannot be half-written, so a damaged one is the disk's doing, and its rows are gone. Of `columns`, which
        have `id` among them, no other is read.
        """
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        found: dict[str, pa.Table] = {}
        names = self.parts(since_ns)
        for _ in range(TRIES):
            fresh = ((name, self._store.get(f"{self._folder}/{name}")) for name in names if name not in found)
            found |= {name: table for name, data in fresh if data and (table := _table(data, schema)) is not None}
            # A listing that is made while parts are merged may have neither them nor what they became. That was there
            # before they went, so the next listing has it.
            listed, names = names, self.parts(since_ns)
            if names == listed:
                break
        return each_once(pa.concat_tables([schema.empty_table(), *(found[name] for name in sorted(found))]))

    def pieces(self, name: str) -> Iterator[pa.Table]:
        """The rows of one part, some at a time; none, or those in front of the damage, where it is gone or damaged."""
        data = self._store.get(f"{self._folder}/{name}")
        with contextlib.suppress(*FOREIGN):
            if data is not None:
                part = ds.ParquetFileFormat().make_fragment(pa.BufferReader(data))
                for batch in part.to_batches(self.schema, batch_size=PIECE_ROWS, batch_readahead=1):
                    yield pa.Table.from_batches([batch])

    def remove_before(self, before_ns: int) -> int:
        """Remove the parts that were written before then; returns how many."""
        old = [name for name in self._store.names(self._folder) if name < f"{before_ns:020d}"]
        for name in old:
            self._store.remove(f"{self._folder}/{name}")
        return len(old)

    def replace(self, names: Sequence[str], table: pa.Table) -> str:
        """Put `table` in the place of some parts, under the time of the newest; returns its name. Raises StoreError."""
        name = self._put(table, int(max(names).partition("-")[0]))
        for old in names:
            self._store.remove(f"{self._folder}/{old}")
        return name

    def _merge(self) -> None:
        found = [self._store.get(f"{self._folder}/{name}") for name in self._small]
        tables = [table for data in found if data is not None and (table := _table(data, self.schema)) is not None]
        whole = pa.concat_tables([self.schema.empty_table(), *tables]).combine_chunks()
        merged = self.replace(self._small, whole)
        self._small = [merged] if sum(len(data or b"") for data in found) < PART_BYTES else []

    def _put(self, table: pa.Table, at_ns: int | None = None) -> str:
        """The name is unique: by the writer and by a time that this writer gives only once."""
        if at_ns is None:
            at_ns = self._last_ns = max(time.time_ns(), self._last_ns + 1)
        name = f"{at_ns:020d}-{self._writer}-{uuid.uuid4().hex[:8]}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        self._store.check_room(len(data))
        self._store.put(f"{self._folder}/{name}", data)
        return name


class Follower:
    """The rows of a ledger as they come; call it from one thread. `at` is the column with a row's own time.

    It remembers the ids of the newest rows alone, so a row that is written down more than OVERLAP_NS after a later one
    is missed.
    """

    def __init__(self, ledger: Ledger, at: str) -> None:
        self._ledger, self._at = ledger, at
        self._parts: list[str] | None = None
        self._newest_ns = 0  # of the rows seen so far
        self._seen: dict[str, int] = {}  # ids of the rows within OVERLAP_NS of it, and their times

    def fresh(self, since_ns: int = 0) -> pa.Table:
        """Rows that were not there before, oldest first, and none older than `since_ns`. Raises StoreError."""
        floor_ns = max(self._newest_ns - OVERLAP_NS, since_ns, 0)
        parts = self._ledger.parts()
        if parts == self._parts:
            return self._ledger.schema.empty_table()
        table, self._parts = self._ledger.read(floor_ns), parts
        times = table[self._at].to_numpy()
        is_fresh = (times >= floor_ns) & np.array([name not in self._seen for name in table["id"].to_pylist()], bool)
        order = np.flatnonzero(is_fresh)[np.argsort(times[is_fresh], kind="stable")]
        table = table.take(pa.array(order))
        if len(order):
            # A writer whose clock runs ahead must not hide what the others write.
            self._newest_ns = max(self._newest_ns, min(int(times[order[-1]]), time.time_ns()))
            seen = self._seen | dict(zip(table["id"].to_pylist(), times[order].tolist(), strict=True))
            self._seen = {name: at for name, at in seen.items() if at >= self._newest_ns - OVERLAP_NS}
        return table


def _table(data: bytes, schema: pa.Schema) -> pa.Table | None:
    try:
        return pq.read_table(pa.BufferReader(data), schema=schema)
    except FOREIGN:
        return None


def each_once(table: pa.Table) -> pa.Table:
    """Of rows with the same `id` the first."""
    _, first = np.unique(table["id"].to_numpy(zero_copy_only=False).astype(str), return_index=True)
    return table.combine_chunks().take(pa.array(np.sort(first)))
