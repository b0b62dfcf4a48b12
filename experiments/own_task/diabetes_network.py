"""The network of the task beside it: it brings its input to one scale, and its answer back to the target's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Regression(nn.Module):
    def __init__(self, statistics: dict[str, Any], width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(statistics["mean"]))
        self.register_buffer("std", torch.tensor(statistics["std"]))
        self.scale, self.middle = statistics["target"]["std"], statistics["target"]["mean"]
        self.layers = nn.Sequential(nn.Linear(len(self.mean), width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layers((rows - self.mean) / self.std) * self.scale + self.middle
