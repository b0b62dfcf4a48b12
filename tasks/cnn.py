"""Convolutional networks for images of any size, and the random changes of their training batches.

All networks take uint8 [n, height, width, channels] and normalise inside, so that no caller can forget it.
Knows shapes and statistics, not where images come from.
"""

from __future__ import annotations

import torch
from torch import nn

from cluster.config import Model
from tasks.task import Encoding

SMALL_GRID = 6  # the small network sees at most this many cells per side before its dense layer
TINY_SIDE, TINY_GRID = 32, 7  # the tiny network pools to about this side, and strides to about this grid
TINY_WIDTHS = (16, 32)
LARGE_WIDTHS = (48, 96, 192)


def build(model: Model, encoding: Encoding) -> nn.Module:
    """uint8 [n, height, width, channels] -> logits float32 [n, num_labels]; height and width at least 4."""
    body = _small if model.network == "small" else _large
    height, width, num_channels = encoding.shape
    network = nn.Sequential(
        Normalise(encoding.statistics["mean"], encoding.statistics["std"]),
        *body(height, width, num_channels, len(encoding.labels), model.dropout),
    )
    # Channels last is how the rows lie in memory already, and what CPU and GPU kernels like best.
    return network.to(memory_format=torch.channels_last)


def build_tiny(encoding: Encoding) -> nn.Module:
    """As `build`, a fraction of the small network's work: one strided convolution and a dense layer."""
    height, width, num_channels = encoding.shape
    cell = max(1, height // TINY_SIDE), max(1, width // TINY_SIDE)
    layers: list[nn.Module] = [Normalise(encoding.statistics["mean"], encoding.statistics["std"])]
    if cell != (1, 1):
        layers.append(nn.AvgPool2d(cell))
        height, width = height // cell[0], width // cell[1]
    num_filters, num_hidden = TINY_WIDTHS
    stride = max(2, height // TINY_GRID), max(2, width // TINY_GRID)
    kernel, pad = (stride[0] + 1, stride[1] + 1), ((stride[0] + 1) // 2, (stride[1] + 1) // 2)
    rows, columns = (
        (side + 2 * p - k) // s + 1 for side, p, k, s in zip((height, width), pad, kernel, stride, strict=True)
    )
    layers += [nn.Conv2d(num_channels, num_filters, kernel, stride, pad, bias=False), nn.BatchNorm2d(num_filters)]
    layers += [nn.ReLU(), nn.Flatten(), nn.Linear(num_filters * rows * columns, num_hidden), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(num_hidden, len(encoding.labels)))
    return network.to(memory_format=torch.channels_last)


class Normalise(nn.Module):
    """uint8 [n, h, w, c] -> float32 [n, c, h, w] with the training rows' mean 0 and deviation 1."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        x = (rows.permute(0, 3, 1, 2).to(torch.float32) - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last)


def _small(height: int, width: int, num_channels: int, num_labels: int, dropout: float) -> list[nn.Module]:
    """Two convolutions of 16 and 32 channels and a dense layer of 64. Pooling before ReLU is 1.6 times as fast."""
    pad = (int(height < 16), int(width < 16))  # small images cannot spare their border
    layers: list[nn.Module] = []
    for before, after in ((num_channels, 16), (16, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=pad), nn.MaxPool2d(2), nn.BatchNorm2d(after), nn.ReLU()]
        height, width = (height - 2 + 2 * pad[0]) // 2, (width - 2 + 2 * pad[1]) // 2
    cell = -(-height // SMALL_GRID), -(-width // SMALL_GRID)
    if cell != (1, 1):
        layers.append(nn.AvgPool2d(cell))
    num_features = 32 * (height // cell[0]) * (width // cell[1])
    dense = [nn.Flatten(), nn.Linear(num_features, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, num_labels)]
    return layers + dense


def _large(height: int, width: int, num_channels: int, num_labels: int, dropout: float) -> list[nn.Module]:
    """A stem and three double blocks, each halving the image after its first convolution."""
    stride = max(1, min(height, width) // 48)
    stem = LARGE_WIDTHS[0] // 2
    first = nn.Conv2d(num_channels, stem, 2 * stride + 1, stride=stride, padding=stride, bias=False)
    layers: list[nn.Module] = [first, nn.BatchNorm2d(stem), nn.ReLU()]
    height, width = (height - 1) // stride + 1, (width - 1) // stride + 1
    before = stem
    for after in LARGE_WIDTHS:
        pool = min(2, height), min(2, width)
        layers += [_conv(before, after), nn.MaxPool2d(pool), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [_conv(after, after), nn.BatchNorm2d(after), nn.ReLU()]
        before, height, width = after, height // pool[0], width // pool[1]
    return [*layers, GlobalMax(), nn.Dropout(dropout), nn.Linear(before, num_labels)]


def _conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1, bias=False)  # the batch norm behind it has the bias


class GlobalMax(nn.Module):
    """[n, c, h, w] -> [n, c]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.amax(dim=(2, 3))


def shift(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """uint8 [n, h, w, c] moved by up to a tenth of each side; what comes in from outside mirrors the border."""
    n, height, width, _ = rows.shape
    ys = _moved(n, height, generator).to(rows.device)
    xs = _moved(n, width, generator).to(rows.device)
    every = torch.arange(n, device=rows.device)
    return rows[every[:, None, None], ys[:, :, None], xs[:, None, :]]


def flip(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """uint8 [n, h, w, c] with about every second row mirrored left to right."""
    chosen = torch.rand(len(rows), generator=generator) < 0.5
    return torch.where(chosen.to(rows.device)[:, None, None, None], rows.flip(2), rows)


def _moved(n: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Source positions int64 [n, side] of a random shift, mirrored back inside at both ends."""
    most = max(1, round(side / 10))
    offsets = torch.randint(-most, most + 1, (n, 1), generator=generator)
    inside = (torch.arange(side) + offsets).abs()
    return (side - 1) - ((side - 1) - inside).abs()
