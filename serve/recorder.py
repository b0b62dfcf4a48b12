"""The sample of answered requests that a replica writes down: chosen by their id, bounded, and never waited for.

Knows a model's answers and the ledger they go to; what is kept of it in the long run is in `cluster.served`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import numpy as np

from cluster import served
from cluster.config import Record
from cluster.errors import StoreError
from cluster.ledger import Ledger

FLUSH_S = 2.0
PRUNE_S = 300.0
MAX_WAITING_BYTES = 32 * 1024**2  # of rows not written yet; more are left out
_log = logging.getLogger(__name__)


class Recorder:
    """Call it from one event loop."""

    def __init__(self, ledger: Ledger, record: Record) -> None:
        self.record = record
        self._ledger = ledger
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0
        self._pruned_at = time.monotonic()
        self._flushing: asyncio.Task[None] | None = None

    def offer(
        self, request_id: str, version: int, variant: str, rows: np.ndarray, outputs: np.ndarray, *, whole: bool = False
    ) -> None:
        """An answered request: rows [n, *shape] and their outputs float32 [n, width]; `whole` takes every request."""
        rate = self.record.rate
        if rate <= 0.0 or not request_id or not (whole or served.place(request_id) < rate):
            return
        size = rows.nbytes + outputs.nbytes
        if self._num_bytes + size > MAX_WAITING_BYTES:
            return
        self._num_bytes += size
        at_ns = time.time_ns()
        for i, (row, output) in enumerate(zip(rows, outputs, strict=True)):
            self._rows.append(
                {
                    "id": f"{request_id}#{i}",
                    "request_id": request_id,
                    "row": i,
                    "at_ns": at_ns,
                    "version": version,
                    "variant": variant,
                    "input": row.tobytes() if self.record.inputs else None,
                    "outputs": output if self.record.outputs else None,
                }
            )
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        await asyncio.sleep(FLUSH_S)
        rows, self._rows, self._num_bytes = self._rows, [], 0
        try:
            await asyncio.to_thread(self._write, rows)
        except StoreError as error:
            _log.warning("%d rows of the sample are lost: %s", len(rows), error)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self._ledger.append(rows)
        now = time.monotonic()
        if now - self._pruned_at >= PRUNE_S:
            self._pruned_at = now
            since_ns = time.time_ns() - int(self.record.keep * 1e9)
            served.prune(self._ledger, self.record.max_rows, since_ns)
