"""The workers of one training as each of them sees it, and what they compute together.

Every method that says so is a collective: all ranks call it at the same place, or those that do wait for ever. One rank
alone needs no process group. Knows tensors, not training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True)
class Ranks:
    rank: int  # this one's number
    world: int  # how many there are
    device: torch.device

    def sums(self, mine: torch.Tensor) -> list[float]:
        """The sum over all ranks, float64 [n]. A collective."""
        if self.world > 1:
            mine = mine.clone()
            distributed.all_reduce(mine)
        values: list[float] = mine.tolist()
        return values

    def agree(self, yes: bool) -> bool:
        """Whether all say yes. A collective."""
        return self.sums(torch.tensor([float(not yes)], dtype=torch.float64, device=self.device))[0] == 0.0

    def table(self, mine: Sequence[float]) -> list[list[float]]:
        """The numbers of every rank, by rank. A collective."""
        table = torch.zeros((self.world, len(mine)), dtype=torch.float64, device=self.device)
        table[self.rank] = torch.tensor(mine, dtype=torch.float64)
        flat = self.sums(table.flatten())
        return [flat[start : start + len(mine)] for start in range(0, len(flat), len(mine))]

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Put the mean over all ranks into each of those that are no integers. A collective."""
        if self.world == 1:
            return
        for tensor in tensors:
            if tensor.is_floating_point():
                distributed.all_reduce(tensor)
                tensor /= self.world
