"""Where a rank's training and validation rows come from: memory, or Ray Data when they do not fit.

Both hand out equally many batches on every rank. In memory, (seed, epoch) alone decide which rows the global batch k of
an epoch has, on however many ranks; streamed, only as far as Ray Data keeps its order. Knows datasets, not networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import ray.train
import torch
from torch import distributed

from cluster.config import Experiment
from cluster.errors import ConfigError, TrimtabError
from jobs.ranks import Ranks
from tasks.dataset import Dataset
from tasks.forward import answers
from tasks.task import load_task

VALIDATION_ROWS = 512  # per forward pass
MIXED_BATCHES = 32  # among whose rows those of like length are brought together
SHUFFLE_BYTES = 64 * 1024**2  # of rows mixed in memory when they are streamed

Batch = tuple[torch.Tensor, torch.Tensor]  # rows [n, *shape] in the encoding's dtype, targets int64 [n] or float32 [n]


class Feed(Protocol):
    """Where a rank's batches come from: its share of each of the `num_steps` global batches of an epoch."""

    num_steps: int
    batch_rows: int  # of a global batch

    def __init__(self, dataset: Dataset, experiment: Experiment, ranks: Ranks) -> None: ...

    def put_through(self, body: torch.nn.Module, bf16: bool) -> None:
        """From now on give, for rows, what a network that is not trained says of them: float32 [n, width]."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's share of the global batches of an epoch, from number `start` on."""

    def validation(self) -> Iterator[Batch]: ...


class InMemory:
    """All rows on every rank, read once; each takes every `world`-th of a global batch. Shares may differ by a row."""

    def __init__(self, dataset: Dataset, experiment: Experiment, ranks: Ranks) -> None:
        self._ranks, self._seed = ranks, experiment.seed
        self._rows, self._targets = map(torch.from_numpy, dataset.load("train"))
        rows, targets = dataset.load("validation")
        mine = slice(ranks.rank, None, ranks.world)
        self._validation = torch.from_numpy(rows[mine].copy()), torch.from_numpy(targets[mine].copy())
        self.batch_rows = min(experiment.train.batch_size, len(self._rows))
        self.num_steps = len(self._rows) // self.batch_rows
        self._trims = load_task(experiment).trims

    def put_through(self, body: torch.nn.Module, bf16: bool) -> None:
        """Once for each row; every rank does a share of the training rows and gets all."""
        rank, world = self._ranks.rank, self._ranks.world
        mine = answers(body, self._rows[rank::world], trims=self._trims, bf16=bf16)
        if world == 1:
            self._rows = mine
        else:
            whole = torch.zeros(len(self._rows), *mine.shape[1:], device=self._ranks.device)
            whole[rank::world] = mine.to(self._ranks.device)
            distributed.all_reduce(whole)
            self._rows = whole.cpu()
        rows, targets = self._validation
        self._validation = answers(body, rows, trims=self._trims), targets

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._rows), generator=generator)
        if self._trims and self._rows.ndim == 2 and not self._rows.is_floating_point():
            order = _by_length(order[: self.num_steps * self.batch_rows], self._rows, self.batch_rows, generator)
        for step in range(start, self.num_steps):
            batch = order[step * self.batch_rows : (step + 1) * self.batch_rows]
            mine = batch[self._ranks.rank :: self._ranks.world]
            yield self._rows[mine], self._targets[mine]

    def validation(self) -> Iterator[Batch]:
        rows, targets = self._validation
        for start in range(0, len(rows), VALIDATION_ROWS):
            yield rows[start : start + VALIDATION_ROWS], targets[start : start + VALIDATION_ROWS]


