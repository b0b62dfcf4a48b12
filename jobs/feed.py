"""Where a rank's training and validation rows come from: memory, or Ray Data when they do not fit.

Both hand out batches of equal size and equally many of them on every rank, in an order that (seed, epoch) alone
decide. Knows datasets and ranks, not networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import ray.train
import torch

from cluster.config import Experiment
from cluster.errors import TrimtabError
from tasks.dataset import Dataset

VALIDATION_ROWS = 512  # per forward pass
SHUFFLE_BYTES = 64 * 1024**2  # of rows mixed in memory when they are streamed

Batch = tuple[torch.Tensor, torch.Tensor]  # rows [n, *shape] in the encoding's dtype, targets int64 [n] or float32 [n]


class Feed(Protocol):
    """Where a rank's batches come from; every rank gets `num_steps` of equal size per epoch."""

    num_steps: int

    def __init__(self, dataset: Dataset, experiment: Experiment, rank: int, world: int) -> None: ...

    def batches(self, epoch: int) -> Iterator[Batch]: ...

    def validation(self) -> Iterator[Batch]: ...


class InMemory:
    """All rows on every rank, read once; each takes its part of a permutation seeded by (seed, epoch)."""

    def __init__(self, dataset: Dataset, experiment: Experiment, rank: int, world: int) -> None:
        self._rank, self._world, self._seed = rank, world, experiment.seed
        self._rows, self._targets = map(torch.from_numpy, dataset.load("train"))
        rows, targets = dataset.load("validation")
        self._validation = torch.from_numpy(rows[rank::world].copy()), torch.from_numpy(targets[rank::world].copy())
        self._size = _rows_per_rank(experiment, len(self._rows), world)
        self.num_steps = len(self._rows) // (self._size * world)

    def batches(self, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._rows), generator=generator)
        together = self._size * self._world
        for start in range(0, self.num_steps * together, together):
            mine = order[start : start + together][self._rank :: self._world]
            yield self._rows[mine], self._targets[mine]

    def validation(self) -> Iterator[Batch]:
        rows, targets = self._validation
        for start in range(0, len(rows), VALIDATION_ROWS):
            yield rows[start : start + VALIDATION_ROWS], targets[start : start + VALIDATION_ROWS]


class Streamed:
    """Rows through Ray Data, mixed in a buffer whose seed is (seed, epoch): for data larger than memory."""

    def __init__(self, dataset: Dataset, experiment: Experiment, rank: int, world: int) -> None:
        self._dataset, self._seed, self._rank, self._world = dataset, experiment.seed, rank, world
        self._shard = ray.train.get_dataset_shard("train")
        self._target = torch.from_numpy(np.empty(0, dataset.target_dtype)).dtype
        num_rows = dataset.num_rows("train")
        self._size = _rows_per_rank(experiment, num_rows, world)
        self.num_steps = num_rows // world // self._size  # Ray Data drops rows until all ranks have as many
        row_bytes = math.prod(dataset.encoding.shape) * np.dtype(dataset.encoding.dtype).itemsize
        self._buffer_rows = max(4 * self._size, SHUFFLE_BYTES // row_bytes)

    def batches(self, epoch: int) -> Iterator[Batch]:
        batches = self._shard.iter_torch_batches(
            batch_size=self._size,
            drop_last=True,
            local_shuffle_buffer_size=self._buffer_rows,
            local_shuffle_seed=self._seed * 1_000_003 + epoch,
            device="cpu",
        )
        num_steps = 0
        for num_steps, batch in enumerate(batches, start=1):
            yield batch["x"], batch["y"].to(self._target)
            if num_steps == self.num_steps:
                return
        raise TrimtabError(f"Ray Data gave {num_steps} batches of an epoch instead of {self.num_steps}")

    def validation(self) -> Iterator[Batch]:
        """One shard in memory at a time, of which this rank takes every `world`-th row."""
        shape = self._dataset.encoding.shape
        for table in self._dataset.tables("validation"):
            mine = table.take(np.arange(self._rank, table.num_rows, self._world)).combine_chunks()
            rows = mine["x"].chunk(0).storage.flatten().to_numpy().reshape(-1, *shape)
            targets = mine["y"].to_numpy().astype(self._dataset.target_dtype)
            for start in range(0, len(rows), VALIDATION_ROWS):
                part = slice(start, start + VALIDATION_ROWS)
                yield torch.from_numpy(rows[part].copy()), torch.from_numpy(targets[part])


def _rows_per_rank(experiment: Experiment, num_rows: int, world: int) -> int:
    """Rows of one rank's batch: the global batch shared evenly, less when there are not that many rows."""
    return max(1, min(experiment.train.batch_size, num_rows) // world)
