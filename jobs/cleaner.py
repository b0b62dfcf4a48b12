"""Rows into blocks: each row cleaned by the task, hashed, and given a verdict in columns of its own.

A bad row is never an exception here: it stays in its block with the reason, so that it can be counted and
shown. Knows no Ray; what may fail is a file (DataError) or the task itself (ConfigError).
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.config import Experiment
from cluster.errors import ConfigError
from jobs.source_rows import TEST, VALIDATION, read_part, values
from tasks.task import Rejected, Task, load_task

MAX_CLEAN_BYTES = 32 * 1024**2  # of encoded rows made at a time
MAX_RAW_BYTES = 64 * 1024  # kept of a rejected row


@dataclass(frozen=True)
class Cleaner:
    """Turns rows into blocks, with the verdict on each row as columns; picklable."""

    experiment: Experiment
    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def tables(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Blocks for a batch of rows that are already in memory."""
        task = load_task(self.experiment)
        step = max(1, MAX_CLEAN_BYTES // self.row_bytes)
        for start in range(0, batch.num_rows, step):
            yield self._clean(task, batch.slice(start, step))

    def parts(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Blocks for a batch of parts, which are read here."""
        for number, part in zip(batch["number"].to_pylist(), batch["part"].to_pylist(), strict=True):
            for table in read_part(pickle.loads(part), number):  # noqa: S301 (pickled by the same run)
                yield from self.tables(table)

    def _clean(self, task: Task, table: pa.Table) -> pa.Table:
        num = table.num_rows
        x = np.zeros((num, *self.shape), self.dtype)
        reasons, details = table["reason"].to_pylist(), table["detail"].to_pylist()
        labels, keys, splits = (table[name].to_pylist() for name in ("label", "key", "split"))
        content = [b""] * num
        raws: list[bytes | None] = [None] * num
        buckets = np.zeros(num, np.uint64)
        for i, value in enumerate(values(table)):
            try:
                self._refuse(value, labels[i], reasons[i], details[i])
                x[i] = self._checked(task.clean(value, self.shape))
            except Rejected as refusal:
                reasons[i], details[i], raws[i] = refusal.reason, refusal.detail, _raw(value)
                continue
            content[i] = hashlib.blake2b(x[i], digest_size=16).digest()
            buckets[i] = self._bucket(keys[i] or content[i].hex())
            if task.ambiguous:  # only rows that are equal in both are the same row
                content[i] = hashlib.blake2b(content[i] + labels[i].encode(), digest_size=16).digest()
        return pa.table(
            {
                "x": pa.FixedShapeTensorArray.from_numpy_ndarray(x),
                "label": table["label"],
                "content": pa.array([c or b"\0" * 16 for c in content], pa.binary(16)),
                "bucket": pa.array(buckets),
                "is_test": pa.array([split == TEST for split in splits]),
                "is_validation": pa.array([split == VALIDATION for split in splits]),
                "origin": table["origin"],
                "reason": pa.array(reasons, pa.string()),
                "detail": pa.array(details, pa.string()),
                "raw": pa.array(raws, pa.binary()),
                "position": table["position"],
            }
        )

    @staticmethod
    def _refuse(value: Any, label: str, reason: str, detail: str) -> None:
        if reason:
            raise Rejected(reason, detail)
        if value is None or len(value) == 0:
            raise Rejected("empty")
        if not label:
            raise Rejected("missing_label")

    def _checked(self, row: np.ndarray) -> np.ndarray:
        if row.shape != self.shape or row.dtype != self.dtype:
            problem = f"its clean() made {row.dtype} {row.shape} where rows are {self.dtype} {self.shape}"
            raise ConfigError("task", self.experiment.task, problem, "let clean() return one dtype and `shape`")
        return row

    def _bucket(self, key: str) -> int:
        digest = hashlib.blake2b(f"{self.experiment.seed}:{key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big")


def _raw(value: Any) -> bytes | None:
    data = value.tobytes() if isinstance(value, np.ndarray) else value
    return data[:MAX_RAW_BYTES] if data else None