class Streamed:
    """Rows through Ray Data, mixed in a buffer whose seed is (seed, epoch): for data larger than memory.

    Which rank gets which rows is Ray Data's choice. An epoch that goes on in the middle reads its rows again and leaves
    out as many batches as were done, which need not be the same ones.
    """

    def __init__(self, dataset: Dataset, experiment: Experiment, ranks: Ranks) -> None:
        self._dataset, self._seed, self._ranks = dataset, experiment.seed, ranks
        self._shard = ray.train.get_dataset_shard("train")
        self._target = torch.from_numpy(np.empty(0, dataset.target_dtype)).dtype
        num_rows = dataset.num_rows("train")
        self._size = max(1, min(experiment.train.batch_size, num_rows) // ranks.world)
        self.batch_rows = self._size * ranks.world
        self.num_steps = num_rows // ranks.world // self._size  # Ray Data drops rows until all ranks have as many
        row_bytes = math.prod(dataset.encoding.shape) * np.dtype(dataset.encoding.dtype).itemsize
        self._buffer_rows = max(4 * self._size, SHUFFLE_BYTES // row_bytes)
        self._trims = load_task(experiment).trims
        self._body: torch.nn.Module | None = None
        self._bf16 = False

    def put_through(self, body: torch.nn.Module, bf16: bool) -> None:
        """In every epoch anew: what is said of all rows does not fit in memory either."""
        self._body, self._bf16 = body, bf16

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        batches = self._shard.iter_torch_batches(
            batch_size=self._size,
            drop_last=True,
            local_shuffle_buffer_size=self._buffer_rows,
            local_shuffle_seed=self._seed * 1_000_003 + epoch,
            device="cpu",
        )
        num_steps = 0
        for num_steps, batch in enumerate(batches, start=1):
            if num_steps > start:
                yield self._put(batch["x"], self._bf16), batch["y"].to(self._target)
            if num_steps == self.num_steps:
                return
        raise TrimtabError(f"Ray Data gave {num_steps} batches of an epoch instead of {self.num_steps}")

    def validation(self) -> Iterator[Batch]:
        """One shard in memory at a time, of which this rank takes every `world`-th row."""
        shape = self._dataset.encoding.shape
        for table in self._dataset.tables("validation"):
            mine = table.take(np.arange(self._ranks.rank, table.num_rows, self._ranks.world)).combine_chunks()
            rows = mine["x"].chunk(0).storage.flatten().to_numpy().reshape(-1, *shape)
            targets = mine["y"].to_numpy().astype(self._dataset.target_dtype)
            for start in range(0, len(rows), VALIDATION_ROWS):
                part = slice(start, start + VALIDATION_ROWS)
                yield self._put(torch.from_numpy(rows[part].copy())), torch.from_numpy(targets[part])

    def _put(self, rows: torch.Tensor, bf16: bool = False) -> torch.Tensor:
        return rows if self._body is None else answers(self._body, rows, trims=self._trims, bf16=bf16)


def balanced_weights(dataset: Dataset) -> torch.Tensor:
    """Weight of each label float32 [num_labels]: inverse to its training rows, 1 on average over them.

    A label without rows has weight 1.

    Raises ConfigError where targets are no labels.
    """
    num_labels = len(dataset.encoding.labels)
    if num_labels == 0:
        raise ConfigError("train.class_weights", "balanced", "weighs labels, and there are none", "use none")
    counts = sum((np.bincount(table["y"].to_numpy(), minlength=num_labels) for table in dataset.tables("train")), 0)
    even = np.sum(counts) / num_labels
    return torch.from_numpy((even / np.where(counts, counts, even)).astype(np.float32))


def _by_length(order: torch.Tensor, rows: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """The order with rows of like length in one batch of `size`, as far as MIXED_BATCHES have them.

    A batch is as long as its longest row, and the time goes with its length.
    """
    lengths = (rows != 0).sum(1)
    batches: list[torch.Tensor] = []
    for some in torch.split(order, MIXED_BATCHES * size):
        batches += torch.split(some[lengths[some].argsort(stable=True)], size)
    return torch.cat([batches[i] for i in torch.randperm(len(batches), generator=generator)])
