"""A bounded sample of what an endpoint has been asked and has answered: rows of its ledger, and what is kept of them.

Which requests are in the sample is decided by a hash of their id, so all replicas decide alike, and the sample of
each version is uniform over all its requests however many replicas there were. Pure, but for `ledger` and `prune`.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from cluster.ledger import PART_BYTES, Ledger, each_once
from cluster.store import Store

SCHEMA = pa.schema(
    {
        "id": pa.string(),  # request id and row
        "request_id": pa.string(),
        "row": pa.int32(),  # of a request with several rows
        "at_ns": pa.int64(),
        "version": pa.int32(),
        "variant": pa.string(),
        "input": pa.binary(),  # the encoded row's bytes; null where inputs are not to be kept
        "outputs": pa.list_(pa.float32()),
    }
)
LIGHT = tuple(name for name in SCHEMA.names if name != "input")
DECIDING = ("id", "request_id", "at_ns", "version")  # columns by which rows are kept


def ledger(store: Store, name: str) -> Ledger:
    """Of the endpoint `name`."""
    return Ledger(store, f"served/{name}", SCHEMA)


def place(request_id: str) -> float:
    """Where in [0, 1) a request is: those below the sample's rate are in it, and of them the lowest stay longest."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=8, person=b"served").digest()
    return int.from_bytes(digest, "little") / 2.0**64


def row_of(data: bytes, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An encoded row [*shape] from a ledger's `input`; one that was trimmed gets its zeros at the end back.

    Raises ValueError for bytes that are no such row.
    """
    row, size = np.frombuffer(data, dtype), int(np.prod(shape))
    if len(row) > size or (len(row) < size and len(shape) != 1):
        raise ValueError(f"{len(row)} values are no row of shape {shape}")
    return np.pad(row, (0, size - len(row))).reshape(shape)


def kept(table: pa.Table, max_rows: int, since_ns: int) -> pa.Table:
    """Of a ledger's rows those that came since then, at most `max_rows` of each version: a uniform sample of them."""
    fresh = table.filter(pa.array(table["at_ns"].to_numpy() >= since_ns))
    places = np.array([place(text) for text in fresh["request_id"].to_pylist()])
    chosen: list[np.ndarray] = []
    versions = fresh["version"].to_numpy()
    for version in np.unique(versions):
        rows = np.flatnonzero(versions == version)
        chosen.append(rows[np.argsort(places[rows], kind="stable")][:max_rows])
    order = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
    return fresh.take(pa.array(order))


def prune(ledger: Ledger, max_rows: int, since_ns: int) -> int:
    """Bring a ledger down to what is to be kept; returns how many rows are left. Raises StoreError.

    Inputs may be far more than the memory: what stays is decided without them, and they are read and written in pieces.
    """
    names = ledger.parts()
    left = set(kept(ledger.read(columns=DECIDING), max_rows, since_ns)["id"].to_pylist())
    num_left, old, num_old, held = len(left), list[str](), 0, list[pa.Table]()
    for part in names:
        old.append(part)
        for rows in ledger.pieces(part):
            num_old += len(rows)
            ids = rows["id"].to_pylist()
            held.append(each_once(rows.filter(pa.array([name in left for name in ids], pa.bool_()))))
            left.difference_update(ids)
        if part == names[-1] or sum(rows.nbytes for rows in held) >= PART_BYTES:
            if len(old) > 1 or sum(map(len, held)) < num_old:
                ledger.replace(old, pa.concat_tables([ledger.schema.empty_table(), *held]))
            old, num_old, held = [], 0, []
    return num_left
